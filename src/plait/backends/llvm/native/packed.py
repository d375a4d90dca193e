"""Which matrix products are made by packed code of our own, and that code, by form.

A library packs the other operand again for every block of rows that it is given, fills the result
with zeros before it adds to it, and is called once more for what follows. Here one step packs the
right operand, shared out by columns, and every block of rows reads it, so blocks may be small
enough for what follows them to find them in the cache. Must not know how the code is emitted.
"""

from __future__ import annotations

import functools
import math
import threading
from collections.abc import Iterable
from typing import Any, NamedTuple

from plait.backends.llvm.native.jit import new_module
from plait.backends.llvm.native.objects import Unit, load_units
from plait.backends.llvm.native.target import host
from plait.backends.llvm.native.tiles import UNROLL, VECTORS, register_rows
from plait.backends.llvm.plan import Gemm, Operand, Step
from plait.base.config import config
from plait.symbolic.expr import as_int

__all__ = [
    "CompiledPacked",
    "Cut",
    "PackedForm",
    "compile_packed",
    "cut",
    "emit_packed_modules",
    "packed_form",
]

LEAST_WORK = 1 << 20
"""Multiply-adds from which packing pays, and there are blocks for more than one thread."""
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


class CompiledPacked(NamedTuple):
    """The two functions of a form: packing columns of the right operand, multiplying rows."""

    form: PackedForm
    addresses: dict[str, int]

    @property
    def pack(self) -> str:
        """Name of the function that packs; it is a kernel over panels of columns."""
        return pack_name(self.form.dtype, self.form.b_turned)

    @property
    def rows(self) -> str:
        """Name of the function that multiplies some rows."""
        return rows_name(self.form.dtype, self.form.a_turned)


def pack_name(dtype: str, turned: bool) -> str:
    """Symbol of a packing function."""
    return f"plait_pack_{dtype}{'_turned' if turned else ''}"


def rows_name(dtype: str, turned: bool) -> str:
    """Symbol of a multiplying function."""
    return f"plait_rows_{dtype}{'_turned' if turned else ''}"


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


_lock = threading.RLock()
_compiled: dict[object, int] = {}


def compile_packed(form: PackedForm) -> CompiledPacked:
    """Machine code of a form."""
    wanted = _functions(form)
    with _lock:
        keys = {name: (name, host(), config.opt_level) for name in wanted}
        fresh = [name for name, key in keys.items() if key not in _compiled]
        if fresh:
            units = [_unit(name, *wanted[name]) for name in fresh]
            for name, address in load_units(units, {}).items():
                _compiled[keys[name]] = address
        return CompiledPacked(form, {name: _compiled[key] for name, key in keys.items()})


def _functions(form: PackedForm) -> dict[str, tuple[str, str, bool]]:
    """From symbols to (kind, dtype, turned)."""
    return {
        pack_name(form.dtype, form.b_turned): ("pack", form.dtype, form.b_turned),
        rows_name(form.dtype, form.a_turned): ("rows", form.dtype, form.a_turned),
    }


def emit_packed_modules(codes: Iterable[CompiledPacked]) -> list[Any]:
    """The modules of all functions that the codes use, each once."""
    wanted = {name: what for code in codes for name, what in _functions(code.form).items()}
    return [_emit(name, *what) for name, what in wanted.items()]


def _unit(name: str, kind: str, dtype: str, turned: bool) -> Unit:
    build = functools.partial(_emit, name, kind, dtype, turned)
    return Unit(f"packed products, {kind} {dtype}", name, (name,), build, config.opt_level)


def _emit(name: str, kind: str, dtype: str, turned: bool) -> Any:
    """The module of one of the functions."""
    from plait.backends.llvm.native.emit_packed import emit_pack, emit_rows  # not loaded if found

    module = new_module(name)
    emit = emit_pack if kind == "pack" else emit_rows
    emit(module, name, dtype, turned, host().vector_bits)
    return module


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
