"""Views: operators whose result shares the memory of their first argument.

Each is a piece of layout arithmetic (from `tensor/layout.py`), its derivative, and its inverse: the
base with the viewed part replaced, which functionalisation and writes through views use. Knows no
memory. The out-of-place inverses are in `scatter_view`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from plait.base.errors import IndexOutOfRange, InvalidArgument, ShapeMismatch, check
from plait.dispatch.tags import Tag
from plait.ops import aten
from plait.ops.define import define, view
from plait.tensor import dtype as dt
from plait.tensor import layout as lay
from plait.tensor.layout import IntLike, Layout, Shape, wrap_dim

if TYPE_CHECKING:
    from plait.tensor.tensor import Tensor

__all__: list[str] = []

# ---------------------------------------------------------------- the same elements, another shape


def _reshaped(g: Tensor, shape_of_self: Shape) -> Any:
    return aten.reshape.default(g, shape_of_self)


def _reshape_inverse(base: Tensor, new: Tensor, *_: Any) -> Any:
    """The new value under the base's shape: every element was in view."""
    return aten.reshape.default(new, base.shape)


def _view_layout(layout: Layout, size: Shape) -> Layout:
    sizes = lay.infer_size(size, layout.numel())
    found = lay.view(layout, sizes)
    if found is None:
        raise ShapeMismatch(
            f"view: argument 'size' does not fit the memory of the tensor; got {tuple(size)} for "
            f"shape {layout.shape} with strides {layout.strides}; expected a shape that keeps "
            "dimensions apart which are apart in memory. Use .reshape(...), which copies where it "
            "must. (view size is not compatible with input tensor's size and stride)"
        )
    return found


view(
    "aten::view(Tensor(a) self, SymInt[] size) -> Tensor(a)",
    layout=_view_layout,
    inverse=_reshape_inverse,
    vjp={"self": _reshaped},
    tags=(Tag.CORE,),
)


def _unsqueeze_vjp(g: Tensor, dim: int) -> Any:
    return aten.squeeze.dim(g, dim)


view(
    "aten::unsqueeze(Tensor(a) self, int dim) -> Tensor(a)",
    layout=lay.unsqueeze,
    inverse=lambda base, new, dim: aten.squeeze.dim(new, dim),
    vjp={"self": _unsqueeze_vjp},
    tags=(Tag.CORE,),
)
view(
    "aten::squeeze(Tensor(a) self) -> Tensor(a)",
    layout=lay.squeeze,
    inverse=_reshape_inverse,
    vjp={"self": _reshaped},
)
view(
    "aten::squeeze.dim(Tensor(a) self, int dim) -> Tensor(a)",
    layout=lambda layout, dim: lay.squeeze(layout, (dim,)),
    inverse=_reshape_inverse,
    vjp={"self": _reshaped},
    tags=(Tag.CORE,),
)
view(
    "aten::squeeze.dims(Tensor(a) self, int[] dim) -> Tensor(a)",
    layout=lay.squeeze,
    inverse=_reshape_inverse,
    vjp={"self": _reshaped},
    tags=(Tag.CORE,),
)
view(
    "aten::alias(Tensor(a) self) -> Tensor(a)",
    layout=lambda layout: layout,
    inverse=lambda base, new: new,
    vjp={"self": lambda g: g},
    tags=(Tag.CORE,),
)
view(
    "aten::detach(Tensor(a) self) -> Tensor(a)",
    layout=lambda layout: layout,
    inverse=lambda base, new: new,
    vjp={},  # nothing flows through
)

# ---------------------------------------------------------------- dimensions in another order


def _inverse_order(dims: Sequence[int]) -> tuple[int, ...]:
    """The permutation that undoes ``dims``."""
    order = [dim % len(dims) for dim in dims]
    return tuple(sorted(range(len(order)), key=order.__getitem__))


def _permuted_back(g: Tensor, dims: Sequence[int]) -> Any:
    return aten.permute.default(g, _inverse_order(dims))


