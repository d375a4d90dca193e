"""Compiled code for packed products: two functions for each element type and layout.

Owns the table from form to machine code.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Iterable
from typing import Any, NamedTuple

from plait.backends.llvm.native.jit import new_module
from plait.backends.llvm.native.objects import Unit, load_units
from plait.backends.llvm.native.packed import PackedForm
from plait.backends.llvm.native.target import host
from plait.base.config import config

__all__ = ["CompiledPacked", "compile_packed", "emit_packed_modules"]


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
