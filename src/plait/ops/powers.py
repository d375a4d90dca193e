"""Powers of tensors and numbers.

Small exponents are multiplications; integers wrap around, and do not take negative exponents that
are numbers.
"""

from __future__ import annotations

import cmath
import math
from typing import Any

import numpy as np

from plait.base.errors import DtypeMismatch, check
from plait.dispatch.tags import Tag
from plait.ops import aten
from plait.ops.arrays import check_number
from plait.ops.define import Array
from plait.ops.elementwise import FLOATS, elementwise, zero_grad
from plait.tensor.promotion import result_type

__all__: list[str] = []


def _check_power(base: Any, exponent: Any) -> None:
    dtype = result_type(base, exponent)
    check(
        not (dtype.is_bool and hasattr(exponent, "shape")),
        DtypeMismatch,
        lambda: "pow: not implemented for bool tensors; convert them to an integer dtype.",
    )
    if dtype.is_integral:
        check_number("pow", "exponent", exponent, dtype)
    negative = dtype.is_integral and not hasattr(exponent, "shape") and exponent < 0
    check(
        not negative,
        DtypeMismatch,
        lambda: (
            f"pow: integers to negative integer powers are not allowed; got exponent {exponent};"
            " convert the tensor to a floating dtype."
        ),
    )


def numpy_power(base: Array, exponent: Any) -> Any:
    """``base ** exponent``; small exponents by multiplication, integers wrap around."""
    if base.dtype.kind == "b":
        return np.logical_or(base, np.logical_not(exponent))
    if not np.ndim(exponent) and np.ndim(base):
        simple = _SIMPLE_POWERS.get(np.asarray(exponent, object).item())
        if simple is not None:
            return simple(base)
    if base.dtype.kind in "iu":
        return _integer_power(base, np.asarray(exponent))
    return np.power(base, exponent)


def _integer_power(base: Array, exponent: Array) -> Array:
    """Negative exponents give 1 / base ** -exponent rounded to zero, for 1 and -1 exactly."""
    negative = exponent < 0
    if not negative.any():
        return np.power(base, exponent)
    power = np.power(base, np.where(negative, -exponent, exponent))
    return np.where(negative, np.where(np.abs(base) == 1, power, 0), power).astype(base.dtype)


_SIMPLE_POWERS: dict[complex, Any] = {
    0.5: lambda x: np.sqrt(x) if x.dtype.kind == "f" else np.power(x, 0.5),
    1.0: np.positive,
    2.0: np.square,
    3.0: lambda x: x * x * x,
}


def _power_vjp(g: Any, self: Any, exponent: Any) -> Any:
    if exponent == 0:
        return zero_grad(g)
    return g * (exponent * pow_scalar(self, exponent - 1))


def _power_base_vjp(g: Any, self: Any, exponent: Any) -> Any:
    slope = g * (exponent * pow(self, exponent - 1))
    return aten.masked_fill.Scalar(slope, exponent == 0, 0)


def _power_exponent_vjp(g: Any, self: Any, exponent: Any, out: Any) -> Any:
    is_flat = aten.logical_and.default(self == 0, aten.real.default(exponent) >= 0)
    return aten.masked_fill.Scalar(g * (out * aten.log.default(self)), is_flat, 0)


def _power_of_number_vjp(g: Any, self: Any, exponent: Any, out: Any) -> Any:
    if self == 0:
        is_flat = aten.real.default(exponent) >= 0
        return aten.masked_fill.Scalar(g * (out * -math.inf), is_flat, 0)
    if out.dtype.is_complex:
        return g * (out * cmath.log(self))
    return g * (out * (math.log(self) if self > 0 else math.nan))


pow_scalar = elementwise(
    "aten::pow.Tensor_Scalar(Tensor self, Scalar exponent) -> Tensor",
    numpy_power,
    checks=_check_power,
    fast=FLOATS,
    inplace="Scalar",
    tags=(Tag.CORE,),
    vjp={"self": _power_vjp},
)
pow = elementwise(
    "aten::pow.Tensor_Tensor(Tensor self, Tensor exponent) -> Tensor",
    numpy_power,
    checks=_check_power,
    fast=FLOATS,
    inplace="Tensor",
    tags=(Tag.CORE,),
    vjp={"self": _power_base_vjp, "exponent": _power_exponent_vjp},
)
pow_of_scalar = elementwise(
    "aten::pow.Scalar(Scalar self, Tensor exponent) -> Tensor",
    numpy_power,
    checks=_check_power,
    memory_order="contiguous",
    vjp={"exponent": _power_of_number_vjp},
)