def _transpose_layout(layout: Layout) -> Layout:
    if layout.ndim > 2:
        raise ShapeMismatch(
            f"t: argument 'self' has too many dimensions; got shape {layout.shape}; expected at "
            "most 2. Use .transpose(dim0, dim1) or .permute(dims)."
        )
    return lay.transpose(layout, 0, 1, "t") if layout.ndim == 2 else layout


view(
    "aten::permute(Tensor(a) self, int[] dims) -> Tensor(a)",
    layout=lay.permute,
    inverse=lambda base, new, dims: _permuted_back(new, dims),
    vjp={"self": _permuted_back},
    tags=(Tag.CORE,),
)
view(
    "aten::transpose.int(Tensor(a) self, int dim0, int dim1) -> Tensor(a)",
    layout=lay.transpose,
    inverse=lambda base, new, dim0, dim1: aten.transpose.int(new, dim0, dim1),
    vjp={"self": lambda g, dim0, dim1: aten.transpose.int(g, dim0, dim1)},
)
view(
    "aten::t(Tensor(a) self) -> Tensor(a)",
    layout=_transpose_layout,
    inverse=lambda base, new: aten.t.default(new),
    vjp={"self": lambda g: aten.t.default(g)},
)

# ---------------------------------------------------------------- stretched dimensions


def _expand_inverse(base: Tensor, new: Tensor, size: Any, *, implicit: bool = False) -> Any:
    """One of the equal parts: a base element that was shown many times is written once."""
    if lay.has_no_elements(new.shape) and not lay.has_no_elements(base.shape):
        return base
    for _ in range(new.ndim - base.ndim):
        new = aten.select.int(new, 0, 0)
    for dim, wanted in enumerate(base.shape):
        if isinstance(wanted, int) and wanted == 1:
            new = aten.slice.Tensor(new, dim, 0, 1)
    return new


view(
    "aten::expand(Tensor(a) self, SymInt[] size, *, bool implicit=False) -> Tensor(a)",
    layout=lambda layout, size, *, implicit=False: lay.expand(layout, size),
    inverse=_expand_inverse,
    vjp={"self": lambda g: g},  # the tape sums it to the shape of self
    tags=(Tag.CORE,),
)

# ---------------------------------------------------------------- parts


def _part_vjp(g: Tensor, shape_of_self: Shape) -> Any:
    """Zeros for a scatter of the cotangent to fall into."""
    return aten.new_zeros.default(g, shape_of_self)


def _slice_vjp(
    g: Tensor, dim: int, start: Any, end: Any, step: IntLike, shape_of_self: Shape
) -> Any:
    return aten.slice_scatter.default(_part_vjp(g, shape_of_self), g, dim, start, end, step)


def _select_vjp(g: Tensor, dim: int, index: IntLike, shape_of_self: Shape) -> Any:
    return aten.select_scatter.default(_part_vjp(g, shape_of_self), g, dim, index)


def _diagonal_vjp(g: Tensor, offset: int, dim1: int, dim2: int, shape_of_self: Shape) -> Any:
    return aten.diagonal_scatter.default(_part_vjp(g, shape_of_self), g, offset, dim1, dim2)


view(
    "aten::slice.Tensor(Tensor(a) self, int dim=0, SymInt? start=None, SymInt? end=None, "
    "SymInt step=1) -> Tensor(a)",
    layout=lay.slice_,
    inverse=lambda base, new, *args: aten.slice_scatter.default(base, new, *args),
    vjp={"self": _slice_vjp},
    tags=(Tag.CORE,),
)
view(
    "aten::select.int(Tensor(a) self, int dim, SymInt index) -> Tensor(a)",
    layout=lay.select,
    inverse=lambda base, new, dim, index: aten.select_scatter.default(base, new, dim, index),
    vjp={"self": _select_vjp},
    tags=(Tag.CORE,),
)
view(
    "aten::diagonal(Tensor(a) self, int offset=0, int dim1=0, int dim2=1) -> Tensor(a)",
    layout=lay.diagonal,
    inverse=lambda base, new, *args: aten.diagonal_scatter.default(base, new, *args),
    vjp={"self": _diagonal_vjp},
    tags=(Tag.CORE,),
)

# ---------------------------------------------------------------- several views at once


