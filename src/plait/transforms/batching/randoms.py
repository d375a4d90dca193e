"""Random operators: refused, drawn for each sample, or drawn once for all, as the vmap says."""

from __future__ import annotations

from typing import Any

from plait.base.errors import InplaceError, ShapeMismatch, TransformError, check
from plait.dispatch.operator import Overload
from plait.tensor.layout import numel
from plait.transforms.batching.call import Call, Rule, run
from plait.transforms.batching.tensor import Level

__all__ = ["RULES", "check_allowed"]


def check_allowed(op: Overload, level: Level) -> None:
    """Raise TransformError where the vmap was not told how to draw."""
    check(
        level.randomness != "error",
        TransformError,
        lambda: (
            f"{op.qualname}: vmap: called random operation while in randomness error mode; got "
            "randomness='error'; expected 'different' (each sample draws its own numbers) or "
            "'same' (one draw for all). Pass one to vmap, or draw outside of it."
        ),
    )


def _sized(call: Call) -> tuple[Any, Any]:
    """Draws of a given size."""
    size, *rest = call.args
    if call.level.randomness == "same":
        return call.op.call(size, *rest, **call.kwargs), None
    return call.op.call((call.size, *size), *rest, **call.kwargs), 0


def _like(call: Call) -> tuple[Any, Any]:
    """Draws of the shape of a tensor whose values do not matter."""
    rest = call.args[1:]
    if call.level.randomness == "same":
        one = call.args[0]
        if call.is_batched(0):
            one = run("select.int", run("detach", call.front(0)), 0, 0)
        return call.op.call(one, *rest, **call.kwargs), None
    return call.op.call(call.batched(0), *rest, **call.kwargs), 0


def _by_values(call: Call) -> tuple[Any, Any]:
    """Draws that depend on the values of a tensor."""
    if _is_drawn_once(call):
        return call.op.call(*call.args, **call.kwargs), None
    return call.op.call(call.batched(0), *call.args[1:], **call.kwargs), 0


def _is_drawn_once(call: Call) -> bool:
    """Whether there is one draw for all. TransformError where the samples do not allow that."""
    same = call.level.randomness == "same"
    if same and call.is_batched(0):
        raise TransformError(
            f"{call.op.qualname}: vmap cannot draw the same numbers for samples of different "
            "probabilities; got randomness='same' and a batched tensor; expected an unbatched one. "
            "Compare with rand of one sample instead. (Vmap does not currently support same "
            "randomness with a batched tensor input)"
        )
    return same


def _multinomial(call: Call) -> tuple[Any, Any]:
    """The operator has room for one dim of rows: samples are folded into it."""
    if _is_drawn_once(call):
        return call.op.call(*call.args, **call.kwargs), None
    rows = call.batched(0)
    check(
        rows.ndim in (2, 3),
        ShapeMismatch,
        lambda: f"multinomial: argument 'self' has {call.rank(0)} dims; expected 1 or 2.",
    )
    folded = run("reshape", rows, (numel(rows.shape[:-1]), rows.shape[-1]))
    out = call.op.call(folded, *call.args[1:], **call.kwargs)
    return run("view", out, (*rows.shape[:-1], out.shape[-1])), 0


def _dropout(call: Call) -> tuple[Any, Any]:
    """With one draw for all, the mask of one sample is laid over each."""
    x, p, train = call.args
    if call.level.randomness == "different":
        return run("native_dropout", call.batched(0), p, train), 0
    if not call.is_batched(0):
        return run("native_dropout", x, p, train), None
    front = call.front(0)
    one = run("ones_like", run("select.int", run("detach", front), 0, 0))
    scaled, mask = run("native_dropout", one, p, train)
    size = (call.size, *mask.shape)
    return (run("mul.Tensor", front, scaled), run("expand", mask, size)), 0


def _in_place(call: Call) -> tuple[Any, Any]:
    """uniform_ and normal_: the target has samples, or is shared and drawn once."""
    rest = call.args[1:]
    if not call.is_batched(0):
        if call.level.randomness == "same":
            return call.op.call(call.args[0], *rest), None
        raise InplaceError(
            f"{call.op.qualname}: vmap cannot draw different numbers for each sample into a tensor "
            "that all samples share; expected a batched target. Use the out-of-place form. (vmap: "
            "the in-place operation is not possible)"
        )
    front = call.front(0)
    if call.level.randomness == "different":
        call.op.call(front, *rest)
        return None, None
    drawn = run(call.op.name.rstrip("_"), run("select.int", run("detach", front), 0, 0), *rest)
    run("copy_", front, run("expand", drawn, front.shape))
    return None, None


RULES: dict[str, Rule] = {
    **{f"aten::{name}": _sized for name in ("rand", "randn")},
    **{f"aten::{name}": _like for name in ("rand_like", "randn_like", "uniform", "normal")},
    "aten::bernoulli.p": _like,
    "aten::bernoulli": _by_values,
    "aten::multinomial": _multinomial,
    "aten::native_dropout": _dropout,
    "aten::uniform_": _in_place,
    "aten::normal_": _in_place,
}
