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
from plait.base.account import stage
from plait.base.config import config
from plait.base.errors import InternalError

__all__ = ["address_of", "assembly", "compile_object", "link_objects", "new_module"]

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


def _optimise(parsed: Any, level: int) -> None:
    """The few passes that emitted code needs: it is vectorised and free of repeats already.

    The whole pipeline of O3 takes 8 ms more for a fused layer norm and makes it no faster.
    """
    builder = llvm.create_pass_builder(machine(level), llvm.create_pipeline_tuning_options(level))
    manager = llvm.create_new_module_pass_manager()
    manager.add_always_inliner_pass()
    if level:
        manager.add_sroa_pass()
        manager.add_instruction_combine_pass()
        manager.add_simplify_cfg_pass()
    manager.run(parsed, builder)


def assembly(module: Any, level: int) -> str:
    """The machine code of a module as text; nothing is linked."""
    with _lock:
        parsed = llvm.parse_assembly(str(module))
        _optimise(parsed, level)
        return str(machine(level).emit_assembly(parsed))


def compile_object(module: Any, level: int | None = None) -> bytes:
    """Optimise a module and return its machine code as an object image."""
    level = config.opt_level if level is None else level
    text = str(module)
    with stage("LLVM"), _lock:
        start = time.perf_counter()
        try:
            parsed = llvm.parse_assembly(text)
        except RuntimeError as error:
            raise InternalError(f"native: LLVM refused module {module.name!r}: {error}") from error
        _optimise(parsed, level)
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


def link_objects(
    images: Iterable[bytes], exports: Iterable[str], imports: Mapping[str, int] | None = None
) -> dict[str, int]:
    """Load object images; returns the addresses of the symbols that they export."""
    names = tuple(exports)
    builder = llvm.JITLibraryBuilder()
    for image in images:
        builder.add_object_img(image)
    for name in names:
        builder.export_symbol(name)
    for name, address in (imports or {}).items():
        builder.import_symbol(name, address)
    with stage("linking"), _lock:
        tracker = builder.link(_engine(), f"plait{next(_numbers)}")
        _keep_for_ever(tracker)
    return {name: tracker[name] for name in names}
