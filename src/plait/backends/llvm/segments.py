"""Cutting a graph into segments: graphs to compile, and calls that run eagerly between them.

Must not know lowering: it is told which nodes run eagerly.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from plait.autograd.grad_mode import no_grad
from plait.ir.descriptors import PlainAOTInput, PlainAOTOutput
from plait.ir.effects import is_impure
from plait.ir.graph import Graph, IntType, Node, Value, map_values
from plait.library.mutable import run_in_place
from plait.symbolic.expr import Expr, symbol

__all__ = ["Segment", "split"]


@dataclass(slots=True)
class Segment:
    """Inputs and outputs are values of the whole graph; symbols follow the inputs as integers."""

    inputs: list[Value]
    symbols: list[str]
    outputs: list[Value]
    graph: Graph | None = None
    node: Node | None = None
    in_place: frozenset[str] = frozenset()
    """Arguments of a functionalised call that it may write themselves."""

    def run_eagerly(self, *arguments: Any) -> list[Any]:
        """Call the node's operator."""
        node = self.node
        assert node is not None
        values = dict(zip(self.inputs, arguments))
        sizes = dict(zip(self.symbols, arguments[len(self.inputs) :]))

        def known(item: Any) -> Any:
            if isinstance(item, Value):
                return values[item]
            return item.evaluate(sizes) if isinstance(item, Expr) else item

        args = map_values(node.args, known)
        kwargs = {name: map_values(item, known) for name, item in node.kwargs.items()}
        with no_grad():
            if self.in_place and node.op.inplace is not None:
                result = run_in_place(node.op.inplace, self.in_place, args, kwargs)
            else:
                result = node.op(*args, **kwargs)
        if result is None:
            return []
        return list(result) if isinstance(result, tuple | list) else [result]


def split(graph: Graph, eager: set[Node]) -> list[Segment]:
    """Segments in order: all compiled nodes of a level, then the eager nodes that follow."""
    levels = _levels(graph, eager)
    needed = _last_level(graph, eager, levels)
    segments: list[Segment] = []
    known, unbacked = list(graph.symbol_sources()), graph.unbacked_sources()
    for level in range(max(levels.values(), default=0) + 1):
        nodes = [n for n in graph.nodes if levels[n] == level]
        compiled = [n for n in nodes if n not in eager]
        if compiled:
            segments.append(_compiled(graph, compiled, level, needed, list(known)))
        for node in nodes:
            if node in eager:
                segments.append(_eager(node, list(known)))
                known += [name for v in node.results for name, _ in unbacked.get(v, ())]
    return segments


def _levels(graph: Graph, eager: set[Node]) -> dict[Node, int]:
    """How many eager calls precede a node on the longest path, its own not counted."""
    levels: dict[Node, int] = {}
    effect: Node | None = None  # calls with an effect keep their order
    for node in graph.nodes:
        before = [v.producer for v in node.inputs() if v.producer is not None]
        if is_impure(node.op):
            before += [effect] if effect is not None else []
            effect = node
        levels[node] = max((levels[p] + (p in eager) for p in before), default=0)
    return levels


def _last_level(graph: Graph, eager: set[Node], levels: dict[Node, int]) -> dict[Value, float]:
    """The last level at which a value is read by another segment; infinite for graph outputs."""
    last: dict[Value, float] = {}
    for node in graph.nodes:
        for value in node.inputs():
            at = levels[node] + (0.5 if node in eager else 0)
            last[value] = max(last.get(value, -1), at)
    for item in graph.outputs:
        if isinstance(item, Value):
            last[item] = float("inf")
    return last


def _compiled(
    graph: Graph, nodes: list[Node], level: int, needed: dict[Value, float], names: list[str]
) -> Segment:
    part = Graph(f"{graph.name}_{level}")
    part.nodes = nodes
    made = {value for node in nodes for value in node.results}
    inputs = list(dict.fromkeys(v for n in nodes for v in n.inputs() if v not in made))
    outputs = [v for n in nodes for v in n.results if needed.get(v, -1) > level]
    part.inputs = [*inputs, *(_integer(name, k) for k, name in enumerate(names))]
    part.outputs = list(outputs)
    part.output_descs = [PlainAOTOutput(k) for k in range(len(outputs))]
    return Segment(inputs, names, outputs, graph=part)


def _eager(node: Node, names: list[str]) -> Segment:
    inputs = list(dict.fromkeys(node.inputs()))
    return Segment(inputs, names, list(node.results), node=node)


def _integer(name: str, position: int) -> Value:
    return Value(f"size_{name}", IntType(symbol(name)), desc=PlainAOTInput(position))
