"""Extrema and their positions: amax, max, argmax and their opposites.

NaN counts as the greatest and the least: it is the extremum of whatever contains one, and the first
one is its position. Knows nothing of backends.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from plait.base.errors import IndexOutOfRange, ShapeMismatch, check
from plait.dispatch.tags import Tag
from plait.ops import aten
from plait.ops.checks import require_no_bool
from plait.ops.define import Array, Rule, check_dtype, define
from plait.ops.elementwise import ORDERED
from plait.ops.reduction import numpy_axes, reduced_dims, reduced_shape, restore
from plait.tensor import dtype as dt
from plait.tensor.layout import Shape, TensorMeta, has_no_elements, wrap_dim

if TYPE_CHECKING:
    from plait.tensor.tensor import Tensor

__all__: list[str] = []


def _require_elements(name: str, self: Any, dims: Sequence[int] | None) -> None:
    """Extrema of nothing do not exist. Raises IndexOutOfRange or ShapeMismatch, as PyTorch does."""
    shape = tuple(self.shape)
    if dims is None:
        check(
            not has_no_elements(shape),
            ShapeMismatch,
            lambda: (
                f"{name}: argument 'dim' must be given for a tensor without elements; got "
                f"shape {shape}. Name dimensions whose size is not 0."
            ),
        )
        return
    for dim in dims:
        if dim < len(shape) and shape[dim] == 0:
            raise IndexOutOfRange(
                f"{name}: argument 'dim' = {dim} names a dimension of size 0; got shape {shape}; "
                "expected reduced dimensions with a non-zero size."
            )


def _extremum_shape(name: str) -> Rule:
    def shape(self: Any, dim: Any = (), keepdim: bool = False) -> TensorMeta:
        check_dtype(name, self.dtype, ORDERED)
        dims = reduced_dims(name, len(self.shape), dim)
        _require_elements(name, self, dims if dim else None)
        return TensorMeta(reduced_shape(tuple(self.shape), dims, keepdim), self.dtype, self.device)

    return shape


def _extremum_kernel(ufunc: np.ufunc) -> Rule:
    def kernel(self: Array, dim: Any = (), keepdim: bool = False) -> Any:
        return ufunc.reduce(self, axis=numpy_axes(self, dim), keepdims=keepdim)

    return kernel


def _extremum_vjp(g: Tensor, self: Tensor, out: Tensor, dim: Any, keepdim: bool) -> Any:
    """Ties share the cotangent equally."""
    shape = self.shape
    ties = aten.eq.Tensor(self, restore(out, shape, dim, keepdim))
    count = aten.sum.dim_IntList(ties, dim, True)
    return restore(g, shape, dim, keepdim) * ties / count


def _full_extremum_vjp(g: Tensor, self: Tensor, out: Tensor) -> Any:
    """As `_extremum_vjp`, but NaNs are ties of each other."""
    nans = aten.logical_and.default(aten.isnan.default(self), aten.isnan.default(out))
    ties = aten.logical_or.default(aten.eq.Tensor(self, out), nans)
    return ties * (g / aten.sum.default(ties))


def _define_extremum(name: str, ufunc: np.ufunc, full: str, arg: str) -> None:
    """``amax``, ``max`` and ``max.dim`` (or their opposites)."""
    define(
        f"aten::{name}(Tensor self, int[1] dim=[], bool keepdim=False) -> Tensor",
        shape=_extremum_shape(name),
        kernel=_extremum_kernel(ufunc),
        vjp={"self": _extremum_vjp},
        tags=(Tag.REDUCTION, Tag.CORE),
        kind="reduction",
        out=True,
    )
    define(
        f"aten::{full}(Tensor self) -> Tensor",
        shape=_extremum_shape(full),
        kernel=_extremum_kernel(ufunc),
        vjp={"self": _full_extremum_vjp},
        decomposition=lambda self: getattr(aten, name).default(self),
        tags=(Tag.REDUCTION,),
        kind="reduction",
    )
    values, index = _extremum_shape(full), _position_shape(full, allow_bool=True)
    define(
        f"aten::{full}.dim(Tensor self, int dim, bool keepdim=False)"
        " -> (Tensor values, Tensor indices)",
        shape=lambda self, dim, keepdim=False: (
            values(self, (dim,), keepdim),
            index(self, dim, keepdim),
        ),
        kernel=_extremum_with_position(getattr(np, arg)),
        vjp={"self": _selected_vjp},
        decomposition=lambda self, dim, keepdim=False: (
            getattr(aten, name).default(self, (dim,), keepdim),
            getattr(aten, arg).default(_as_numbers(self), dim, keepdim),
        ),
        tags=(Tag.REDUCTION,),
        kind="reduction",
    )


def _as_numbers(self: Tensor) -> Any:
    return aten._to_copy.default(self, dtype=dt.uint8) if self.dtype.is_bool else self


def _selected_vjp(g0: Tensor, out1: Tensor, dim: int, keepdim: bool, shape_of_self: Shape) -> Any:
    """The cotangent goes to the one element that was selected."""
    index = restore(out1, shape_of_self, (dim,), keepdim)
    source = restore(g0, shape_of_self, (dim,), keepdim)
    zeros = aten.new_zeros.default(g0, shape_of_self)
    return aten.scatter.src(zeros, dim, index, source)


# ---------------------------------------------------------------- positions of extrema


def _position_shape(name: str, *, allow_bool: bool = False) -> Rule:
    def shape(self: Any, dim: int | None = None, keepdim: bool = False) -> TensorMeta:
        check_dtype(name, self.dtype, ORDERED)
        if not allow_bool:
            require_no_bool(name, "self", self)
        shape = tuple(self.shape)
        dims = tuple(range(len(shape))) if dim is None else (wrap_dim(dim, len(shape), name),)
        if dim is None and has_no_elements(shape):
            raise IndexOutOfRange(
                f"{name}: argument 'dim' must be given for a tensor without elements; got shape "
                f"{shape}. Name a dimension whose size is not 0."
            )
        _require_elements(name, self, dims)
        return TensorMeta(reduced_shape(shape, dims, keepdim), dt.int64, self.device)

    return shape


def _position(find: Any, array: Array, dim: int | None, keepdim: bool) -> Array:
    """Positions of the extrema; the first NaN wins over numbers."""
    if array.dtype.itemsize == 2 and array.dtype.kind not in "iu":
        array = array.astype(np.float32)  # the half types' own search may not know NaN
    if not array.ndim:
        return np.zeros((), np.int64)
    return np.asarray(find(array, axis=dim, keepdims=keepdim))


def _extremum_with_position(find: Any) -> Rule:
    def kernel(self: Array, dim: int, keepdim: bool) -> tuple[Any, Any]:
        if not self.ndim:
            return self.copy(), np.zeros((), np.int64)
        index = _position(find, self, dim, True)
        values = np.take_along_axis(self, index, dim)
        return (values, index) if keepdim else (values.squeeze(dim), index.squeeze(dim))

    return kernel


def _define_position(name: str) -> None:
    find = getattr(np, name)
    define(
        f"aten::{name}(Tensor self, int? dim=None, bool keepdim=False) -> Tensor",
        shape=_position_shape(name),
        kernel=lambda self, dim=None, keepdim=False: _position(find, self, dim, keepdim),
        vjp={},
        tags=(Tag.REDUCTION, Tag.CORE),
        kind="reduction",
    )


_define_extremum("amax", np.maximum, "max", "argmax")
_define_extremum("amin", np.minimum, "min", "argmin")
_define_position("argmax")
_define_position("argmin")
