"""Stages as strided memory: what views can hand to BLAS, or to the caller, without a copy.

Must not know scheduling: which stages are stored is told.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from plait.backends.llvm.loop.indexing import ONE, ZERO, linear_coefficients
from plait.backends.llvm.loop.terms import Axis
from plait.backends.llvm.lowering.stage import Index, Stage
from plait.symbolic.expr import Const, Expr, FloorDiv, Mod, const, ge

__all__ = [
    "Layout",
    "ProductLayout",
    "attention_layouts",
    "blas_strides",
    "linear_layout",
    "product_layout",
]

Layout = tuple[Stage, tuple[Expr, ...], Expr]
"""(stored stage, stride of every dimension, offset), in elements."""


def axis_symbols(shape: Sequence[Expr]) -> list[Expr]:
    """One index symbol per dimension; 0 for dimensions of size 1."""
    return [ZERO if size is ONE else Axis(f"d{k}", size).symbol for k, size in enumerate(shape)]


def position_in_root(
    stage: Stage, stored: Collection[Stage], *, through_copies: bool = False
) -> tuple[Stage, Expr]:
    """(first stage under views that is stored or computes, flat position in it) over the axes.

    `through_copies` also looks under copies that are not stored themselves.
    """
    index: Index = tuple(axis_symbols(stage.shape))
    while stage not in stored:
        if stage.kind == "view":
            assert stage.remap is not None
            index = stage.remap(index)
        elif not (through_copies and stage.is_copy):
            break
        stage = stage.inputs[0]
    position = ZERO
    for i, stride in zip(index, stage.strides, strict=True):
        position = position + i * stride
    return stage, position


def linear_layout(stage: Stage, stored: Collection[Stage]) -> Layout | None:
    """`stage` as strided memory of the first stored stage under its views, if it is that."""
    root, position = position_in_root(stage, stored)
    strides = strides_of(position, axis_symbols(stage.shape))
    return None if strides is None else (root, *strides)


def strides_of(position: Expr, symbols: Sequence[Expr]) -> tuple[tuple[Expr, ...], Expr] | None:
    """(stride of each symbol, offset) of a position that is linear in them."""
    linear = linear_coefficients(position, [s for s in symbols if s is not ZERO])
    if linear is None:
        return None
    rest = iter(linear[0])
    return tuple(ZERO if s is ZERO else next(rest) for s in symbols), linear[1]


def blas_strides(
    strides: tuple[Expr, ...], shape: tuple[Expr, ...], *, views_overlap: bool = False
) -> tuple[Expr, Expr] | None:
    """(row, column) strides of a matrix as BLAS takes them, one of them 1; None if it cannot.

    A dimension of size 1 gets whatever stride makes the other one readable.
    """
    (rows, columns), (row, column) = shape[-2:], strides[-2:]
    if columns is ONE:
        column, row = ONE, ONE if rows is ONE else row
    elif rows is ONE:
        row = columns if column is ONE else ONE
    if column is ONE and _may_lead(row, columns, views_overlap):
        return row, column
    return (row, column) if row is ONE and _may_lead(column, rows, views_overlap) else None


def _may_lead(stride: Expr, size: Expr, views_overlap: bool) -> bool:
    """Whether lines of `size` elements `stride` apart do not meet.

    Unless `as_strided` made them, views of a tensor do not overlap, so that symbolic strides may
    be believed.
    """
    enough = ge(stride, size)
    return enough is True or (enough is not False and not views_overlap)


def may_overlap(stage: Stage) -> bool:
    """Whether some view under `stage` can make elements overlap."""
    while stage.kind == "view" or stage.is_copy:
        if stage.op == "as_strided":
            return True
        stage = stage.inputs[0]
    return False


@dataclass(frozen=True, slots=True)
class ProductLayout:
    """A matrix product over strided memory. `batch` may have more dimensions than the stage."""

    batch: tuple[Expr, ...]
    operands: tuple[Layout | None, ...]
    """None: this operand must be copied first."""
    result: tuple[Expr, ...]
    """Strides of the result, with the dimensions of `batch`."""


def product_layout(stage: Stage, stored: Collection[Stage]) -> ProductLayout:
    """How a gemm stage can read its operands in place.

    Heads of attention are a batch dimension that was two before a reshape: it is split again where
    a position divides it.
    """
    found = [position_in_root(x, stored, through_copies=True) for x in stage.inputs]
    batch = stage.shape[:-2]
    parts: dict[int, Expr] = {}
    for _, position in found:
        for dim, size in enumerate(batch):
            divisor = _divisor(position, dim, size)
            if divisor is not None:
                parts.setdefault(dim, divisor)
    operands = []
    for x, (root, position) in zip(stage.inputs, found):
        split = _split(x.shape, position, parts)
        layout = None if split is None else strides_of(*split)
        operands.append(
            (root, *layout)
            if layout is not None
            and blas_strides(layout[0], x.shape, views_overlap=may_overlap(x)) is not None
            else None
        )
    own = _split(stage.shape, _own_position(stage), parts)
    assert own is not None
    strides = strides_of(*own)
    assert strides is not None
    return ProductLayout(_split_sizes(batch, parts), tuple(operands), strides[0])


def attention_layouts(stage: Stage, stored: Collection[Stage]) -> tuple[Layout | None, ...]:
    """How an attention stage can read its operands in place; None: one must be copied first.

    Rows of numbers must be dense; masks and logarithms may have any strides.
    """
    assert stage.attention is not None
    mask = 3 if stage.attention.has_mask else None
    logs = len(stage.inputs) - 1 if stage.attention.backward else None
    layouts: list[Layout | None] = []
    for number, operand in enumerate(stage.inputs):
        root, position = position_in_root(operand, stored, through_copies=True)
        found = strides_of(position, axis_symbols(operand.shape))
        is_dense = found is not None and (found[0][-1] is ONE or operand.shape[-1] is ONE)
        if found is None or not (is_dense or number in (mask, logs)):
            layouts.append(None)
        else:
            layouts.append((root, *found))
    return tuple(layouts)


def _own_position(stage: Stage) -> Expr:
    position = ZERO
    for symbol, stride in zip(axis_symbols(stage.shape), stage.strides):
        position = position + symbol * stride
    return position


def _divisor(position: Expr, dim: int, size: Expr) -> Expr | None:
    """What an index is divided by in `position`, if it divides the size."""
    if size is ONE:
        return None
    symbol = Axis(f"d{dim}", size).symbol
    stack = [position]
    while stack:
        part = stack.pop()
        if isinstance(part, FloorDiv | Mod) and part.args[0] is symbol:
            divisor = part.args[1]
            if isinstance(divisor, Const) and (size // divisor) * divisor is size:
                return divisor
        stack.extend(part.args)
    return None


def _split_sizes(batch: Sequence[Expr], parts: dict[int, Expr]) -> tuple[Expr, ...]:
    sizes: list[Expr] = []
    for dim, size in enumerate(batch):
        sizes.extend([size // parts[dim], parts[dim]] if dim in parts else [size])
    return tuple(sizes)


def _split(
    shape: Sequence[Expr], position: Expr, parts: dict[int, Expr]
) -> tuple[Expr, list[Expr]] | None:
    """`position` over the split dimensions, and their symbols."""
    symbols: list[Expr] = []
    replaced: dict[Expr, Expr | int] = {}
    for dim, symbol in enumerate(axis_symbols(shape)):
        if dim not in parts or symbol is ZERO:
            symbols.extend([ZERO, ZERO] if dim in parts else [symbol])
            continue
        outer = Axis(f"d{dim}a", shape[dim] // parts[dim]).symbol
        inner = Axis(f"d{dim}b", const(parts[dim].evaluate({}))).symbol
        replaced[symbol] = outer * parts[dim] + inner
        symbols.extend([outer, inner])
    return position.substitute(replaced), symbols
