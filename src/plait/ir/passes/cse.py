"""Common subexpressions: of equal pure calls, only the first stays.

Values that the graph returns keep their own call, since two outputs may not become one.
"""

from __future__ import annotations

from typing import Any

from plait.ir.effects import is_impure
from plait.ir.graph import Graph, Node, Value, map_values, values_in

__all__ = ["share_common_calls"]


def share_common_calls(graph: Graph) -> Graph:
    """A graph with the inputs of ``graph`` in which no two pure calls are equal.

    Nodes whose arguments do not change are shared with ``graph``. A call under a checkpoint equals
    only calls of the same region and policy.
    """
    outputs = set(values_in(graph.outputs))
    replaced: dict[Value, Value] = {}
    known: dict[Any, Node] = {}
    result = Graph(graph.name)
    result.inputs = graph.inputs
    result.outputs, result.output_descs = graph.outputs, graph.output_descs
    for node in graph.nodes:
        current = _with_replaced(node, replaced) if replaced else node
        key = None if is_impure(node.op) else _key(current)
        first = known.setdefault(key, current) if key is not None else current
        if first is not current and not outputs.intersection(node.results):
            replaced.update(zip(node.results, first.results, strict=True))
            continue
        result.nodes.append(current)
        if current is not node:
            replaced.update(zip(node.results, current.results, strict=True))
    result.outputs = [replaced.get(v, v) if isinstance(v, Value) else v for v in graph.outputs]
    return result


def _with_replaced(node: Node, replaced: dict[Value, Value]) -> Node:
    if not any(v in replaced for v in node.inputs()):
        return node

    def current(item: Any) -> Any:
        return replaced.get(item, item) if isinstance(item, Value) else item

    copy = Node(
        node.op,
        map_values(node.args, current),
        {k: map_values(v, current) for k, v in node.kwargs.items()},
        source=node.source,
        grad_enabled=node.grad_enabled,
        origin=node.origin,
        seq=node.seq,
        tag=node.tag,
    )
    copy.results = tuple(
        [
            Value(v.name, v.type, producer=copy, index=v.index, requires_grad=v.requires_grad)
            for v in node.results
        ]
    )
    return copy


def _key(node: Node) -> Any:
    """Equal for equal calls; numbers are told apart by type and sign."""
    return (node.op, _frozen(node.args), _frozen(tuple(node.kwargs.items())), node.tag)


def _frozen(item: Any) -> Any:
    if isinstance(item, tuple | list):
        return tuple([_frozen(part) for part in item])
    if isinstance(item, float | complex | int):
        return (type(item), repr(item))
    return item
