"""The functions behind the layers, with PyTorch's signatures, over plait's operators.

Owns argument conventions that are not the operators' own (names of reductions, flags).
"""

from __future__ import annotations

from collections.abc import Sequence

from plait.base.errors import InvalidArgument, check
from plait.ops import aten
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
