"""Which matrix products are made by packed code of our own, and how they are cut.

A library packs the other operand again for every block of rows that it is given, fills the result
with zeros before it adds to it, and is called once more for what follows. Here one step packs the
right operand, shared out by columns, and every block of rows reads it, so blocks may be small
enough for what follows them to find them in the cache. Must not know how the code is emitted.
"""

from __future__ import annotations

import math
from typing import NamedTuple

from plait.backends.llvm.native.register_block import UNROLL, VECTORS, register_rows
from plait.backends.llvm.native.target import host
from plait.backends.llvm.plan import Gemm, Operand, Step
from plait.symbolic.expr import as_int

__all__ = ["Cut", "PackedForm", "cut", "most_rows", "packed_form"]

LEAST_WORK = 1 << 25
"""Multiply-adds from which packing as a step of its own pays on two threads as on one, and the code
is worth its compilation (60 ms, once for each layout)."""
LEAST_ROWS, LEAST_COLUMNS = 128, 64
MOST_ELEMENTS = 1 << 22
"""Elements of the right operand up to which all of it is packed: they should stay in a cache."""


class PackedForm(NamedTuple):
    """What packed code depends on: element type, and which operands lie transposed in memory."""

    dtype: str
    a_turned: bool
    """Rows of a column are neighbours."""
    b_turned: bool
    """Numbers of a column are neighbours, as in ``x @ weight.T``."""


def packed_form(step: Step) -> PackedForm | None:
    """The form of a product that packed code makes; None for all other steps."""
    if not isinstance(step, Gemm) or step.batch or host().vector_bits < 256:
        return None
    m, n, k = (as_int(size) for size in (step.m, step.n, step.k))
    if m is None or n is None or k is None or (step.alpha, step.beta) != (1.0, 0.0):
        return None
    if m < LEAST_ROWS or n < LEAST_COLUMNS or n * k > MOST_ELEMENTS or m * n * k < LEAST_WORK:
        return None
    a, b = _is_turned(step.a), _is_turned(step.b)
    is_known = as_int(step.c.row_stride) is not None and as_int(step.c.col_stride) == 1
    if a is None or b is None or not is_known:
        return None
    return PackedForm(step.dtype, a, b)


def _is_turned(operand: Operand) -> bool | None:
    """Whether columns are contiguous rather than rows; None where strides are not known."""
    row, column = as_int(operand.row_stride), as_int(operand.col_stride)
    if row is None or column is None:
        return None
    return column != 1


class Cut(NamedTuple):
    """How a product is cut; the numbers depend on sizes alone, never on threads."""

    width: int
    """Columns of a panel of the right operand."""
    panels: int
    blocks: int
    rows: int
    """Rows of a block."""
    nbytes: int
    """Of the packed operand."""


def cut(step: Gemm, dtype_bytes: int) -> Cut:
    """The cut of a product with packed code."""
    m, n, k = (as_int(size) or 0 for size in (step.m, step.n, step.k))
    bits, registers = host().vector_bits, register_rows(host().vector_bits)
    width = VECTORS * bits // (8 * dtype_bytes)
    panels = math.ceil(n / width)
    blocks = max(math.ceil(m / most_rows(dtype_bytes)), 2)
    rows = math.ceil(m / blocks / registers) * registers
    packed = panels * width * (-(-k // UNROLL) * UNROLL) * dtype_bytes
    return Cut(width, panels, math.ceil(m / rows), rows, packed)


def most_rows(dtype_bytes: int) -> int:
    """Rows of a block at most: packed for DEPTH numbers they take half a second-level cache."""
    return 768 // dtype_bytes
