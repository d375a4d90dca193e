"""Attention: the fused operator pair, and the composite that people call.

``aten::_scaled_dot_product_flash_attention_for_cpu`` and its backward are what native code
implements as one loop that never stores the scores; their decompositions say the same in matrix
products. ``aten::scaled_dot_product_attention`` brings every call into their form, and works by
parts where they do not reach: dropout, a mask that requires grad, values of another width.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from plait.base.errors import (
    DtypeMismatch,
    InvalidArgument,
    MissingKernel,
    ShapeMismatch,
    check,
)
from plait.dispatch.tags import Tag
from plait.ops import aten
from plait.ops.attention_kernels import attend, attend_backward
from plait.ops.checks import require, require_floating, require_rank, require_same_dtype
from plait.ops.creation import like_meta
from plait.ops.define import Array, define, empty_array, joint_rule
from plait.tensor import dtype as dt
from plait.tensor import layout as lay
from plait.tensor.dtype import DType
from plait.tensor.layout import TensorMeta, has_no_elements

if TYPE_CHECKING:
    from plait.tensor.tensor import Tensor

__all__: list[str] = []

_HALF = (dt.float16, dt.bfloat16)
_FLASH = "_scaled_dot_product_flash_attention_for_cpu"
_LOWEST = float("-inf")

# ---------------------------------------------------------------- shape rules


def _statistics(dtype: DType) -> DType:
    """The type of scores and logarithms."""
    return dt.float32 if dtype in _HALF else dtype


def _check_operands(query: Any, key: Any, value: Any, dropout_p: float) -> None:
    """Four dimensions, one dtype, matching batch, heads and features."""
    operands = (("query", query), ("key", key), ("value", value))
    for name, tensor in operands:
        require_rank(_FLASH, name, tensor, 4)
    require_floating(_FLASH, "query", query)
    require_same_dtype(_FLASH, operands)
    (b, h, _, e), (length, _) = query.shape, key.shape[2:]
    require(
        tuple(key.shape) == (b, h, length, e) and tuple(value.shape) == (b, h, length, e),
        lambda: (
            f"{_FLASH}: arguments 'query', 'key' and 'value' do not fit; got shapes "
            f"{tuple(query.shape)}, {tuple(key.shape)} and {tuple(value.shape)}; expected "
            "(batch, heads, length, features) with equal batch, heads and features, and keys as "
            "long as values. Use scaled_dot_product_attention to broadcast."
        ),
    )
    check(
        dropout_p == 0,
        MissingKernel,
        lambda: (
            f"{_FLASH}: argument 'dropout_p' must be 0; got {dropout_p}. Use "
            "scaled_dot_product_attention, which works by parts."
        ),
    )


def _check_mask(query: Any, key: Any, mask: Any) -> None:
    if mask is None:
        return
    allowed = (query.dtype, dt.float32) if query.dtype in _HALF else (query.dtype,)
    check(
        mask.dtype in allowed,
        DtypeMismatch,
        lambda: (
            f"{_FLASH}: argument 'attn_mask' is added to the scores; got {mask.dtype}; expected "
            f"{' or '.join(d.name for d in allowed)}."
        ),
    )
    require_rank(_FLASH, "attn_mask", mask, 2, 4)
    scores = (*query.shape[:3], key.shape[2])
    _check_mask_shape(_FLASH, mask, scores)


def _check_mask_shape(operator: str, mask: Any, scores: tuple[Any, ...]) -> None:
    given = tuple(mask.shape)
    aligned = scores[len(scores) - len(given) :]
    require(
        len(given) <= len(scores)
        and all(a == 1 or a == b for a, b in zip(given, aligned, strict=True)),
        lambda: (
            f"{operator}: argument 'attn_mask' must broadcast to the shape of the scores; got "
            f"shape {given}; expected one that broadcasts to {scores}, (..., length of the "
            "query, length of the key)."
        ),
    )


def _check_fits(name: str, tensor: Any, wanted: tuple[Any, ...]) -> None:
    require(
        tuple(tensor.shape) == wanted,
        lambda: (
            f"{_FLASH}_backward: argument {name!r} does not fit 'query'; got shape "
            f"{tuple(tensor.shape)}; expected {wanted}."
        ),
    )


def _flash_shape(
    query: Any, key: Any, value: Any, dropout_p: float, is_causal: bool, *,
    attn_mask: Any = None, scale: float | None = None,
) -> tuple[TensorMeta, TensorMeta]:  # fmt: skip
    """The result has the memory order of the query; the logarithms have that of its rows."""
    _check_operands(query, key, value, dropout_p)
    _check_mask(query, key, attn_mask)
    logs = _by_row(query, tuple(query.shape[:3]), _statistics(query.dtype))
    return like_meta(query), logs


def _by_row(like: Any, shape: Any, dtype: DType) -> TensorMeta:
    """A result of ``shape`` (batch, heads, rows, ...) stored as (batch, rows, heads, ...)."""
    inner = range(len(shape) - 1, 2, -1)
    strides = lay.strides_in_order(shape, (*inner, 1, 2, 0))
    stored = None if lay.is_contiguous(shape, strides) else strides
    return TensorMeta(shape, dtype, like.device, stored)


def _flash_backward_shape(
    grad_out: Any, query: Any, key: Any, value: Any, out: Any, logsumexp: Any, dropout_p: float,
    is_causal: bool, *, attn_mask: Any = None, scale: float | None = None,
) -> tuple[TensorMeta, TensorMeta, TensorMeta]:  # fmt: skip
    """Each cotangent is stored as (batch, rows, heads, features)."""
    _check_operands(query, key, value, dropout_p)
    _check_mask(query, key, attn_mask)
    wanted = tuple(query.shape)
    _check_fits("grad_out", grad_out, wanted)
    _check_fits("out", out, wanted)
    _check_fits("logsumexp", logsumexp, wanted[:3])
    q, k, v = (_by_row(t, tuple(t.shape), t.dtype) for t in (query, key, value))
    return q, k, v


# ---------------------------------------------------------------- kernels


def _scale_of(query: Any, scale: float | None) -> float:
    """1 / sqrt(features), unless given."""
    if scale is not None:
        return float(scale)
    features = int(query.shape[-1])
    return 1 / math.sqrt(features) if features else 1.0


def _flash_kernel(
    query: Array, key: Array, value: Array, dropout_p: float, is_causal: bool, *,
    attn_mask: Array | None, scale: float | None, meta: tuple[TensorMeta, TensorMeta],
) -> tuple[Array, Array]:  # fmt: skip
    out, logs = (_results(m) for m in meta)
    attend(query, key, value, attn_mask, is_causal, _scale_of(query, scale), out, logs)
    return out, logs


def _flash_backward_kernel(
    grad_out: Array, query: Array, key: Array, value: Array, out: Array, logsumexp: Array,
    dropout_p: float, is_causal: bool, *, attn_mask: Array | None, scale: float | None,
    meta: tuple[TensorMeta, ...],
) -> tuple[Array, ...]:  # fmt: skip
    grads = tuple(_results(m) for m in meta)
    saved = (grad_out, query, key, value, out, logsumexp)
    attend_backward(*saved, attn_mask, is_causal, _scale_of(query, scale), grads)
    return grads


def _results(meta: TensorMeta) -> Array:
    """Memory for a result, in the type of the scores."""
    dtype = _statistics(meta.dtype)
    return empty_array(TensorMeta(meta.shape, dtype, meta.device, meta.strides))


# ---------------------------------------------------------------- in matrix products


def _cast(x: Tensor, dtype: DType) -> Tensor:
    if x.dtype is dtype:
        return x
    converted: Tensor = aten._to_copy.default(x, dtype=dtype)
    return converted


def _stack(x: Tensor) -> Tensor:
    """Batch and heads as one dimension of matrices, in the type of the scores."""
    b, h, rows, features = x.shape
    flat: Tensor = aten.reshape.default(_cast(x, _statistics(x.dtype)), (b * h, rows, features))
    return flat


def _turned(x: Tensor) -> Tensor:
    turned: Tensor = aten.transpose.int(x, -2, -1)
    return turned


def _bmm(a: Tensor, b: Tensor) -> Tensor:
    product: Tensor = aten.bmm.default(a, b)
    return product


def _like_heads(x: Tensor, like: Tensor) -> Tensor:
    """A stack of matrices as (batch, heads, rows, columns)."""
    heads: Tensor = aten.view.default(x, (*like.shape[:2], *x.shape[1:]))
    return heads


def _later(query: Tensor, key: Tensor) -> Tensor:
    """True at (row, column) where the column comes after the row."""
    rows = aten.arange.default(query.shape[-2], device=query.device)
    columns = aten.arange.default(key.shape[-2], device=query.device)
    later: Tensor = aten.gt.Tensor(columns, aten.unsqueeze.default(rows, 1))
    return later


def _masked_scores(
    query: Tensor, key: Tensor, mask: Any, is_causal: bool, scale: float | None
) -> Tensor:
    """(batch, heads, rows, columns): scaled products plus mask; -inf at later columns."""
    rows = _stack(query) * _scale_of(query, scale)
    scores = _like_heads(_bmm(rows, _turned(_stack(key))), query)
    if mask is not None:
        scores = scores + _cast(mask, scores.dtype)
    if is_causal:
        scores = aten.masked_fill.Scalar(scores, _later(query, key), _LOWEST)
    return scores


def _replaced(x: Tensor, number: float, by: float) -> Tensor:
    replaced: Tensor = aten.masked_fill.Scalar(x, aten.eq.Scalar(x, number), by)
    return replaced


def _flash_decomposition(
    query: Tensor, key: Tensor, value: Tensor, dropout_p: float = 0.0, is_causal: bool = False, *,
    attn_mask: Any = None, scale: float | None = None,
) -> Any:  # fmt: skip
    metas = _flash_shape(query, key, value, dropout_p, is_causal, attn_mask=attn_mask, scale=scale)
    if any(has_no_elements(t.shape) for t in (query, key)):
        return tuple(aten.zeros.default(m.shape, dtype=m.dtype, device=query.device) for m in metas)
    scores = _masked_scores(query, key, attn_mask, is_causal, scale)
    top = aten.amax.default(scores, (3,), True)
    if attn_mask is not None:
        top = _replaced(top, _LOWEST, 0.0)
    weights = aten.exp.default(scores - top)
    total = aten.sum.dim_IntList(weights, (3,), True)
    if attn_mask is not None:
        total = _replaced(total, 0.0, 1.0)
    b, h, rows, columns = weights.shape
    weights = aten.view.default(weights / total, (b * h, rows, columns))
    out = _like_heads(_bmm(weights, _stack(value)), query)
    logs = aten.squeeze.dim(top + aten.log.default(total), 3)
    return _cast(out, metas[0].dtype), _cast(logs, metas[1].dtype)


class _Slopes:
    """What the derivative is made of, each a stack of matrices (or of columns of numbers).

    ``weights`` P, ``slope_weights`` dO Vᵀ, ``delta`` the row sums of dO * O, and ``slope``
    P * (dO Vᵀ - delta), the cotangent of the masked scores.
    """

    __slots__ = ("delta", "grad", "key", "out", "query", "slope", "slope_weights", "value",
                 "weights")  # fmt: skip

    def __init__(
        self, grad_out: Tensor, query: Tensor, key: Tensor, value: Tensor, out: Tensor,
        logsumexp: Tensor, is_causal: bool, mask: Any, scale: float | None,
    ) -> None:  # fmt: skip
        self.weights = _weights(query, key, logsumexp, is_causal, mask, scale)
        self.grad, self.out = _stack(grad_out), _stack(out)
        self.query, self.key, self.value = _stack(query), _stack(key), _stack(value)
        self.delta = aten.sum.dim_IntList(self.grad * self.out, (2,), True)
        self.slope_weights = _bmm(self.grad, _turned(self.value))
        self.slope = self.weights * (self.slope_weights - self.delta)


def _weights(
    query: Tensor, key: Tensor, logsumexp: Tensor, is_causal: bool, mask: Any, scale: float | None
) -> Tensor:
    """The softmax again, from the logarithms: a stack of matrices."""
    scores = _masked_scores(query, key, mask, is_causal, scale)
    weights = aten.exp.default(scores - aten.unsqueeze.default(logsumexp, 3))
    b, h, rows, columns = weights.shape
    stack: Tensor = aten.view.default(weights, (b * h, rows, columns))
    return stack


def _flash_backward_decomposition(
    grad_out: Tensor, query: Tensor, key: Tensor, value: Tensor, out: Tensor, logsumexp: Tensor,
    dropout_p: float, is_causal: bool, *, attn_mask: Any = None, scale: float | None = None,
) -> Any:  # fmt: skip
    metas = _flash_backward_shape(
        grad_out, query, key, value, out, logsumexp, dropout_p, is_causal, attn_mask=attn_mask
    )
    if any(has_no_elements(t.shape) for t in (query, key)):
        return tuple(aten.zeros.default(m.shape, dtype=m.dtype, device=query.device) for m in metas)
    s = _Slopes(grad_out, query, key, value, out, logsumexp, is_causal, attn_mask, scale)
    factor = _scale_of(query, scale)
    grads = (
        _bmm(s.slope, s.key) * factor,
        _bmm(_turned(s.slope), s.query) * factor,
        _bmm(_turned(s.weights), s.grad),
    )
    return tuple(_cast(_like_heads(g, query), m.dtype) for g, m in zip(grads, metas, strict=True))


# ---------------------------------------------------------------- derivatives


def _flash_vjp(
    query: Tensor, key: Tensor, value: Tensor, dropout_p: float, is_causal: bool,
    attn_mask: Any, scale: float | None, out0: Tensor, out1: Tensor,
    g0: Tensor | None = None, g1: Tensor | None = None,
) -> Any:  # fmt: skip
    """The backward operator, and through the logarithms where those were used."""
    grads: Any = (None, None, None)
    if g0 is not None:
        grads = getattr(aten, f"{_FLASH}_backward").default(
            g0, query, key, value, out0, out1, dropout_p, is_causal,
            attn_mask=attn_mask, scale=scale,
        )  # fmt: skip
    if g1 is None or has_no_elements(query.shape) or has_no_elements(key.shape):
        return grads
    slope = _weights(query, key, out1, is_causal, attn_mask, scale)
    slope = slope * aten.reshape.default(g1, (*slope.shape[:2], 1)) * _scale_of(query, scale)
    by_logs = (
        _like_heads(_bmm(slope, _stack(key)), query),
        _like_heads(_bmm(_turned(slope), _stack(query)), key),
    )
    if g0 is None:
        return (*by_logs, None)
    return (grads[0] + by_logs[0], grads[1] + by_logs[1], grads[2])


def _flash_backward_vjp(
    grad_out: Tensor, query: Tensor, key: Tensor, value: Tensor, out: Tensor, logsumexp: Tensor,
    is_causal: bool, attn_mask: Any, scale: float | None, g0: Tensor, g1: Tensor, g2: Tensor,
) -> Any:  # fmt: skip
    """Cotangents of grad_out, query, key, value, out and logsumexp."""
    if has_no_elements(query.shape) or has_no_elements(key.shape):
        return (None,) * 6
    s = _Slopes(grad_out, query, key, value, out, logsumexp, is_causal, attn_mask, scale)
    factor = _scale_of(query, scale)
    by_query, by_key, by_value = _stack(g0) * factor, _stack(g1) * factor, _stack(g2)
    # Of the slope; of dO Vᵀ and delta inside it; of the weights; of the scores.
    by_slope = _bmm(by_query, _turned(s.key)) + _bmm(s.query, _turned(by_key))
    inner = by_slope * s.weights
    by_delta = -aten.sum.dim_IntList(inner, (2,), True)
    by_weights = by_slope * (s.slope_weights - s.delta) + _bmm(s.grad, _turned(by_value))
    by_scores = by_weights * s.weights
    grads = (
        _bmm(s.weights, by_value) + _bmm(inner, s.value) + by_delta * s.out,
        _bmm(by_scores, s.key) * factor + _bmm(s.slope, by_key),
        _bmm(_turned(by_scores), s.query) * factor + _bmm(_turned(s.slope), by_query),
        _bmm(_turned(inner), s.grad),
        by_delta * s.grad,
    )
    by_logs = aten.view.default(-aten.sum.dim_IntList(by_scores, (2,), False), logsumexp.shape)
    return (*[_like_heads(g, query) for g in grads], by_logs)


define(
    f"aten::{_FLASH}(Tensor query, Tensor key, Tensor value, float dropout_p=0.0, "
    "bool is_causal=False, *, Tensor? attn_mask=None, float? scale=None)"
    " -> (Tensor output, Tensor logsumexp)",
    shape=_flash_shape,
    kernel=_flash_kernel,
    vjp=joint_rule(_flash_vjp, "query", "key", "value"),
    decomposition=_flash_decomposition,
    tags=(Tag.CORE,),
    kind="attention",
)
define(
    f"aten::{_FLASH}_backward(Tensor grad_out, Tensor query, Tensor key, Tensor value, "
    "Tensor out, Tensor logsumexp, float dropout_p, bool is_causal, *, Tensor? attn_mask=None, "
    "float? scale=None) -> (Tensor grad_query, Tensor grad_key, Tensor grad_value)",
    shape=_flash_backward_shape,
    kernel=_flash_backward_kernel,
    vjp=joint_rule(_flash_backward_vjp, "grad_out", "query", "key", "value", "out", "logsumexp"),
    decomposition=_flash_backward_decomposition,
    tags=(Tag.CORE,),
    kind="attention",
)

# ---------------------------------------------------------------- the composite

_NAME = "scaled_dot_product_attention"


def _check_call(
    query: Tensor, key: Tensor, value: Tensor, mask: Any, dropout_p: float, is_causal: bool
) -> None:
    """What can be wrong with any call, whichever way it is computed."""
    operands = (("query", query), ("key", key), ("value", value))
    for name, tensor in operands:
        if tensor.ndim < 2:
            raise ShapeMismatch(
                f"{_NAME}: argument {name!r} needs at least 2 dimensions, (..., length, "
                f"features); got shape {tuple(tensor.shape)}."
            )
    require_floating(_NAME, "query", query)
    require_same_dtype(_NAME, operands)
    require(
        query.shape[-1] == key.shape[-1] and key.shape[-2] == value.shape[-2],
        lambda: (
            f"{_NAME}: arguments 'query', 'key' and 'value' do not fit; got shapes "
            f"{tuple(query.shape)}, {tuple(key.shape)} and {tuple(value.shape)}; expected equal "
            "features of query and key, and keys as long as values."
        ),
    )
    check(
        0 <= dropout_p <= 1,
        InvalidArgument,
        lambda: (
            f"{_NAME}: argument 'dropout_p' must be a probability (dropout probability has to be "
            f"between 0 and 1); got {dropout_p}; expected 0 <= dropout_p <= 1."
        ),
    )
    check(
        mask is None or not is_causal,
        InvalidArgument,
        lambda: (
            f"{_NAME}: argument 'attn_mask' is given together with is_causal=True; expected one "
            "of them. Put causality into the mask: "
            "plait.ones(length, length, dtype=plait.bool_).tril()."
        ),
    )
    if mask is not None:
        _check_mask_dtype(query, mask)


def _check_mask_dtype(query: Tensor, mask: Tensor) -> None:
    check(
        mask.dtype in (dt.bool_, dt.float32, query.dtype),
        DtypeMismatch,
        lambda: (
            f"{_NAME}: argument 'attn_mask' has the wrong dtype; got {mask.dtype}; expected bool "
            f"(True: may be seen), float32, or that of 'query', {query.dtype} (added to the "
            "scores)."
        ),
    )
    require(
        mask.ndim >= 2,
        lambda: (
            f"{_NAME}: argument 'attn_mask' needs at least 2 dimensions, (length of the query, "
            f"length of the key); got shape {tuple(mask.shape)}. Unsqueeze it."
        ),
    )


def _grouped(x: Tensor, heads: Any, name: str) -> Tensor:
    """Each head of ``x`` repeated, one after the other, until there are ``heads``."""
    own = x.shape[-3] if x.ndim >= 3 else 1
    require(
        x.ndim >= 3 and own > 0 and heads % own == 0,
        lambda: (
            f"{_NAME}: with enable_gqa the number of heads of {name!r} must divide that of "
            f"'query'; got {own} and {heads}."
        ),
    )
    if own == heads:
        return x
    lead, rest = x.shape[:-3], x.shape[-2:]
    wide = aten.expand.default(aten.unsqueeze.default(x, -3), (*lead, own, heads // own, *rest))
    repeated: Tensor = aten.reshape.default(wide, (*lead, heads, *rest))
    return repeated


def _additive(mask: Tensor, dtype: DType) -> Tensor:
    """A mask that is added to scores: bools become 0 and -inf."""
    if mask.dtype is dt.bool_:
        zeros = aten.zeros_like.default(mask, dtype=dtype)
        hidden: Tensor = aten.masked_fill.Scalar(zeros, aten.logical_not.default(mask), _LOWEST)
        return hidden
    return mask if mask.dtype is dtype else _cast(mask, dtype)


def _four(x: Tensor, lead: tuple[Any, ...]) -> Tensor:
    """``x`` stretched over the leading dimensions ``lead``, as (batch, heads, rows, columns)."""
    rest = x.shape[-2:]
    if tuple(x.shape[:-2]) != lead:
        x = aten.expand.default(x, (*lead, *rest))
    if len(lead) == 2:
        return x
    if len(lead) < 2:
        for _ in range(2 - len(lead)):
            x = aten.unsqueeze.default(x, 0)
        return x
    flat: Tensor = aten.reshape.default(x, (lay.numel(lead[:-1]), lead[-1], *rest))
    return flat


def _four_mask(mask: Tensor, lead: tuple[Any, ...]) -> Tensor:
    """The mask with 2 or 4 dimensions; sizes of 1 stay where that is possible."""
    if mask.ndim == 2 or (mask.ndim == 4 and len(lead) == 2):
        return mask
    if len(lead) > 2:
        return _four(mask, lead)
    while mask.ndim < 4:
        mask = aten.unsqueeze.default(mask, 0)
    return mask


def _is_fused(query: Tensor, key: Tensor, value: Tensor, mask: Any, dropout_p: float) -> bool:
    """Whether the operator pair covers the call."""
    if dropout_p > 0 or (mask is not None and mask.requires_grad):
        return False
    if has_no_elements(query.shape) or has_no_elements(key.shape):
        return False
    return bool(value.shape[-1] == query.shape[-1])


def _by_parts(
    query: Tensor, key: Tensor, value: Tensor, mask: Any, dropout_p: float, is_causal: bool,
    scale: float,
) -> Tensor:  # fmt: skip
    """softmax(query @ keyᵀ * scale + mask), dropout, @ value; hidden rows give zeros."""
    scores = aten.matmul.default(query * scale, _turned(key))
    hidden = None
    if mask is not None:
        scores = scores + mask
        hidden = aten.all.dim(aten.eq.Scalar(scores, _LOWEST), -1, True)
        scores = aten.masked_fill.Scalar(scores, hidden, 0.0)
    if is_causal:
        scores = aten.masked_fill.Scalar(scores, _later(query, key), _LOWEST)
    weights = aten._softmax.default(scores, -1, False)
    if hidden is not None:
        weights = aten.masked_fill.Scalar(weights, hidden, 0.0)
    weights = aten.dropout.default(weights, dropout_p, True)
    out: Tensor = aten.matmul.default(weights, value)
    return out


def _attention(
    query: Tensor, key: Tensor, value: Tensor, attn_mask: Any = None, dropout_p: float = 0.0,
    is_causal: bool = False, *, scale: float | None = None, enable_gqa: bool = False,
) -> Tensor:  # fmt: skip
    _check_call(query, key, value, attn_mask, dropout_p, is_causal)
    if enable_gqa:
        heads = query.shape[-3] if query.ndim >= 3 else 1
        key, value = _grouped(key, heads, "key"), _grouped(value, heads, "value")
    lead = lay.broadcast_shapes(query.shape[:-2], key.shape[:-2], value.shape[:-2], operator=_NAME)
    mask = None if attn_mask is None else _additive(attn_mask, query.dtype)
    if mask is not None:
        _check_mask_shape(_NAME, mask, (*lead, query.shape[-2], key.shape[-2]))
    factor = _scale_of(query, scale)
    if not _is_fused(query, key, value, mask, dropout_p):
        return _by_parts(query, key, value, mask, dropout_p, is_causal, factor)
    if mask is not None:
        mask = _four_mask(mask, lead)
    out: Tensor = getattr(aten, _FLASH).default(
        _four(query, lead), _four(key, lead), _four(value, lead), 0.0, is_causal,
        attn_mask=mask, scale=factor,
    )[0]  # fmt: skip
    if len(lead) == 2:
        return out
    shaped: Tensor = aten.reshape.default(out, (*lead, *out.shape[-2:]))
    return shaped


define(
    f"aten::{_NAME}(Tensor query, Tensor key, Tensor value, Tensor? attn_mask=None, "
    "float dropout_p=0.0, bool is_causal=False, *, float? scale=None, bool enable_gqa=False)"
    " -> Tensor",
    composite=_attention,
)
