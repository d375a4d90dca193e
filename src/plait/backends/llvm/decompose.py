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
from plait.backends.llvm.lowering.context import (
    RULES,
    Context,
    Decomposed,
    Rule,
    Unsupported,
    meta_of,
    short,
    sizes,
)
from plait.backends.llvm.lowering.stage import Stage
from plait.ir.graph import Graph, IntType, Node, Value, map_values
from plait.tensor.layout import TensorMeta

__all__ = ["FAMILIES", "Lowered", "lower_graph", "rule_for"]

FAMILIES = (attention, creation, indexing, matmul, normalize, pointwise, random, reduction, view)


@dataclass(slots=True)
class Lowered:
    """Stages of the values of a graph, and the nodes that must run eagerly with the reason."""

    stages: dict[Value, Stage] = field(default_factory=dict)
    unsupported: dict[Node, str] = field(default_factory=dict)


def rule_for(node: Node) -> Rule | None:
    """The lowering rule of a node: of its overload, else of its operator."""
    qualname = node.op.qualname
    return RULES.get(qualname) or RULES.get(qualname.split(".")[0])


def lower_graph(graph: Graph) -> Lowered:
    """Stages for every value of `graph`; results of unsupported nodes become inputs."""
    lowered = Lowered()
    for value in graph.inputs:
        if isinstance(value.type, TensorMeta):
            lowered.stages[value] = input_stage(value, "input")
    for node in graph.nodes:
        try:
            _lower_node(node, lowered)
        except Unsupported as error:
            lowered.unsupported[node] = str(error)
            for value in node.results:
                if isinstance(value.type, TensorMeta):
                    lowered.stages[value] = input_stage(value, node.op.name)
    return lowered


def input_stage(value: Value, op: str) -> Stage:
    """Memory that somebody else fills. The element type may be one that is not compiled."""
    meta = meta_of(value)
    try:
        dtype = short(meta.dtype)
    except Unsupported:
        dtype = meta.dtype.name
    return Stage("input", value.name, op, sizes(meta.shape), dtype, strides=sizes(meta.strides))


def _lower_node(node: Node, lowered: Lowered) -> None:
    rule = rule_for(node)
    if rule is None:
        _lower_decomposed(node, lowered)
        return
    for value in (*node.inputs(), *node.results):
        if isinstance(value.type, TensorMeta):
            short(value.type.dtype)

    def stage_of(item: Any) -> Any:
        if not isinstance(item, Value):
            return item
        return item.type.expr if isinstance(item.type, IntType) else lowered.stages[item]

    args = map_values(node.args, stage_of)
    kwargs = {name: map_values(item, stage_of) for name, item in node.kwargs.items()}
    kwargs = {name: item for name, item in kwargs.items() if name not in _IGNORED}
    try:
        results = rule(Context(node), *args, **kwargs)
    except Decomposed:
        _lower_decomposed(node, lowered)
        return
    results = results if isinstance(results, tuple) else (results,)
    lowered.stages.update(zip(node.results, results, strict=True))


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
                stage.strides = dense_or_contiguous(stage.shape, sizes(meta_of(mine).strides))
        lowered.stages[mine] = stage


# Keyword arguments whose effect the result's type already shows.
_IGNORED = frozenset({"layout", "device", "pin_memory", "memory_format", "generator"})
