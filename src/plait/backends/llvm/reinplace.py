"""Writing in place what a functional graph holds as a new value, in calls that run eagerly.

The law: an argument is written in place only if nobody reads its old value afterwards: no later
segment, no output, no view of it; and an input only where the graph says that the new value is to
be put there (`Graph.reusable`).
"""

from __future__ import annotations

from collections.abc import Sequence

from plait.backends.llvm.segments import Segment
from plait.ir.effects import is_view
from plait.ir.graph import Graph, Node, Value
from plait.library.mutable import FUNCTIONAL

__all__ = ["written_in_place"]


def written_in_place(graph: Graph, segments: Sequence[Segment]) -> dict[Node, frozenset[str]]:
    """Per functionalised call: the names of the arguments that it may write themselves."""
    roots = _roots(graph)
    last = _last_reads(graph, segments, roots)
    found: dict[Node, frozenset[str]] = {}
    for at, segment in enumerate(segments):
        node = segment.node
        if node is not None and node.op.kind == FUNCTIONAL and node.op.inplace is not None:
            names = [n for n in node.op.inplace.schema.mutated_names if
                     _is_free(graph, node, n, roots, last, at)]  # fmt: skip
            found[node] = frozenset(names)
    return found


def _roots(graph: Graph) -> dict[Value, Value]:
    """Per value, the value whose memory it may share: views share that of their base."""
    roots = {value: value for value in graph.inputs}
    for node in graph.nodes:
        source = next(iter(node.inputs()), None) if is_view(node.op) else None
        for value in node.results:
            roots[value] = value if source is None else roots.get(source, source)
    return roots


def _last_reads(
    graph: Graph, segments: Sequence[Segment], roots: dict[Value, Value]
) -> dict[Value, float]:
    """Per memory, the last segment that reads it; infinite where an output shows it."""
    last: dict[Value, float] = {}
    for at, segment in enumerate(segments):
        for value in segment.inputs:
            last[roots[value]] = at
    for item in graph.outputs:
        if isinstance(item, Value):
            last[roots[item]] = float("inf")
    return last


def _is_free(
    graph: Graph,
    node: Node,
    name: str,
    roots: dict[Value, Value],
    last: dict[Value, float],
    at: int,
) -> bool:
    named = node.op.bind(node.args, node.kwargs)
    value = named[name]
    if not isinstance(value, Value) or value.producer is node:
        return False
    root = roots[value]
    if last.get(root, -1) > at or sum(roots[v] is root for v in node.inputs()) > 1:
        return False
    if root not in graph.inputs:
        return True
    if root is not value:
        return False
    position = graph.inputs.index(value)
    target = graph.reusable.get(position)
    written = node.op.inplace.schema.mutated_names if node.op.inplace is not None else ()
    result = node.results[len(node.results) - len(written) + written.index(name)]
    return target is not None and graph.outputs[target] is result
