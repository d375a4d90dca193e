"""Recording operator calls as graph nodes: used above autograd by capture, below it by AOT.

A tensor is tied to its graph value by its ``_trace`` slot, which shallow copies keep.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from plait.autograd.checkpoint import RecomputeTag
from plait.base.errors import CaptureError
from plait.dispatch.modes import InfraMode
from plait.dispatch.operator import Overload
from plait.dispatch.state import tls
from plait.ir.builder import GraphBuilder
from plait.ir.graph import Frame, IntType, Node, Value
from plait.symbolic.expr import expr_of
from plait.symbolic.symint import SymInt
from plait.tensor.layout import TensorMeta
from plait.tensor.tensor import Tensor

__all__ = ["ProxyMode", "Recorder", "graph_meta", "to_expr"]


def to_expr(item: Any) -> Any:
    """A SymInt as its Expr; anything else unchanged."""
    return item.expr if isinstance(item, SymInt) else item


def graph_meta(tensor: Tensor) -> TensorMeta:
    """The metadata of ``tensor`` as a graph type: sizes and strides are ints or Exprs."""
    shape = tuple([to_expr(s) for s in tensor.shape])
    strides = tuple([to_expr(s) for s in tensor.stride()])
    return TensorMeta(shape, tensor.dtype, tensor.device, strides)


class Recorder:
    """Ties tensors to values of one graph and appends nodes to it.

    ``lift`` is asked for the value of a tensor that the graph does not know.
    """

    def __init__(self, name: str, lift: Callable[[Tensor], Value] | None = None) -> None:
        self.builder = GraphBuilder(name)
        self.lift = lift
        self.source: tuple[Frame, ...] = ()
        self.locate: Callable[[], tuple[Frame, ...]] | None = None  # asked for the source instead
        self.origin = "forward"
        self.tag: RecomputeTag | None = None
        self._seq = 0

    def bind(self, tensor: Tensor, value: Value) -> None:
        """Tie ``tensor`` to ``value``."""
        tensor._trace = (self, value)

    def value_of(self, tensor: Tensor) -> Value:
        """The value that ``tensor`` is tied to, lifting it if the graph does not know it."""
        trace = tensor._trace
        if trace is not None and trace[0] is self:
            found: Value = trace[1]
            return found
        if self.lift is None:
            raise CaptureError(
                f"a tensor of shape {tuple(tensor.shape)} entered the graph "
                f"{self.builder.graph.name!r} from outside; expected only graph inputs and "
                "what is computed from them."
            )
        value = self.lift(tensor)
        self.bind(tensor, value)
        return value

    def argument(self, item: Any) -> Any:
        """One argument as it stands in a node."""
        if isinstance(item, Tensor):
            return self.value_of(item)
        if isinstance(item, SymInt):
            return item.expr
        if isinstance(item, tuple | list):
            return tuple([self.argument(part) for part in item])
        return item

    def record(
        self, op: Overload, args: tuple[Any, ...], kwargs: dict[str, Any], results: Any
    ) -> Node:
        """Append the call and tie its result tensors to its values."""
        flat = (
            results
            if isinstance(results, tuple | list)
            else (results,)
            if results is not None
            else ()
        )
        node_args = self.argument(args)
        node_kwargs = {k: self.argument(v) for k, v in kwargs.items()}
        self._seq += 1
        node = self.builder.call(
            op,
            node_args,
            node_kwargs,
            [graph_meta(t) if isinstance(t, Tensor) else IntType(expr_of(t)) for t in flat],
            source=self.source if self.locate is None else self.locate(),
            grad_enabled=tls.grad_enabled,
            origin=self.origin,
            seq=self._seq,
            tag=self.tag if self.origin == "forward" else None,
        )
        for tensor, value in zip(flat, node.results, strict=True):
            if not isinstance(tensor, Tensor):
                continue
            value.requires_grad = tensor._requires_grad
            trace = tensor._trace
            if trace is None or trace[0] is not self:
                self.bind(tensor, value)
        return node


class ProxyMode(InfraMode):
    """Records, below autograd, the operators that reach the Python key."""

    slot = "proxy_mode"

    def __init__(self, recorder: Recorder) -> None:
        self.recorder = recorder

    def __plait_dispatch__(
        self, op: Overload, types: tuple[type, ...], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        results = op.call(*args, **kwargs)
        self.recorder.record(op, args, kwargs, results)
        return results