def _unbind_layout(layout: Layout, dim: int = 0) -> tuple[Layout, ...]:
    if not layout.shape:
        raise IndexOutOfRange(
            "unbind: argument 'self' has no dimensions; got a 0-d tensor; expected at least one."
        )
    size = layout.shape[wrap_dim(dim, layout.ndim, "unbind")]
    return tuple(lay.select(layout, dim, i, "unbind") for i in range(int(size)))


def _split_points(layout: Layout, split_size: IntLike, dim: int) -> list[tuple[int, int]]:
    """(start, end) of each part; the last one may be smaller."""
    if not layout.shape:
        raise ShapeMismatch(
            "split: argument 'self' has no dimensions; got a 0-d tensor; expected at least one."
        )
    extent = int(layout.shape[wrap_dim(dim, layout.ndim, "split")])
    size = int(split_size)
    check(
        size > 0 or (size == 0 and extent == 0),
        ShapeMismatch,
        lambda: (
            f"split: argument 'split_size' must be positive; got {size} for a dimension of "
            f"size {extent}; expected at least 1 (0 only for a dimension of size 0)."
        ),
    )
    if extent == 0:
        return [(0, 0)]
    return [(start, min(start + size, extent)) for start in range(0, extent, size)]


def _split_layout(layout: Layout, split_size: IntLike, dim: int = 0) -> tuple[Layout, ...]:
    points = _split_points(layout, split_size, dim)
    return tuple(lay.slice_(layout, dim, start, end) for start, end in points)


def _split_inverse(base: Tensor, new: Tensor, split_size: int, dim: int, *, index: int) -> Any:
    start, end = _split_points(base.layout, split_size, dim)[index]
    return aten.slice_scatter.default(base, new, dim, start, end)


def _sized_points(layout: Layout, split_sizes: Sequence[IntLike], dim: int) -> list[Any]:
    extent = layout.shape[wrap_dim(dim, layout.ndim, "split_with_sizes")] if layout.shape else 0
    points: list[Any] = []
    at: IntLike = 0
    for size in split_sizes:
        check(
            size >= 0,
            ShapeMismatch,
            lambda: (
                f"split_with_sizes: argument 'split_sizes' has a negative entry; got "
                f"{tuple(split_sizes)}; expected sizes >= 0."
            ),
        )
        points.append((at, at + size))
        at = at + size
    check(
        at == extent,
        ShapeMismatch,
        lambda: (
            f"split_with_sizes: argument 'split_sizes' must sum to the size of dimension {dim};"
            f" got {tuple(split_sizes)}, sum {at}; expected {extent}."
        ),
    )
    return points


def _split_sizes_layout(layout: Layout, split_sizes: Any, dim: int = 0) -> tuple[Layout, ...]:
    points = _sized_points(layout, split_sizes, dim)
    return tuple(lay.slice_(layout, dim, start, end) for start, end in points)


def _split_sizes_inverse(base: Tensor, new: Tensor, sizes: Any, dim: int, *, index: int) -> Any:
    start, end = _sized_points(base.layout, sizes, dim)[index]
    return aten.slice_scatter.default(base, new, dim, start, end)


# ATen writes `Tensor(a -> *) self`; the alias set of the results says as much here.
view(
    "aten::unbind.int(Tensor(a) self, int dim=0) -> Tensor(a)[]",
    layout=_unbind_layout,
    inverse=lambda base, new, dim, *, index: aten.select_scatter.default(base, new, dim, index),
    vjp={"self": lambda g, dim: aten.stack.default(g, dim)},
    tags=(Tag.MULTI_OUTPUT_VIEW,),
)
view(
    "aten::split.Tensor(Tensor(a) self, SymInt split_size, int dim=0) -> Tensor(a)[]",
    layout=_split_layout,
    inverse=_split_inverse,
    vjp={"self": lambda g, dim: aten.cat.default(g, dim)},
    tags=(Tag.MULTI_OUTPUT_VIEW,),
)
view(
    "aten::split_with_sizes(Tensor(a) self, SymInt[] split_sizes, int dim=0) -> Tensor(a)[]",
    layout=_split_sizes_layout,
    inverse=_split_sizes_inverse,
    vjp={"self": lambda g, dim: aten.cat.default(g, dim)},
    tags=(Tag.MULTI_OUTPUT_VIEW, Tag.CORE),
)

