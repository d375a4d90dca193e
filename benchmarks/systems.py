"""The systems that are compared: how each makes tensors of NumPy arrays and compiles a function.

plait and PyTorch share names, so a workload is written once over a namespace `ns` that is either.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
from collections.abc import Callable
from typing import Any

import numpy as np

__all__ = ["SYSTEMS", "System", "missing_package"]

Function = Callable[..., Any]


class System:
    """One way to run a workload; made inside the process that measures it."""

    package = ""
    label = ""

    def __init__(self, threads: int) -> None:
        self.threads = threads
        self.ns: Any = importlib.import_module(self.package)

    def tensor(self, array: np.ndarray[Any, Any], requires_grad: bool = False) -> Any:
        """A tensor with a copy of the array's data."""
        made = self.ns.from_numpy(array.copy())
        return made.requires_grad_() if requires_grad else made

    def compile(self, function: Function) -> Function:
        """The function as this system runs it."""
        return function

    @property
    def is_compiled(self) -> bool:
        """Whether there is anything to compile."""
        return type(self).compile is not System.compile

    @property
    def version(self) -> str:
        """Version of the package."""
        return str(self.ns.__version__)

    def array(self, tensor: Any) -> np.ndarray[Any, Any]:
        """A result as an array."""
        return np.asarray(tensor.detach().numpy() if hasattr(tensor, "detach") else tensor)


class PlaitEager(System):
    """plait, operator by operator."""

    package, label = "plait", "plait eager"


class PlaitCompiled(PlaitEager):
    """plait through its LLVM backend."""

    label = "plait compiled"

    def compile(self, function: Function) -> Function:
        compiled: Function = self.ns.compile(function, fullgraph=True)
        return compiled


class TorchEager(System):
    """PyTorch, operator by operator."""

    package, label = "torch", "PyTorch eager"

    def __init__(self, threads: int) -> None:
        super().__init__(threads)
        self.ns.set_num_threads(threads)


class TorchInductor(TorchEager):
    """PyTorch through TorchInductor."""

    label = "TorchInductor"

    def compile(self, function: Function) -> Function:
        compiled: Function = self.ns.compile(function, fullgraph=True)
        return compiled


class Jax(System):
    """JAX through XLA. Its calls return before the work is done, so each is waited for."""

    package, label = "jax", "JAX"

    def __init__(self, threads: int) -> None:
        # XLA has no thread count of its own for the CPU: it follows the process's affinity.
        super().__init__(threads)
        self.jax = self.ns
        self.ns = importlib.import_module("benchmarks.jax_names").NAMES

    def tensor(self, array: np.ndarray[Any, Any], requires_grad: bool = False) -> Any:
        return self.jax.numpy.asarray(array)

    def compile(self, function: Function) -> Function:
        compiled, wait = self.jax.jit(function), self.jax.block_until_ready
        return lambda *args: wait(compiled(*args))

    @property
    def version(self) -> str:
        return str(self.jax.__version__)


SYSTEMS: dict[str, type[System]] = {
    "plait_eager": PlaitEager,
    "plait_compiled": PlaitCompiled,
    "torch_eager": TorchEager,
    "torch_inductor": TorchInductor,
    "jax": Jax,
}


def missing_package(name: str) -> str | None:
    """The package that the system lacks on this machine, or None."""
    package = SYSTEMS[name].package
    return None if importlib.util.find_spec(package) else package


def environment(threads: int, scratch: str) -> dict[str, str]:
    """The environment of a measuring process: equal threads for all, caches of its own."""
    count = str(threads)
    return {
        **os.environ,
        "OMP_NUM_THREADS": count,
        "OPENBLAS_NUM_THREADS": count,
        "MKL_NUM_THREADS": count,
        "PLAIT_NUM_THREADS": count,
        "XDG_CACHE_HOME": scratch,
        "TORCHINDUCTOR_CACHE_DIR": os.path.join(scratch, "inductor"),
    }
