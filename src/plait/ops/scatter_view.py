"""The out-of-place inverses of views: a copy of a tensor with a viewed part replaced.

Functionalisation turns a write through a view into one of these, and derivatives of views are
written in them. Results keep the strides of a dense ``self``. Knows no view in particular: each is
the view's own layout applied to the copy.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from plait.base.errors import ShapeMismatch
from plait.dispatch.tags import Tag
from plait.ops import aten
from plait.ops.arrays import convert
from plait.ops.define import Array, Rule, define
from plait.tensor import layout as lay
from plait.tensor.layout import IntLike, Layout, Shape, TensorMeta
from plait.tensor.tensor import Tensor as RealTensor
from plait.tensor.tensor import empty_strided, wrap_view

if TYPE_CHECKING:
    from plait.tensor.tensor import Tensor

__all__: list[str] = []


def _copy_meta(self: Any) -> TensorMeta:
    """The metadata of a copy that keeps the memory order, without gaps or overlap."""
    shape = tuple(self.shape)
    strides = lay.preserved_strides(shape, tuple(self.strides))
    return TensorMeta(shape, self.dtype, self.device, strides)


def _scatter_shape(name: str, layout: Rule) -> Rule:
    """The shape rule: ``src`` must have exactly the shape of the viewed part."""

    def shape(self: Any, src: Any, *args: Any) -> TensorMeta:
        part = layout(Layout(tuple(self.shape), tuple(self.strides)), *args)
        if tuple(src.shape) != part.shape:
            raise ShapeMismatch(
                f"{name}: argument 'src' must have the shape of the part it replaces; got "
                f"{tuple(src.shape)}; expected {part.shape}. (expected src to have a size equal to "
                "the slice of self)"
            )
        return _copy_meta(self)

    return shape


def _copied(self: Tensor) -> RealTensor:
    meta = _copy_meta(self)
    out = empty_strided(meta.shape, meta.strides, self.dtype)
    np.copyto(_array(out), _array(self))
    return out


def _array(tensor: Tensor) -> Array:
    array = tensor._array
    assert array is not None
    return array


def _scatter_kernel(shape: Rule, layout: Rule) -> Rule:
    def kernel(self: Tensor, src: Tensor, *args: Any) -> Tensor:
        shape(self, src, *args)
        out = _copied(self)
        part = wrap_view(out, layout(out.layout, *args))
        convert(_array(part), _array(src))
        return out

    return kernel


def _define_scatter(
    schema: str, layout: Rule, vjp: dict[str, Rule], decomposition: Rule | None = None
) -> None:
    name = schema.partition("(")[0]
    shape = _scatter_shape(name, layout)
    define(
        "aten::" + schema,
        shape=shape,
        tensor_kernel=_scatter_kernel(shape, layout),
        vjp=vjp,
        decomposition=decomposition,
        tags=(Tag.VIEW_COPY,),
        kind="view",
    )


def _zeros(g: Tensor, shape: Shape) -> Any:
    return aten.new_zeros.default(g, shape)


# ---------------------------------------------------------------- slice, select, diagonal


def _select_as_slice(self: Tensor, src: Tensor, dim: int, index: IntLike) -> Any:
    start = index + self.shape[dim] if index < 0 else index
    whole = aten.unsqueeze.default(src, dim % self.ndim)
    return aten.slice_scatter.default(self, whole, dim, start, start + 1, 1)


def _diagonal_as_strided(self: Tensor, src: Tensor, *args: Any) -> Any:
    copy = aten.clone.default(self, memory_format="contiguous_format")
    part = lay.diagonal(Layout(copy.shape), *args)
    return aten.as_strided_scatter.default(copy, src, part.shape, part.strides, part.offset)


def _slice_vjp_self(
    g: Tensor, dim: int, start: Any, end: Any, step: Any, shape_of_src: Shape
) -> Any:
    return aten.slice_scatter.default(g, _zeros(g, shape_of_src), dim, start, end, step)


def _diagonal_vjp_self(g: Tensor, offset: int, dim1: int, dim2: int, shape_of_src: Shape) -> Any:
    return aten.diagonal_scatter.default(g, _zeros(g, shape_of_src), offset, dim1, dim2)


_define_scatter(
    "slice_scatter(Tensor self, Tensor src, int dim=0, SymInt? start=None, SymInt? end=None, "
    "SymInt step=1) -> Tensor",
    lay.slice_,
    {
        "self": _slice_vjp_self,
        "src": lambda g, dim, start, end, step: aten.slice.Tensor(g, dim, start, end, step),
    },
)
_define_scatter(
    "select_scatter(Tensor self, Tensor src, int dim, SymInt index) -> Tensor",
    lay.select,
    {
        "self": lambda g, dim, index, shape_of_src: aten.select_scatter.default(
            g, _zeros(g, shape_of_src), dim, index
        ),
        "src": lambda g, dim, index: aten.select.int(g, dim, index),
    },
    decomposition=_select_as_slice,
)
_define_scatter(
    "diagonal_scatter(Tensor self, Tensor src, int offset=0, int dim1=0, int dim2=1) -> Tensor",
    lay.diagonal,
    {
        "self": _diagonal_vjp_self,
        "src": lambda g, offset, dim1, dim2: aten.diagonal.default(g, offset, dim1, dim2),
    },
    decomposition=_diagonal_as_strided,
)

# ---------------------------------------------------------------- as_strided


def _as_strided_layout(
    layout: Layout, size: Shape, stride: Shape, storage_offset: IntLike | None = None
) -> Layout:
    return lay.as_strided(layout, size, stride, storage_offset)


def _memory_of(self: Tensor, reach: IntLike) -> Array:
    """The memory from the storage's start as far as ``self`` and ``reach`` go, copied."""
    layout = self.layout
    length = max(int(layout.offset + lay.extent(layout.shape, layout.strides)), int(reach))
    held = np.zeros(length, _array(self).dtype)
    owner = self.storage.owner
    assert owner is not None
    source: Array = np.frombuffer(owner, _array(self).dtype)[:length]
    held[: source.size] = source
    return held


