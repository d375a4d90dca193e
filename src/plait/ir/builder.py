"""Building graphs: names, inputs, calls, outputs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from plait.autograd.checkpoint import RecomputeTag
from plait.base.names import NameScope
from plait.dispatch.operator import Overload
from plait.ir.descriptors import AOTInput, AOTOutput
from plait.ir.graph import Frame, Graph, IntType, Node, Value
from plait.tensor.layout import TensorMeta

__all__ = ["GraphBuilder"]


class GraphBuilder:
    """Appends to one graph; names are unique and derived from descriptors and operators."""

    def __init__(self, name: str = "graph") -> None:
        self.graph = Graph(name)
        self.names = NameScope()

    def input(
        self,
        type: TensorMeta | IntType,
        desc: AOTInput,
        *,
        name: str | None = None,
        requires_grad: bool = False,
    ) -> Value:
        """Append an input."""
        fresh = self.names.fresh(name or desc.name())
        value = Value(fresh, type, desc=desc, requires_grad=requires_grad)
        self.graph.inputs.append(value)
        return value

    def call(
        self,
        op: Overload,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        results: Sequence[TensorMeta | IntType],
        *,
        source: tuple[Frame, ...] = (),
        grad_enabled: bool = True,
        origin: str = "forward",
        seq: int = 0,
        tag: RecomputeTag | None = None,
    ) -> Node:
        """Append a call whose results have the types ``results``."""
        node = Node(
            op,
            args,
            kwargs,
            source=source,
            grad_enabled=grad_enabled,
            origin=origin,
            seq=seq,
            tag=tag,
        )
        name = op.schema.name
        node.results = tuple(
            Value(self.names.fresh(name), type, producer=node, index=i)
            for i, type in enumerate(results)
        )
        self.graph.nodes.append(node)
        return node

    def infer(self, op: Overload, *args: Any, **kwargs: Any) -> Node:
        """Append a call whose result types come from the operator's shape rule.

        Values stand where tensors would; sizes are ints. For tests and passes.
        """
        full_args, full_kwargs = op.normalize(args, kwargs)
        assert op.shape_rule is not None, f"{op.qualname} has no shape rule"
        metas = op.shape_rule(*_types(full_args), **{k: _types(v) for k, v in full_kwargs.items()})
        results = list(metas) if isinstance(metas, tuple | list) else [metas]
        return self.call(op, full_args, full_kwargs, results)

    def output(self, value: Any, desc: AOTOutput) -> None:
        """Append an output."""
        self.graph.outputs.append(value)
        self.graph.output_descs.append(desc)


def _types(item: Any) -> Any:
    if isinstance(item, Value):
        return item.type
    if isinstance(item, tuple | list):
        return tuple(_types(part) for part in item)
    return item
