"""Compiled attention of the process: one function for each form, whatever the sizes.

Owns the table from form to machine code.
"""

from __future__ import annotations

import ctypes
import functools
import threading
from collections.abc import Sequence
from typing import Any, NamedTuple

from plait.backends.llvm.native.jit import address_of, new_module
from plait.backends.llvm.native.objects import Unit, load_units
from plait.backends.llvm.native.target import host
from plait.backends.llvm.plan import AttentionForm
from plait.backends.llvm.structure import digest, form_text
from plait.base.config import config

__all__ = ["CompiledAttention", "compile_attention", "emit_form"]


class CompiledAttention(NamedTuple):
    """Machine code of a form."""

    name: str
    address: int

    @property
    def addresses(self) -> dict[str, int]:
        """The address by name, for who links against it."""
        return {self.name: self.address}


_lock = threading.RLock()
_compiled: dict[object, CompiledAttention] = {}


def compile_attention(forms: Sequence[AttentionForm]) -> list[CompiledAttention]:
    """Machine code of every form; that of those not seen before is loaded together."""
    with _lock:
        keys = [(form, host(), config.opt_level) for form in forms]
        fresh = {key: form for key, form in zip(keys, forms) if key not in _compiled}
        if fresh:
            units = {key: _unit(form) for key, form in fresh.items()}
            addresses = load_units(list(units.values()), _imports())
            for key, unit in units.items():
                (name,) = unit.exports
                _compiled[key] = CompiledAttention(name, addresses[name])
        return [_compiled[key] for key in keys]


def _unit(form: AttentionForm) -> Unit:
    text = form_text(form)
    name = f"plait_attention_{digest(text)}"
    label = "attention backward" if form.backward else "attention"
    return Unit(label, text, (name,), functools.partial(emit_form, form, name), config.opt_level)


def emit_form(form: AttentionForm, name: str) -> Any:
    """The module of a form."""
    from plait.backends.llvm.native.emit_attention import emit_attention  # not loaded if found

    module = new_module(name)
    emit_attention(module, form, name, host().vector_bits)
    return module


@functools.cache
def _imports() -> dict[str, int]:
    library = ctypes.CDLL(None)
    return {name: address_of(getattr(library, name)) for name in ("aligned_alloc", "free")}
