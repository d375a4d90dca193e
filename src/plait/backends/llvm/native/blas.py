"""The process's BLAS: NumPy's own OpenBLAS, its threads, and matrix products as ranges of items.

One library serves eager and compiled code. Note [One pool]: OpenBLAS would split a product over
threads of its own, which spin for milliseconds after each call and take processors from ours.
Compiled code therefore asks it for one thread while a product runs (counted, see `Threads`) and
splits the product itself: by rows or columns, the pieces fixed by shape. Where the library offers
a callback for its threads, products of eager NumPy run on our pool too, so that there is never a
second one.

Owns the choice of library. Without one, products are plain generated loops, with a recorded reason.
"""

from __future__ import annotations

import ctypes
import functools
import glob
import importlib.util
import os
import sys
from typing import Any, NamedTuple

import numpy as np

from plait.backends.llvm.native.jit import address_of
from plait.base import log

__all__ = ["Blas", "find_blas"]


class Blas(NamedTuple):
    """Addresses of C functions of one BLAS, and the width of its integers."""

    path: str
    gemm: dict[str, int]
    """f32 and f64 -> cblas_sgemm, cblas_dgemm."""
    gemv: dict[str, int]
    integer_bits: int
    set_threads: Any
    """ctypes function `void (int)`, or None."""
    set_callback: Any
    """ctypes function that installs a threads callback, or None."""


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
        find("openblas_set_num_threads"),
        find("openblas_set_threads_callback_function"),
    )


@functools.cache
def find_blas() -> Blas | None:
    """The BLAS that this process uses, or None (recorded) where there is none to call."""
    for path in _candidates():
        found = _open(path)
        if found is not None:
            return found
    log.record("blas", "no BLAS library found; products are generated loops", platform=sys.platform)
    return None
