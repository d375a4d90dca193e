"""Which matrix products are small: generated code instead of a BLAS call, with all their numbers.

Must not know how they are emitted: a process that finds their code on disk loads no emitter.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from plait.backends.llvm.plan import Gemm, Operand, Step
from plait.symbolic.expr import Expr, as_int

__all__ = ["Matrix", "SmallProduct", "small_product"]

OUTER_WORK, INNER_WORK = 1 << 17, 1 << 16
"""Multiply-adds of one matrix up to which a product is generated, by form: where OpenBLAS begins to
win by packing its operands."""
THIN = 8
"""Sums over at most so many elements: a library's packing costs more than the work, so that outer
products are generated up to THIN_WORK."""
THIN_WORK = 1 << 20


class Matrix(NamedTuple):
    """Strides of an operand, in elements."""

    row: int
    column: int
    batch: tuple[int, ...]


class SmallProduct(NamedTuple):
    """c = alpha a b + beta c over a batch, all sizes and strides known."""

    dtype: str
    batch: tuple[int, ...]
    m: int
    n: int
    k: int
    a: Matrix
    b: Matrix
    c: Matrix
    alpha: float
    beta: float

    @property
    def form(self) -> str:
        """ "outer", "inner", or "" where neither reads its operands contiguously."""
        if self.n > 1 and self.b.column == 1 and self.c.column == 1:
            return "outer"
        return "inner" if self.a.column == 1 and self.b.row == 1 else ""

    @property
    def text(self) -> str:
        """A text that two products share exactly when they are equal."""
        return repr(tuple(self))


def small_product(step: Step) -> SmallProduct | None:
    """The numbers of a product that is to be generated; None for all other steps."""
    if not isinstance(step, Gemm):
        return None
    sizes = [as_int(size) for size in (step.m, step.n, step.k)]
    operands = [_numbers(operand) for operand in (step.a, step.b, step.c)]
    batch = _all_known(step.batch)
    if batch is None or None in sizes or None in operands:
        return None
    m, n, k = (size or 0 for size in sizes)
    a, b, c = (operand for operand in operands if operand is not None)
    made = SmallProduct(step.dtype, batch, m, n, k, a, b, c, step.alpha, step.beta)
    limit = {"outer": OUTER_WORK, "inner": INNER_WORK, "": 0}[made.form]
    if k <= THIN:
        limit = {"outer": THIN_WORK, "inner": INNER_WORK >> 3, "": 0}[made.form]
    return made if 0 < m * n * k <= limit else None


def _numbers(operand: Operand) -> Matrix | None:
    row, column = as_int(operand.row_stride), as_int(operand.col_stride)
    batch = _all_known(operand.batch_strides)
    return None if row is None or column is None or batch is None else Matrix(row, column, batch)


def _all_known(sizes: Iterable[Expr]) -> tuple[int, ...] | None:
    known = [as_int(size) for size in sizes]
    return None if None in known else tuple(size for size in known if size is not None)
