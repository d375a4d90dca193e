"""Losses: nll_loss, cross entropy, mean squared error.

``reduction`` is ATen's number: 0 none, 1 mean, 2 sum. Each operator has a decomposition into
pointwise operators, reductions and gathers.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from plait.base.errors import InvalidArgument, ShapeMismatch, check
from plait.ops import aten
from plait.ops.arrays import widened
from plait.ops.checks import (
    require,
    require_floating,
    require_index_dtype,
    require_reduction,
    require_same_dtype,
)
from plait.ops.define import Array, define, elementwise_meta
from plait.ops.indexing import check_range
from plait.tensor import dtype as dt
from plait.tensor import layout as lay
from plait.tensor.layout import IntLike, Shape, TensorMeta
from plait.tensor.promotion import result_type

if TYPE_CHECKING:
    from plait.tensor.tensor import Tensor

__all__: list[str] = []

_NONE, _MEAN, _SUM = 0, 1, 2

# ---------------------------------------------------------------- nll_loss


def _nll_shape(
    self: Any, target: Any, weight: Any, reduction: int, ignore_index: IntLike
) -> tuple[TensorMeta, TensorMeta]:
    require_floating("nll_loss", "self", self)
    require_index_dtype("nll_loss", "target", target, dt.uint8)
    require_reduction("nll_loss", reduction)
    shape, expected = tuple(self.shape), tuple(target.shape)
    require(
        len(shape) in (1, 2) and len(expected) <= 1,
        lambda: (
            f"nll_loss: arguments have the wrong ranks; got shapes {shape} for 'self' and "
            f"{expected} for 'target'; expected (N, C) and (N,), or (C,) and ()."
        ),
    )
    require(
        len(shape) == 1 or expected == shape[:1],
        lambda: (
            f"nll_loss: argument 'target' must hold one class for each row of 'self' (size "
            f"mismatch); got shapes {expected} and {shape}; expected {shape[:1]}."
        ),
    )
    if weight is not None:
        require_same_dtype("nll_loss", (("self", self), ("weight", weight)))
        require(
            tuple(weight.shape) == shape[-1:],
            lambda: (
                f"nll_loss: argument 'weight' must hold one number for each of the {shape[-1]} "
                f"classes; got shape {tuple(weight.shape)}."
            ),
        )
    per_row = reduction == _NONE and len(shape) == 2
    out = TensorMeta(expected if per_row else (), self.dtype, self.device)
    return out, TensorMeta((), self.dtype, self.device)


def _nll_kernel(
    self: Array, target: Array, weight: Any, reduction: int, ignore_index: int
) -> tuple[Any, Any]:
    scores, classes = widened(np.atleast_2d(self)), target.reshape(-1).astype(np.int64)
    used = classes != ignore_index
    check_range("nll_loss", "target", classes[used], scores.shape[1], dim=1)
    classes = np.where(used, classes, 0)
    weights = used.astype(scores.dtype)
    if weight is not None:
        weights = np.where(used, widened(weight)[classes], weights)
    picked = scores[np.arange(len(classes)), classes] if scores.size else weights
    losses = np.where(used, -picked * weights, scores.dtype.type(0))
    if reduction == _NONE and self.ndim == 2:
        return losses, np.zeros((), scores.dtype)
    output, total = losses.sum(), weights.sum()
    return (output / total if reduction == _MEAN else output), total


def _nll_parts(
    self: Tensor, target: Tensor, weight: Tensor | None, ignore_index: IntLike
) -> tuple[Any, Any, Any]:
    """(which targets count, their classes with 0 for the others, their weights) as 1-d tensors."""
    classes = aten.reshape.default(target, (target.numel(),))
    if classes.dtype is not dt.int64:
        classes = aten._to_copy.default(classes, dtype=dt.int64)
    used = aten.ne.Scalar(classes, ignore_index)
    classes = aten.masked_fill.Scalar(classes, aten.logical_not.default(used), 0)
    weights = aten._to_copy.default(used, dtype=self.dtype)
    if weight is not None:
        weights = aten.index_select.default(weight, 0, classes) * weights
    return used, classes, weights


def _matrix(x: Tensor) -> Any:
    return x if x.ndim == 2 else aten.unsqueeze.default(x, 0)


def _nll_decomposition(
    self: Tensor, target: Tensor, weight: Tensor | None, reduction: int, ignore_index: IntLike
) -> tuple[Any, Any]:
    used, classes, weights = _nll_parts(self, target, weight, ignore_index)
    column = aten.unsqueeze.default(classes, 1)
    picked = aten.squeeze.dim(aten.gather.default(_matrix(self), 1, column), 1)
    # An ignored score may be infinite: it is masked, not multiplied by zero.
    unused = aten.logical_not.default(used)
    losses = aten.masked_fill.Scalar(aten.neg.default(picked) * weights, unused, 0)
    if reduction == _NONE and self.ndim == 2:
        return losses, aten.zeros.default((), dtype=self.dtype, device=self.device)
    total = aten.sum.default(weights)
    output = aten.sum.default(losses)
    return (output / total if reduction == _MEAN else output), total


def _nll_vjp(
    g0: Tensor,
    self: Tensor,
    target: Tensor,
    weight: Tensor | None,
    reduction: int,
    ignore_index: IntLike,
    out1: Tensor,
) -> Any:
    """Minus the weight, at each row's class."""
    used, classes, weights = _nll_parts(self, target, weight, ignore_index)
    share = g0 / out1 if reduction == _MEAN else g0
    values = aten.masked_fill.Scalar(
        aten.neg.default(share * weights), aten.logical_not.default(used), 0
    )
    rows = _matrix(self)
    zeros = aten.new_zeros.default(g0, rows.shape)
    column = aten.unsqueeze.default(classes, 1)
    grad = aten.scatter.src(zeros, 1, column, aten.unsqueeze.default(values, 1))
    return grad if self.ndim == 2 else aten.squeeze.dim(grad, 0)


