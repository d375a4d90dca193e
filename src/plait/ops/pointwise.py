"""Pointwise operators: arithmetic, comparison, logic, elementary functions and activations.

Each stands with its NumPy kernel, type rule and derivative. Derivatives ignore broadcasting: the
tape sums a gradient to the shape of its argument. Copies and selections are in ``selection``.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from plait.base.errors import DtypeMismatch, check
from plait.dispatch.operator import Overload
from plait.dispatch.tags import Tag
from plait.ops import aten
from plait.ops.arrays import check_number
from plait.ops.checks import require_same_dtype
from plait.ops.define import Array, check_dtype
from plait.ops.elementwise import (
    ANY,
    FLOATS,
    NUMBERS,
    ORDERED,
    REAL,
    Scaled,
    boolean,
    elementwise,
    floating,
    no_bool,
    same,
    zero_grad,
)
from plait.ops.special import erf as numpy_erf
from plait.tensor import dtype as dtypes
from plait.tensor.promotion import result_type, scalar_dtype

_REAL = (dtypes.float16, dtypes.bfloat16, dtypes.float32, dtypes.float64)
_INEXACT = (*_REAL, dtypes.complex64, dtypes.complex128)
_NOT_BOOL = frozenset(dtypes.ALL_DTYPES) - {dtypes.bool_}
_SCALAR_FAST = FLOATS | {dtypes.int64}


def _is_bool(operand: Any) -> bool:
    return isinstance(operand, bool) or getattr(operand, "dtype", None) is dtypes.bool_


# ---------------------------------------------------------------- arithmetic


def _check_alpha(self: Any, other: Any, alpha: Any = 1) -> None:
    """Alpha may not be of a greater category than the result, nor bool if that is not."""
    if alpha.__class__ is int and alpha == 1:
        return
    dtype = result_type(self, other)
    check(
        scalar_dtype(alpha).category <= max(dtype.category, 1)
        and not (isinstance(alpha, bool) and not dtype.is_bool),
        DtypeMismatch,
        lambda: f"add: argument 'alpha' must be a number that fits {dtype} tensors; got {alpha!r}.",
    )
    check_number("add", "alpha", alpha, dtype)


def _check_subtraction(self: Any, other: Any, alpha: Any = 1) -> None:
    check(
        not (_is_bool(self) or _is_bool(other)),
        DtypeMismatch,
        lambda: "sub: subtraction with a bool tensor is not supported; use `^` or logical_not().",
    )
    _check_alpha(self, other, alpha)


def _scaled(g: Any, factor: Any) -> Any:
    return g if factor == 1 else g * factor


add = elementwise(
    "aten::add.Tensor(Tensor self, Tensor other, *, Scalar alpha=1) -> Tensor",
    Scaled(np.add),
    fast=ANY,
    checks=_check_alpha,
    out="out",
    tags=(Tag.CORE,),
    vjp={"self": lambda g: g, "other": lambda g, alpha: _scaled(g, alpha)},
)
add_scalar = elementwise(
    "aten::add.Scalar(Tensor self, Scalar other, Scalar alpha=1) -> Tensor",
    Scaled(np.add),
    fast=NUMBERS,
    checks=_check_alpha,
    tags=(Tag.CORE,),
    vjp={"self": lambda g: g},
)
sub = elementwise(
    "aten::sub.Tensor(Tensor self, Tensor other, *, Scalar alpha=1) -> Tensor",
    Scaled(np.subtract),
    fast=NUMBERS,
    checks=_check_subtraction,
    out="out",
    tags=(Tag.CORE,),
    vjp={"self": lambda g: g, "other": lambda g, alpha: g * -alpha},
)
sub_scalar = elementwise(
    "aten::sub.Scalar(Tensor self, Scalar other, Scalar alpha=1) -> Tensor",
    Scaled(np.subtract),
    fast=NUMBERS,
    checks=_check_subtraction,
    tags=(Tag.CORE,),
    vjp={"self": lambda g: g},
)


def _rsub_parts(self: Any, other: Any, alpha: Any) -> Any:
    wide = aten._to_copy.default(self, dtype=result_type(self, other))
    return add_scalar(wide * -alpha, other)


rsub_scalar = elementwise(
    "aten::rsub.Scalar(Tensor self, Scalar other, Scalar alpha=1) -> Tensor",
    lambda a, b, alpha: np.subtract(b, a if alpha == 1 else a * np.asarray(alpha).astype(a.dtype)),
    checks=_check_subtraction,
    inplace=False,
    vjp={"self": lambda g, alpha: g * -alpha},
    decomposition=_rsub_parts,
)
mul = elementwise(
    "aten::mul.Tensor(Tensor self, Tensor other) -> Tensor",
    np.multiply,
    fast=ANY,
    out="out",
    tags=(Tag.CORE,),
    vjp={"self": lambda g, other: g * other, "other": lambda g, self: g * self},
)
mul_scalar = elementwise(
    "aten::mul.Scalar(Tensor self, Scalar other) -> Tensor",
    np.multiply,
    fast=NUMBERS,
    tags=(Tag.CORE,),
    vjp={"self": lambda g, other: g * other},
)
div = elementwise(
    "aten::div.Tensor(Tensor self, Tensor other) -> Tensor",
    np.true_divide,
    floating,
    fast=FLOATS,
    out="out",
    tags=(Tag.CORE,),
    vjp={
        "self": lambda g, other: g / other,
        "other": lambda g, self, other: -g * ((self / other) / other),
    },
)
div_scalar = elementwise(
    "aten::div.Scalar(Tensor self, Scalar other) -> Tensor",
    np.true_divide,
    floating,
    fast=FLOATS,
    tags=(Tag.CORE,),
    vjp={"self": lambda g, other: g / other},
)


def _check_fused(name: str, value: Any, *operands: Any) -> None:
    dtype = result_type(*operands)
    divided = result_type(*operands[1:])
    check(
        not dtype.is_bool and not (name == "addcdiv" and divided.category < 2),
        DtypeMismatch,
        lambda: (
            f"{name}: not supported for tensors of {divided if dtype.category > 1 else dtype}; "
            "convert them to a floating dtype."
        ),
    )
    check_number(name, "value", value, dtype)


addcmul = elementwise(
    "aten::addcmul(Tensor self, Tensor tensor1, Tensor tensor2, *, Scalar value=1) -> Tensor",
    lambda a, b, c, value: a + np.asarray(value).astype(a.dtype) * b * c,
    checks=lambda self, b, c, value: _check_fused("addcmul", value, self, b, c),
    vjp={
        "self": lambda g: g,
        "tensor1": lambda g, tensor2, value: g * _scaled(tensor2, value),
        "tensor2": lambda g, tensor1, value: g * _scaled(tensor1, value),
    },
    decomposition=lambda self, tensor1, tensor2, *, value: self + _scaled(tensor1 * tensor2, value),
)
addcdiv = elementwise(
    "aten::addcdiv(Tensor self, Tensor tensor1, Tensor tensor2, *, Scalar value=1) -> Tensor",
    lambda a, b, c, value: a + np.asarray(value).astype(a.dtype) * b / c,
    checks=lambda self, b, c, value: _check_fused("addcdiv", value, self, b, c),
    vjp={
        "self": lambda g: g,
        "tensor1": lambda g, tensor2, value: _scaled(g, value) / tensor2,
        "tensor2": lambda g, tensor1, tensor2, value: (
            _scaled(-g, value) * ((tensor1 / tensor2) / tensor2)
        ),
    },
    decomposition=lambda self, tensor1, tensor2, *, value: self + _scaled(tensor1, value) / tensor2,
)


def _check_lerp(self: Any, end: Any, weight: Any) -> None:
    check_dtype("lerp", self.dtype, _INEXACT)
    operands = [("self", self), ("end", end)]
    require_same_dtype("lerp", operands + [("weight", weight)] * hasattr(weight, "dtype"))
    check_number("lerp", "weight", weight, self.dtype)


def _lerp(a: Array, b: Array, weight: Array) -> Any:
    # From the nearer end, so that weights 0 and 1 give the ends exactly.
    return np.where(np.abs(weight) < 0.5, a + weight * (b - a), b - (b - a) * (1 - weight))


def _lerp_parts(self: Any, end: Any, weight: Any) -> Any:
    return self + (end - self) * weight


lerp_scalar = elementwise(
    "aten::lerp.Scalar(Tensor self, Tensor end, Scalar weight) -> Tensor",
    _lerp,
    checks=_check_lerp,
    vjp={"self": lambda g, weight: g * (1 - weight), "end": lambda g, weight: g * weight},
    decomposition=_lerp_parts,
)
lerp = elementwise(
    "aten::lerp.Tensor(Tensor self, Tensor end, Tensor weight) -> Tensor",
    _lerp,
    checks=_check_lerp,
    vjp={
        "self": lambda g, weight: g * (1 - weight),
        "end": lambda g, weight: g * weight,
        "weight": lambda g, self, end: g * (end - self),
    },
    decomposition=_lerp_parts,
)

# ---------------------------------------------------------------- sign and size


def _unary(name: str, fn: Any, types: Any = same, **rules: Any) -> Any:
    return elementwise(f"aten::{name}(Tensor self) -> Tensor", fn, types, **rules)


def _sign(x: Array) -> Any:
    """-1, 0 or 1; NaN gives 0, as in PyTorch."""
    return x if x.dtype == np.bool_ else np.subtract(x > 0, x < 0, dtype=x.dtype)


neg = _unary(
    "neg",
    np.negative,
    no_bool(same, "To invert a mask use `~` or logical_not()."),
    fast=NUMBERS,
    tags=(Tag.CORE,),
    vjp={"self": lambda g: -g},
)
abs = _unary(
    "abs",
    np.abs,
    lambda name, x: (x.dtype, dtypes.to_real(x.dtype)),
    checks=lambda self: check_dtype("abs", self.dtype, _NOT_BOOL),
    fast=NUMBERS,
    tags=(Tag.CORE,),
    vjp={"self": lambda g, self: g * (aten.sgn.default if self.dtype.is_complex else sign)(self)},
)


def _stepped(name: str, fn: Any, takes: frozenset[dtypes.DType] = REAL) -> Any:
    """A function that is constant but for steps."""
    rules: dict[str, Any] = {"vjp": {"self": zero_grad}, "tags": (Tag.CORE,)}
    return _unary(name, fn, takes=takes, fast=FLOATS, **rules)


sign: Overload = _stepped("sign", _sign, ORDERED)
floor = _stepped("floor", np.floor)
ceil = _stepped("ceil", np.ceil)
trunc = _stepped("trunc", np.trunc)
round = _stepped("round", np.rint)
square = _unary(
    "square",
    np.square,
    lambda name, x: same(name, x, 2),
    fast=NUMBERS,
    vjp={"self": lambda g, self: g * (self * 2)},
    decomposition=lambda self: self * (self * 1 if self.dtype.is_bool else self),
)

# ---------------------------------------------------------------- elementary functions


def _elementary(name: str, fn: Any, rule: Any, *, core: bool = True, **rules: Any) -> Any:
    """A function of real numbers: integers become the default floating type first."""
    tags = (Tag.CORE,) if core else ()
    return _unary(name, fn, floating, fast=FLOATS, vjp={"self": rule}, tags=tags, **rules)


def _sigmoid(x: Array) -> Array:
    return 1 / (1 + np.exp(-x))


def _rsqrt(x: Array) -> Array:
    return 1 / np.sqrt(x)


def _erf_slope(x: Any) -> Any:
    return exp(-(x * x)) * _TWO_OVER_ROOT_PI


_TWO_OVER_ROOT_PI = 2 / math.sqrt(math.pi)

# fmt: off
exp        = _elementary("exp", np.exp, lambda g, out: g * out)
expm1      = _elementary("expm1", np.expm1, lambda g, out: g * (out + 1))
log        = _elementary("log", np.log, lambda g, self: g / self)
log1p      = _elementary("log1p", np.log1p, lambda g, self: g / (self + 1))
sqrt       = _elementary("sqrt", np.sqrt, lambda g, out: g / (2 * out))
rsqrt      = _elementary("rsqrt", _rsqrt, lambda g, out: g * (-0.5 * (out * out * out)))
reciprocal = _elementary("reciprocal", lambda x: 1 / x, lambda g, out: -g * (out * out))
erf        = _elementary("erf", numpy_erf, lambda g, self: g * _erf_slope(self), takes=ORDERED)
sin        = _elementary("sin", np.sin, lambda g, self: g * cos(self))
cos: Overload = _elementary("cos", np.cos, lambda g, self: g * -sin(self))
tanh       = _elementary("tanh", np.tanh, lambda g, out: g * (1 - out * out))
sigmoid    = _elementary("sigmoid", _sigmoid, lambda g, out: g * ((1 - out) * out))
# fmt: on

# ---------------------------------------------------------------- comparison and logic


def _compare(
    name: str, ufunc: np.ufunc, takes: frozenset[dtypes.DType] | None = ORDERED
) -> tuple[Any, Any]:
    """The overloads for two tensors and for a tensor and a number."""
    rules: dict[str, Any] = {"types": boolean, "tags": (Tag.CORE,), "takes": takes}
    return (
        elementwise(
            f"aten::{name}.Tensor(Tensor self, Tensor other) -> Tensor", ufunc, fast=ANY, **rules
        ),
        elementwise(
            f"aten::{name}.Scalar(Tensor self, Scalar other) -> Tensor",
            ufunc,
            fast=_SCALAR_FAST,
            **rules,
        ),
    )


eq, eq_scalar = _compare("eq", np.equal, None)
ne, ne_scalar = _compare("ne", np.not_equal, None)
lt, lt_scalar = _compare("lt", np.less)
le, le_scalar = _compare("le", np.less_equal)
gt, gt_scalar = _compare("gt", np.greater)
ge, ge_scalar = _compare("ge", np.greater_equal)


def _classify(name: str, ufunc: np.ufunc) -> Any:
    return _unary(name, ufunc, boolean, fast=ANY, tags=(Tag.CORE,), inplace=False, out=False)


isnan = _classify("isnan", np.isnan)
isinf = _classify("isinf", np.isinf)
isfinite = _classify("isfinite", np.isfinite)

logical_not = _unary("logical_not", np.logical_not, boolean, fast=ANY, tags=(Tag.CORE,))


def _logical(name: str, ufunc: np.ufunc) -> Any:
    schema = f"aten::{name}(Tensor self, Tensor other) -> Tensor"
    return elementwise(schema, ufunc, boolean, fast=ANY, tags=(Tag.CORE,))


logical_and = _logical("logical_and", np.logical_and)
logical_or = _logical("logical_or", np.logical_or)
logical_xor = _logical("logical_xor", np.logical_xor)


def _check_bits(name: str) -> Any:
    whole = [d for d in dtypes.ALL_DTYPES if d.category < 2]

    def checked(*operands: Any) -> None:
        common = result_type(*operands)
        check_dtype(name, common, whole)

    return checked


def _bitwise(name: str, ufunc: np.ufunc) -> tuple[Any, Any]:
    rules: dict[str, Any] = {"checks": _check_bits(name), "tags": (Tag.CORE,)}
    return (
        elementwise(
            f"aten::{name}.Tensor(Tensor self, Tensor other) -> Tensor",
            ufunc,
            fast=ANY - FLOATS,
            **rules,
        ),
        elementwise(f"aten::{name}.Scalar(Tensor self, Scalar other) -> Tensor", ufunc, **rules),
    )


bitwise_and, bitwise_and_scalar = _bitwise("bitwise_and", np.bitwise_and)
bitwise_or, bitwise_or_scalar = _bitwise("bitwise_or", np.bitwise_or)
bitwise_xor, bitwise_xor_scalar = _bitwise("bitwise_xor", np.bitwise_xor)
bitwise_not = _unary(
    "bitwise_not",
    np.invert,
    checks=_check_bits("bitwise_not"),
    fast=ANY - FLOATS,
    tags=(Tag.CORE,),
)

# ---------------------------------------------------------------- extremes


def _extreme_vjp(is_less: Any) -> dict[str, Any]:
    """Each operand gets the gradient where it was taken, and half of it where both are equal."""

    def rule(g: Any, one: Any, other: Any) -> Any:
        shared = aten.where.self(one == other, g / 2, g)
        return aten.masked_fill.Scalar(shared, is_less(one, other), 0)

    return {
        "self": lambda g, self, other: rule(g, self, other),
        "other": lambda g, self, other: rule(g, other, self),
    }


maximum = elementwise(
    "aten::maximum(Tensor self, Tensor other) -> Tensor",
    np.maximum,
    fast=ANY,
    takes=ORDERED,
    inplace=False,
    tags=(Tag.CORE,),
    vjp=_extreme_vjp(lambda a, b: a < b),
)
minimum = elementwise(
    "aten::minimum(Tensor self, Tensor other) -> Tensor",
    np.minimum,
    fast=ANY,
    takes=ORDERED,
    inplace=False,
    tags=(Tag.CORE,),
    vjp=_extreme_vjp(lambda a, b: a > b),
)


def _clamp_types(name: str, *operands: Any) -> Any:
    return same(name, *[o for o in operands if o is not None])


def _check_clamp(self: Any, min: Any = None, max: Any = None) -> None:
    check(
        min is not None or max is not None,
        DtypeMismatch,
        lambda: "clamp: at least one of 'min' and 'max' must not be None.",
    )
    given = [o for o in (self, min, max) if o is not None]
    dtype = result_type(*given)
    check_dtype("clamp", dtype, REAL)
    for name, bound in (("min", min), ("max", max)):
        check_number("clamp", name, bound, dtype)


def _clamp(x: Array, low: Any, high: Any) -> Any:
    x = x if low is None else np.maximum(x, low)
    return x if high is None else np.minimum(x, high)


def _clamp_vjp(g: Any, self: Any, min: Any, max: Any) -> Any:
    # Not `self < min`: a NaN passes no gradient, as in PyTorch.
    if min is not None:
        g = aten.masked_fill.Scalar(g, logical_not(self >= min), 0)
    return g if max is None else aten.masked_fill.Scalar(g, logical_not(self <= max), 0)


clamp = elementwise(
    "aten::clamp(Tensor self, Scalar? min=None, Scalar? max=None) -> Tensor",
    _clamp,
    _clamp_types,
    checks=_check_clamp,
    tags=(Tag.CORE,),
    vjp={"self": _clamp_vjp},
)
clamp_min = elementwise(
    "aten::clamp_min(Tensor self, Scalar min) -> Tensor",
    np.maximum,
    checks=_check_clamp,
    fast=NUMBERS,
    vjp={"self": lambda g, self, min: _clamp_vjp(g, self, min, None)},
    decomposition=lambda self, min: clamp(self, min, None),
)
clamp_max = elementwise(
    "aten::clamp_max(Tensor self, Scalar max) -> Tensor",
    np.minimum,
    checks=lambda self, max: _check_clamp(self, None, max),
    fast=NUMBERS,
    vjp={"self": lambda g, self, max: _clamp_vjp(g, self, None, max)},
    decomposition=lambda self, max: clamp(self, None, max),
)

# ---------------------------------------------------------------- activations


def _threshold_backward(g: Array, x: Array, threshold: Any) -> Array:
    # A NaN in x lets g through, as in PyTorch.
    return np.where(x <= threshold, np.zeros((), g.dtype), g)


threshold_backward: Overload = elementwise(
    "aten::threshold_backward(Tensor grad_output, Tensor self, Scalar threshold) -> Tensor",
    _threshold_backward,
    takes=REAL,
    memory_order="reversed",
    inplace=False,
    out=False,
    vjp={
        "grad_output": lambda g, self, threshold: threshold_backward(g, self, threshold),
        "self": zero_grad,
    },
)
relu = _unary(
    "relu",
    lambda x: np.maximum(x, 0),
    no_bool(same, "Convert it to a number dtype."),
    takes=REAL,
    fast=NUMBERS,
    out=False,
    tags=(Tag.CORE,),
    vjp={"self": lambda g, out: threshold_backward(g, out, 0)},
)


def _silu_vjp(g: Any, self: Any) -> Any:
    s = sigmoid(self)
    return g * (s * (1 + self * (1 - s)))


silu = _unary(
    "silu",
    lambda x: x / (1 + np.exp(-x)),
    checks=lambda self: check_dtype("silu", self.dtype, _INEXACT),
    fast=FLOATS,
    vjp={"self": _silu_vjp},
    decomposition=lambda self: self * sigmoid(self),
)

_ROOT_HALF = math.sqrt(0.5)
_ROOT_TWO_OVER_PI = math.sqrt(2 / math.pi)
_GELU_CUBIC = 0.044715


def _check_gelu(self: Any, *, approximate: str = "none") -> None:
    check_dtype("gelu", self.dtype, _REAL)
    check(
        approximate in ("none", "tanh"),
        DtypeMismatch,
        lambda: f"gelu: argument 'approximate' must be 'none' or 'tanh'; got {approximate!r}.",
    )


def _gelu(x: Array, approximate: str) -> Any:
    if approximate == "none":
        return x * 0.5 * (1 + numpy_erf(x * x.dtype.type(_ROOT_HALF)))
    inner = x.dtype.type(_ROOT_TWO_OVER_PI) * (x + x.dtype.type(_GELU_CUBIC) * x * x * x)
    return x * 0.5 * (1 + np.tanh(inner))


def _gelu_parts(self: Any, *, approximate: str) -> Any:
    if approximate == "none":
        return self * 0.5 * (1 + erf(self * _ROOT_HALF))
    return self * 0.5 * (1 + tanh(_ROOT_TWO_OVER_PI * (self + _GELU_CUBIC * (self * self * self))))


def _gelu_vjp(g: Any, self: Any, approximate: Any) -> Any:
    if approximate == "none":
        below = 0.5 * (1 + erf(self * _ROOT_HALF))
        density = (_ROOT_TWO_OVER_PI / 2) * exp(self * self * -0.5)
        return g * (below + self * density)
    squared = self * self
    t = tanh(_ROOT_TWO_OVER_PI * (self + _GELU_CUBIC * (squared * self)))
    slope = _ROOT_TWO_OVER_PI * (1 + (3 * _GELU_CUBIC) * squared)
    return g * (0.5 * (1 + t) + 0.5 * self * ((1 - t * t) * slope))


gelu = elementwise(
    'aten::gelu(Tensor self, *, str approximate="none") -> Tensor',
    _gelu,
    checks=_check_gelu,
    vjp={"self": _gelu_vjp},
    decomposition=_gelu_parts,
)
