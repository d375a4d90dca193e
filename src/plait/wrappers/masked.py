"""`MaskedTensor`: values of which some do not count.

Pointwise operators compute on all values and keep the mask; reductions leave out what does not
count; views show both. Everything else refuses, since what it should mean is not settled.

Note [Gradients of masked values]. The tape above does not know masks, so it is the step from plain
to masked and back that puts gradients right: :meth:`MaskedTensor.of` gives 0 to what does not
count, and :meth:`MaskedTensor.to_dense` masks what comes back. A mean is a sum divided by a count;
the rule of ``aten::mean`` would divide by all, so that operator refuses and the method takes its
place.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from plait.autograd.function import Function
from plait.base.errors import (
    ArgumentTypeError,
    AutogradError,
    DtypeMismatch,
    MissingKernel,
    ShapeMismatch,
    check,
)
from plait.dispatch.operator import Overload
from plait.ops import aten
from plait.tensor.dtype import DType, bool_
from plait.tensor.limits import iinfo
from plait.tensor.tensor import Tensor
from plait.tensor.wrapper import WrapperTensor, correct_aliasing, map_tensors

__all__ = ["MaskedTensor"]


class MaskedTensor(WrapperTensor):
    """Values with a mask of the same shape, True where a value counts.

    :meth:`of` makes one from plain values, differentiably.

    >>> import plait
    >>> x = MaskedTensor.of(plait.tensor([1.0, 2.0, 9.0]), plait.tensor([True, True, False]))
    >>> (x * 2).sum().item(), x.mean().item(), x.to_dense().tolist()
    (6.0, 1.5, [1.0, 2.0, 0.0])
    """

    values: Tensor
    mask: Tensor

    def __init__(self, values: Tensor, mask: Tensor) -> None:
        check(
            mask.dtype is bool_,
            DtypeMismatch,
            lambda: f"MaskedTensor: argument 'mask' is of {mask.dtype}; expected plait.bool_.",
        )
        check(
            tuple(values.shape) == tuple(mask.shape),
            ShapeMismatch,
            lambda: (
                f"MaskedTensor: got values of shape {tuple(values.shape)} and a mask of "
                f"{tuple(mask.shape)}; expected equal shapes. Expand the mask first."
            ),
        )
        super().__init__(values.shape, dtype=values.dtype, strides=values.strides)
        self.values, self.mask = values, mask

    @property
    def requires_grad(self) -> bool:
        """Whether the tape follows it; it is made from plain values that require grad."""
        return self._requires_grad

    @requires_grad.setter
    def requires_grad(self, value: bool) -> None:
        if value and not self._requires_grad:
            raise AutogradError(
                "requires_grad: a MaskedTensor is no leaf, since gradients of values that do not "
                "count would not be 0. Use MaskedTensor.of(values, mask) with values that require "
                "grad."
            )
        Tensor.requires_grad.fset(self, value)  # type: ignore[attr-defined]

    @staticmethod
    def of(values: Tensor, mask: Tensor) -> MaskedTensor:
        """A masked tensor of ``values``; gradients reach the values that count, others get 0."""
        made: MaskedTensor = _Mask.apply(values, mask)
        return made

    def to_dense(self, fill: float = 0.0) -> Tensor:
        """The values, with ``fill`` where they do not count; differentiable."""
        plain: Tensor = _Unmask.apply(self, fill)
        return plain

    def count(self, dim: Any = None, keepdim: bool = False) -> Tensor:
        """How many values count, along ``dim``: a plain tensor of this type."""
        ones = self.mask.to(self.dtype)
        counted: Tensor = ones.sum() if dim is None else ones.sum(dim, keepdim=keepdim)
        return counted

    def mean(self, dim: Any = None, keepdim: bool = False, *, dtype: DType | None = None) -> Tensor:
        """The mean of the values that count; where none does, it does not count itself."""
        source: Any = self if dtype is None else self.to(dtype)
        total = source.sum() if dim is None else source.sum(dim, keepdim=keepdim)
        mean: Tensor = total / source.count(dim, keepdim)
        return mean

    def __plait_flatten__(self) -> tuple[Sequence[str], Any]:
        return ("values", "mask"), None

    @classmethod
    def __plait_unflatten__(
        cls, inner: dict[str, Tensor], context: Any, shape: Sequence[Any], strides: Sequence[Any]
    ) -> Tensor:
        return cls(inner["values"], inner["mask"])

    @classmethod
    def __plait_coerce_tangent__(cls, tangent: Tensor, context: Any) -> Tensor | None:
        return cls(tangent, aten.ones_like.default(tangent, dtype=bool_))

    @classmethod
    def __plait_dispatch__(
        cls, op: Overload, types: tuple[type, ...], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        if op.qualname in _REDUCTIONS and isinstance(args[0], MaskedTensor):
            return _reduce(op, args, kwargs)
        if any(a.is_write for a in op.schema.kwonly):
            raise _refusal(op)
        if op.kind == "elementwise" or op.qualname in _COPIES:
            return _pointwise(op, args, kwargs)
        if op.qualname in _NEW:
            return op(*_values(args), **kwargs)
        if op.kind == "view" and op.qualname not in _NOT_OF_MASKS:
            return correct_aliasing(op, args, kwargs, _view(op, args, kwargs))
        raise _refusal(op)


class _Mask(Function):
    """From plain values to masked ones. See Note [Gradients of masked values]."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, mask: Tensor) -> Any:
        ctx.save_for_backward(mask)
        return MaskedTensor(values.detach(), mask)

    @staticmethod
    def backward(ctx: Any, grad: Any) -> Any:
        (mask,) = ctx.saved_tensors
        if isinstance(grad, MaskedTensor):
            mask, grad = mask & grad.mask, grad.values
        return grad.masked_fill(~mask, 0), None


