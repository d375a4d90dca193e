"""Operators that rearrange whole tensors into new memory: cat, stack, flip.

Results are contiguous, but channels-last where PyTorch keeps that order (flip keeps any order).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from plait.base.errors import InvalidArgument, ShapeMismatch
from plait.dispatch.tags import Tag
from plait.ops import aten
from plait.ops.define import Array, define, empty_array
from plait.tensor import dtype as dt
from plait.tensor import layout as lay
from plait.tensor.layout import IntLike, Shape, TensorMeta, wrap_dim, wrap_dims
from plait.tensor.promotion import promote

if TYPE_CHECKING:
    from plait.tensor.tensor import Tensor

__all__: list[str] = []

# ---------------------------------------------------------------- cat


def _is_skipped(shape: Sequence[IntLike]) -> bool:
    """A tensor of shape (0,) joins anything: PyTorch kept this from older days."""
    return len(shape) == 1 and isinstance(shape[0], int) and shape[0] == 0


def _common_dtype(tensors: Sequence[Any]) -> dt.DType:
    result: dt.DType = tensors[0].dtype
    for tensor in tensors[1:]:
        result = promote(result, tensor.dtype)
    return result


def _cat_strides(tensors: Sequence[Any], shape: Shape) -> Shape | None:
    """Channels-last if all the tensors are, else contiguous."""
    if len(shape) != 4:
        return None
    for tensor in tensors:
        own, strides = tuple(tensor.shape), tuple(tensor.strides)
        if lay.is_contiguous(own, strides) or not lay.is_channels_last(own, strides):
            return None
    return lay.strides_in_order(shape, (1, 3, 2, 0))


def _cat_shape(tensors: Sequence[Any], dim: int = 0) -> TensorMeta:
    if not tensors:
        raise InvalidArgument("cat: argument 'tensors' is empty; expected at least one tensor.")
    for number, tensor in enumerate(tensors):
        if not tuple(tensor.shape):
            raise ShapeMismatch(
                f"cat: argument 'tensors' holds a zero-dimensional tensor at position {number}, "
                "which cannot be concatenated; expected at least one dimension. Use stack."
            )
    used = [t for t in tensors if not _is_skipped(t.shape)]
    dtype, device = _common_dtype(tensors), tensors[0].device
    if not used:
        return TensorMeta((0,), dtype, device)
    first = tuple(used[0].shape)
    dim = wrap_dim(dim, len(first), "cat")
    total: IntLike = 0
    for number, tensor in enumerate(tensors):
        if not _is_skipped(tensor.shape):
            _check_joins(first, tuple(tensor.shape), dim, number)
            total = total + tensor.shape[dim]
    shape = (*first[:dim], total, *first[dim + 1 :])
    return TensorMeta(shape, dtype, device, _cat_strides(used, shape))


def _check_joins(first: Shape, shape: Shape, dim: int, number: int) -> None:
    if len(shape) != len(first):
        raise ShapeMismatch(
            f"cat: argument 'tensors' must have equal ranks (Tensors must have same number of "
            f"dimensions); got shapes {first} and, at position {number}, {shape}."
        )
    for d, (a, b) in enumerate(zip(first, shape, strict=True)):
        if d != dim and a is not b and a != b:
            raise ShapeMismatch(
                f"cat: argument 'tensors' must have equal sizes except in dimension {dim} (Sizes of"
                f" tensors must match); got {b} at dimension {d} of position {number}; expected "
                f"{a}."
            )


def _cat_kernel(tensors: Sequence[Array], dim: int, *, meta: TensorMeta) -> Array:
    out = empty_array(meta)
    used = [t for t in tensors if t.shape != (0,)]
    if used:
        np.concatenate(used, axis=dim, out=out, casting="unsafe")
    return out


def _cat_vjp(g: Tensor, dim: int, shape_of_tensors: Sequence[Shape]) -> Any:
    """Each tensor gets its piece of the cotangent."""
    pieces: list[Any] = []
    at: IntLike = 0
    for shape in shape_of_tensors:
        if _is_skipped(shape) and g.ndim != 1:
            pieces.append(aten.new_zeros.default(g, shape))
            continue
        end = at + shape[dim]
        pieces.append(aten.slice.Tensor(g, dim, at, end, 1))
        at = end
    return pieces


define(
    "aten::cat(Tensor[] tensors, int dim=0) -> Tensor",
    shape=_cat_shape,
    kernel=_cat_kernel,
    vjp={"tensors": _cat_vjp},
    tags=(Tag.CORE,),
    kind="indexing",
)

# ---------------------------------------------------------------- stack


def _stack(tensors: Sequence[Tensor], dim: int = 0) -> Any:
    """``cat`` of the tensors, each with a new dimension."""
    if not tensors:
        raise ShapeMismatch("stack: argument 'tensors' is empty; expected at least one tensor.")
    first = tuple(tensors[0].shape)
    dim = wrap_dim(dim, len(first) + 1, "stack")
    for number, tensor in enumerate(tensors):
        if tuple(tensor.shape) != first:
            raise ShapeMismatch(
                f"stack: argument 'tensors' must have equal shapes; got {tuple(tensor.shape)} at "
                f"position {number}; expected {first}, the shape of the first."
            )
    return aten.cat.default([aten.unsqueeze.default(t, dim) for t in tensors], dim)


define("aten::stack(Tensor[] tensors, int dim=0) -> Tensor", composite=_stack)

# ---------------------------------------------------------------- flip


def _flip_shape(self: Any, dims: Sequence[int]) -> TensorMeta:
    shape = tuple(self.shape)
    wrap_dims(dims, len(shape), "flip")
    strides = lay.preserved_strides(shape, tuple(self.strides))
    return TensorMeta(shape, self.dtype, self.device, strides)


def _flip_kernel(self: Array, dims: Sequence[int]) -> Array:
    return np.flip(self, tuple(dims)).copy() if self.ndim else self.copy()


def _flip_as_select(self: Tensor, dims: Sequence[int]) -> Any:
    for dim in wrap_dims(dims, self.ndim, "flip") if self.ndim else ():
        size = self.shape[dim]
        places = aten.arange.default(size, dtype=dt.int64, device=self.device)
        self = aten.index_select.default(self, dim, aten.rsub.Scalar(places, size - 1))
    return self if dims and self.ndim else aten.clone.default(self)


define(
    "aten::flip(Tensor self, int[] dims) -> Tensor",
    shape=_flip_shape,
    kernel=_flip_kernel,
    vjp={"self": lambda g, dims: aten.flip.default(g, dims)},
    decomposition=_flip_as_select,
    tags=(Tag.CORE,),
    kind="indexing",
)
