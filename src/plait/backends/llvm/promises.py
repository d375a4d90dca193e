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
    metas = [value.type for value in node.results]
    bounds = [unbacked.get(value, ()) for value in node.results]

    def check(results: Sequence[Any], symbols: Mapping[str, int]) -> None:
        if len(results) != len(metas):
            raise _broken(node.op, "results in the number", len(results), len(metas))
        for number, (meta, result) in enumerate(zip(metas, results)):
            if not isinstance(meta, TensorMeta) or not isinstance(result, Tensor):
                continue
            if result.dtype is not meta.dtype:
                raise _broken(node.op, f"result {number} the dtype", result.dtype, meta.dtype)
            for name, dim in bounds[number]:
                _check_bound(node.op, number, meta.shape[dim], name, int(result.shape[dim]))
            shape = _known(meta.shape, symbols)
            if result.shape != shape:
                raise _broken(node.op, f"result {number} the shape", result.shape, shape)
            strides, got = _known(meta.strides, symbols), result.stride()
            if got != strides and 0 not in shape:
                wrong = [d for d, size in enumerate(shape) if size > 1 and got[d] != strides[d]]
                if wrong:
                    raise _broken(node.op, f"result {number} the strides", got, strides)

    return check


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
