"""The meaning of a graph: run its nodes one by one through the dispatcher."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from plait.dispatch.keys import DispatchKey
from plait.dispatch.state import tls
from plait.ir.graph import Graph, Node, Value, map_values
from plait.symbolic.expr import Expr, as_int

__all__ = ["run", "symbol_values"]


def symbol_values(graph: Graph, inputs: Sequence[Any]) -> dict[str, Any]:
    """The value of each symbol, read from the inputs (ints, or SymInts while tracing)."""
    return {
        name: inputs[position] if dim is None else inputs[position].shape[dim]
        for name, (position, dim) in graph.symbol_sources().items()
    }


def run(
    graph: Graph,
    inputs: Sequence[Any],
    *,
    before_node: Callable[[Node], None] | None = None,
    evaluate: Callable[[Expr, dict[str, Any]], Any] | None = None,
) -> list[Any]:
    """Run ``graph`` on ``inputs`` and return its outputs.

    Each node runs under the grad mode it was recorded in, and without autocast, whose casts are
    nodes of the graph. ``before_node`` is told of each node; ``evaluate`` turns an Expr into an
    argument (default: its integer value). Values are dropped after their last use.
    """
    symbols = symbol_values(graph, inputs)
    evaluate = evaluate or _evaluate
    env: dict[Value, Any] = dict(zip(graph.inputs, inputs, strict=True))
    dead = _last_uses(graph)
    unbacked = graph.unbacked_sources()

    def read(item: Any) -> Any:
        if isinstance(item, Value):
            return env[item]
        return evaluate(item, symbols) if isinstance(item, Expr) else item

    saved, excluded = tls.grad_enabled, tls.exclude
    tls.exclude = excluded | DispatchKey.AUTOCAST_CPU.mask
    try:
        for node in graph.nodes:
            if before_node is not None:
                before_node(node)
            tls.grad_enabled = saved and node.grad_enabled
            args = map_values(node.args, read)
            kwargs = {k: map_values(v, read) for k, v in node.kwargs.items()}
            results = node.op.call(*args, **kwargs)
            if not isinstance(results, tuple | list):
                results = (results,) if node.results else ()
            for value, result in zip(node.results, results, strict=True):
                env[value] = result
                for name, dim in unbacked.get(value, ()):
                    symbols[name] = result.shape[dim]
            for value in dead.get(id(node), ()):
                env.pop(value, None)
        return [map_values(item, read) for item in graph.outputs]
    finally:
        tls.grad_enabled, tls.exclude = saved, excluded


def _evaluate(expr: Expr, symbols: dict[str, Any]) -> Any:
    constant = as_int(expr)
    return expr.evaluate(symbols) if constant is None else constant


def _last_uses(graph: Graph) -> dict[int, list[Value]]:
    """Per node, the values that nobody reads after it."""
    kept = {id(v) for v in graph.outputs if isinstance(v, Value)}
    seen: set[int] = set(kept)
    dead: dict[int, list[Value]] = {}
    for node in reversed(graph.nodes):
        for value in (*node.inputs(), *node.results):
            if id(value) not in seen:
                seen.add(id(value))
                dead.setdefault(id(node), []).append(value)
    return dead
