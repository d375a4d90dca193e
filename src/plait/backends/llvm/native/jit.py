"""Compiling LLVM IR and linking the machine code into the process.

Owns the JIT and the lock around LLVM. Code is compiled to an object image, which can be kept, and
linked with the addresses it imports; it then lives as long as the process. Must not know kernels
or plans.
"""

from __future__ import annotations

import ctypes
import itertools
import threading
import time
from collections.abc import Iterable, Mapping
from typing import Any

import llvmlite.binding as llvm

from plait.backends.llvm.native.target import host, machine
from plait.base import log
from plait.base.config import config
from plait.base.errors import InternalError

__all__ = ["address_of", "compile_object", "link_object", "new_module"]

_lock = threading.RLock()
_numbers = itertools.count()
_kept: list[Any] = []


def new_module(name: str) -> Any:
    """An empty llvmlite module for the host."""
    from llvmlite import ir

    module = ir.Module(name)
    module.triple = host().triple
    return module


def address_of(function: Any) -> int:
    """Address of a function found through ctypes."""
    value = ctypes.cast(function, ctypes.c_void_p).value
    assert value is not None
    return value


def _passes(level: int) -> tuple[Any, Any]:
    options = llvm.create_pipeline_tuning_options(speed_level=level)
    # Kernels are vectorised by hand: these passes could only undo or repeat it.
    options.loop_vectorization = False
    options.slp_vectorization = False
    options.loop_unrolling = False
    builder = llvm.create_pass_builder(machine(level), options)
    return builder.getModulePassManager(), builder


def compile_object(module: Any, level: int | None = None) -> bytes:
    """Optimise a module and return its machine code as an object image."""
    level = config.opt_level if level is None else level
    text = str(module)
    with _lock:
        start = time.perf_counter()
        try:
            parsed = llvm.parse_assembly(text)
        except RuntimeError as error:
            raise InternalError(f"native: LLVM refused module {module.name!r}: {error}") from error
        manager, builder = _passes(level)
        manager.run(parsed, builder)
        image: bytes = machine(level).emit_object(parsed)
        seconds = time.perf_counter() - start
    log.record("native_compile", f"compiled module {module.name!r}", ms=seconds * 1e3, level=level)
    return image


def _keep_for_ever(thing: Any) -> None:
    """Hold an object even when the interpreter ends: worker threads may still be parked in its
    code.
    """
    ctypes.pythonapi.Py_IncRef(ctypes.py_object(thing))
    _kept.append(thing)


def _engine() -> Any:
    if not _kept:
        engine = llvm.create_lljit_compiler(machine())
        _keep_for_ever(engine)
    return _kept[0]


def link_object(
    image: bytes, exports: Iterable[str], imports: Mapping[str, int] | None = None
) -> dict[str, int]:
    """Load an object image; returns the addresses of its exported symbols."""
    names = tuple(exports)
    builder = llvm.JITLibraryBuilder().add_object_img(image)
    for name in names:
        builder.export_symbol(name)
    for name, address in (imports or {}).items():
        builder.import_symbol(name, address)
    with _lock:
        tracker = builder.link(_engine(), f"plait{next(_numbers)}")
        _keep_for_ever(tracker)
    return {name: tracker[name] for name in names}
