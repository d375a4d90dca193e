"""What an operator of the user's costs beside the direct call of its kernel: four elements.

The same Python function is called by itself and through `library.custom_op`; the difference is what
the dispatcher, the checks of results and the tape take.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from benchmarks.systems import System

__all__ = ["WORKS", "prepare"]

UNIT = "us"
# Name -> (through the operator, written in place, gradients recorded).
WORKS = {
    "operator: direct call": (False, False, False),
    "operator: custom_op": (True, False, False),
    "operator: custom_op, formula not needed": (True, False, None),
    "operator: custom_op, gradients recorded": (True, False, True),
    "operator: direct write": (False, True, False),
    "operator: mutable custom_op": (True, True, False),
}


def prepare(system: System, work: str) -> Callable[[], Any]:
    """A call of the work on the system, ready to be timed."""
    is_operator, writes, recorded = WORKS[work]
    x = system.tensor(np.arange(4, dtype=np.float32), requires_grad=bool(recorded))
    function = _write if writes else _copy
    if is_operator:
        function = _operator(system.ns, function, recorded)
    return lambda: function(x)


def _copy(x: Any) -> Any:
    return x.clone()


def _write(x: Any) -> None:
    x.mul_(1.0)


def _operator(ns: Any, function: Callable[..., Any], recorded: bool | None) -> Any:
    """The function as an operator, with a gradient formula unless ``recorded`` is False."""
    types = {"x": ns.Tensor, "return": None if function is _write else ns.Tensor}
    name = f"benchmarks::{function.__name__}"
    function.__annotations__ = types
    made = ns.library.custom_op(name, function, mutates_args=("x",) if function is _write else ())
    if recorded is not False:
        made.register_autograd(_backward, setup_context=_setup)
    return made


def _setup(ctx: Any, inputs: Any, output: Any) -> None:
    ctx.save_for_backward(inputs[0])


def _backward(ctx: Any, grad: Any) -> Any:
    return grad


def check(system: System, work: str) -> float:
    """Largest difference from what the kernel computes."""
    x = np.arange(4, dtype=np.float32)
    out = prepare(system, work)()
    return 0.0 if out is None else float(np.abs(system.array(out) - x).max())
