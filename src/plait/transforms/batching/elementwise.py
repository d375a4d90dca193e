"""Elementwise operators: samples aligned to the front, ranks of samples made equal.

A sample without dims weighs less in type promotion than one with dims, so it is converted first
where all samples together, which have a dim, would weigh more.
"""

from __future__ import annotations

from typing import Any

from plait.base.errors import InplaceError, ShapeMismatch
from plait.dispatch.operator import Overload
from plait.tensor.dtype import bool_
from plait.tensor.promotion import result_type_of
from plait.tensor.tensor import Tensor
from plait.transforms.batching.call import Call, run

__all__ = ["elementwise", "unbatched_target"]

_CONDITIONS = ("condition", "mask")


def unbatched_target(op: Overload) -> str:
    """Why an operator may not write into a tensor that all samples share."""
    target = next(a.name for a in op.schema.arguments if a.is_write)
    return (
        f"{op.qualname}: inside vmap, argument {target!r} is written but has no samples, while "
        "another argument has; got one tensor for all samples, which cannot hold a value for each; "
        "expected a batched target. Make it from a batched tensor (x.new_zeros(...), "
        "zeros_like(x)), or use the out-of-place form. (vmap: the in-place operation is not "
        "possible)"
    )


def elementwise(call: Call) -> tuple[Any, Any]:
    """The rule of every elementwise operator, also in place."""
    op, args = call.op, list(call.args)
    places = [i for i, a in enumerate(op.schema.positional) if a.type.is_tensor_like]
    places = [i for i in places if args[i] is not None]
    rank = max([call.rank(i) for i in places])
    writes = op.schema.is_mutable
    if writes:
        rank = _rank_of_target(call, places)
    for i in places:
        args[i] = _padded(call, i, rank)
    if len(places) > 1 and op.name not in ("copy", "copy_"):
        _promote(call, places, args, first=1 if writes else 0)
    if op.name == "copy" and not call.is_batched(0):
        args[0] = _padded_to(call.batched(0), call.rank(0), rank)
    return op.call(*args, **call.kwargs), 0


def _rank_of_target(call: Call, places: list[int]) -> int:
    if not call.is_batched(0):
        raise InplaceError(unbatched_target(call.op))
    rank = call.rank(0)
    for i in places[1:]:
        if call.rank(i) > rank:
            raise ShapeMismatch(
                f"{call.op.qualname}: inside vmap, argument "
                f"{call.op.schema.positional[i].name!r} has {call.rank(i)} dims; got a target with "
                f"{rank}; expected a shape that broadcasts to the target's."
            )
    return rank


def _padded(call: Call, i: int, rank: int) -> Tensor:
    """Tensor ``i``, whose samples get leading dims of size 1 up to ``rank``."""
    t = call.front(i)
    return _padded_to(t, call.rank(i), rank) if call.is_batched(i) else t


def _padded_to(t: Tensor, rank: int, wanted: int) -> Tensor:
    if rank == wanted:
        return t
    shape = t.shape
    padded: Tensor = run("reshape", t, (shape[0], *(1,) * (wanted - rank), *shape[1:]))
    return padded


def _promote(call: Call, places: list[int], args: list[Any], first: int) -> None:
    """Convert operands where samples without dims would otherwise decide the type."""
    names = [a.name for a in call.op.schema.positional]
    places = [i for i in places if names[i] not in _CONDITIONS]
    if len({args[i]._dtype for i in places}) < 2 or all(call.rank(i) for i in places):
        return
    common = result_type_of((args[i]._dtype, call.rank(i)) for i in places)
    for i in places:
        if i >= first and args[i]._dtype is not common and common is not bool_:
            args[i] = run("_to_copy", args[i], dtype=common)
