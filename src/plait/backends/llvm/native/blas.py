"""The process's BLAS: NumPy's own OpenBLAS, its threads, and matrix products as ranges of items.

One library serves eager and compiled code. Note [One pool]: OpenBLAS would split a product over
threads of its own; they wait for each other in busy loops (a product of 0.4 ms took 36 on a
machine with other work) and spin for milliseconds after it, taking processors from ours. While
products of compiled code run, the library is therefore kept to one thread, and the product is
split over our pool, by rows or columns, the pieces fixed by shape. Between them it has its
threads back, for eager NumPy.

Owns the choice of library. Without one, products are plain generated loops, with a recorded reason.
"""

from __future__ import annotations

import ctypes
import functools
import glob
import importlib.util
import os
import sys
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from llvmlite import ir

from plait.backends.llvm.native.jit import address_of, new_module
from plait.backends.llvm.native.objects import Unit, load_units
from plait.base import log

__all__ = ["Blas", "find_blas", "thread_guards"]

I32 = ir.IntType(32)


class Blas(NamedTuple):
    """Addresses of C functions of one BLAS, and the width of its integers."""

    path: str
    gemm: dict[str, int]
    """f32 and f64 -> cblas_sgemm, cblas_dgemm."""
    gemv: dict[str, int]
    integer_bits: int
    threads: dict[str, int]
    """get and set: functions `int ()` and `void (int)` of the library's threads; may be empty."""


def _candidates() -> list[str]:
    """Shared libraries that may hold a BLAS, best first."""
    package = os.path.dirname(np.__file__)
    found: list[str] = []
    for pattern in ("../numpy.libs/*openblas*", ".dylibs/*openblas*", "../numpy.libs/*blas*"):
        found += sorted(glob.glob(os.path.join(package, pattern)))
    for module in ("scipy_openblas64", "scipy_openblas32"):
        spec = importlib.util.find_spec(module)
        for location in (spec.submodule_search_locations or []) if spec else []:
            found += sorted(glob.glob(os.path.join(location, "lib", "*openblas*")))
    return [path for path in found if not path.endswith((".a", ".pc"))]


def _open(path: str) -> Blas | None:
    try:
        library = ctypes.CDLL(path)
    except OSError as error:
        log.record("blas", f"{os.path.basename(path)} could not be loaded: {error}")
        return None
    for prefix, suffix in (("scipy_", "64_"), ("", "64_"), ("scipy_", ""), ("", "")):
        found = _functions(path, library, prefix, suffix)
        if found is not None:
            return found
    return None


def _functions(path: str, library: ctypes.CDLL, prefix: str, suffix: str) -> Blas | None:
    """The functions of a library under one way of naming them, or None."""

    def find(name: str) -> Any:
        return getattr(library, f"{prefix}{name}{suffix}", None)

    if not (find("cblas_sgemm") and find("cblas_dgemm")):
        return None
    return Blas(
        path,
        {"f32": address_of(find("cblas_sgemm")), "f64": address_of(find("cblas_dgemm"))},
        {"f32": address_of(find("cblas_sgemv")), "f64": address_of(find("cblas_dgemv"))},
        64 if suffix else 32,
        _thread_functions(find),
    )


def _thread_functions(find: Callable[[str], Any]) -> dict[str, int]:
    """The functions to ask for and set the library's threads, where it has both."""
    found = {short: find(f"openblas_{short}_num_threads") for short in ("get", "set")}
    if None in found.values():
        return {}
    return {short: address_of(function) for short, function in found.items()}


@functools.cache
def find_blas() -> Blas | None:
    """The BLAS that this process uses, or None (recorded) where there is none to call."""
    for path in _candidates():
        found = _open(path)
        if found is not None:
            return found
    log.record("blas", "no BLAS library found; products are generated loops", platform=sys.platform)
    return None


@functools.cache
def thread_guards() -> dict[str, int]:
    """Addresses of `void plait_blas_enter()` and `void plait_blas_leave()`, around products.

    Between them the library runs one thread; calls nest and come from any thread, so they are
    counted.
    """
    blas = find_blas()
    switches = blas is not None and bool(blas.threads)
    names = (*_GUARDS, "plait_blas_state")
    build = functools.partial(_guards_module, switches)
    unit = Unit("the BLAS thread guards", f"guards {switches}", names, build, 0)
    imports = {} if blas is None else {f"plait_blas_{k}": v for k, v in blas.threads.items()}
    addresses = load_units([unit], imports)
    if hasattr(os, "register_at_fork"):
        where = addresses["plait_blas_state"]
        os.register_at_fork(after_in_child=lambda: ctypes.memset(where, 0, 12))
    return addresses


def _guards_module(switches: bool) -> Any:
    module = new_module("blas_threads")
    state = ir.GlobalVariable(module, ir.ArrayType(I32, 3), "plait_blas_state")
    state.initializer = ir.Constant(state.value_type, None)
    state.type = ir.PointerType()
    for name in _GUARDS:
        function = ir.Function(module, ir.FunctionType(ir.VoidType(), []), name)
        builder = ir.IRBuilder(function.append_basic_block())
        if switches:
            _define_guard(builder, state, entering=name == _GUARDS[0])
        builder.ret_void()
    return module


_GUARDS = ("plait_blas_enter", "plait_blas_leave")
LOCK, INSIDE, BEFORE = 0, 1, 2  # words of the state


def _define_guard(builder: Any, state: Any, *, entering: bool) -> None:
    """Under a spin lock: count, and switch the library's threads at the first and last."""
    get = (
        ir.Function(builder.module, ir.FunctionType(I32, []), "plait_blas_get")
        if entering
        else None
    )
    put = builder.module.globals.get("plait_blas_set")
    if put is None:
        kind = ir.FunctionType(ir.VoidType(), [I32])
        put = ir.Function(builder.module, kind, "plait_blas_set")

    def word(number: int) -> Any:
        where = builder.gep(state, [I32(number)], source_etype=I32)
        where.type = I32.as_pointer()
        return where

    wait, held = builder.append_basic_block("wait"), builder.append_basic_block("held")
    builder.branch(wait)
    builder.position_at_end(wait)
    before = builder.atomic_rmw("xchg", word(LOCK), I32(1), "acquire")
    builder.cbranch(builder.icmp_signed("==", before, I32(0)), held, wait)
    builder.position_at_end(held)
    inside = builder.load(word(INSIDE), typ=I32)
    changed = builder.add(inside, I32(1 if entering else -1))
    builder.store(changed, word(INSIDE))
    edge = inside if entering else changed
    with builder.if_then(builder.icmp_signed("==", edge, I32(0))):
        if entering:
            builder.store(builder.call(get, []), word(BEFORE))
        threads = I32(1) if entering else builder.load(word(BEFORE), typ=I32)
        builder.call(put, [threads])
    builder.store_atomic(I32(0), word(LOCK), "release", 4)
