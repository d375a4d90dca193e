"""plait: a compiler stack for tensor programs.

Tensors, operators and the tape load with `import plait`; everything above them (modules,
optimisers, backends, the compiler, the command line) loads when it is first named.
This module owns the list of public names and nothing else.
"""

from __future__ import annotations

import importlib
import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

from plait import autograd, ops
from plait.autograd import enable_grad, is_grad_enabled, no_grad, set_grad_enabled
from plait.autograd.checkpoint import checkpoint
from plait.base.config import config
from plait.base.errors import PlaitError
from plait.dispatch import DispatchMode
from plait.ops import functional as _functional
from plait.ops import methods as _methods
from plait.ops.conversion import as_tensor, asarray
from plait.ops.random import Generator, get_rng_state, initial_seed, manual_seed, set_rng_state
from plait.tensor.device import Device
from plait.tensor.dtype import (
    DType,
    bfloat16,
    bool_,
    complex64,
    complex128,
    float16,
    float32,
    float64,
    get_default_dtype,
    int8,
    int16,
    int32,
    int64,
    set_default_dtype,
    uint8,
    uint16,
    uint32,
    uint64,
)
from plait.tensor.limits import finfo, iinfo
from plait.tensor.promotion import promote, result_type
from plait.tensor.tensor import Tensor, from_dlpack, from_numpy, tensor
from plait.transforms import func
from plait.transforms.autocast import autocast, get_autocast_dtype, is_autocast_enabled
from plait.transforms.vmap import vmap

if TYPE_CHECKING:
    from plait import (
        aot,
        backends,
        capture,
        cli,
        ir,
        library,
        modes,
        nn,
        optim,
        overrides,
        testing,
        wrappers,
    )
    from plait.backends.registry import list_backends, register_backend
    from plait.capture.entries import mark_dynamic
    from plait.compile import compile
    from plait.explain import explain
    from plait.ops._functions import *  # noqa: F403  # a stub, written by make docs

__version__ = "0.1.0"

assert _methods.METHODS  # importing it attached the operators to Tensor

__all__ = [
    "DType",
    "Device",
    "DispatchMode",
    "Generator",
    "PlaitError",
    "Tensor",
    "aot",
    "as_tensor",
    "asarray",
    "autocast",
    "autograd",
    "backends",
    "bfloat16",
    "bool_",
    "capture",
    "checkpoint",
    "cli",
    "compile",
    "complex64",
    "complex128",
    "config",
    "enable_grad",
    "explain",
    "float16",
    "float32",
    "float64",
    "finfo",
    "from_dlpack",
    "from_numpy",
    "func",
    "get_autocast_dtype",
    "get_default_dtype",
    "get_rng_state",
    "iinfo",
    "initial_seed",
    "int8",
    "int16",
    "int32",
    "int64",
    "ir",
    "library",
    "is_autocast_enabled",
    "is_grad_enabled",
    "list_backends",
    "manual_seed",
    "mark_dynamic",
    "modes",
    "nn",
    "no_grad",
    "ops",
    "optim",
    "overrides",
    "promote",
    "register_backend",
    "result_type",
    "set_default_dtype",
    "set_grad_enabled",
    "set_rng_state",
    "tensor",
    "testing",
    "uint8",
    "uint16",
    "uint32",
    "uint64",
    "vmap",
    "wrappers",
]
__all__ += _functional.__all__  # the operators as functions: add, relu, zeros, ...
globals().update({name: _functional.FUNCTIONS[name] for name in _functional.__all__})

# Name -> the module that defines it, loaded when the name is first used; None: it is a module.
_LATER: dict[str, str | None] = {
    "aot": None,
    "backends": None,
    "capture": None,
    "cli": None,
    "compile": "plait.compile",
    "explain": "plait.explain",
    "ir": None,
    "library": None,
    "list_backends": "plait.backends.registry",
    "mark_dynamic": "plait.capture.entries",
    "modes": None,
    "nn": None,
    "optim": None,
    "overrides": None,
    "register_backend": "plait.backends.registry",
    "testing": None,
    "wrappers": None,
}


def __getattr__(name: str) -> Any:
    if name not in _LATER:
        raise AttributeError(f"module 'plait' has no attribute {name!r}")
    home = _LATER[name]
    if home is None:
        return importlib.import_module(f"plait.{name}")
    value = getattr(importlib.import_module(home), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_LATER})


class _Package(ModuleType):
    """Keeps `plait.compile` and `plait.explain` the functions, whose modules have their names."""

    def __setattr__(self, name: str, value: object) -> None:
        if name in ("compile", "explain") and isinstance(value, ModuleType):
            value = getattr(value, name)
        super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package
