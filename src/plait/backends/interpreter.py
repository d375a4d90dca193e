"""The interpreting backends: everyone's oracle.

``eager`` runs the captured graph itself, above autograd, so it isolates capture; ``aot_eager`` runs
the functional forward and backward graphs, so it isolates ahead-of-time autograd.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from plait.autograd.grad_mode import no_grad
from plait.ir.graph import Graph
from plait.ir.interpret import run

__all__ = ["aot_eager", "eager"]


def eager(graph: Graph, options: dict[str, Any]) -> Callable[..., list[Any]]:
    """Run the captured graph through the dispatcher, with the tape alive."""

    def call(*inputs: Any) -> list[Any]:
        return run(graph, inputs)

    return call


# The front door hands this backend the captured graph and leaves out ahead-of-time autograd.
eager.skips_aot = True  # type: ignore[attr-defined]


def aot_eager(graph: Graph, options: dict[str, Any]) -> Callable[..., list[Any]]:
    """Run a functional graph through the dispatcher, without a tape."""

    def call(*inputs: Any) -> list[Any]:
        with no_grad():
            return run(graph, inputs)

    return call
