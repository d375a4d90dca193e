"""The functions behind the layers, with PyTorch's signatures, over plait's operators.

Owns argument conventions that are not the operators' own (names of reductions, flags).
"""

from __future__ import annotations

from collections.abc import Sequence

import plait.ops.functional as _operators  # defines every operator looked up below
from plait.base.errors import InvalidArgument, check
from plait.dispatch import lookup
from plait.tensor.tensor import Tensor

__all__ = [
    "cross_entropy",
    "dropout",
    "gelu",
    "layer_norm",
    "linear",
    "log_softmax",
    "mse_loss",
    "relu",
    "sigmoid",
    "silu",
    "softmax",
    "tanh",
]

relu = _operators.relu
sigmoid = _operators.sigmoid
silu = _operators.silu
tanh = _operators.tanh

_REDUCTIONS = {"none": 0, "mean": 1, "sum": 2}

_linear = lookup("aten::linear")
_layer_norm = lookup("aten::layer_norm")
_gelu = lookup("aten::gelu")
_dropout = lookup("aten::dropout")
_softmax = lookup("aten::softmax.int")
_log_softmax = lookup("aten::log_softmax.int")
_cross_entropy = lookup("aten::cross_entropy_loss")
_mse_loss = lookup("aten::mse_loss")


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
    result: Tensor = _linear(x, weight, bias)
    return result


def layer_norm(
    x: Tensor,
    normalized_shape: Sequence[int],
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
) -> Tensor:
    """Normalise over the last dimensions, which must be `normalized_shape`."""
    result: Tensor = _layer_norm(x, normalized_shape, weight, bias, eps)
    return result


def gelu(x: Tensor, approximate: str = "none") -> Tensor:
    """x * P(N(0, 1) <= x); `approximate` is "none" or "tanh"."""
    result: Tensor = _gelu(x, approximate=approximate)
    return result


def dropout(x: Tensor, p: float = 0.5, training: bool = True) -> Tensor:
    """Zero each element with probability p and scale the others by 1/(1-p), if `training`."""
    result: Tensor = _dropout(x, p, training)
    return result


def softmax(x: Tensor, dim: int) -> Tensor:
    """exp(x) over its sum along `dim`."""
    result: Tensor = _softmax(x, dim)
    return result


def log_softmax(x: Tensor, dim: int) -> Tensor:
    """The logarithm of softmax, without overflow."""
    result: Tensor = _log_softmax(x, dim)
    return result


def cross_entropy(
    logits: Tensor, target: Tensor, weight: Tensor | None = None, *, reduction: str = "mean"
) -> Tensor:
    """Negative log likelihood of `target` (class numbers, int64) under softmax of `logits`."""
    result: Tensor = _cross_entropy(logits, target, weight, _reduction("cross_entropy", reduction))
    return result


def mse_loss(x: Tensor, target: Tensor, *, reduction: str = "mean") -> Tensor:
    """Squares of the differences; their mean, their sum or each."""
    result: Tensor = _mse_loss(x, target, _reduction("mse_loss", reduction))
    return result
