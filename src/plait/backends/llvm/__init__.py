"""The default backend: graphs become loops, and loops native code through LLVM in the process."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from plait.base.account import stage

if TYPE_CHECKING:
    from plait.ir.graph import Graph

__all__ = ["llvm"]


def llvm(graph: Graph, options: Mapping[str, Any] | None = None) -> Callable[..., list[Any]]:
    """Compile a functional graph; see `compiler.compile_graph` for the options."""
    with stage("loading"):  # of the backend itself, once
        from plait.backends.llvm.compiler import compile_graph

    return compile_graph(graph, options)
