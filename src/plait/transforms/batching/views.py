"""Views and their scatters: the same view of all samples, through the arguments of the shape."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from plait.base.errors import ShapeMismatch, check
from plait.tensor.layout import extent, numel
from plait.transforms.batching.call import Call, Rule, run

__all__ = ["RULES"]


def _view(call: Call) -> tuple[Any, Any]:
    front, size = call.front(0), list(call.args[1])
    if -1 in size:
        known = numel([s for s in size if s != -1])
        total = numel(front.shape[1:])
        check(
            known != 0 and total % known == 0,
            ShapeMismatch,
            lambda: (
                f"view: shape {tuple(size)} is invalid for a sample of {total} elements; got shape "
                f"{tuple(front.shape[1:])}; expected sizes whose product fits."
            ),
        )
        size[size.index(-1)] = total // known
    return run("view", front, (front.shape[0], *size)), 0


def _unsqueeze(call: Call) -> tuple[Any, Any]:
    front, rank = call.front(0), call.rank(0)
    dim = call.args[1]
    # One more than the dims there are; errors are those of the operator.
    return run("unsqueeze", front, dim + 1 if dim >= 0 else max(dim, -rank - 2)), 0


def _squeeze(call: Call) -> tuple[Any, Any]:
    front = call.front(0)
    ones = [d for d in range(1, len(front.shape)) if front.shape[d] == 1]
    return run("squeeze.dims", front, ones), 0


def _squeeze_dims(call: Call) -> tuple[Any, Any]:
    given = call.args[1]
    dims = [given] if isinstance(given, int) else list(given)
    if call.rank(0) == 0:
        return run("alias", call.front(0)), 0
    return run("squeeze.dims", call.front(0), [call.wrapped(d) for d in dims]), 0


def _same(call: Call) -> tuple[Any, Any]:
    return call.op.call(call.args[0], *call.args[1:], **call.kwargs), call.in_dims[0]


def _view_as_complex(call: Call) -> tuple[Any, Any]:
    front = call.front(0)
    check(
        call.rank(0) > 0,
        ShapeMismatch,
        lambda: "view_as_complex: got a sample without dims; expected a last dimension of size 2.",
    )
    return run("view_as_complex", front), 0


def _permute(call: Call) -> tuple[Any, Any]:
    return run("permute", call.front(0), (0, *[call.wrapped(d) for d in call.args[1]])), 0


def _transpose(call: Call) -> tuple[Any, Any]:
    if call.rank(0) == 0:
        return run("alias", call.front(0)), 0
    first, second = call.wrapped(call.args[1]), call.wrapped(call.args[2])
    return run("transpose.int", call.front(0), first, second), 0


def _t(call: Call) -> tuple[Any, Any]:
    if call.rank(0) < 2:
        return run("alias", call.front(0)), 0
    check(
        call.rank(0) == 2,
        ShapeMismatch,
        lambda: f"t: expected a sample with at most 2 dims; got {call.rank(0)}. Use transpose.",
    )
    return run("transpose.int", call.front(0), 1, 2), 0


def _expand(call: Call) -> tuple[Any, Any]:
    front, size = call.front(0), tuple(call.args[1])
    missing = len(size) - call.rank(0)
    for _ in range(missing):
        front = run("unsqueeze", front, 1)
    return run("expand", front, (front.shape[0], *size), **call.kwargs), 0


def _along_dim(position: int) -> Rule:
    """A view whose argument ``position`` is the dim along which it is taken."""

    def rule(call: Call) -> tuple[Any, Any]:
        args = list(call.args)
        args[0], args[position] = call.front(0), call.wrapped(args[position])
        return call.op.call(*args, **call.kwargs), 0

    return rule


def _diagonal(call: Call) -> tuple[Any, Any]:
    _, offset, dim1, dim2 = call.args
    return run("diagonal", call.front(0), offset, call.wrapped(dim1), call.wrapped(dim2)), 0


def _as_strided(call: Call) -> tuple[Any, Any]:
    """The offset, if given, is that of the first sample; the others lie as far apart as before."""
    front = call.front(0)
    _, size, stride, offset = call.args
    step = front.strides[0]
    return run("as_strided", front, (front.shape[0], *size), (step, *stride), offset), 0


def _scatter(place: Callable[[Call], Sequence[Any]]) -> Rule:
    """A write of a viewed part: both tensors get samples, and ``place`` says where the view is."""

    def rule(call: Call) -> tuple[Any, Any]:
        return call.op.call(call.batched(0), call.batched(1), *place(call)), 0

    return rule


def _as_strided_scatter(call: Call) -> tuple[Any, Any]:
    _, _, size, stride, offset = call.args
    target = call.front(0)
    if not call.is_batched(0):
        one, strides = target, target.strides
        memory = (extent(one.shape, strides), *strides)
        target = run("new_empty_strided", one, (call.size, *one.shape), memory)
        run("copy_", target, one)
        offset = None if offset is None else offset - one.storage_offset()
    step = target.strides[0]
    made = run(
        "as_strided_scatter", target, call.batched(1), (call.size, *size), (step, *stride), offset
    )
    return made, 0


RULES: dict[str, Rule] = {
    f"aten::{name}": rule
    for name, rule in {
        "view": _view,
        "unsqueeze": _unsqueeze,
        "squeeze": _squeeze,
        "squeeze.dim": _squeeze_dims,
        "squeeze.dims": _squeeze_dims,
        "alias": _same,
        "detach": _same,
        "view_as_real": _same,
        "view_as_complex": _view_as_complex,
        "permute": _permute,
        "transpose.int": _transpose,
        "t": _t,
        "expand": _expand,
        "slice.Tensor": _along_dim(1),
        "select.int": _along_dim(1),
        "unbind.int": _along_dim(1),
        "split.Tensor": _along_dim(2),
        "split_with_sizes": _along_dim(2),
        "diagonal": _diagonal,
        "as_strided": _as_strided,
        "slice_scatter": _scatter(lambda c: (c.wrapped(c.args[2]), *c.args[3:])),
        "select_scatter": _scatter(lambda c: (c.wrapped(c.args[2]), c.args[3])),
        "diagonal_scatter": _scatter(
            lambda c: (c.args[2], c.wrapped(c.args[3]), c.wrapped(c.args[4]))
        ),
        "as_strided_scatter": _as_strided_scatter,
    }.items()
}