_as_strided_shape = _scatter_shape("as_strided_scatter", _as_strided_layout)


def _as_strided_kernel(
    self: Tensor, src: Tensor, size: Any, stride: Any, storage_offset: Any = None
) -> Tensor:
    """``src`` lands in a copy of the memory, in which ``self`` is then looked up again."""
    _as_strided_shape(self, src, size, stride, storage_offset)
    own = self.layout
    part = _as_strided_layout(own, size, stride, storage_offset)
    memory = RealTensor.__new__(RealTensor)
    memory._array = _memory_of(self, part.offset + lay.extent(part.shape, part.strides))
    memory._dtype = self.dtype
    convert(_array(wrap_view(memory, part)), _array(src))
    return _copied(wrap_view(memory, own))


def _in_memory(g: Tensor, own: Layout, size: Any, stride: Any, storage_offset: Any) -> Any:
    """(``g``, laid out by ``own``, in a 1-d memory; the replaced part's layout in it)."""
    part = _as_strided_layout(own, size, stride, storage_offset)
    length = max(x.offset + lay.extent(x.shape, x.strides) for x in (own, part))
    zeros = _zeros(g, (length,))
    memory = aten.as_strided_scatter.default(zeros, g, own.shape, own.strides, own.offset)
    return memory, (part.shape, part.strides, part.offset)


def _as_strided_vjp_self(
    g: Tensor, size: Any, stride: Any, storage_offset: Any, layout_of_self: Layout
) -> Any:
    own = layout_of_self
    memory, part = _in_memory(g, own, size, stride, storage_offset)
    memory = aten.as_strided_scatter.default(memory, _zeros(g, tuple(size)), *part)
    return aten.as_strided.default(memory, own.shape, own.strides, own.offset)


def _as_strided_vjp_src(
    g: Tensor, size: Any, stride: Any, storage_offset: Any, layout_of_self: Layout
) -> Any:
    memory, part = _in_memory(g, layout_of_self, size, stride, storage_offset)
    return aten.as_strided.default(memory, *part)


define(
    "aten::as_strided_scatter(Tensor self, Tensor src, SymInt[] size, SymInt[] stride, "
    "SymInt? storage_offset=None) -> Tensor",
    shape=_as_strided_shape,
    tensor_kernel=_as_strided_kernel,
    vjp={"self": _as_strided_vjp_self, "src": _as_strided_vjp_src},
    tags=(Tag.VIEW_COPY,),
    kind="view",
)
