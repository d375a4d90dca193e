"""What a call that runs eagerly returned, against what its shape function promised.

Native code after the call reads memory by the promise, so a shape function that is wrong must
never reach it. Must not know segments.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from plait.base.errors import DtypeMismatch, ShapeMismatch
from plait.dispatch.operator import Overload
from plait.ir.graph import Node, Value
from plait.library.kernels import place_of
from plait.symbolic.expr import Expr
from plait.symbolic.nodes import Symbol
from plait.tensor.layout import TensorMeta
from plait.tensor.tensor import Tensor

__all__ = ["promise_of"]

Check = Callable[[Sequence[Any], Mapping[str, int]], None]


def promise_of(node: Node, unbacked: Mapping[Value, Sequence[tuple[str, int]]]) -> Check:
    """A check of the results of ``node``, given them and the values of the symbols.

    It raises ShapeMismatch for a wrong size, stride or bound of a size that depends on data, and
    DtypeMismatch for a wrong dtype. A stride of a dimension with fewer than two elements, or of an
    empty tensor, may be anything.
    """
    promised = [
        _Promise(node.op, number, value.type, unbacked.get(value, ()))
        for number, value in enumerate(node.results)
        if isinstance(value.type, TensorMeta)
    ]
    count = len(node.results)

    def check(results: Sequence[Any], symbols: Mapping[str, int]) -> None:
        if len(results) != count:
            raise _broken(node.op, "results in the number", len(results), count)
        for promise in promised:
            promise.check(results[promise.number], symbols)

    return check


class _Promise:
    """What one tensor that ``op`` returns must be; sizes that are known are worked out once."""

    def __init__(
        self, op: Overload, number: int, meta: TensorMeta, bounds: Sequence[tuple[str, int]]
    ) -> None:
        self.op, self.number, self.meta, self.bounds = op, number, meta, bounds
        known = not any(isinstance(s, Expr) for s in (*meta.shape, *meta.strides))
        self.fixed = self._sizes({}) if known else None

    def check(self, result: Any, symbols: Mapping[str, int]) -> None:
        """Raise where ``result`` is something else."""
        if not isinstance(result, Tensor):
            return
        if result.dtype is not self.meta.dtype:
            raise self._broken("the dtype", result.dtype, self.meta.dtype)
        for name, dim in self.bounds:
            size = self.meta.shape[dim]
            _check_bound(self.op, self.number, size, name, int(result.shape[dim]))
        shape, strides = self.fixed or self._sizes(symbols)
        if result.shape != shape:
            raise self._broken("the shape", result.shape, shape)
        got = result.stride()
        if got != strides and 0 not in shape:
            if any(size > 1 and got[d] != strides[d] for d, size in enumerate(shape)):
                raise self._broken("the strides", got, strides)

    def _sizes(self, symbols: Mapping[str, int]) -> tuple[tuple[int, ...], tuple[int, ...]]:
        return _known(self.meta.shape, symbols), _known(self.meta.strides, symbols)

    def _broken(self, what: str, got: Any, promised: Any) -> Exception:
        return _broken(self.op, f"result {self.number} {what}", got, promised)


def _known(sizes: Sequence[Any], symbols: Mapping[str, int]) -> tuple[int, ...]:
    return tuple(s.evaluate(symbols) if isinstance(s, Expr) else s for s in sizes)


def _check_bound(op: Overload, number: int, size: Any, name: str, got: int) -> None:
    if isinstance(size, Symbol) and size.name == name:
        lower, upper = size.lower or 0, size.upper
        if got < lower or (isinstance(upper, int) and got >= upper):
            wanted = f"a size in [{lower}, {upper - 1 if isinstance(upper, int) else 'inf'}]"
            raise _broken(op, f"result {number} a size {name} of", got, wanted)


def _broken(op: Overload, what: str, got: Any, promised: Any) -> Exception:
    rule = op.fake_rule or (op.inplace.fake_rule if op.inplace is not None else None)
    fn = inspect.unwrap(rule) if rule is not None else None
    where = f" at {place_of(fn)}" if fn is not None and fn is not rule else ""
    kind = DtypeMismatch if what.endswith("dtype") else ShapeMismatch
    return kind(
        f"{op.qualname}: the kernel gave {what} {got}, and its shape function"
        f"{where} promised {promised}; expected the same, since compiled code reads memory by the "
        "promise. Correct one of the two; plait.testing.opcheck compares them."
    )
