"""One call replaced by the calls of its operator's decomposition, traced on fakes.

Sizes stay symbolic; a decomposition that must know whether two symbolic sizes are equal cannot be
used. Must not know lowering.
"""

from __future__ import annotations

from typing import Any

from plait.autograd.grad_mode import no_grad
from plait.capture.fake import FakeMode, FakeTensor
from plait.capture.proxy import ProxyMode, Recorder
from plait.ir.graph import IntType, Node, Value, map_values
from plait.symbolic.expr import Expr
from plait.symbolic.relation import BoolExpr
from plait.symbolic.symint import SymInt
from plait.tensor.layout import TensorMeta
from plait.tensor.tensor import Tensor, make_fake

__all__ = ["UnknownSize", "expand"]


class UnknownSize(Exception):
    """A decomposition asked for the value of a symbolic size."""


class _NoGuards:
    """The environment of sizes after capture: nothing more may be assumed."""

    def evaluate(self, condition: BoolExpr) -> bool:
        raise UnknownSize(f"its decomposition must know whether {condition}")

    def specialize(self, expression: Expr) -> int:
        raise UnknownSize(f"its decomposition must know the value of {expression}")

    def hint(self, expression: Expr) -> int:
        raise UnknownSize(f"its decomposition must know the value of {expression}")


_ENV = _NoGuards()


def expand(node: Node) -> tuple[list[Node], list[Value]]:
    """(calls, result values) of the decomposition of `node`; UnknownSize if it depends on sizes."""
    recorder = Recorder(node.op.name)
    recorder.source, recorder.origin = node.source, node.origin

    def fake(item: Any) -> Any:
        if isinstance(item, Expr):
            return _size(item)
        if not isinstance(item, Value):
            return item
        if isinstance(item.type, IntType):
            return _size(item.type.expr)
        tensor = make_fake(_traced(item.type), cls=FakeTensor)
        recorder.bind(tensor, item)
        return tensor

    assert node.op.decomposition is not None
    with no_grad(), FakeMode(FakeTensor), ProxyMode(recorder):
        args = map_values(node.args, fake)
        kwargs = {name: map_values(item, fake) for name, item in node.kwargs.items()}
        results = node.op.decomposition(*args, **kwargs)
    flat = results if isinstance(results, tuple | list) else (results,)
    values = [recorder.value_of(t) for t in flat if isinstance(t, Tensor)]
    return recorder.builder.graph.nodes, values


def _size(expr: Expr) -> Any:
    return SymInt(expr, _ENV) if expr.free_symbols else expr.evaluate({})


def _traced(meta: TensorMeta) -> TensorMeta:
    shape = [_size(s) if isinstance(s, Expr) else s for s in meta.shape]
    strides = [_size(s) if isinstance(s, Expr) else s for s in meta.strides]
    return TensorMeta(shape, meta.dtype, meta.device, strides)
