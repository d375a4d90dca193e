"""The verifier: is a graph well formed? Run between passes in tests and under ``config.verify``."""

from __future__ import annotations

from plait.base.errors import InternalError
from plait.ir.graph import Graph, Node, Value, values_in
from plait.ir.printer import node_text

__all__ = ["verify"]


def verify(graph: Graph, *, functional: bool = False) -> Graph:
    """``graph`` if it is well formed, else InternalError showing the lines around the fault.

    Checks: unique names, values made before use, arity of arguments, descriptors on every input and
    output, and, with ``functional``, that no node writes its arguments.
    """
    known: set[int] = set()
    names: set[str] = set()
    for value in graph.inputs:
        if value.desc is None:
            raise InternalError(f"{graph.name}: input {value.name} has no descriptor")
        _define(graph, value, known, names, None)
    for position, node in enumerate(graph.nodes):
        for value in node.inputs():
            if id(value) not in known:
                raise _fault(graph, position, f"reads {value.name} before it is made")
        declared = len(node.op.schema.positional)
        if len(node.args) != declared:
            raise _fault(
                graph, position, f"has {len(node.args)} positional arguments; expected {declared}"
            )
        if functional and node.op.schema.is_mutable:
            raise _fault(graph, position, "writes its arguments in a functional graph")
        for value in node.results:
            if value.producer is not node:
                raise _fault(graph, position, f"result {value.name} names another producer")
            _define(graph, value, known, names, position)
    if len(graph.outputs) != len(graph.output_descs):
        raise InternalError(
            f"{graph.name}: {len(graph.outputs)} outputs but {len(graph.output_descs)} descriptors"
        )
    for value in values_in(graph.outputs):
        if id(value) not in known:
            raise InternalError(f"{graph.name}: output {value.name} is never made")
    return graph


def _define(
    graph: Graph, value: Value, known: set[int], names: set[str], position: int | None
) -> None:
    if value.name in names:
        text = f"name {value.name} is used twice"
        raise (
            InternalError(f"{graph.name}: {text}")
            if position is None
            else _fault(graph, position, text)
        )
    known.add(id(value))
    names.add(value.name)


def _fault(graph: Graph, position: int, text: str) -> InternalError:
    lines = []
    for i in range(max(0, position - 3), min(len(graph.nodes), position + 4)):
        lines.append(("--> " if i == position else "    ") + node_text(graph.nodes[i]))
    node: Node = graph.nodes[position]
    source = (
        f"\n{node.source[-1][0]}:{node.source[-1][1]} in {node.source[-1][2]}"
        if node.source
        else ""
    )
    return InternalError(
        f"{graph.name}: node {position} ({node.op.qualname}) {text}\n" + "\n".join(lines) + source
    )
