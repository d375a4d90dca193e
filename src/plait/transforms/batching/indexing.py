"""Gathers, scatters, joins: along dims one further back; indices that differ become a gather."""

from __future__ import annotations

from typing import Any

from plait.tensor.tensor import Tensor
from plait.transforms.batching.call import Call, Rule, run

__all__ = ["RULES"]


def _index_select(call: Call) -> tuple[Any, Any]:
    dim, index = call.args[1], call.front(2)
    if not call.is_batched(2):
        if call.rank(0) == 0:
            call.wrapped(dim)
            row = run("unsqueeze", call.front(0), 1)
            return run("squeeze.dim", run("index_select", row, 1, index), 1), 0
        return run("index_select", call.front(0), call.wrapped(dim), index), 0
    front, squeezed = call.batched(0), call.rank(0) == 0
    at = call.wrapped(dim)
    if squeezed:
        front = run("unsqueeze", front, 1)
    picks = run("reshape", index, (index.shape[0], 1 if index.ndim == 1 else index.shape[1]))
    shape = list(front.shape)
    shape[at] = picks.shape[1]
    spread = run("view", picks, [picks.shape[0], *[-1 if d == at else 1 for d in _dims(front)]])
    out = run("gather", front, at, run("expand", spread, shape))
    return (run("squeeze.dim", out, 1) if squeezed else out), 0


def _dims(front: Tensor) -> range:
    return range(1, front.ndim)


def _with_dim(t: Tensor, rank: int) -> Tensor:
    """Samples without dims get one of size 1, as gathers and scatters take them."""
    made: Tensor = run("unsqueeze", t, 1) if rank == 0 else t
    return made


def _picked(call: Call) -> tuple[Any, Any]:
    """gather, and scatters without a tensor of values; ``index`` is argument 2."""
    args = list(call.args)
    args[1] = call.wrapped(args[1])
    for i, a in enumerate(call.op.schema.positional):
        if a.type.is_tensor_like:
            args[i] = _with_dim(call.batched(i), call.rank(i))
    out = call.op.call(*args, **call.kwargs)
    shaped_as = 2 if call.op.name == "gather" else 0
    return (run("squeeze.dim", out, 1) if call.rank(shaped_as) == 0 else out), 0


def _index_add(call: Call) -> tuple[Any, Any]:
    target = _with_dim(call.batched(0), call.rank(0))
    source = _with_dim(call.batched(3), call.rank(3))
    at, index = call.wrapped(call.args[1]), call.front(2)
    if not call.is_batched(2):
        out = run("index_add", target, at, index, source, **call.kwargs)
    else:
        alpha = call.kwargs["alpha"]
        shape = [index.shape[0], *[-1 if d == at else 1 for d in _dims(source)]]
        picks = run("expand", run("reshape", index, shape), source.shape)
        out = run(
            "scatter_add", target, at, picks,
            source if alpha == 1 else run("mul.Scalar", source, alpha),
        )  # fmt: skip
    return (run("squeeze.dim", out, 1) if call.rank(0) == 0 else out), 0


def _cat(call: Call) -> tuple[Any, Any]:
    tensors, dims = call.args[0], call.in_dims[0]
    ranks = [t.ndim - (d is not None) for t, d in zip(tensors, dims, strict=True)]
    parts = []
    for i, rank in enumerate(ranks):
        shape = list(tensors[i].shape)
        if dims[i] is not None:
            del shape[dims[i]]
        # An empty tensor of one dim is left out, as the operator does.
        if rank == 1 and shape[0] == 0 and max(ranks) > 1:
            continue
        parts.append(_list_item(call, i))
    at = max(ranks)
    dim = call.args[1]
    return run("cat", parts, dim + 1 if dim >= 0 else max(dim, -at - 1)), 0


def _list_item(call: Call, i: int) -> Tensor:
    """Tensor ``i`` of the first argument, a list, with samples along dim 0."""
    value, dim = call.args[0][i], call.in_dims[0][i]
    one = Call.__new__(Call)
    one.op, one.level, one.args, one.in_dims = call.op, call.level, (value,), (dim,)
    return one.batched(0)


def _embedding(call: Call) -> tuple[Any, Any]:
    weight, _, *rest = call.args
    if not call.is_batched(0):
        return run("embedding", weight, call.front(1), *rest), 0
    # One table for all samples, in which the rows of each start where those before it end.
    tables = call.front(0)
    size, rows, width = tables.shape
    if rest[0] >= 0:  # the row of the padding gets no gradient
        kept = run("slice.Tensor", tables, 1, rest[0], rest[0] + 1, 1)
        tables = run("select_scatter", tables, run("select.int", run("detach", kept), 1, 0),
                     1, rest[0])  # fmt: skip
    picks = call.batched(1)
    first = run("mul.Scalar", run("arange", size, dtype=picks.dtype), rows)
    first = run("reshape", first, (size, *(1,) * (picks.ndim - 1)))
    table = run("reshape", tables, (size * rows, width))
    return run("embedding", table, run("add.Tensor", picks, first), -1, *rest[1:]), 0


def _flip(call: Call) -> tuple[Any, Any]:
    dims = [call.wrapped(d) for d in call.args[1]]
    return run("flip", call.front(0), dims if call.rank(0) else []), 0


RULES: dict[str, Rule] = {
    "aten::index_select": _index_select,
    "aten::gather": _picked,
    "aten::scatter.src": _picked,
    "aten::scatter.value": _picked,
    "aten::scatter_add": _picked,
    "aten::index_add": _index_add,
    "aten::cat": _cat,
    "aten::embedding": _embedding,
    "aten::flip": _flip,
}
