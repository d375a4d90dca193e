"""Cutting a joint graph into a forward and a backward graph.

The default partitioner keeps in the forward what the forward returns need, and saves every forward
value that the backward reads, with two exceptions that cost nothing to do again: views (their base
is saved) and operators without tensor inputs.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from plait.aot.joint import JointGraph
from plait.base.config import config
from plait.base.names import NameScope
from plait.ir.descriptors import (
    PhiloxForwardBaseOffsetAOTInput,
    PhiloxForwardSeedAOTInput,
    SavedAOTInput,
    SavedForBackwardsAOTOutput,
    SizeAOTInput,
)
from plait.ir.effects import is_impure, is_view
from plait.ir.graph import Graph, IntType, Node, Value, map_values, values_in
from plait.ir.passes.dce import eliminate_dead_code
from plait.ir.verify import verify
from plait.symbolic.expr import Expr
from plait.tensor.layout import TensorMeta

__all__ = ["Partition", "default_partition"]


@dataclass(slots=True)
class Partition:
    """Forward and backward graphs, and how values pass between them.

    Inputs of the backward: the ``saved`` tensors (values of the forward graph, returned after its
    own returns unless they are inputs of it), then ``symbols`` as ints, then tangents.
    """

    forward: Graph
    backward: Graph
    saved: list[Value]
    saved_is_input: list[int | None]  # number of the forward input that is saved, or None
    symbols: list[str]


def default_partition(joint: JointGraph) -> Partition:
    """Cut ``joint`` by the default rule."""
    graph = joint.graph
    num_forward = joint.meta.num_forward_returns
    tangents = [v for v in graph.inputs if v.desc is not None and v.desc.is_tangent()]
    primals = [v for v in graph.inputs if v.desc is None or not v.desc.is_tangent()]
    forward_nodes = _ancestors(graph, graph.outputs[:num_forward])
    backward_nodes = _backward_nodes(graph, graph.outputs[num_forward:], forward_nodes)
    saved = _saved_values(backward_nodes, tangents, graph.outputs[num_forward:])
    forward = _forward_graph(graph, primals, num_forward, forward_nodes)
    saved_is_input = [primals.index(v) if v in primals else None for v in saved]
    for idx, value in enumerate(
        v for v, place in zip(saved, saved_is_input, strict=True) if place is None
    ):
        forward.outputs.append(value)
        forward.output_descs.append(SavedForBackwardsAOTOutput(idx))
    backward, symbols = _backward_graph(graph, saved, tangents, backward_nodes, num_forward)
    if config.verify:
        verify(forward, functional=True)
        verify(backward, functional=True)
    return Partition(forward, backward, saved, saved_is_input, symbols)


def _ancestors(graph: Graph, roots: list[Any]) -> set[int]:
    """ids of the nodes that ``roots`` depend on; impure nodes are needed always."""
    live = {id(v) for v in values_in(roots)}
    needed: set[int] = set()
    for node in reversed(graph.nodes):
        impure = is_impure(node.op) and node.origin == "forward"
        if impure or any(id(v) in live for v in node.results):
            needed.add(id(node))
            live.update(id(v) for v in node.inputs())
    return needed


def _backward_nodes(graph: Graph, grads: list[Any], forward: set[int]) -> list[Node]:
    """The nodes of the backward, in order.

    They are what the gradients need and the forward does not make, and views and constants made
    again.
    """
    live = {id(v) for v in values_in(grads)}
    chosen: list[Node] = []
    for node in reversed(graph.nodes):
        if not any(id(v) in live for v in node.results):
            continue
        if id(node) in forward and not _is_free(node):
            continue
        chosen.append(node)
        live.update(id(v) for v in node.inputs())
    return chosen[::-1]


def _is_free(node: Node) -> bool:
    """Whether doing ``node`` again costs nothing: a view, or a constant."""
    return is_view(node.op) or (not node.inputs() and not is_impure(node.op))


def _saved_values(nodes: list[Node], tangents: list[Value], grads: list[Any]) -> list[Value]:
    """Values that the backward reads and does not make, each once, in order of first use."""
    made = {id(v) for node in nodes for v in node.results} | {id(v) for v in tangents}
    saved: dict[int, Value] = {}
    for value in [v for node in nodes for v in node.inputs()] + list(values_in(grads)):
        if id(value) not in made and not isinstance(value.type, IntType):
            saved.setdefault(id(value), value)
    return list(saved.values())


def _forward_graph(graph: Graph, primals: list[Value], num_forward: int, nodes: set[int]) -> Graph:
    forward = Graph("forward")
    forward.inputs = primals
    forward.nodes = [n for n in graph.nodes if id(n) in nodes]
    forward.outputs = graph.outputs[:num_forward]
    forward.output_descs = graph.output_descs[:num_forward]
    return forward


def _backward_graph(
    graph: Graph, saved: list[Value], tangents: list[Value], nodes: list[Node], num_forward: int
) -> tuple[Graph, list[str]]:
    """The backward as a graph of its own values, with the symbols that it needs as int inputs."""
    backward = Graph("backward")
    names = NameScope()
    mapping: dict[Value, Value] = {}
    for idx, value in enumerate(saved):
        mapping[value] = _input(backward, names, value, SavedAOTInput(idx, value.name), value.name)
    outputs = graph.outputs[num_forward:]
    bound = _bare_symbols([v.type for v in (*saved, *tangents)])
    needed = _needed_symbols(nodes, [*saved, *tangents], outputs)
    by_name = {str(s): s for s in needed}
    symbol_names = [str(s) for s in sorted(needed - set(bound.values()), key=str)]
    for name in symbol_names:
        desc: Any = SizeAOTInput(name)
        if name == "philox_seed":
            desc = PhiloxForwardSeedAOTInput()
        elif name == "philox_base_call":
            desc = PhiloxForwardBaseOffsetAOTInput()
        backward.inputs.append(Value(names.fresh(name), IntType(by_name[name]), desc=desc))
    for value in tangents:
        assert value.desc is not None
        mapping[value] = _input(backward, names, value, value.desc, value.name)
    for node in nodes:
        _copy_node(backward, names, node, mapping)
    backward.outputs = [
        map_values(v, lambda i: mapping.get(i, i) if isinstance(i, Value) else i) for v in outputs
    ]
    backward.output_descs = graph.output_descs[num_forward:]
    return eliminate_dead_code(backward), symbol_names


def _input(graph: Graph, names: NameScope, value: Value, desc: Any, name: str) -> Value:
    mine = Value(names.fresh(name), value.type, desc=desc)
    graph.inputs.append(mine)
    return mine


def _copy_node(graph: Graph, names: NameScope, node: Node, mapping: dict[Value, Value]) -> None:
    def renamed(item: Any) -> Any:
        return mapping[item] if isinstance(item, Value) else item

    copy = Node(
        node.op,
        map_values(node.args, renamed),
        {k: map_values(v, renamed) for k, v in node.kwargs.items()},
        source=node.source,
        grad_enabled=node.grad_enabled,
        origin=node.origin,
        seq=node.seq,
    )
    copy.results = tuple(
        [Value(names.fresh(v.name), v.type, producer=copy, index=v.index) for v in node.results]
    )
    mapping.update(zip(node.results, copy.results, strict=True))
    graph.nodes.append(copy)


def _exprs_of(item: Any) -> set[Expr]:
    if isinstance(item, Expr):
        return {item}
    if isinstance(item, tuple | list):
        return {e for part in item for e in _exprs_of(part)}
    if isinstance(item, Value):
        return _exprs_of_type(item.type)
    return set()


def _exprs_of_type(type: TensorMeta | IntType) -> set[Expr]:
    if isinstance(type, IntType):
        return {type.expr}
    sizes: tuple[Any, ...] = (*type.shape, *type.strides)
    return {s for s in sizes if isinstance(s, Expr)}


def _needed_symbols(nodes: list[Node], inputs: list[Value], outputs: list[Any]) -> set[Any]:
    """Symbols that occur in arguments and types."""
    exprs = _exprs_of(inputs) | _exprs_of(outputs)
    for node in nodes:
        exprs |= _exprs_of(node.args) | _exprs_of(tuple(node.kwargs.values()))
        exprs |= {e for v in node.results for e in _exprs_of_type(v.type)}
    return {s for e in exprs for s in e.free_symbols}


def _bare_symbols(types: list[Any]) -> dict[str, Any]:
    """Symbols that stand alone as a size of one of ``types``, where their value can be read."""
    found: dict[str, Any] = {}
    for type in types:
        for size in getattr(type, "shape", ()):
            if isinstance(size, Expr) and size.free_symbols == frozenset({size}):
                found[str(size)] = size
    return found
