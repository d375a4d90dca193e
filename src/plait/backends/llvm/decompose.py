"""From a graph to stages: applies the lowering rules node by node, and says what has no rule.

Must not know scheduling.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from plait.backends.llvm.expand import UnknownSize, expand
from plait.backends.llvm.loop.indexing import dense_or_contiguous
from plait.backends.llvm.lowering import (
    attention,
    creation,
    indexing,
    matmul,
    normalize,
    pointwise,
    random,
    reduction,
    view,
)
from plait.backends.llvm.lowering.complex import COMPLEX_RULES
from plait.backends.llvm.lowering.context import (
    RULES,
    Context,
    Decomposed,
    Rule,
    Unsupported,
    meta_of,
    sizes,
)
from plait.backends.llvm.lowering.pairs import (
    Complex,
    has_complex,
    interleaved,
    is_complex_value,
    pair_in_memory,
    part_type,
    whole_of,
)
from plait.backends.llvm.lowering.stage import Stage
from plait.ir.graph import Graph, IntType, Node, Value, map_values
from plait.symbolic.expr import const
from plait.tensor.layout import TensorMeta

__all__ = ["FAMILIES", "Lowered", "lower_graph", "rule_for"]

FAMILIES = (attention, creation, indexing, matmul, normalize, pointwise, random, reduction, view)


@dataclass(slots=True)
class Lowered:
    """Stages of the values of a graph, and the nodes that must run eagerly with the reason."""

    stages: dict[Value, Stage] = field(default_factory=dict)
    """Of complex values: their memory, with one more dimension for the parts."""
    pairs: dict[Value, Complex] = field(default_factory=dict)
    """The complex values among them."""
    unsupported: dict[Node, str] = field(default_factory=dict)

    def add_input(self, value: Value, op: str) -> None:
        """A value that somebody else writes."""
        stage = self.stages[value] = input_stage(value, op)
        if is_complex_value(value):
            self.pairs[value] = pair = pair_in_memory(stage)
            stage.parts = pair.parts

    def add(self, value: Value, result: Stage | Complex) -> None:
        """What a rule made of a value."""
        if isinstance(result, Complex):
            whole = whole_of(value, result)
            self.pairs[value] = Complex(*result.parts, whole)
            result = whole
        self.stages[value] = result


def rule_for(node: Node) -> Rule | None:
    """The lowering rule of a node: of its overload, else of its operator."""
    qualname = node.op.qualname
    table = COMPLEX_RULES if has_complex(node) else RULES
    return table.get(qualname) or table.get(qualname.split(".")[0])


def lower_graph(graph: Graph) -> Lowered:
    """Stages for every value of `graph`; results of unsupported nodes become inputs."""
    lowered = Lowered()
    for value in graph.inputs:
        if isinstance(value.type, TensorMeta):
            lowered.add_input(value, "input")
    for node in graph.nodes:
        try:
            _lower_node(node, lowered)
        except Unsupported as error:
            lowered.unsupported[node] = str(error)
            for value in node.results:
                if isinstance(value.type, TensorMeta):
                    lowered.add_input(value, node.op.name)
    return lowered


def input_stage(value: Value, op: str) -> Stage:
    """Memory that somebody else fills."""
    meta = meta_of(value)
    shape, strides = sizes(meta.shape), sizes(meta.strides)
    if meta.dtype.is_complex:
        shape, strides = (*shape, const(2)), interleaved(strides)
    return Stage("input", value.name, op, shape, part_type(meta.dtype), strides=strides)


def _lower_node(node: Node, lowered: Lowered) -> None:
    rule = rule_for(node)
    if rule is None:
        _lower_decomposed(node, lowered)
        return

    def stage_of(item: Any) -> Any:
        if not isinstance(item, Value):
            return item
        if isinstance(item.type, IntType):
            return item.type.expr
        return lowered.pairs.get(item) or lowered.stages[item]

    args = map_values(node.args, stage_of)
    kwargs = {name: map_values(item, stage_of) for name, item in node.kwargs.items()}
    kwargs = {name: item for name, item in kwargs.items() if name not in _IGNORED}
    try:
        results = rule(Context(node), *args, **kwargs)
    except Decomposed:
        _lower_decomposed(node, lowered)
        return
    results = results if isinstance(results, tuple) else (results,)
    for value, result in zip(node.results, results, strict=True):
        lowered.add(value, result)


def _lower_decomposed(node: Node, lowered: Lowered) -> None:
    """The stages of a node's results from those of its decomposition."""
    if node.op.decomposition is None:
        raise Unsupported(f"{node.op.qualname} has neither a lowering rule nor a decomposition")
    try:
        parts, values = expand(node)
    except UnknownSize as error:
        raise Unsupported(f"{node.op.qualname}: {error}") from error
    for part in parts:
        _lower_node(part, lowered)
    for mine, theirs in zip(node.results, values, strict=True):
        stage = lowered.stages[theirs]
        if theirs.producer in parts and stage.kind != "input":
            stage.name = mine.name
            if stage.kind == "map":
                strides = sizes(meta_of(mine).strides)
                strides = interleaved(strides) if is_complex_value(mine) else strides
                stage.strides = dense_or_contiguous(stage.shape, strides)
        lowered.stages[mine] = stage
        if theirs in lowered.pairs:
            lowered.pairs[mine] = lowered.pairs[theirs]


# Keyword arguments whose effect the result's type already shows.
_IGNORED = frozenset({"layout", "device", "pin_memory", "memory_format", "generator"})
