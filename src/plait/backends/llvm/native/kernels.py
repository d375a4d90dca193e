"""Compiled kernels of the process, shared by structure: equal kernels are compiled once.

Owns the table from kernel to machine code. `run_kernel` calls one over NumPy arrays, for tests
and for looking at single kernels; plans go through `entry`.
"""

from __future__ import annotations

import ctypes
import functools
import itertools
import threading
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np

from plait.backends.llvm.loop.kernel import Kernel
from plait.backends.llvm.native.emit import Layout, emit_kernel, layout_of
from plait.backends.llvm.native.jit import address_of, compile_object, link_object, new_module
from plait.backends.llvm.native.target import host
from plait.base.config import config

__all__ = ["CompiledKernel", "compile_kernels", "run_kernel"]


class CompiledKernel(NamedTuple):
    """Machine code of a kernel and how its items are counted."""

    name: str
    address: int
    layout: Layout


_lock = threading.RLock()
_compiled: dict[object, CompiledKernel] = {}
_numbers = itertools.count()


def _key(kernel: Kernel) -> object:
    return (replace(kernel, name=""), host(), config.opt_level)


def compile_kernels(kernels: Sequence[Kernel]) -> list[CompiledKernel]:
    """Machine code of every kernel; those not seen before are compiled together."""
    with _lock:
        keys = [_key(kernel) for kernel in kernels]
        fresh = {key: kernel for key, kernel in zip(keys, kernels) if key not in _compiled}
        if fresh:
            _compile(fresh)
        return [_compiled[key] for key in keys]


def _compile(fresh: dict[object, Kernel]) -> None:
    module = new_module("kernels")
    names = {key: f"plait_kernel{next(_numbers)}" for key in fresh}
    for key, kernel in fresh.items():
        emit_kernel(module, kernel, names[key])
    addresses = link_object(compile_object(module), names.values(), _imports())
    for key, kernel in fresh.items():
        name = names[key]
        _compiled[key] = CompiledKernel(name, addresses[name], layout_of(kernel))


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