define(
    "aten::nll_loss_forward(Tensor self, Tensor target, Tensor? weight, int reduction, "
    "SymInt ignore_index) -> (Tensor output, Tensor total_weight)",
    shape=_nll_shape,
    kernel=_nll_kernel,
    vjp={"self": _nll_vjp},
    decomposition=_nll_decomposition,
    kind="normalize",
)


def _classes_last(x: Tensor) -> Any:
    """(N, C, d1, ...) as (N * d1 * ..., C)."""
    order = (0, *range(2, x.ndim), 1)
    moved = aten.permute.default(x, order)
    return aten.reshape.default(moved, (lay.numel(moved.shape[:-1]), x.shape[1]))


def _nll_loss_nd(
    self: Tensor,
    target: Tensor,
    weight: Tensor | None = None,
    reduction: int = 1,
    ignore_index: IntLike = -100,
) -> Any:
    if self.ndim == 0:
        raise InvalidArgument(
            "nll_loss_nd: argument 'self' has no dimensions; expected (C,), (N, C) or (N, C, ...)."
        )
    if self.ndim <= 2:
        return aten.nll_loss_forward.default(self, target, weight, reduction, ignore_index)[0]
    _check_targets(self, target)
    rows = _classes_last(self)
    flat = aten.reshape.default(target, (target.numel(),))
    out = aten.nll_loss_forward.default(rows, flat, weight, reduction, ignore_index)[0]
    return aten.view.default(out, target.shape) if reduction == _NONE else out


def _check_targets(self: Tensor, target: Tensor) -> None:
    expected: Shape = (*self.shape[:1], *self.shape[2:])
    if tuple(target.shape) != expected:
        raise ShapeMismatch(
            f"nll_loss_nd: argument 'target' must have the shape of 'self' without its classes; "
            f"got {tuple(target.shape)} for {tuple(self.shape)}; expected {expected}."
        )


_NLL_ARGUMENTS = (
    "(Tensor self, Tensor target, Tensor? weight=None, int reduction=1, SymInt ignore_index=-100)"
)
define(f"aten::nll_loss_nd{_NLL_ARGUMENTS} -> Tensor", composite=_nll_loss_nd)
define(f"aten::nll_loss{_NLL_ARGUMENTS} -> Tensor", composite=_nll_loss_nd)

# ---------------------------------------------------------------- cross entropy


def _cross_entropy(
    self: Tensor,
    target: Tensor,
    weight: Tensor | None = None,
    reduction: int = 1,
    ignore_index: IntLike = -100,
    label_smoothing: float = 0.0,
) -> Any:
    """Targets are classes, or probabilities if they have the shape of ``self``."""
    require_reduction("cross_entropy_loss", reduction)
    check(
        0 <= label_smoothing <= 1,
        InvalidArgument,
        lambda: (
            f"cross_entropy_loss: argument 'label_smoothing' must lie between 0.0 and 1.0; "
            f"got {label_smoothing}."
        ),
    )
    class_dim = 0 if self.ndim == 1 else 1
    scores = aten.log_softmax.int(self, class_dim)
    if tuple(target.shape) == tuple(self.shape):
        return _with_probabilities(scores, target, weight, reduction, label_smoothing, class_dim)
    _check_batch(self, target)
    loss = aten.nll_loss_nd.default(scores, target, weight, reduction, ignore_index)
    if label_smoothing == 0:
        return loss
    smooth = _smoothed(scores, target, weight, reduction, ignore_index, class_dim)
    share = label_smoothing / self.shape[class_dim]
    return loss * (1 - label_smoothing) + smooth * share


