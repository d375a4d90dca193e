"""The functions behind the layers, with PyTorch's signatures, over plait's operators.

Owns argument conventions that are not the operators' own (names of reductions, flags).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from plait.base.errors import InvalidArgument, ShapeMismatch, check
from plait.ops import aten
from plait.tensor.dtype import float32
from plait.tensor.tensor import Tensor

__all__ = [
    "cross_entropy",
    "dropout",
    "embedding",
    "gelu",
    "layer_norm",
    "linear",
    "log_softmax",
    "mse_loss",
    "relu",
    "rms_norm",
    "rotary",
    "rotary_table",
    "scaled_dot_product_attention",
    "sigmoid",
    "silu",
    "softmax",
    "tanh",
]

_REDUCTIONS = {"none": 0, "mean": 1, "sum": 2}


def relu(x: Tensor) -> Tensor:
    """max(x, 0)."""
    result: Tensor = aten.relu.default(x)
    return result


def sigmoid(x: Tensor) -> Tensor:
    """1 / (1 + exp(-x))."""
    result: Tensor = aten.sigmoid.default(x)
    return result


def silu(x: Tensor) -> Tensor:
    """x * sigmoid(x)."""
    result: Tensor = aten.silu.default(x)
    return result


def tanh(x: Tensor) -> Tensor:
    """The hyperbolic tangent."""
    result: Tensor = aten.tanh.default(x)
    return result


def _reduction(operator: str, name: str) -> int:
    check(
        name in _REDUCTIONS,
        InvalidArgument,
        lambda: (
            f"{operator}: argument 'reduction' is not known; got {name!r}; expected one of "
            f"{list(_REDUCTIONS)}."
        ),
    )
    return _REDUCTIONS[name]


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """x (..., in) @ weight (out, in).T + bias (out,)."""
    result: Tensor = aten.linear.default(x, weight, bias)
    return result


def layer_norm(
    x: Tensor,
    normalized_shape: Sequence[int],
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
) -> Tensor:
    """Normalise over the last dimensions, which must be `normalized_shape`."""
    result: Tensor = aten.layer_norm.default(x, normalized_shape, weight, bias, eps)
    return result


def rms_norm(
    x: Tensor,
    normalized_shape: Sequence[int],
    weight: Tensor | None = None,
    eps: float | None = None,
) -> Tensor:
    """Divide by the root mean square over the last dimensions, which must be `normalized_shape`.

    `eps` is added to the mean square; None means the step of the type that is computed in.
    """
    result: Tensor = aten.rms_norm.default(x, normalized_shape, weight, eps)
    return result


def gelu(x: Tensor, approximate: str = "none") -> Tensor:
    """x * P(N(0, 1) <= x); `approximate` is "none" or "tanh"."""
    result: Tensor = aten.gelu.default(x, approximate=approximate)
    return result


def dropout(x: Tensor, p: float = 0.5, training: bool = True) -> Tensor:
    """Zero each element with probability p and scale the others by 1/(1-p), if `training`."""
    result: Tensor = aten.dropout.default(x, p, training)
    return result


def softmax(x: Tensor, dim: int) -> Tensor:
    """exp(x) over its sum along `dim`."""
    result: Tensor = aten.softmax.int(x, dim)
    return result


def log_softmax(x: Tensor, dim: int) -> Tensor:
    """The logarithm of softmax, without overflow."""
    result: Tensor = aten.log_softmax.int(x, dim)
    return result


def cross_entropy(
    logits: Tensor, target: Tensor, weight: Tensor | None = None, *, reduction: str = "mean"
) -> Tensor:
    """Negative log likelihood of `target` (class numbers, int64) under softmax of `logits`."""
    result: Tensor = aten.cross_entropy_loss.default(
        logits, target, weight, _reduction("cross_entropy", reduction)
    )
    return result


def mse_loss(x: Tensor, target: Tensor, *, reduction: str = "mean") -> Tensor:
    """Squares of the differences; their mean, their sum or each."""
    result: Tensor = aten.mse_loss.default(x, target, _reduction("mse_loss", reduction))
    return result


def embedding(indices: Tensor, weight: Tensor, padding_idx: int | None = None) -> Tensor:
    """Rows of `weight` (count, features) by index: indices (...) int -> (..., features).

    The row `padding_idx` gets no gradient; a negative one counts from the end. Raises
    IndexOutOfRange for an index that is not in 0 <= index < count.

    >>> import plait
    >>> table = plait.arange(6.0).view((3, 2))
    >>> plait.nn.functional.embedding(plait.tensor([2, 0]), table).tolist()
    [[4.0, 5.0], [0.0, 1.0]]
    """
    row = -1
    if padding_idx is not None:
        count = weight.shape[0]
        check(
            -count <= padding_idx < count,
            InvalidArgument,
            lambda: (
                f"embedding: argument 'padding_idx' must be a row of 'weight'; got {padding_idx}; "
                f"expected {-int(count)} <= padding_idx < {int(count)}."
            ),
        )
        row = int(padding_idx) % int(count)
    result: Tensor = aten.embedding.default(weight, indices, row)
    return result


def scaled_dot_product_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    *,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    """softmax(query @ keyᵀ * scale + mask) @ value.

    query (..., heads, rows, features), key and value (..., heads, columns, features), of one
    floating dtype; leading dimensions broadcast. `attn_mask` broadcasts to (..., rows, columns):
    a bool one lets through where True, one of query's dtype is added to the scores. A row that may
    see nothing gives zeros. `is_causal` hides columns after the row, counted from the first of
    both; it excludes a mask. `scale` is 1/sqrt(features) unless given. `dropout_p` is applied
    whatever the mode. With `enable_gqa`, heads of key and value are repeated to those of the query.
    Raises ShapeMismatch, DtypeMismatch or InvalidArgument for what does not fit.

    >>> import plait
    >>> q = plait.ones(1, 2, 3, 4)
    >>> plait.nn.functional.scaled_dot_product_attention(q, q, q, is_causal=True).shape
    (1, 2, 3, 4)
    """
    result: Tensor = aten.scaled_dot_product_attention.default(
        query, key, value, attn_mask, dropout_p, is_causal, scale=scale, enable_gqa=enable_gqa
    )
    return result


# ---------------------------------------------------------------- rotary positions


def rotary_table(
    positions: int | Tensor, features: int, base: float = 10000.0
) -> tuple[Tensor, Tensor]:
    """(cos, sin), each (length, features / 2) float32, of the angles that positions turn by.

    Pair i of the features turns by position * base**(-2i/features). `positions` is a vector of
    numbers, or how many to count from 0.
    """
    check(
        features > 0 and features % 2 == 0,
        InvalidArgument,
        lambda: (
            f"rotary_table: argument 'features' must be even, since features turn in pairs; got "
            f"{features}."
        ),
    )
    if not isinstance(positions, Tensor):
        positions = aten.arange.default(positions)
    rate = -2 * math.log(base) / features
    speeds = aten.exp.default(aten.arange.default(features // 2, dtype=float32) * rate)
    angles = aten.unsqueeze.default(aten.to.dtype(positions, float32), 1) * speeds
    return aten.cos.default(angles), aten.sin.default(angles)


def rotary(
    x: Tensor, cos: Tensor, sin: Tensor, *, dim: int = -2, interleaved: bool = False
) -> Tensor:
    """`x` with each pair of features turned by the angle of its position, as new memory.

    `cos` and `sin` are rows of a `rotary_table`, one for each position along `dim`. Pairs are
    (i, i + features/2), the style of GPT-NeoX and Llama's ports; `interleaved` pairs neighbours
    (2i, 2i + 1), the style of the paper and GPT-J. A query and a key turned alike have products
    that depend on the distance of their positions only.

    >>> import plait
    >>> F = plait.nn.functional
    >>> F.rotary(plait.ones(1, 2), *F.rotary_table(plait.tensor([0]), 2)).tolist()
    [[1.0, 1.0]]
    """
    at = dim % x.ndim if -x.ndim <= dim < x.ndim else x.ndim
    half = x.shape[-1] // 2
    check(
        at < x.ndim - 1 and tuple(cos.shape) == tuple(sin.shape) == (x.shape[at], half),
        ShapeMismatch,
        lambda: (
            f"rotary: arguments 'cos' and 'sin' do not fit; got shapes {tuple(cos.shape)} and "
            f"{tuple(sin.shape)} for 'x' of shape {tuple(x.shape)} with positions along {dim}; "
            "expected (positions, features / 2), and 'dim' not the last."
        ),
    )
    sizes = (x.shape[at], *(1,) * (x.ndim - at - 2), half)
    c, s = (aten.to.dtype(aten.view.default(t, sizes), x.dtype) for t in (cos, sin))
    a, b = _pairs(x, half, interleaved)
    turned: list[Any] = [a * c - b * s, b * c + a * s]
    if interleaved:
        return aten.flatten.using_ints(aten.stack.default(turned, -1), -2, -1)  # type: ignore[no-any-return]
    return aten.cat.default(turned, -1)  # type: ignore[no-any-return]


def _pairs(x: Tensor, half: Any, interleaved: bool) -> tuple[Any, Any]:
    """First and second features of all pairs, as views."""
    cut = aten.slice.Tensor
    if interleaved:
        return cut(x, -1, 0, 2 * half, 2), cut(x, -1, 1, 2 * half, 2)
    return cut(x, -1, 0, half, 1), cut(x, -1, half, 2 * half, 1)
