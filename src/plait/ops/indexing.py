"""Reading and writing by index tensors: index_select, gather, scatter, index_add, embedding.

Negative indices are refused, as in PyTorch. Positions that occur twice are added in order, so sums
do not depend on threads; those of the half types are made in float32. Results are contiguous. Shape
rules check all but the values of indices, which are data: kernels check those and name operator,
argument, value and bounds.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from plait.base.errors import IndexOutOfRange, MissingKernel, ShapeMismatch
from plait.dispatch.tags import Tag
from plait.ops import aten
from plait.ops.arrays import check_number, widened
from plait.ops.checks import (
    require,
    require_index_dtype,
    require_rank,
    require_same_dtype,
)
from plait.ops.define import Array, checked_scalar, define
from plait.tensor.dtype import FROM_NUMPY
from plait.tensor.layout import IntLike, Shape, TensorMeta, has_no_elements, wrap_dim

if TYPE_CHECKING:
    from plait.tensor.tensor import Tensor

__all__ = ["check_range"]

# ---------------------------------------------------------------- checks


def check_range(operator: str, name: str, index: Array, size: int, *, dim: int = 0) -> None:
    """Raise IndexOutOfRange unless all values of ``index`` lie in 0 <= value < size."""
    if not index.size:
        return
    least, greatest = int(index.min()), int(index.max())
    if least < 0 or greatest >= size:
        wrong = least if least < 0 else greatest
        raise IndexOutOfRange(
            f"{operator}: argument {name!r} holds an index that is out of bounds for dimension "
            f"{dim} with size {size}; got {wrong}; expected 0 <= index < {size}. (index out of "
            "range in self)"
        )


def _require_vector(operator: str, index: Any) -> IntLike:
    """The number of indices; the index must be a vector (or one number)."""
    require_index_dtype(operator, "index", index)
    if len(index.shape) > 1:
        raise IndexOutOfRange(
            f"{operator}: argument 'index' must be a vector; got shape {tuple(index.shape)}; "
            "expected at most one dimension."
        )
    return index.shape[0] if index.shape else 1


def _ranked(shape: Any) -> tuple[int, ...]:
    """The shape, where 0-d counts as one element in one dimension."""
    return tuple(shape) or (1,)


def _check_gather(operator: str, self: Any, dim: int, index: Any, src: Any = None) -> None:
    """What gather and scatters ask of ``index`` (and of ``src``)."""
    require_index_dtype(operator, "index", index)
    dim = wrap_dim(dim, len(self.shape), operator)
    if has_no_elements(tuple(index.shape)):
        return
    own, wanted = _ranked(self.shape), _ranked(index.shape)
    require(
        len(own) == len(wanted),
        lambda: (
            f"{operator}: argument 'index' must have as many dimensions as 'self'; got shapes "
            f"{tuple(index.shape)} and {tuple(self.shape)}. (Index tensor must have the same "
            "number of dimensions)"
        ),
    )
    fits = all(d == dim or size <= own[d] for d, size in enumerate(wanted))
    require(
        fits,
        lambda: (
            f"{operator}: argument 'index' may not be larger than 'self' apart from dimension "
            f"{dim}; got shapes {tuple(index.shape)} and {tuple(self.shape)}."
        ),
    )
    if src is not None:
        given = _ranked(src.shape)
        require(
            len(given) == len(wanted) and all(w <= s for w, s in zip(wanted, given, strict=True)),
            lambda: (
                f"{operator}: argument 'index' may not be larger than 'src'; got shapes "
                f"{tuple(index.shape)} and {tuple(src.shape)}."
            ),
        )


def _like(self: Any) -> TensorMeta:
    return TensorMeta(tuple(self.shape), self.dtype, self.device)


# ---------------------------------------------------------------- places in memory


def _flat_places(out: Array, dim: int, index: Array) -> Array:
    """Flat positions in the contiguous ``out`` that ``index`` names along ``dim``."""
    places = np.zeros(index.shape, np.int64)
    step = 1
    for d in range(out.ndim - 1, -1, -1):
        if d == dim:
            places += index * step
        else:
            shape = [1] * out.ndim
            shape[d] = index.shape[d]
            places += (np.arange(index.shape[d]) * step).reshape(shape)
        step *= out.shape[d]
    return places


def _part(array: Array, shape: tuple[int, ...]) -> Array:
    """The leading corner of ``array`` of the given shape."""
    return array[tuple(slice(size) for size in shape)]


def _target(self: Array, index: Array, operator: str, dim: int) -> tuple[Array, Array, int]:
    """(contiguous copy of self, flat positions into it, wrapped dim)."""
    out = np.array(self, order="C", ndmin=1)
    dim %= out.ndim
    check_range(operator, "index", index, out.shape[dim], dim=dim)
    if not index.size:
        return out, np.zeros(0, np.int64), dim
    return out, _flat_places(out, dim, index.reshape(_ranked(index.shape))).ravel(), dim


# ---------------------------------------------------------------- index_select


def _index_select_shape(self: Any, dim: int, index: Any) -> TensorMeta:
    count = _require_vector("index_select", index)
    dim = wrap_dim(dim, len(self.shape), "index_select")
    shape = tuple(self.shape)
    if not shape:
        require(
            count == 1,
            lambda: (
                f"index_select: argument 'index' must hold one value for a 0-d tensor; got {count}."
            ),
        )
        return _like(self)
    return TensorMeta((*shape[:dim], count, *shape[dim + 1 :]), self.dtype, self.device)


def _index_select_kernel(self: Array, dim: int, index: Array) -> Array:
    source = self.reshape(1) if not self.ndim else self
    check_range("index_select", "index", index, source.shape[dim], dim=dim % source.ndim)
    found = np.take(source, index.reshape(-1), axis=dim)
    return found.reshape(()) if not self.ndim else found


def _index_select_vjp(g: Tensor, dim: int, index: Tensor, shape_of_self: Shape) -> Any:
    return aten.index_add.default(aten.new_zeros.default(g, shape_of_self), dim, index, g)


define(
    "aten::index_select(Tensor self, int dim, Tensor index) -> Tensor",
    shape=_index_select_shape,
    kernel=_index_select_kernel,
    vjp={"self": _index_select_vjp},
    tags=(Tag.CORE,),
    kind="indexing",
)

# ---------------------------------------------------------------- gather


def _gather_shape(self: Any, dim: int, index: Any, *, sparse_grad: bool = False) -> TensorMeta:
    _check_gather("gather", self, dim, index)
    return TensorMeta(tuple(index.shape), self.dtype, self.device)


def _gather_kernel(self: Array, dim: int, index: Array, *, sparse_grad: bool) -> Array:
    source = self.reshape(1) if not self.ndim else self
    dim %= source.ndim
    check_range("gather", "index", index, source.shape[dim], dim=dim)
    if not index.size:
        return np.empty(index.shape, self.dtype)
    wanted = index.reshape(_ranked(index.shape))
    sizes = [full if d == dim else w for d, (full, w) in enumerate(zip(source.shape, wanted.shape))]
    found = np.take_along_axis(_part(source, tuple(sizes)), wanted.astype(np.int64), dim)
    return found.reshape(index.shape)


def _gather_vjp(g: Tensor, dim: int, index: Tensor, shape_of_self: Shape) -> Any:
    return aten.scatter_add.default(aten.new_zeros.default(g, shape_of_self), dim, index, g)


define(
    "aten::gather(Tensor self, int dim, Tensor index, *, bool sparse_grad=False) -> Tensor",
    shape=_gather_shape,
    kernel=_gather_kernel,
    vjp={"self": _gather_vjp},
    tags=(Tag.CORE,),
    kind="indexing",
)

# ---------------------------------------------------------------- scatter, scatter_add


def _scatter_shape(self: Any, dim: int, index: Any, src: Any, *, name: str = "scatter") -> Any:
    _check_gather(name, self, dim, index, src)
    require_same_dtype(name, (("self", self), ("src", src)))
    return _like(self)


def _scatter_kernel(self: Array, dim: int, index: Array, src: Array) -> Array:
    """Where a position occurs twice, the later one stays."""
    out, places, dim = _target(self, index, "scatter", dim)
    if places.size:
        out.reshape(-1)[places] = _part(np.atleast_1d(src), _ranked(index.shape)).ravel()
    return out.reshape(self.shape)


def _scatter_value_shape(self: Any, dim: int, index: Any, value: Any) -> TensorMeta:
    _check_gather("scatter", self, dim, index)
    checked_scalar("scatter", value, self.dtype)
    return _like(self)


def _scatter_value_kernel(self: Array, dim: int, index: Array, value: Any) -> Array:
    out, places, dim = _target(self, index, "scatter", dim)
    out.reshape(-1)[places] = checked_scalar("scatter", value, FROM_NUMPY[self.dtype])
    return out.reshape(self.shape)


def _scatter_value_as_src(self: Tensor, dim: int, index: Tensor, value: Any) -> Any:
    src = aten.full.default(index.shape, value, dtype=self.dtype, device=self.device)
    return aten.scatter.src(self, dim, index, src)


def _scatter_add_kernel(self: Array, dim: int, index: Array, src: Array) -> Array:
    out, places, dim = _target(widened(self), index, "scatter_add", dim)
    if places.size:
        part = widened(_part(np.atleast_1d(src), _ranked(index.shape)))
        np.add.at(out.reshape(-1), places, part.ravel())
    return out.reshape(self.shape)


def _scatter_src_vjp(g: Tensor, dim: int, index: Tensor, shape_of_src: Shape) -> Any:
    """The cotangent of what was read; zeros where ``src`` is larger than ``index``."""
    found = aten.gather.default(g, dim, index)
    if tuple(found.shape) == tuple(shape_of_src):
        return found
    for d, size in enumerate(shape_of_src):
        if found.shape[d] != size:
            wider = (*found.shape[:d], size, *found.shape[d + 1 :])
            zeros = aten.new_zeros.default(found, wider)
            found = aten.slice_scatter.default(zeros, found, d, 0, found.shape[d])
    return found


define(
    "aten::scatter.src(Tensor self, int dim, Tensor index, Tensor src) -> Tensor",
    shape=_scatter_shape,
    kernel=_scatter_kernel,
    vjp={
        "self": lambda g, dim, index: aten.scatter.value(g, dim, index, 0),
        "src": _scatter_src_vjp,
    },
    tags=(Tag.CORE,),
    kind="indexing",
    inplace=True,
)
define(
    "aten::scatter.value(Tensor self, int dim, Tensor index, Scalar value) -> Tensor",
    shape=_scatter_value_shape,
    kernel=_scatter_value_kernel,
    vjp={"self": lambda g, dim, index: aten.scatter.value(g, dim, index, 0)},
    decomposition=_scatter_value_as_src,
    tags=(Tag.CORE,),
    kind="indexing",
    inplace=True,
)
define(
    "aten::scatter_add(Tensor self, int dim, Tensor index, Tensor src) -> Tensor",
    shape=lambda self, dim, index, src: _scatter_shape(self, dim, index, src, name="scatter_add"),
    kernel=_scatter_add_kernel,
    vjp={"self": lambda g: g, "src": _scatter_src_vjp},
    tags=(Tag.CORE,),
    kind="indexing",
    inplace=True,
)

# ---------------------------------------------------------------- index_add


def _index_add_shape(self: Any, dim: int, index: Any, source: Any, *, alpha: Any = 1) -> TensorMeta:
    count = _require_vector("index_add", index)
    require_same_dtype("index_add", (("self", self), ("source", source)))
    check_number("index_add", "alpha", alpha, self.dtype)
    own, given = tuple(self.shape), tuple(source.shape)
    dim = wrap_dim(dim, len(own), "index_add")
    expected = (*own[:dim], count, *own[dim + 1 :]) if own else ()
    if given != expected or (not own and count != 1):
        raise ShapeMismatch(
            f"index_add: argument 'source' does not fit; got shape {given} with {count} indices "
            f"for 'self' of shape {own} and dim {dim}; expected shape {expected}."
        )
    return _like(self)


def _index_add_kernel(self: Array, dim: int, index: Array, source: Array, *, alpha: Any) -> Array:
    out = np.array(widened(self), order="C", ndmin=1)
    dim %= out.ndim
    check_range("index_add", "index", index, out.shape[dim], dim=dim)
    terms = widened(source.reshape(_ranked(source.shape)))
    if alpha != 1:
        terms = terms * checked_scalar("index_add", alpha, FROM_NUMPY[terms.dtype], "alpha")
    # One flat index per element: NumPy adds at 1-d places several times faster than along an axis.
    shape = [1] * out.ndim
    shape[dim] = -1
    along = np.broadcast_to(index.reshape(shape), terms.shape)
    np.add.at(out.reshape(-1), _flat_places(out, dim, along).ravel(), terms.ravel())
    return out.reshape(self.shape)


def _index_add_vjp_source(g: Tensor, dim: int, index: Tensor, alpha: Any) -> Any:
    taken = aten.index_select.default(g, dim, index)
    return taken if isinstance(alpha, int) and alpha == 1 else taken * alpha


define(
    "aten::index_add(Tensor self, int dim, Tensor index, Tensor source, *, Scalar alpha=1)"
    " -> Tensor",
    shape=_index_add_shape,
    kernel=_index_add_kernel,
    vjp={"self": lambda g: g, "source": _index_add_vjp_source},
    kind="indexing",
    holomorphic=True,
    inplace=True,
)

# ---------------------------------------------------------------- embedding


def _embedding_shape(
    weight: Any,
    indices: Any,
    padding_idx: IntLike = -1,
    scale_grad_by_freq: bool = False,
    sparse: bool = False,
) -> TensorMeta:
    require_rank("embedding", "weight", weight, 2)
    require_index_dtype("embedding", "indices", indices)
    if sparse:
        raise MissingKernel(
            "embedding: argument 'sparse' = True asks for sparse gradients, which do not exist "
            "here; expected False."
        )
    return TensorMeta((*indices.shape, weight.shape[1]), weight.dtype, weight.device)


def _embedding_kernel(weight: Array, indices: Array, *_: Any) -> Array:
    check_range("embedding", "indices", indices, weight.shape[0])
    return np.take(weight, indices, axis=0)


def _embedding_as_select(weight: Tensor, indices: Tensor, *_: Any) -> Any:
    flat = aten.reshape.default(indices, (indices.numel(),))
    rows = aten.index_select.default(weight, 0, flat)
    return aten.view.default(rows, (*indices.shape, weight.shape[1]))


def _embedding_vjp(
    g: Tensor,
    indices: Tensor,
    padding_idx: IntLike,
    scale_grad_by_freq: bool,
    shape_of_weight: Shape,
) -> Any:
    """Each row of the cotangent is added to its row of the weight; none to the padding row."""
    count = indices.numel()
    rows = aten.reshape.default(g, (count, shape_of_weight[1]))
    index = aten.reshape.default(indices, (count,))
    if scale_grad_by_freq:
        times = aten.new_zeros.default(g, (shape_of_weight[0],))
        times = aten.index_add.default(times, 0, index, aten.new_ones.default(g, (count,)))
        rows = rows / aten.unsqueeze.default(aten.index_select.default(times, 0, index), 1)
    if padding_idx >= 0:
        is_padding = aten.unsqueeze.default(aten.eq.Scalar(index, padding_idx), 1)
        rows = aten.masked_fill.Scalar(rows, is_padding, 0)
    return aten.index_add.default(aten.new_zeros.default(g, shape_of_weight), 0, index, rows)


define(
    "aten::embedding(Tensor weight, Tensor indices, SymInt padding_idx=-1, "
    "bool scale_grad_by_freq=False, bool sparse=False) -> Tensor",
    shape=_embedding_shape,
    kernel=_embedding_kernel,
    vjp={"weight": _embedding_vjp},
    decomposition=_embedding_as_select,
    tags=(Tag.CORE,),
    kind="indexing",
)
