"""Reductions: sums, extrema, logic, moments, and the running sum.

Owns the rules of dimensions that reductions share: None or an empty list means all of them, and
results are contiguous. Knows nothing of backends.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from plait.base.errors import DtypeMismatch, check
from plait.dispatch.tags import Tag
from plait.ops import aten
from plait.ops.arrays import convertible
from plait.ops.checks import require_floating
from plait.ops.define import Array, Rule, check_dtype, define
from plait.ops.elementwise import COMPLEX, REAL
from plait.tensor import dtype as dt
from plait.tensor.dtype import DType, get_default_dtype
from plait.tensor.layout import IntLike, Shape, TensorMeta, wrap_dim, wrap_dims

if TYPE_CHECKING:
    from plait.tensor.tensor import Tensor

__all__ = [
    "count_of",
    "numpy_axes",
    "reduced_dims",
    "reduced_shape",
    "restore",
]

_HALF = (dt.float16, dt.bfloat16)
# From this many terms on, a float32 sum whose terms NumPy takes one by one is made in float64.
_LONG_SUM = 4096

# ---------------------------------------------------------------- dimensions


def reduced_dims(operator: str, ndim: int, dim: Sequence[int] | None) -> tuple[int, ...]:
    """The dimensions that ``dim`` names, wrapped; all of them for None or an empty list.

    Raises IndexOutOfRange, and ShapeMismatch for a dimension named twice.
    """
    if not dim:
        return tuple(range(ndim))
    return wrap_dims(dim, ndim, operator)


def reduced_shape(shape: Shape, dims: Sequence[int], keepdim: bool) -> Shape:
    """``shape`` without ``dims``, or with size 1 in their place."""
    if keepdim:
        return tuple([1 if i in dims else size for i, size in enumerate(shape)])
    return tuple([size for i, size in enumerate(shape) if i not in dims])


def count_of(shape: Shape, dims: Sequence[int]) -> IntLike:
    """How many elements are reduced into one; a 0-d tensor has one."""
    count: IntLike = 1
    for dim in dims:
        if dim < len(shape):
            count = count * shape[dim]
    return count


def restore(reduced: Tensor, shape: Shape, dim: Sequence[int] | None, keepdim: bool) -> Tensor:
    """``reduced`` with the dimensions ``dim`` of ``shape`` back, at size 1."""
    if keepdim or not dim or len(dim) == len(shape):
        return reduced
    for i in sorted(wrap_dims(dim, len(shape))):
        if shape:
            reduced = aten.unsqueeze.default(reduced, i)
    return reduced


def _spread(g: Tensor, shape: Shape, dim: Sequence[int] | None, keepdim: bool) -> Any:
    """The cotangent of a sum as that of its terms."""
    return aten.expand.default(restore(g, shape, dim, keepdim), shape)


def _shape_rule(name: str, result: Rule) -> Rule:
    """The shape rule of a reduction over ``dim``; ``result(self, dtype)`` gives the dtype."""

    def shape(
        self: Any, dim: Any = None, keepdim: bool = False, *, dtype: DType | None = None
    ) -> TensorMeta:
        dims = reduced_dims(name, len(self.shape), dim)
        shape = reduced_shape(tuple(self.shape), dims, keepdim)
        return TensorMeta(shape, result(self, dtype), self.device)

    return shape


def _full(rule: Rule) -> Rule:
    """The shape rule of the overload that reduces everything."""

    def shape(self: Any, *, dtype: DType | None = None) -> TensorMeta:
        meta: TensorMeta = rule(self, None, False, dtype=dtype)
        return meta

    return shape


def numpy_axes(array: Array, dim: Sequence[int] | int | None) -> tuple[int, ...]:
    """The axes for NumPy, which refuses any for a 0-d array."""
    if isinstance(dim, int):
        dim = (dim,)
    if not dim or not array.ndim:
        return tuple(range(array.ndim))
    return tuple(dim)


# ---------------------------------------------------------------- sum, mean, prod


def _sum_dtype(self: Any, dtype: DType | None) -> DType:
    """Integers and booleans are summed in int64."""
    if dtype is not None:
        return dtype
    return self.dtype if self.dtype.category > 1 else dt.int64


def _mean_dtype(self: Any, dtype: DType | None) -> DType:
    """A mean is floating; integers need an explicit ``dtype``."""
    result: DType = self.dtype if dtype is None else dtype
    check(
        result.category > 1,
        DtypeMismatch,
        lambda: (
            f"mean: argument {'self' if dtype is None else 'dtype'!r} must be floating or complex; "
            f"got {result} (could not infer output dtype). Give dtype=plait.float32."
        ),
    )
    return result


def _accumulator(array: Array, axes: tuple[int, ...], result: DType) -> np.dtype[Any]:
    """The type a sum is made in."""
    if result in _HALF:
        return dt.float32.numpy
    if result is dt.float32 and array.size > _LONG_SUM and axes:
        one_by_one = axes[-1] != array.ndim - 1 or array.strides[-1] != array.itemsize
        if one_by_one and math.prod([array.shape[i] for i in axes]) > _LONG_SUM:
            return dt.float64.numpy
    return result.numpy


def _total(ufunc: np.ufunc, array: Array, dim: Any, keepdim: bool, result: DType) -> Any:
    array = convertible(array, result.numpy)
    axes = tuple(sorted(d % array.ndim for d in numpy_axes(array, dim))) if array.ndim else ()
    return ufunc.reduce(array, axis=axes, dtype=_accumulator(array, axes, result), keepdims=keepdim)


def _sum_kernel(
    self: Array, dim: Any = None, keepdim: bool = False, *, dtype: Any, meta: Any
) -> Any:
    return _total(np.add, self, dim, keepdim, meta.dtype)


def _prod_kernel(
    self: Array, dim: Any = None, keepdim: bool = False, *, dtype: Any, meta: Any
) -> Any:
    return _total(np.multiply, self, dim, keepdim, meta.dtype)


def _mean_kernel(
    self: Array, dim: Any = None, keepdim: bool = False, *, dtype: Any, meta: Any
) -> Any:
    total = np.asarray(_total(np.add, self, dim, keepdim, meta.dtype))
    return total / total.dtype.type(count_of(self.shape, numpy_axes(self, dim)))


def _mean_decomposition(
    self: Tensor, dim: Any = None, keepdim: bool = False, *, dtype: DType | None = None
) -> Any:
    result = _mean_dtype(self, dtype)
    wide = dt.float32 if result in _HALF else result
    count = count_of(self.shape, reduced_dims("mean", self.ndim, dim))
    mean = aten.sum.dim_IntList(self, dim, keepdim, dtype=wide) / count
    return mean if wide is result else aten._to_copy.default(mean, dtype=result)


def _mean_vjp(g: Tensor, dim: Any, keepdim: bool, shape_of_self: Shape) -> Any:
    count = count_of(shape_of_self, reduced_dims("mean", len(shape_of_self), dim))
    return _spread(g / count, shape_of_self, dim, keepdim)


def _prod_vjp(g: Tensor, self: Tensor, dim: Any, keepdim: bool) -> Any:
    """The product of the other factors, written so that a factor of zero does no harm.

    One zero among the others is a factor of its own, so that second derivatives hold; two of them
    leave nothing, up to the second derivative.
    """
    is_zero = aten.eq.Scalar(self, 0)
    nonzero = aten.masked_fill.Scalar(self, is_zero, 1)
    zeros = aten.masked_fill.Scalar(self, aten.logical_not.default(is_zero), 0)
    count = aten._to_copy.default(is_zero, dtype=dt.int64)
    others = aten.sum.dim_IntList(count, (dim,), True) - count
    other_zero = aten.sum.dim_IntList(zeros, (dim,), True) - zeros
    factor = aten.where.self(
        aten.eq.Scalar(others, 0),
        aten.ones_like.default(self),
        aten.masked_fill.Scalar(other_zero, aten.ne.Scalar(others, 1), 0),
    )
    rest = aten.prod.dim_int(nonzero, dim, True) / nonzero
    return restore(g, self.shape, (dim,), keepdim) * (rest * factor)


def _prod_all_vjp(g: Tensor, self: Tensor) -> Any:
    flat = aten.reshape.default(self, (self.numel(),))
    return aten.reshape.default(_prod_vjp(g, flat, 0, False), self.shape)


_sum_shape = _shape_rule("sum", _sum_dtype)
_mean_shape = _shape_rule("mean", _mean_dtype)
_prod_shape = _shape_rule("prod", _sum_dtype)


def _prod_dim_shape(self: Any, dim: int, keepdim: bool = False, *, dtype: Any = None) -> TensorMeta:
    meta: TensorMeta = _prod_shape(self, (dim,), keepdim, dtype=dtype)
    return meta


define(
    "aten::sum(Tensor self, *, ScalarType? dtype=None) -> Tensor",
    shape=_full(_sum_shape),
    kernel=_sum_kernel,
    vjp={"self": lambda g, shape_of_self: aten.expand.default(g, shape_of_self)},
    decomposition=lambda self, *, dtype=None: aten.sum.dim_IntList(self, None, False, dtype=dtype),
    tags=(Tag.REDUCTION,),
    kind="reduction",
)
define(
    "aten::sum.dim_IntList(Tensor self, int[1]? dim, bool keepdim=False, "
    "*, ScalarType? dtype=None) -> Tensor",
    shape=_sum_shape,
    kernel=_sum_kernel,
    vjp={"self": lambda g, dim, keepdim, shape_of_self: _spread(g, shape_of_self, dim, keepdim)},
    tags=(Tag.REDUCTION, Tag.CORE),
    kind="reduction",
    out="IntList_out",
)
define(
    "aten::mean(Tensor self, *, ScalarType? dtype=None) -> Tensor",
    shape=_full(_mean_shape),
    kernel=_mean_kernel,
    vjp={"self": lambda g, shape_of_self: _mean_vjp(g, None, False, shape_of_self)},
    decomposition=lambda self, *, dtype=None: aten.mean.dim(self, None, False, dtype=dtype),
    tags=(Tag.REDUCTION,),
    kind="reduction",
)
define(
    "aten::mean.dim(Tensor self, int[1]? dim, bool keepdim=False, "
    "*, ScalarType? dtype=None) -> Tensor",
    shape=_mean_shape,
    kernel=_mean_kernel,
    vjp={"self": _mean_vjp},
    decomposition=_mean_decomposition,
    tags=(Tag.REDUCTION, Tag.CORE),
    kind="reduction",
    out="out",
)
define(
    "aten::prod(Tensor self, *, ScalarType? dtype=None) -> Tensor",
    shape=_full(_prod_shape),
    kernel=_prod_kernel,
    vjp={"self": _prod_all_vjp},
    decomposition=lambda self, *, dtype=None: aten.prod.dim_int(
        aten.reshape.default(self, (self.numel(),)), 0, False, dtype=dtype
    ),
    tags=(Tag.REDUCTION,),
    kind="reduction",
    holomorphic=True,
)
define(
    "aten::prod.dim_int(Tensor self, int dim, bool keepdim=False, "
    "*, ScalarType? dtype=None) -> Tensor",
    shape=_prod_dim_shape,
    kernel=_prod_kernel,
    vjp={"self": _prod_vjp},
    tags=(Tag.REDUCTION, Tag.CORE),
    kind="reduction",
    holomorphic=True,
)

# ---------------------------------------------------------------- any, all


def _logic_dtype(self: Any, dtype: DType | None) -> DType:
    """Booleans; uint8 stays uint8, as in PyTorch."""
    return dt.uint8 if self.dtype is dt.uint8 else dt.bool_


def _define_logic(name: str, ufunc: np.ufunc) -> None:
    rule = _shape_rule(name, _logic_dtype)

    def several(self: Any, dim: Any = None, keepdim: bool = False) -> TensorMeta:
        if dim is not None and not dim:  # an empty list reduces nothing here
            return TensorMeta(tuple(self.shape), _logic_dtype(self, None), self.device)
        meta: TensorMeta = rule(self, dim, keepdim)
        return meta

    def kernel(self: Array, dim: Any = None, keepdim: bool = False) -> Any:
        truth = self if self.dtype == np.bool_ else self != 0
        if dim == ():
            return truth.copy()
        return ufunc.reduce(truth, axis=numpy_axes(self, dim), keepdims=keepdim)

    def dims_of(self: Tensor, *dim: Any) -> Any:
        return getattr(aten, name).dims(self, *dim)

    define(
        f"aten::{name}(Tensor self) -> Tensor",
        shape=several,
        kernel=kernel,
        vjp={},
        decomposition=dims_of,
        tags=(Tag.REDUCTION,),
        kind="reduction",
    )
    define(
        f"aten::{name}.dim(Tensor self, int dim, bool keepdim=False) -> Tensor",
        shape=lambda self, dim, keepdim=False: several(self, (dim,), keepdim),
        kernel=kernel,
        vjp={},
        decomposition=lambda self, dim, keepdim=False: dims_of(self, (dim,), keepdim),
        tags=(Tag.REDUCTION,),
        kind="reduction",
    )
    define(
        f"aten::{name}.dims(Tensor self, int[]? dim=None, bool keepdim=False) -> Tensor",
        shape=several,
        kernel=kernel,
        vjp={},
        tags=(Tag.REDUCTION, Tag.CORE),
        kind="reduction",
    )


_define_logic("any", np.logical_or)
_define_logic("all", np.logical_and)

# ---------------------------------------------------------------- variance


def _var_shape(
    self: Any, dim: Any = None, *, correction: Any = None, keepdim: bool = False
) -> TensorMeta:
    if not self.dtype.is_complex:
        require_floating("var", "self", self)
    dims = reduced_dims("var", len(self.shape), dim)
    shape = reduced_shape(tuple(self.shape), dims, keepdim)
    return TensorMeta(shape, dt.to_real(self.dtype), self.device)


def _degrees(count: IntLike, correction: Any) -> Any:
    """What the sum of squares is divided by: never negative."""
    subtracted = 1 if correction is None else correction
    if isinstance(subtracted, float) and subtracted.is_integer():
        subtracted = int(subtracted)
    rest = (count if isinstance(subtracted, int) else int(count)) - subtracted
    return rest if rest > 0 else 0


def _var_kernel(
    self: Array, dim: Any = None, *, correction: Any = None, keepdim: bool = False
) -> Any:
    axes = numpy_axes(self, dim)
    count = count_of(self.shape, axes)
    wide = self.astype(np.complex128 if self.dtype.kind == "c" else np.float64)
    mean = np.add.reduce(wide, axis=axes, keepdims=True) / np.float64(count)
    wide -= mean
    squares = np.square(np.abs(wide)) if self.dtype.kind == "c" else np.square(wide, out=wide)
    total: Any = np.sum(squares, axis=axes, keepdims=keepdim)
    return np.true_divide(total, np.float64(_degrees(count, correction)))


def _var_decomposition(
    self: Tensor, dim: Any = None, *, correction: Any = None, keepdim: bool = False
) -> Any:
    count = count_of(self.shape, reduced_dims("var", self.ndim, dim))
    centered = self - aten.mean.dim(self, dim, True)
    if self.dtype.is_complex:
        centered = aten.abs.default(centered)
    total = aten.sum.dim_IntList(centered * centered, dim, keepdim)
    return total / _degrees(count, correction)


def _var_vjp(g: Tensor, self: Tensor, dim: Any, correction: Any, keepdim: bool) -> Any:
    count = count_of(self.shape, reduced_dims("var", self.ndim, dim))
    centered = self - aten.mean.dim(self, dim, True)
    scale = aten.full_like.default(g, 2.0) / _degrees(count, correction)
    return restore(g * scale, self.shape, dim, keepdim) * centered


define(
    "aten::var.correction(Tensor self, int[1]? dim=None, *, Scalar? correction=None, "
    "bool keepdim=False) -> Tensor",
    shape=_var_shape,
    kernel=_var_kernel,
    vjp={"self": _var_vjp},
    decomposition=_var_decomposition,
    tags=(Tag.REDUCTION, Tag.CORE),
    kind="reduction",
)

# ---------------------------------------------------------------- logsumexp, cumsum


def _logsumexp_dtype(self: Any, dtype: DType | None) -> DType:
    return self.dtype if self.dtype.category > 1 else get_default_dtype()


def _logsumexp_kernel(self: Array, dim: Any, keepdim: bool = False, *, meta: Any) -> Any:
    wide = self.astype(np.float32 if meta.dtype in _HALF else meta.dtype.numpy, copy=False)
    axes = numpy_axes(self, dim)
    peak = np.maximum.reduce(wide.real, axis=axes, keepdims=True, initial=-np.inf)
    peak = np.where(np.isinf(peak), peak.dtype.type(0), peak)
    total = np.log(np.add.reduce(np.exp(wide - peak), axis=axes, keepdims=True)) + peak
    return total.reshape(meta.shape)


def _logsumexp_decomposition(self: Tensor, dim: Any, keepdim: bool = False) -> Any:
    dtype = _logsumexp_dtype(self, None)
    x = self if self.dtype is dtype else aten._to_copy.default(self, dtype=dtype)
    shape, dims = x.shape, reduced_dims("logsumexp", x.ndim, dim)
    if count_of(shape, dims) == 0:
        lowest = float("-inf")
        return aten.full.default(reduced_shape(shape, dims, keepdim), lowest, dtype=dtype)
    peak = aten.amax.default(aten.real.default(x), dims, True)
    peak = aten.masked_fill.Scalar(peak, aten.isinf.default(peak), 0)
    total = aten.log.default(aten.sum.dim_IntList(aten.exp.default(x - peak), dims, True)) + peak
    return total if keepdim else aten.view.default(total, reduced_shape(shape, dims, False))


define(
    "aten::logsumexp(Tensor self, int[1] dim, bool keepdim=False) -> Tensor",
    shape=_shape_rule("logsumexp", _logsumexp_dtype),
    kernel=_logsumexp_kernel,
    vjp={
        "self": lambda g, self, out, dim, keepdim: (
            restore(g, self.shape, dim, keepdim)
            * aten.exp.default(self - restore(out, self.shape, dim, keepdim))
        )
    },
    decomposition=_logsumexp_decomposition,
    tags=(Tag.REDUCTION,),
    kind="reduction",
    holomorphic=True,
)


def _cumsum_shape(self: Any, dim: int, *, dtype: DType | None = None) -> TensorMeta:
    wrap_dim(dim, len(self.shape), "cumsum")
    result = _sum_dtype(self, dtype)
    check_dtype("cumsum", result, REAL | COMPLEX)
    return TensorMeta(tuple(self.shape), result, self.device)


def _cumsum_kernel(self: Array, dim: int, *, dtype: Any, meta: Any) -> Any:
    self = convertible(self, meta.dtype.numpy)
    if not self.ndim:
        return self.copy()
    wide = {dt.float32: np.float64, dt.float16: np.float32, dt.bfloat16: np.float32}
    return np.cumsum(self, axis=dim, dtype=wide.get(meta.dtype, meta.dtype.numpy))


def _cumsum_vjp(g: Tensor, dim: int) -> Any:
    """The running sum from the other end."""
    turned = aten.cumsum.default(aten.flip.default(g, (dim,)), dim)
    return aten.flip.default(turned, (dim,))


define(
    "aten::cumsum(Tensor self, int dim, *, ScalarType? dtype=None) -> Tensor",
    shape=_cumsum_shape,
    kernel=_cumsum_kernel,
    vjp={"self": _cumsum_vjp},
    tags=(Tag.CORE,),
    kind="scan",
)
