"""plait: a compiler stack for tensor programs.

Tensors, operators and the tape load with `import plait`; everything above them (modules,
optimisers, backends, the compiler, the command line) loads when it is first named.
This module owns the list of public names and nothing else.
"""

from __future__ import annotations

import importlib
import sys
from types import ModuleType
from typing import Any

__version__ = "0.1.0"

# Public name -> module that defines it; None: the name is the module itself.
_LAZY: dict[str, str | None] = {
    "nn": None,
    "optim": None,
    "backends": None,
    "testing": None,
    "cli": None,
    "ir": None,
    "capture": None,
    "aot": None,
    "interop": None,
    "compile": "plait.compile",
}


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module 'plait' has no attribute {name!r}")
    home = _LAZY[name]
    if home is None:
        return importlib.import_module(f"plait.{name}")
    value = getattr(importlib.import_module(home), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_LAZY})


class _Package(ModuleType):
    """Keeps `plait.compile` the function: importing the module of that name would hide it."""

    def __setattr__(self, name: str, value: object) -> None:
        if name == "compile" and isinstance(value, ModuleType):
            value = value.compile
        super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package


def _load_eager() -> None:
    """Bring the names of L0 to L6 here, as far as they are written."""
    for home, names in {
        "plait.base.errors": ["PlaitError"],
        "plait.tensor.dtype": None,
        "plait.tensor.device": ["Device"],
        "plait.tensor.tensor": ["Tensor", "tensor", "from_numpy"],
        "plait.ops.functional": None,
        "plait.ops.random": ["Generator", "manual_seed"],
        "plait.autograd.grad_mode": None,
        "plait.transforms": ["func"],
        "plait.autograd": ["autograd"],
        "plait.ops.methods": [],
    }.items():
        try:
            module = importlib.import_module(home)
        except ModuleNotFoundError:
            continue
        if home == "plait.tensor.dtype":
            globals().update(
                {k: v for k, v in vars(module).items() if isinstance(v, getattr(module, "DType"))}
            )
            names = ["DType", "get_default_dtype", "set_default_dtype"]
        for name in names if names is not None else getattr(module, "__all__", ()):
            if hasattr(module, name):
                globals()[name] = getattr(module, name)


_load_eager()
