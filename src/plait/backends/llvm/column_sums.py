"""Sums down columns beside kernels that walk rows: both in one pass over memory.

A gradient is often needed twice: element by element, and summed over rows (layer norm, a bias). A
kernel walks rows or columns, not both; so such a sum is rewritten into two stages. The first adds
each row to the partial sum of its *chunk* of rows, which a kernel over rows does besides; the
second adds the chunks, which are few.

The law: rows of a chunk are added in order by one thread, and chunks depend on sizes only, so the
number of threads changes no result. Must not know operators or LLVM.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from plait.backends.llvm.groups import Group, Unit
from plait.backends.llvm.loop import builder as b
from plait.backends.llvm.loop.indexing import ONE, dense_or_contiguous, flatten
from plait.backends.llvm.loop.terms import Term
from plait.backends.llvm.lowering.stage import Index, Piece, Reader, Stage, map_stage
from plait.symbolic.expr import Expr, as_int, product

__all__ = ["SIBLINGS", "chunk_columns", "columns_beside_rows"]

LEAST_ELEMENTS = 1 << 17
"""Elements from which reading them once instead of twice is worth the partial sums."""
LEAST_ROWS = 256
SIBLINGS = 8
"""Sums of chunks that are done in one kernel, though they read nothing in common."""
CHUNKS = 32
COLUMNS = range(32, 8193)
"""Columns whose partial sums stay in the cache, and are worth a vector."""


def columns_beside_rows(groups: Mapping[int, Group]) -> list[Stage]:
    """Column sums over what a kernel over rows walks anyway, and does not need."""
    found = []
    for group in groups.values():
        columns = [unit for unit in group.units if unit.kind == "column"]
        if not columns or not all(_can_be_chunked(unit) for unit in columns):
            continue
        others = [other for other in groups.values() if other is not group]
        if any(_walks_rows_of(group, columns, other) for other in others):
            found += [unit.stage for unit in columns]
    return found


def _can_be_chunked(unit: Unit) -> bool:
    stage, source = unit.stage, unit.stage.inputs[0]
    rows, columns = as_int(product(unit.inner)), as_int(unit.points)
    if stage.reduction != "sum" or stage.ragged is not None or rows is None or columns is None:
        return False
    if rows < LEAST_ROWS or columns not in COLUMNS or rows * columns < LEAST_ELEMENTS:
        return False
    order = [d for d in source.order if source.shape[d] is not ONE]
    reduced = [d for d in order if d in stage.dims]
    kept = [d for d in range(len(source.shape)) if d not in stage.dims and d in order]
    return order == [*reduced, *kept]  # rows slowest, columns as the result has them


def _walks_rows_of(group: Group, columns: list[Unit], other: Group) -> bool:
    """Whether `other` walks, row by row, elements that the columns of `group` need."""
    if group.number in other.ancestors:
        return False
    space = columns[0].space
    units = [u for u in other.units if u.space is space and u.kind in ("map", "row")]
    if not units or any(u.kind == "column" for u in other.units):
        return False
    large = {read for u in columns for read in u.reads if read.numel is space}
    made = {u.target for u in units}
    return any(read in made or any(read in u.reads for u in units) for read in large)


def chunk_columns(stages: Iterable[Stage]) -> None:
    """Rewrite column sums into sums of partial sums."""
    for stage in stages:
        _rewrite(stage)


def _rewrite(stage: Stage) -> None:
    source = stage.inputs[0]
    rows = [d for d in source.order if d in stage.dims]
    kept = [d for d in range(len(source.shape)) if d not in stage.dims]
    extents = [source.shape[d] for d in rows]
    length = _chunk_length(as_int(product(extents)) or LEAST_ROWS)
    chunks = (product(extents) + (length - 1)) // length

    def row(i: Index) -> Expr:
        return flatten([i[d] for d in rows], extents)

    def place(read: Reader, i: Index) -> Index:
        return (row(i) // length, *(i[d] for d in kept))

    shape = (chunks, *(source.shape[d] for d in kept))
    partial = Stage("assemble", f"{stage.name}_chunks", stage.op, shape, stage.dtype)
    partial.pieces = (Piece(_copy(stage, source), place, "sum", row=row, chunk=length),)
    partial.inputs = tuple(piece.source for piece in partial.pieces)
    stage.inputs, stage.dims = (partial,), (0,)


def _copy(stage: Stage, source: Stage) -> Stage:
    def body(read: Reader, i: Index) -> Term:
        return b.cast(read(source, i), stage.dtype)

    strides: tuple[Expr, ...] = dense_or_contiguous(source.shape, source.strides)
    return map_stage(
        f"{stage.name}_terms", stage.op, source.shape, stage.dtype, [source], body,
        strides=strides, cost=0,
    )  # fmt: skip


def _chunk_length(rows: int) -> int:
    """Rows of a chunk: a power of two."""
    length = CHUNKS
    while length * CHUNKS < rows:
        length *= 2
    return length
