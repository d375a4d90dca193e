"""`QuantizedTensor`: a matrix of 8-bit integers with a scale for each row, for products.

A weight so kept takes about a quarter of the memory of float32. It takes part in products and is
handed around; anything else refuses, since it would need the full matrix, which ``dequantize``
makes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from plait.base.errors import DtypeMismatch, MissingKernel, ShapeMismatch, check
from plait.dispatch.operator import Overload
from plait.ops import aten
from plait.tensor.dtype import int8
from plait.tensor.tensor import Tensor
from plait.tensor.wrapper import WrapperTensor, correct_aliasing

__all__ = ["QuantizedTensor"]

_LARGEST = 127


class QuantizedTensor(WrapperTensor):
    """``values * scale``: int8 values (rows, columns), and a floating scale of (rows, 1).

    Its type is that of the scale. :meth:`quantize` makes one. A transposed one has a scale of
    (1, columns). Gradients flow through products to the other operand, never to it.

    >>> import plait
    >>> w = QuantizedTensor.quantize(plait.tensor([[0.5, -1.0], [2.0, 0.0]]))
    >>> plait.ones(1, 2) @ w.t()
    tensor([[-0.4961,  2.0000]])
    """

    values: Tensor
    scale: Tensor

    def __init__(self, values: Tensor, scale: Tensor) -> None:
        check(
            values.dtype is int8 and scale.dtype.is_floating,
            DtypeMismatch,
            lambda: (
                f"QuantizedTensor: got values of {values.dtype} and a scale of {scale.dtype}; "
                "expected int8 and a floating type."
            ),
        )
        check(
            values.ndim == 2 and tuple(scale.shape) in ((values.shape[0], 1), (1, values.shape[1])),
            ShapeMismatch,
            lambda: (
                f"QuantizedTensor: got values of shape {tuple(values.shape)} and a scale of "
                f"{tuple(scale.shape)}; expected a matrix and one scale for each row or column."
            ),
        )
        super().__init__(values.shape, dtype=scale.dtype, strides=values.strides)
        self.values, self.scale = values, scale

    @classmethod
    def quantize(cls, weight: Tensor) -> QuantizedTensor:
        """Round a floating matrix row by row to the nearest of 255 steps; not differentiable.

        The largest element of a row is met exactly, others to half a step: |row|max / 254.
        """
        check(
            weight.ndim == 2 and weight.dtype.is_floating,
            ShapeMismatch,
            lambda: (
                f"quantize: argument 'weight' is of shape {tuple(weight.shape)}, {weight.dtype}; "
                "expected a floating matrix."
            ),
        )
        weight = weight.detach()
        scale = weight.abs().amax(1, keepdim=True) / _LARGEST
        scale = scale + (scale == 0).to(scale.dtype)  # a row of zeros has any scale
        return cls((weight / scale).round().to(int8), scale)

    def dequantize(self) -> Tensor:
        """The matrix as plain floating numbers."""
        result: Tensor = self.values.to(self.dtype) * self.scale
        return result

    def to_dense(self) -> Tensor:
        return self.dequantize()

    def __plait_flatten__(self) -> tuple[Sequence[str], Any]:
        return ("values", "scale"), None

    @classmethod
    def __plait_unflatten__(
        cls, inner: dict[str, Tensor], context: Any, shape: Sequence[Any], strides: Sequence[Any]
    ) -> Tensor:
        return cls(inner["values"], inner["scale"])

    @classmethod
    def __plait_dispatch__(
        cls, op: Overload, types: tuple[type, ...], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        rule = _RULES.get(op.qualname)
        if rule is not None:
            return correct_aliasing(op, args, kwargs, rule(op, args, kwargs))
        raise MissingKernel(
            f"{op.qualname}: a QuantizedTensor takes part in products (mm, addmm, linear) and is "
            "transposed, copied and detached; got another operator. Call dequantize() first."
        )


def _mm(a: Any, b: Any) -> Any:
    """A product with one quantised operand; the scale goes where it is applied least."""
    if isinstance(a, QuantizedTensor):
        if isinstance(b, QuantizedTensor):
            b = b.dequantize()
        plain = a.values.to(b.dtype)
        if a.scale.shape[1] == 1:
            return (plain @ b) * a.scale
        return plain @ (a.scale.t() * b)
    plain = b.values.to(a.dtype)
    if b.scale.shape[0] == 1:
        return (a @ plain) * b.scale
    return (a * b.scale.t()) @ plain


def _product(op: Overload, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    return _mm(args[0], args[1])


def _addmm(op: Overload, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    addend, a, b = args
    if isinstance(addend, QuantizedTensor):
        raise MissingKernel(
            "aten::addmm: argument 'self' is a QuantizedTensor; expected a plain addend. Call "
            "dequantize() first."
        )
    product, beta, alpha = _mm(a, b), kwargs["beta"], kwargs["alpha"]
    product = product if alpha == 1 else product * alpha
    return product + (addend if beta == 1 else addend * beta)


def _each(op: Overload, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """An operator that moves elements: the same on values and scale."""
    q: QuantizedTensor = args[0]
    return QuantizedTensor(op(q.values, *args[1:], **kwargs), op(q.scale, *args[1:], **kwargs))


def _converted(op: Overload, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Another floating type: of the scale; the values stay integers."""
    q: QuantizedTensor = args[0]
    return QuantizedTensor(q.values, op(q.scale, **kwargs))


_RULES: dict[str, Callable[..., Any]] = {
    aten.mm.default.qualname: _product,
    aten.addmm.default.qualname: _addmm,
    aten.t.default.qualname: _each,
    aten.transpose.int.qualname: _each,
    aten.detach.default.qualname: _each,
    aten.alias.default.qualname: _each,
    aten.clone.default.qualname: _each,
    "aten::_to_copy": _converted,
}
