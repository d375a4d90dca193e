"""Reductions and scans: the dims of a sample, one further back."""

from __future__ import annotations

from typing import Any

from plait.tensor.tensor import Tensor
from plait.transforms.batching.call import Call, Rule, run

__all__ = ["RULES"]


def _sample_dims(call: Call, dim: Any) -> tuple[Tensor, list[int], bool]:
    """(all samples, the dims to reduce, whether samples have no dims and got one)."""
    front, rank = call.front(0), call.rank(0)
    given = [] if dim is None else [dim] if isinstance(dim, int) else list(dim)
    if rank == 0:
        for d in given:
            call.wrapped(d)  # raises for dims that a sample without dims has not
        return run("unsqueeze", front, 1), [1], True
    wrapped = [call.wrapped(d) for d in given]
    return front, wrapped or list(range(1, rank + 1)), False


def _by_dims(call: Call) -> tuple[Any, Any]:
    """Operators with the arguments ``dim`` (a list, or one) and ``keepdim``."""
    named = call.op.bind(call.args, call.kwargs)
    if call.op.schema.overload == "dims" and named["dim"] is not None and not named["dim"]:
        return call.op.call(call.front(0), (), named["keepdim"]), 0  # any, all: of each element
    is_single = not call.op.schema.argument("dim").type.is_list
    front, dims, padded = _sample_dims(call, named["dim"])
    args, kwargs = list(call.args), dict(call.kwargs)
    for name, value in (
        ("dim", dims[0] if is_single else tuple(dims)),
        ("keepdim", bool(named["keepdim"]) and not padded),
    ):
        _set(call, args, kwargs, name, value)
    args[0] = front
    return call.op.call(*args, **kwargs), 0


def _set(call: Call, args: list[Any], kwargs: dict[str, Any], name: str, value: Any) -> None:
    if name in kwargs:
        kwargs[name] = value
    else:
        args[[a.name for a in call.op.schema.positional].index(name)] = value


def _whole(name: str) -> Rule:
    """The reduction of a whole sample by the operator ``name``, over a list of dims."""

    def rule(call: Call) -> tuple[Any, Any]:
        front, dims, _ = _sample_dims(call, None)
        return run(name, front, tuple(dims), False, **call.kwargs), 0

    return rule


def _flattened(call: Call) -> Tensor:
    front = call.front(0)
    flat: Tensor = run("reshape", front, (front.shape[0], _elements(front)))
    return flat


def _elements(front: Tensor) -> Any:
    count: Any = 1
    for size in front.shape[1:]:
        count = count * size
    return count


def _whole_prod(call: Call) -> tuple[Any, Any]:
    return run("prod.dim_int", _flattened(call), 1, False, **call.kwargs), 0


def _arg_extremum(call: Call) -> tuple[Any, Any]:
    dim, keepdim = call.args[1], call.args[2]
    if dim is not None and call.rank(0):
        return call.op.call(call.front(0), call.wrapped(dim), keepdim), 0
    if dim is not None:
        call.wrapped(dim)
    out = call.op.call(_flattened(call), 1, False)
    if keepdim:
        out = run("reshape", out, (out.shape[0], *(1,) * call.rank(0)))
    return out, 0


def _scan(call: Call) -> tuple[Any, Any]:
    front, dims, padded = _sample_dims(call, call.args[1])
    out = call.op.call(front, dims[0], **call.kwargs)
    return (run("squeeze.dim", out, 1) if padded else out), 0


_BY_DIMS = (
    "sum.dim_IntList", "mean.dim", "prod.dim_int", "any.dim", "any.dims", "all.dim", "all.dims",
    "amax", "amin", "var.correction", "logsumexp", "max.dim", "min.dim",
)  # fmt: skip
RULES: dict[str, Rule] = {
    **{f"aten::{name}": _by_dims for name in _BY_DIMS},
    "aten::sum": _whole("sum.dim_IntList"),
    "aten::mean": _whole("mean.dim"),
    "aten::any": _whole("any.dims"),
    "aten::all": _whole("all.dims"),
    "aten::max": _whole("amax"),
    "aten::min": _whole("amin"),
    "aten::prod": _whole_prod,
    "aten::argmax": _arg_extremum,
    "aten::argmin": _arg_extremum,
    "aten::cumsum": _scan,
}
