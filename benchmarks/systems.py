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

__all__ = ["SYSTEMS", "System", "does", "environment", "missing_package"]

Function = Callable[..., Any]


class System:
    """One way to run a workload; made inside the process that measures it."""

    package = ""
    label = ""
    works: frozenset[str] | None = None
    """The works that were written for it; None: all of them."""
    lacks: tuple[str, ...] = ()
    """How the names of works begin that it cannot do, or that are nothing to it."""

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

    def use_float64(self) -> None:
        """Let tensors of this type be made; most systems need nothing."""

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

    label, lacks = "plait compiled", ("operator",)

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

    label, lacks = "TorchInductor", ("operator",)

    def compile(self, function: Function) -> Function:
        compiled: Function = self.ns.compile(function, fullgraph=True)
        return compiled


class Jax(System):
    """JAX through XLA. Its calls return before the work is done, so each is waited for."""

    package, label, lacks = "jax", "JAX", ("attention", "operator")

    def __init__(self, threads: int) -> None:
        # XLA has no thread count of its own for the CPU: it follows the process's affinity.
        super().__init__(threads)
        self.jax = self.ns
        self.ns = importlib.import_module("benchmarks.jax_names").NAMES

    def tensor(self, array: np.ndarray[Any, Any], requires_grad: bool = False) -> Any:
        return self.jax.numpy.asarray(array)

    def use_float64(self) -> None:
        self.jax.config.update("jax_enable_x64", True)

    def compile(self, function: Function) -> Function:
        compiled, wait = self.jax.jit(function), self.jax.block_until_ready
        return lambda *args: wait(compiled(*args))

    @property
    def version(self) -> str:
        return str(self.jax.__version__)


class Numba(System):
    """Loops written by hand and compiled by Numba; each work has its own."""

    package, label = "numba", "Numba"
    works = frozenset({"gelu_grads_small", "gelu_grads_large", "equation_of_state"})

    def tensor(self, array: np.ndarray[Any, Any], requires_grad: bool = False) -> Any:
        return array.copy()


class OnnxRuntime(System):
    """ONNX Runtime, which has no gradients: a work gives it the whole graph."""

    package, label = "onnxruntime", "ONNX Runtime"
    works = frozenset({"gelu_grads_small", "gelu_grads_large"})

    def tensor(self, array: np.ndarray[Any, Any], requires_grad: bool = False) -> Any:
        return array.copy()

    def session(self, model: bytes) -> Any:
        """A session of a serialised model with this many threads."""
        options = self.ns.SessionOptions()
        options.intra_op_num_threads = self.threads
        options.inter_op_num_threads = 1
        return self.ns.InferenceSession(model, options, providers=["CPUExecutionProvider"])


SYSTEMS: dict[str, type[System]] = {
    "plait_eager": PlaitEager,
    "plait_compiled": PlaitCompiled,
    "torch_eager": TorchEager,
    "torch_inductor": TorchInductor,
    "jax": Jax,
    "numba": Numba,
    "onnxruntime": OnnxRuntime,
}


def missing_package(name: str) -> str | None:
    """The package that the system lacks on this machine, or None."""
    packages = [SYSTEMS[name].package, *(["onnx"] if name == "onnxruntime" else [])]
    return next((p for p in packages if importlib.util.find_spec(p) is None), None)


def does(name: str, work: str) -> bool:
    """Whether the work was written for the system."""
    works, lacks = SYSTEMS[name].works, SYSTEMS[name].lacks
    return (works is None or work in works) and not work.startswith(lacks)


def environment(threads: int, scratch: str) -> dict[str, str]:
    """The environment of a measuring process: equal threads for all, caches of its own.

    Python keeps its bytecode, as it does of installed packages.
    """
    count = str(threads)
    inherited = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
    return {
        **inherited,
        "OMP_NUM_THREADS": count,
        "OPENBLAS_NUM_THREADS": count,
        "MKL_NUM_THREADS": count,
        "NUMBA_NUM_THREADS": count,
        "PLAIT_NUM_THREADS": count,
        "XDG_CACHE_HOME": scratch,
        "PLAIT_CACHE": "1",
        "PLAIT_CACHE_DIR": os.path.join(scratch, "plait"),
        "TORCHINDUCTOR_CACHE_DIR": os.path.join(scratch, "inductor"),
    }
