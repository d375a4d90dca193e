"""Compiled kernels of the process, shared by structure: equal kernels are compiled once.

Owns the table from kernel to machine code. `run_kernel` calls one over NumPy arrays, for tests
and for looking at single kernels; plans go through `entry`.
"""

from __future__ import annotations

import ctypes
import functools
import threading
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from plait.backends.llvm.loop.kernel import Kernel
from plait.backends.llvm.native.jit import address_of, new_module
from plait.backends.llvm.native.objects import Unit, load_units
from plait.backends.llvm.native.target import host
from plait.backends.llvm.structure import digest, kernel_text
from plait.base.config import config

if TYPE_CHECKING:
    from plait.backends.llvm.native.emit import Layout

__all__ = ["CompiledKernel", "compile_kernels", "run_kernel"]


class CompiledKernel:
    """Machine code of a kernel, under a name that its structure determines."""

    __slots__ = ("_layout", "address", "kernel", "name")

    def __init__(self, name: str, address: int, kernel: Kernel) -> None:
        self.name = name
        self.address = address
        self.kernel = kernel
        self._layout: Layout | None = None

    @property
    def addresses(self) -> dict[str, int]:
        """The address by name, for who links against it."""
        return {self.name: self.address}

    @property
    def layout(self) -> Layout:
        """How its items are counted; worked out when first asked for, by an emitter."""
        if self._layout is None:
            from plait.backends.llvm.native.emit import layout_of

            self._layout = layout_of(self.kernel)
        return self._layout


_lock = threading.RLock()
_compiled: dict[object, CompiledKernel] = {}


def _key(kernel: Kernel) -> object:
    return (replace(kernel, name=""), host(), config.opt_level)


def compile_kernels(kernels: Sequence[Kernel]) -> list[CompiledKernel]:
    """Machine code of every kernel; that of those not seen before is loaded together."""
    with _lock:
        keys = [_key(kernel) for kernel in kernels]
        fresh = {key: kernel for key, kernel in zip(keys, kernels) if key not in _compiled}
        if fresh:
            _load(fresh)
        return [_compiled[key] for key in keys]


def _load(fresh: dict[object, Kernel]) -> None:
    units = {key: _unit(kernel) for key, kernel in fresh.items()}
    addresses = load_units(list(units.values()), _imports())
    for key, kernel in fresh.items():
        (name,) = units[key].exports
        _compiled[key] = CompiledKernel(name, addresses[name], kernel)


def _unit(kernel: Kernel) -> Unit:
    text = kernel_text(kernel)
    name = f"plait_kernel_{digest(text)}"
    emit = functools.partial(_emit, kernel, name)
    return Unit(f"kernel {kernel.name}", text, (name,), emit, config.opt_level)


def _emit(kernel: Kernel, name: str) -> Any:
    from plait.backends.llvm.native.emit import emit_kernel  # not loaded where all code is found

    module = new_module(name)
    emit_kernel(module, kernel, name)
    return module


@functools.cache
def _imports() -> dict[str, int]:
    library = ctypes.CDLL(None)
    return {name: address_of(getattr(library, name)) for name in ("malloc", "free")}


@functools.cache
def _prototype() -> Any:
    pointer, word = ctypes.c_void_p, ctypes.c_int64
    return ctypes.CFUNCTYPE(None, pointer, pointer, pointer, word, word)


def run_kernel(kernel: Kernel, buffers: Sequence[Any], sizes: Sequence[int] = ()) -> int:
    """Run a kernel over flat arrays on this thread; returns 0 or the failed check's code + 1."""
    (compiled,) = compile_kernels([kernel])
    table = np.array([array.ctypes.data for array in buffers] or [0], np.uintp)
    values = np.array(list(sizes) or [0], np.int64)
    status = np.zeros(1, np.int64)
    items = compiled.layout.items.evaluate(dict(zip(kernel.sizes, map(int, sizes))))
    call = _prototype()(compiled.address)
    call(table.ctypes.data, values.ctypes.data, status.ctypes.data, 0, items)
    return int(status[0])
