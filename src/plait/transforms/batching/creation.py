"""Creation after a batched tensor: each sample gets one of its own, so that it may be written."""

from __future__ import annotations

from typing import Any

from plait.tensor.layout import extent
from plait.transforms.batching.call import Call, Rule, run

__all__ = ["RULES"]


def _like(call: Call) -> tuple[Any, Any]:
    return call.op.call(call.front(0), *call.args[1:], **call.kwargs), 0


def _new(call: Call) -> tuple[Any, Any]:
    front = call.front(0)
    return call.op.call(front, (call.size, *call.args[1]), *call.args[2:], **call.kwargs), 0


def _new_strided(call: Call) -> tuple[Any, Any]:
    _, size, stride = call.args
    step = extent(tuple(size), tuple(stride))
    out = run(
        "new_empty_strided", call.front(0), (call.size, *size), (step, *stride), **call.kwargs
    )
    return out, 0


RULES: dict[str, Rule] = {
    **{f"aten::{name}_like": _like for name in ("ones", "zeros", "empty", "full")},
    **{f"aten::new_{name}": _new for name in ("ones", "zeros", "empty", "full")},
    "aten::new_empty_strided": _new_strided,
}