class _Unmask(Function):
    """From masked values to plain ones."""

    @staticmethod
    def forward(ctx: Any, masked: Any, fill: float) -> Any:
        ctx.save_for_backward(masked.mask)
        return masked.values.masked_fill(~masked.mask, fill)

    @staticmethod
    def backward(ctx: Any, grad: Any) -> Any:
        (mask,) = ctx.saved_tensors
        return MaskedTensor(grad.masked_fill(~mask, 0), mask), None


# ---------------------------------------------------------------- kinds of operators

_COPIES = frozenset({"aten::clone", "aten::_to_copy", "aten::zeros_like", "aten::ones_like"})
_NEW = frozenset({"aten::new_zeros", "aten::new_ones", "aten::new_full", "aten::new_empty"})
_NOT_OF_MASKS = frozenset(
    {"aten::as_strided", "aten::as_strided_scatter", "aten::view_as_real", "aten::view_as_complex"}
)
_REDUCTIONS = {
    "aten::sum": "zero",
    "aten::sum.dim_IntList": "zero",
    "aten::amax": "lowest",
    "aten::max": "lowest",
    "aten::amin": "highest",
    "aten::min": "highest",
}


def _refusal(op: Overload) -> MissingKernel:
    instead = "Use the method mean()." if op.name == "mean" else "Call to_dense(fill) first."
    return MissingKernel(
        f"{op.qualname}: not defined for a MaskedTensor, which takes pointwise operators, views, "
        f"sum, amax, amin and the method mean. {instead}"
    )


def _values(item: Any) -> Any:
    return map_tensors(lambda t: t.values, item, MaskedTensor)


def _masked(item: Any) -> list[Any]:
    if isinstance(item, MaskedTensor):
        return [item]
    if isinstance(item, tuple | list):
        return [m for part in item for m in _masked(part)]
    return []


def _pointwise(op: Overload, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """On all values; what comes of a value that does not count does not count."""
    given = _masked((*args, *kwargs.values()))
    if op.schema.is_mutable:
        return _in_place(op, args, kwargs, given)
    result = op(*_values(args), **_values(kwargs))
    shape = tuple(result.shape)
    mask = given[0].mask
    for other in given[1:]:
        mask = mask & other.mask
    if tuple(mask.shape) != shape:
        mask = mask.expand(shape)
    return MaskedTensor(result, mask)


def _in_place(op: Overload, args: tuple[Any, ...], kwargs: dict[str, Any], given: list[Any]) -> Any:
    target = args[0]
    if not isinstance(target, MaskedTensor):
        raise ArgumentTypeError(
            f"{op.qualname}: the target is a plain tensor and an argument is a MaskedTensor; "
            "expected a masked target, which can hold the result. Use the form without underscore."
        )
    op(*_values(args), **_values(kwargs))
    for other in given[1:]:
        target.mask.logical_and_(other.mask)
    return target


def _view(op: Overload, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """The same view of values and mask; of a plain argument all counts."""

    def mask_of(item: Any) -> Any:
        if isinstance(item, MaskedTensor):
            return item.mask
        return aten.ones_like.default(item, dtype=bool_)

    values = op(*_values(args), **_values(kwargs))
    masks = op(*map_tensors(mask_of, args), **map_tensors(mask_of, kwargs))
    if isinstance(values, tuple | list):
        return tuple(MaskedTensor(v, m) for v, m in zip(values, masks, strict=True))
    return MaskedTensor(values, masks)


def _reduce(op: Overload, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Without the values that do not count; where none does, neither does the result."""
    source: MaskedTensor = args[0]
    filled = source.values.masked_fill(~source.mask, _neutral(source, _REDUCTIONS[op.qualname]))
    result = op(filled, *args[1:], **kwargs)
    if len(args) == 1:
        return MaskedTensor(result, aten.any.default(source.mask))
    dims = args[1] or tuple(range(source.ndim))
    return MaskedTensor(result, aten.any.dims(source.mask, dims, args[2]))


def _neutral(source: MaskedTensor, what: str) -> Any:
    if what == "zero":
        return 0
    if source.dtype.is_floating:
        return -float("inf") if what == "lowest" else float("inf")
    if source.dtype is bool_:
        return what == "highest"
    limits = iinfo(source.dtype)
    return limits.min if what == "lowest" else limits.max
