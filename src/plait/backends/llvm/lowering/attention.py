"""Lowering of attention, forward and backward, to one stage that never stores the scores."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from plait.backends.llvm.loop.indexing import ONE
from plait.backends.llvm.lowering.context import (
    Context,
    Decomposed,
    broadcast,
    compute_dtype,
    lowers,
)
from plait.backends.llvm.lowering.stage import AttentionCall, Stage
from plait.symbolic.expr import as_int

__all__ = ["attention_rule"]

FLASH = "aten::_scaled_dot_product_flash_attention_for_cpu"


def widened(cx: Context, x: Stage) -> Stage:
    """A tensor in the type of arithmetic on it."""
    wide = compute_dtype(x.dtype)
    return x if wide == x.dtype else cx.part(f"{x.name}_wide", lambda t: t, [x], wide, like=x)


def attention(
    cx: Context, call: AttentionCall, tensors: Sequence[Stage], mask: Stage | None
) -> tuple[Stage, ...]:
    """The stages of all results of a call; `tensors` without the mask."""
    query, key = tensors[:2]
    width = as_int(query.shape[3])
    if not width:
        raise Decomposed
    inputs = [widened(cx, x) for x in tensors]
    if mask is not None:
        shape = (*query.shape[:3], key.shape[2])
        small = widened(cx, mask)
        inputs.insert(3, cx.reindexed(small, shape, lambda i: broadcast(i, small.shape)))
    count = len(cx.node.results)
    wide = inputs[0].dtype
    made: list[Stage] = []
    for at in range(count):
        part = cx.name(result=at) if cx.dtype(at) == wide else cx.name("wide", result=at)
        if at:
            stage = Stage("result", part, cx.op, cx.shape(at), wide, (made[0],))
        else:
            stage = Stage("attention", part, cx.op, cx.shape(at), wide, inputs)
            stage.attention = call._replace(has_mask=mask is not None)
        stage.result = at
        if len(stage.shape) == 3 or cx.strides(at)[-1] is ONE:
            stage.strides = cx.strides(at)
        made.append(stage)
    return tuple(_finished(cx, stage, at) for at, stage in enumerate(made))


def _finished(cx: Context, stage: Stage, at: int) -> Stage:
    """A result in the type and memory order that the operator says."""
    if stage.dtype == cx.dtype(at) and stage.strides == cx.strides(at):
        return stage
    stage.name = cx.name("wide", result=at)
    return cx.pointwise(lambda t: t, [stage], stage.dtype, cost=0, at=at)


def _scale(query: Stage, scale: Any) -> float:
    return float(scale) if scale is not None else 1 / math.sqrt(as_int(query.shape[3]) or 1)


@lowers(FLASH)
def attention_rule(
    cx: Context, query: Stage, key: Stage, value: Stage, dropout_p: float = 0.0,
    is_causal: bool = False, *, attn_mask: Stage | None = None, scale: Any = None,
) -> tuple[Stage, ...]:  # fmt: skip
    """(output, logsumexp)."""
    call = AttentionCall(False, _scale(query, scale), bool(is_causal), False)
    return attention(cx, call, (query, key, value), attn_mask)


@lowers(f"{FLASH}_backward")
def attention_backward_rule(
    cx: Context, grad_out: Stage, query: Stage, key: Stage, value: Stage, out: Stage,
    logsumexp: Stage, dropout_p: float = 0.0, is_causal: bool = False, *,
    attn_mask: Stage | None = None, scale: Any = None,
) -> tuple[Stage, ...]:  # fmt: skip
    """(grad_query, grad_key, grad_value)."""
    call = AttentionCall(True, _scale(query, scale), bool(is_causal), False)
    return attention(cx, call, (query, key, value, grad_out, out, logsumexp), attn_mask)
