"""Epilogues: kernels that run on each block of a product's rows right after the block was made.

The thread that made the block runs them, while it is in its cache, and no other thread is waited
for in between. A kernel can do so if it walks the rows of the product and reads each where it
stands. Must not know operators or LLVM.
"""

from __future__ import annotations

from collections.abc import Mapping

from plait.backends.llvm.build import BuiltKernel
from plait.backends.llvm.loop.indexing import ONE, ZERO, linear_coefficients, rename
from plait.backends.llvm.loop.kernel import Kernel
from plait.backends.llvm.loop.terms import Axis, Term, walk
from plait.backends.llvm.lowering.stage import Stage
from plait.symbolic.expr import Expr, as_int

__all__ = ["is_worth_blocks", "takes_rows"]

LEAST_ROWS = 512
"""Rows from which a large product is cut into blocks of rows; fewer are better cut by columns, and
blocks of fewer than 256 rows cost more than they bring: each packs the other operand again."""
SMALL_WORK, LARGE_WORK = 1 << 17, 1 << 20
"""Multiply-adds: products below the first are generated code, those below the second one block."""


def is_worth_blocks(m: Expr, n: Expr, k: Expr) -> bool:
    """Whether a product of these sizes is made in blocks of rows, or in one. Unknown sizes are
    taken for enough.
    """
    rows, work = as_int(m), as_int(m * n * k)
    if rows is None or work is None:
        return True
    return rows >= LEAST_ROWS or SMALL_WORK < work < LARGE_WORK


def takes_rows(part: BuiltKernel, result: Stage) -> bool:
    """Whether a kernel walks the rows of `result`, a contiguous matrix, and reads each in place."""
    kernel, (rows, columns) = part.kernel, result.shape
    if result not in part.buffers or kernel.is_serial or part.checks or not kernel.axes:
        return False
    number = part.buffers.index(result)
    if any(store.buffer == number or store.depth < 1 for store in kernel.stores):
        return False
    own: dict[str, Expr] = {
        s.name: s for size in result.shape for s in size.free_symbols
    }  # with their bounds
    sizes = {name: rename(size, own) for name, size in zip(kernel.sizes, part.sizes)}
    terms = list(walk(*kernel.roots()))
    reads = [t for t in terms if t.op in ("load", "gather") and _buffer(t) == number]
    if any(t.op == "gather" for t in reads) or kernel.row_depth < 1:
        return False
    first, has_sums = kernel.axes[0], any(t.op == "reduce" for t in terms)
    extent = rename(first.extent, sizes)
    if extent is rows * columns and len(kernel.axes) == 1 and not has_sums:
        return all(t.attr[1] is first.symbol for t in reads)
    if extent is not rows or (len(kernel.axes) == 1 and has_sums):
        return False
    inner = {a.symbol for a in _axes(kernel, terms) if rename(a.extent, sizes) is columns}
    return all(_is_in_row(t.attr[1], first, columns, inner, sizes) for t in reads)


def _buffer(term: Term) -> int:
    number: int = term.attr[0]
    return number


def _axes(kernel: Kernel, terms: list[Term]) -> list[Axis]:
    return [*kernel.axes[1:], *(t.attr[1] for t in terms if t.op == "reduce")]


def _is_in_row(
    offset: Expr, row: Axis, columns: Expr, inner: set[Expr], sizes: Mapping[str, Expr]
) -> bool:
    """Whether an offset is row * columns plus nothing or an axis over the columns."""
    linear = linear_coefficients(offset, [row.symbol])
    if linear is None:
        return False
    (stride,), rest = linear
    in_row = rest is ZERO or rest in inner
    return in_row and (rename(stride, sizes) is columns or (columns is ONE and stride is ONE))