# ---------------------------------------------------------------- any layout of the storage


def _as_strided_layout(
    layout: Layout, size: Shape, stride: Shape, storage_offset: IntLike | None = None
) -> Layout:
    return lay.as_strided(layout, size, stride, storage_offset)


def _check_storage(
    self: Any, size: Shape, stride: Shape, storage_offset: IntLike | None = None
) -> None:
    """The layout must lie in the storage, where there is one."""
    if getattr(self, "_array", None) is None:
        return
    found = _as_strided_layout(self.layout, size, stride, storage_offset)
    last = found.offset + lay.extent(found.shape, found.strides)
    held = self.storage.nbytes // self.dtype.itemsize
    check(
        last <= held or not found.numel(),
        InvalidArgument,
        lambda: (
            f"as_strided: arguments reach outside of the storage; got size {tuple(size)}, "
            f"stride {tuple(stride)}, storage_offset {found.offset}, which need {last} elements; "
            f"expected at most {held}. (out of bounds for storage)"
        ),
    )


def _flat_positions(g: Tensor, length: IntLike, layout: Layout) -> Any:
    """Where in a 1-d memory of ``length`` the elements of ``layout`` lie, as a 1-d index."""
    places = aten.arange.default(length, dtype=dt.int64, device=g.device)
    strided = aten.as_strided.default(places, layout.shape, layout.strides, layout.offset)
    return aten.reshape.default(strided, (layout.numel(),))


def _spilled(g: Tensor, length: IntLike, layout: Layout) -> Any:
    """A 1-d memory of zeros into which ``g``, laid out by ``layout``, is added."""
    memory = aten.new_zeros.default(g, (length,))
    if lay.is_dense(layout.shape, layout.strides):
        return aten.as_strided_scatter.default(
            memory, g, layout.shape, layout.strides, layout.offset
        )
    flat = aten.reshape.default(g, (layout.numel(),))
    return aten.index_add.default(memory, 0, _flat_positions(g, length, layout), flat)


def _as_strided_vjp(
    g: Tensor, size: Shape, stride: Shape, storage_offset: Any, layout_of_self: Layout
) -> Any:
    """Through the memory that both share; an element of self that is shown twice counts once."""
    own, out = layout_of_self, _as_strided_layout(layout_of_self, size, stride, storage_offset)
    start = min(own.offset, out.offset)
    length = max(layout.offset + lay.extent(layout.shape, layout.strides) for layout in (own, out))
    length = length - start
    memory = _spilled(g, length, Layout(out.shape, out.strides, out.offset - start))
    own = Layout(own.shape, own.strides, own.offset - start)
    if any(s == 0 for s in own.strides):
        ones = aten.full.default(own.shape, 1, dtype=g.dtype, device=g.device)
        shown = _spilled(ones, length, own)
        memory = memory / aten.clamp_min.default(shown, 1)
    return aten.as_strided.default(memory, own.shape, own.strides, own.offset)


view(
    "aten::as_strided(Tensor(a) self, SymInt[] size, SymInt[] stride, "
    "SymInt? storage_offset=None) -> Tensor(a)",
    layout=_as_strided_layout,
    inverse=lambda base, new, *args: aten.as_strided_scatter.default(base, new, *args),
    vjp={"self": _as_strided_vjp},
    check_args=_check_storage,
    tags=(Tag.CORE,),
)

# ---------------------------------------------------------------- composites


def _contiguous(self: Tensor, *, memory_format: Any = 0) -> Any:
    if self.is_contiguous():
        return self
    return aten.clone.default(self, memory_format="contiguous_format")


def _reshape(self: Tensor, shape: Shape) -> Any:
    """A view where the memory allows it, else a copy."""
    sizes = lay.infer_size(shape, self.numel(), "reshape")
    layout = Layout(self.shape, self.strides)
    if lay.view(layout, sizes) is None:
        self = aten.clone.default(self, memory_format="contiguous_format")
    return aten.view.default(self, sizes)


