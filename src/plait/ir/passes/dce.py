"""Dead-code elimination: drop pure nodes whose results nobody reads."""

from __future__ import annotations

from collections.abc import Callable

from plait.ir.effects import is_impure
from plait.ir.graph import Graph, Node, values_in

__all__ = ["eliminate_dead_code"]


def eliminate_dead_code(graph: Graph, *, keep: Callable[[Node], bool] | None = None) -> Graph:
    """Drop in place the nodes that nobody needs; return ``graph``.

    One backward walk. Impure nodes stay; ``keep`` replaces that default rule.
    """
    must_keep = keep or (lambda node: is_impure(node.op))
    live = {id(v) for v in values_in(graph.outputs)}
    kept: list[Node] = []
    for node in reversed(graph.nodes):
        if must_keep(node) or any(id(v) in live for v in node.results):
            kept.append(node)
            live.update(id(v) for v in node.inputs())
    graph.nodes = kept[::-1]
    return graph
