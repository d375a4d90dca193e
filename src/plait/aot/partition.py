"""Cutting a joint graph into a forward and a backward graph, once it is known what is saved.

Owns the two graphs, the order of the backward and the report; the default partitioner stands here,
the one that chooses by a minimum cut in ``aot/saving.py``. The default keeps in the forward what
the forward returns need, and saves every forward value that the backward reads, with two exceptions
that cost nothing to do again: views (their base is saved) and operators without tensor inputs.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Any

from plait.aot.costs import Sizes, is_free
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
from plait.ir.effects import is_impure
from plait.ir.graph import Frame, Graph, IntType, Node, Value, map_values, values_in
from plait.ir.passes.dce import eliminate_dead_code
from plait.ir.verify import verify
from plait.symbolic.expr import Expr
from plait.tensor.layout import TensorMeta

__all__ = [
    "Partition",
    "PartitionReport",
    "RecomputedCall",
    "SavedValue",
    "build_partition",
    "default_partition",
    "forward_needs",
]


@dataclass(frozen=True, slots=True)
class SavedValue:
    """One tensor that waits for the backward; ``bytes`` count symbolic sizes as in the example."""

    name: str
    type: TensorMeta
    bytes: int
    is_input: bool  # an input of the function, which its caller holds anyway
    why: str  # why it is not computed again; "" for an input

    def __str__(self) -> str:
        if self.is_input:
            return f"{self.name}: an input, {self.bytes} bytes"
        return f"{self.name}: {self.bytes} bytes, {self.why}"


@dataclass(frozen=True, slots=True)
class RecomputedCall:
    """One call of the forward that the backward does again."""

    name: str
    operator: str
    source: Frame | None  # the user's line

    def __str__(self) -> str:
        where = "" if self.source is None else f" at {self.source[0]}:{self.source[1]}"
        return f"{self.name} = {self.operator}{where}"


@dataclass(slots=True)
class PartitionReport:
    """What a partitioner decided. Views and constants made again are not listed: they are free."""

    partitioner: str
    memory_budget: float = 1.0
    saved: list[SavedValue] = field(default_factory=list)
    recomputed: list[RecomputedCall] = field(default_factory=list)
    limit: int | None = None  # bytes that the budget allows
    fastest_bytes: int | None = None  # what would be saved without the budget
    example: dict[str, int] = field(default_factory=dict)  # sizes that the bytes are counted for

    @property
    def saved_bytes(self) -> int:
        """Bytes kept for the backward, without inputs."""
        return sum([v.bytes for v in self.saved if not v.is_input])

    def __str__(self) -> str:
        lines = [f"{self.partitioner}: {self.saved_bytes} bytes saved for the backward"]
        if self.example:
            lines[0] += f" where {', '.join(f'{k} is {v}' for k, v in self.example.items())}"
        if self.limit is not None:
            lines.append(
                f"  memory budget {self.memory_budget:g}: at most {self.limit} of the "
                f"{self.fastest_bytes} bytes that are fastest"
            )
            if self.saved_bytes > self.limit:
                lines.append("  the budget cannot be met: nothing more may be computed again")
        lines += [f"  saved {v}" for v in self.saved]
        lines += [f"  recomputed {c}" for c in self.recomputed]
        return "\n".join(lines)


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
    report: PartitionReport | None = None


def default_partition(joint: JointGraph) -> Partition:
    """Cut ``joint`` by the default rule."""
    needed = forward_needs(joint)
    kept = {
        v
        for node in joint.graph.nodes
        if id(node) in needed and not is_free(node)
        for v in node.results
    }
    return build_partition(joint, kept, PartitionReport("default"), {})


def forward_needs(joint: JointGraph) -> set[int]:
    """ids of the nodes that the forward returns depend on."""
    return _ancestors(joint.graph, joint.graph.outputs[: joint.meta.num_forward_returns])


def build_partition(
    joint: JointGraph, kept: Collection[Value], report: PartitionReport, reasons: dict[Node, str]
) -> Partition:
    """The partition whose backward takes the values ``kept`` and does everything else again.

    Of ``kept``, only what the backward reads is saved. ``reasons`` say why results of a call are
    not computed again, for the report.
    """
    graph = joint.graph
    num_forward = joint.meta.num_forward_returns
    tangents = [v for v in graph.inputs if v.desc is not None and v.desc.is_tangent()]
    primals = [v for v in graph.inputs if v.desc is None or not v.desc.is_tangent()]
    grads = graph.outputs[num_forward:]
    backward_nodes = _late(_backward_nodes(graph, grads, set(kept)), tangents)
    saved = _saved_values(backward_nodes, tangents, grads)
    position = {v: i for i, v in enumerate(primals)}
    saved_is_input = [position.get(v) for v in saved]
    made = [v for v in saved if v not in position]
    forward_nodes = _ancestors(graph, [*graph.outputs[:num_forward], *made])
    forward = _forward_graph(graph, primals, num_forward, forward_nodes)
    for idx, value in enumerate(made):
        forward.outputs.append(value)
        forward.output_descs.append(SavedForBackwardsAOTOutput(idx))
    _fill_report(report, joint, saved, saved_is_input, reasons)
    report.recomputed = [
        RecomputedCall(n.results[0].name, n.op.qualname, n.source[-1] if n.source else None)
        for n in backward_nodes
        if id(n) in forward_nodes and not is_free(n)
    ]
    backward, symbols = _backward_graph(graph, saved, tangents, backward_nodes, num_forward)
    if config.verify:
        verify(forward, functional=True)
        verify(backward, functional=True)
    return Partition(forward, backward, saved, saved_is_input, symbols, report)


def _fill_report(
    report: PartitionReport,
    joint: JointGraph,
    saved: list[Value],
    saved_is_input: list[int | None],
    reasons: dict[Node, str],
) -> None:
    sizes = Sizes(joint.hint)
    symbols = {s for v in saved for e in _exprs_of_type(v.type) for s in e.free_symbols}
    report.example = {str(s): joint.hint(s) for s in sorted(symbols, key=str)}
    for value, place in zip(saved, saved_is_input, strict=True):
        assert isinstance(value.type, TensorMeta)
        why = ""
        if place is None:
            assert value.producer is not None
            fallback = (
                "read by the backward"
                if report.partitioner == "default"
                else "less to save than to compute again"
            )
            why = reasons.get(value.producer, fallback).removeprefix(f"{value.name} is ")
        report.saved.append(
            SavedValue(value.name, value.type, sizes.of(value), place is not None, why)
        )


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


def _backward_nodes(graph: Graph, grads: list[Any], kept: set[Value]) -> list[Node]:
    """The nodes of the backward, in order: what the gradients need and nobody keeps for them."""
    live = set(values_in(grads))
    chosen: list[Node] = []
    for node in reversed(graph.nodes):
        if any(v in live and v not in kept for v in node.results):
            chosen.append(node)
            live.update(node.inputs())
    return chosen[::-1]


def _late(nodes: list[Node], tangents: list[Value]) -> list[Node]:
    """``nodes`` with everything that does not depend on tangents just before its first use.

    Otherwise all that is done again would be done first, and stay in memory until it is used.
    """
    reached = set(tangents)
    waiting: dict[Value, Node] = {}
    order: list[Node] = []
    for node in nodes:
        if not is_impure(node.op) and not any(v in reached for v in node.inputs()):
            waiting.update(dict.fromkeys(node.results, node))
            continue
        reached.update(node.results)
        _emit(node, waiting, order)
    for node in list(waiting.values()):
        if node.results[0] in waiting:
            _emit(node, waiting, order)
    return order


def _emit(node: Node, waiting: dict[Value, Node], order: list[Node]) -> None:
    """Append ``node`` after everything waiting that it reads."""
    stack: list[tuple[Node, bool]] = [(node, False)]
    while stack:
        current, is_ready = stack.pop()
        if is_ready:
            if current is node or current.results[0] in waiting:
                order.append(current)
                for value in current.results:
                    waiting.pop(value, None)
            continue
        stack.append((current, True))
        stack += [(waiting[v], False) for v in reversed(current.inputs()) if v in waiting]


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