def _check_batch(self: Tensor, target: Tensor) -> None:
    check(
        self.ndim < 2 or not target.ndim or self.shape[0] == target.shape[0],
        InvalidArgument,
        lambda: (
            f"cross_entropy_loss: argument 'target' must have the batch size of 'self' "
            f"(Expected input batch_size to match target batch_size); got {tuple(target.shape)} "
            f"for {tuple(self.shape)}."
        ),
    )


def _per_class(weight: Tensor, ndim: int, class_dim: int) -> Any:
    """The weights shaped so that they broadcast along the classes."""
    shape: list[IntLike] = [1] * ndim
    shape[class_dim] = weight.shape[0]
    return aten.view.default(weight, shape)


def _with_probabilities(
    scores: Tensor, target: Tensor, weight: Any, reduction: int, smoothing: float, class_dim: int
) -> Any:
    require_floating("cross_entropy_loss", "target", target)
    classes = scores.shape[class_dim]
    if smoothing > 0:
        target = target * (1 - smoothing) + smoothing / classes
    terms = scores * target
    if weight is not None:
        terms = terms * _per_class(weight, scores.ndim, class_dim)
    if reduction == _NONE:
        return aten.neg.default(aten.sum.dim_IntList(terms, (class_dim,), False))
    total = aten.neg.default(aten.sum.default(terms))
    return total if reduction == _SUM else total / (scores.numel() // classes)


def _smoothed(
    scores: Tensor, target: Tensor, weight: Any, reduction: int, ignore: IntLike, class_dim: int
) -> Any:
    """The loss against equal probabilities, which label smoothing mixes in."""
    weighted = scores if weight is None else scores * _per_class(weight, scores.ndim, class_dim)
    losses = aten.neg.default(aten.sum.dim_IntList(weighted, (class_dim,), False))
    unused = aten.eq.Scalar(target, ignore)
    losses = aten.masked_fill.Scalar(losses, unused, 0)
    if reduction == _NONE:
        return losses
    total = aten.sum.default(losses)
    if reduction == _SUM:
        return total
    if weight is None:
        return total / aten.sum.default(aten.logical_not.default(unused))
    flat = aten.reshape.default(target, (target.numel(),))
    _, _, weights = _nll_parts(scores, flat, weight, ignore)
    return total / aten.sum.default(weights)


define(
    "aten::cross_entropy_loss(Tensor self, Tensor target, Tensor? weight=None, int reduction=1, "
    "SymInt ignore_index=-100, float label_smoothing=0.0) -> Tensor",
    composite=_cross_entropy,
)

# ---------------------------------------------------------------- mean squared error


def _mse_shape(self: Any, target: Any, reduction: int = 1) -> TensorMeta:
    require_reduction("mse_loss", reduction)
    dtype = result_type(self, target)
    require_floating("mse_loss", "self", TensorMeta((), dtype))
    meta = elementwise_meta("mse_loss", (self, target), dtype)
    return meta if reduction == _NONE else TensorMeta((), dtype, self.device)


def _mse_kernel(self: Array, target: Array, reduction: int, *, meta: TensorMeta) -> Any:
    wide = np.float32 if meta.dtype.itemsize == 2 else meta.dtype.numpy
    difference = np.subtract(self, target, dtype=wide)
    squares = np.multiply(difference, difference)
    if reduction == _NONE:
        return squares
    total = squares.sum()
    return total / total.dtype.type(squares.size) if reduction == _MEAN else total


def _mse_decomposition(self: Tensor, target: Tensor, reduction: int = 1) -> Any:
    difference = self - target
    squares = difference * difference
    if reduction == _NONE:
        return squares
    return aten.mean.default(squares) if reduction == _MEAN else aten.sum.default(squares)


def _mse_vjp(g: Tensor, self: Tensor, target: Tensor, reduction: int) -> Any:
    slope = (self - target) * 2
    if reduction == _MEAN:
        slope = slope / slope.numel()
    return slope * g


define(
    "aten::mse_loss(Tensor self, Tensor target, int reduction=1) -> Tensor",
    shape=_mse_shape,
    kernel=_mse_kernel,
    vjp={
        "self": _mse_vjp,
        "target": lambda g, self, target, reduction: _mse_vjp(g, target, self, reduction),
    },
    decomposition=_mse_decomposition,
    kind="normalize",
)