def _flatten(self: Tensor, start_dim: int = 0, end_dim: int = -1) -> Any:
    start = wrap_dim(start_dim, self.ndim, "flatten")
    end = wrap_dim(end_dim, self.ndim, "flatten")
    check(
        start <= end,
        ShapeMismatch,
        lambda: (
            f"flatten: argument 'start_dim' comes after 'end_dim'; got {start_dim} and "
            f"{end_dim} for rank {self.ndim}; expected start_dim <= end_dim."
        ),
    )
    if not self.ndim:
        return aten.reshape.default(self, (1,))
    if start == end:
        return self
    merged = lay.numel(self.shape[start : end + 1])
    return aten.reshape.default(self, (*self.shape[:start], merged, *self.shape[end + 1 :]))


def _unflatten(self: Tensor, dim: int, sizes: Shape) -> Any:
    check(
        len(sizes) > 0,
        ShapeMismatch,
        lambda: "unflatten: argument 'sizes' is empty; expected at least one size.",
    )
    dim = wrap_dim(dim, self.ndim, "unflatten")
    inner = lay.infer_size(sizes, self.shape[dim], "unflatten")
    return aten.view.default(self, (*self.shape[:dim], *inner, *self.shape[dim + 1 :]))


def _narrow(self: Tensor, dim: int, start: IntLike, length: IntLike) -> Any:
    size = self.shape[wrap_dim(dim, self.ndim, "narrow")] if self.ndim else 0
    first = start + size if start < 0 else start
    check(
        length >= 0 and first >= 0 and first + length <= size,
        ShapeMismatch,
        lambda: (
            f"narrow: arguments 'start' and 'length' leave dimension {dim} of size {size}; got "
            f"start {start}, length {length}; expected 0 <= start and start + length <= {size}."
        ),
    )
    return aten.slice.Tensor(self, dim, first, first + length, 1)


def _chunk(self: Tensor, chunks: int, dim: int = 0) -> Any:
    check(
        chunks > 0 and self.ndim > 0,
        ShapeMismatch,
        lambda: (
            f"chunk: argument 'chunks' must be positive and 'self' must have a dimension; got "
            f"{chunks} and shape {tuple(self.shape)}."
        ),
    )
    size = self.shape[wrap_dim(dim, self.ndim, "chunk")]
    if size == 0:
        return aten.split_with_sizes.default(self, (0,) * chunks, dim)
    return aten.split.Tensor(self, (size + chunks - 1) // chunks, dim)


def _movedim(self: Tensor, source: int, destination: int) -> Any:
    source, destination = (wrap_dim(d, self.ndim, "movedim") for d in (source, destination))
    order = [dim for dim in range(self.ndim) if dim != source]
    order.insert(destination, source)
    return aten.permute.default(self, order) if self.ndim else aten.alias.default(self)


# fmt: off
for _schema, _body in (
    ("contiguous(Tensor(a) self, *, MemoryFormat memory_format=0) -> Tensor(a)", _contiguous),
    ("reshape(Tensor(a) self, SymInt[] shape) -> Tensor(a)", _reshape),
    ("flatten.using_ints(Tensor(a) self, int start_dim=0, int end_dim=-1) -> Tensor(a)", _flatten),
    ("unflatten.int(Tensor(a) self, int dim, SymInt[] sizes) -> Tensor(a)", _unflatten),
    ("narrow(Tensor(a) self, int dim, SymInt start, SymInt length) -> Tensor(a)", _narrow),
    ("chunk(Tensor(a) self, int chunks, int dim=0) -> Tensor(a)[]", _chunk),
    ("movedim.int(Tensor(a) self, int source, int destination) -> Tensor(a)", _movedim),
    ("expand_as(Tensor(a) self, Tensor other) -> Tensor(a)",
     lambda self, other: aten.expand.default(self, other.shape)),
    ("view_as(Tensor(a) self, Tensor other) -> Tensor(a)",
     lambda self, other: aten.view.default(self, other.shape)),
):
    define("aten::" + _schema, composite=_body)
# fmt: on
