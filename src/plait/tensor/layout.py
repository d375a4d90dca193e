"""Stride arithmetic: shapes, strides and offsets in elements, on ints and SymInts alike.

The only place that knows broadcasting, contiguity, views and overlap, by PyTorch's rules. Must not
know memory: no arrays here. Every comparison of sizes may be a guard when sizes are symbolic, so
each function compares as little as its answer needs.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import cmp_to_key
from typing import TYPE_CHECKING, TypeAlias

from plait.base.errors import IndexOutOfRange, InvalidArgument, ShapeMismatch
from plait.tensor.device import CPU, Device

if TYPE_CHECKING:
    from plait.symbolic.symint import SymInt
    from plait.tensor.dtype import DType

IntLike: TypeAlias = "int | SymInt"
Shape: TypeAlias = "tuple[IntLike, ...]"

__all__ = [
    "IntLike",
    "Layout",
    "Shape",
    "TensorMeta",
    "as_strided",
    "broadcast_shapes",
    "broadcast_strides",
    "contiguous_strides",
    "diagonal",
    "elementwise_strides",
    "expand",
    "extent",
    "has_no_elements",
    "infer_size",
    "is_channels_last",
    "is_contiguous",
    "is_dense",
    "numel",
    "permute",
    "preserved_strides",
    "select",
    "slice_",
    "squeeze",
    "strides_in_order",
    "transpose",
    "unfold",
    "unsqueeze",
    "view",
    "wrap_dim",
    "wrap_dims",
]


class Layout:
    """Which elements of a storage a tensor shows: shape, strides and offset, all in elements."""

    __slots__ = ("offset", "shape", "strides")

    def __init__(self, shape: Shape, strides: Shape | None = None, offset: IntLike = 0) -> None:
        self.shape = shape
        self.strides = contiguous_strides(shape) if strides is None else strides
        self.offset = offset

    @property
    def ndim(self) -> int:
        """Number of dimensions."""
        return len(self.shape)

    def numel(self) -> IntLike:
        """Number of elements."""
        return numel(self.shape)

    def is_contiguous(self) -> bool:
        """Whether the elements lie in row-major order without gaps."""
        return is_contiguous(self.shape, self.strides)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Layout) and (
            self.shape == other.shape
            and self.strides == other.strides
            and self.offset == other.offset
        )

    def __hash__(self) -> int:
        return hash((self.shape, self.strides, self.offset))

    def __repr__(self) -> str:
        return f"Layout({self.shape}, {self.strides}, {self.offset})"


class TensorMeta:
    """What is known of a tensor without its data: shape, dtype, device and strides.

    `strides=None` means contiguous. This is also the type of tensor values in the graph IR.
    """

    __slots__ = ("_strides", "device", "dtype", "shape")

    def __init__(
        self,
        shape: Iterable[IntLike],
        dtype: DType,
        device: Device = CPU,
        strides: Iterable[IntLike] | None = None,
    ) -> None:
        self.shape = tuple(shape)
        self.dtype = dtype
        self.device = device
        self._strides = None if strides is None else tuple(strides)

    @property
    def strides(self) -> Shape:
        """Strides in elements, worked out on first use when they are contiguous."""
        if self._strides is None:
            self._strides = contiguous_strides(self.shape)
        return self._strides

    @property
    def ndim(self) -> int:
        """Number of dimensions."""
        return len(self.shape)

    @property
    def layout(self) -> Layout:
        """The layout with offset 0."""
        return Layout(self.shape, self.strides)

    def numel(self) -> IntLike:
        """Number of elements."""
        return numel(self.shape)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, TensorMeta) and (
            self.shape == other.shape
            and self.dtype is other.dtype
            and self.device == other.device
            and self.strides == other.strides
        )

    def __hash__(self) -> int:
        return hash((self.shape, self.dtype, self.device))

    def __repr__(self) -> str:
        strides = "" if self._strides is None else f", strides={self._strides}"
        device = "" if self.device is CPU else f", device='{self.device}'"
        return f"TensorMeta({self.shape}, {self.dtype}{device}{strides})"


# ---------------------------------------------------------------- sizes and dimensions


def numel(shape: Sequence[IntLike]) -> IntLike:
    """Number of elements of `shape`; 1 for the empty shape."""
    count: IntLike = 1
    for size in shape:
        count = count * size
    return count


def wrap_dim(dim: int, ndim: int, operator: str = "dim") -> int:
    """Turn a possibly negative `dim` into 0 <= dim < ndim (a 0-d tensor counts as 1-d).

    Raises IndexOutOfRange.
    """
    limit = ndim or 1
    if 0 <= dim < limit:
        return dim
    if -limit <= dim < 0:
        return dim + limit
    raise IndexOutOfRange(
        f"{operator}: argument 'dim' is out of range for a tensor of rank {ndim}; got {dim}; "
        f"expected {-limit} <= dim < {limit}. (Dimension out of range)"
    )


def wrap_dims(dims: Sequence[int], ndim: int, operator: str = "dim") -> tuple[int, ...]:
    """Wrap every dim. Raises IndexOutOfRange, and ShapeMismatch for a dim named twice."""
    wrapped = tuple(wrap_dim(dim, ndim, operator) for dim in dims)
    if len(set(wrapped)) != len(wrapped):
        raise ShapeMismatch(
            f"{operator}: argument 'dim' names a dimension twice; got {tuple(dims)} for a tensor "
            f"of rank {ndim}; expected distinct dimensions."
        )
    return wrapped


# ---------------------------------------------------------------- contiguity


def contiguous_strides(shape: Sequence[IntLike]) -> Shape:
    """Row-major strides of `shape`; a size of 0 counts as 1, as in PyTorch."""
    ndim = len(shape)
    if ndim < 2:
        return (1,) * ndim
    return strides_in_order(shape, range(ndim - 1, -1, -1))


def strides_in_order(shape: Sequence[IntLike], order: Iterable[int]) -> Shape:
    """Dense strides with the dimensions laid out in `order`, the fastest first."""
    strides: list[IntLike] = [1] * len(shape)
    step: IntLike = 1
    for dim in order:
        strides[dim] = step
        size = shape[dim]
        if size != 0:
            step = step * size
    return tuple(strides)


def is_contiguous(shape: Sequence[IntLike], strides: Sequence[IntLike]) -> bool:
    """Whether elements lie in row-major order without gaps; sizes of 1 ignore their stride."""
    if has_no_elements(shape):
        return True
    return follows_order(shape, strides, range(len(shape) - 1, -1, -1))


def is_channels_last(shape: Sequence[IntLike], strides: Sequence[IntLike]) -> bool:
    """Whether a 4-d layout stores its dimensions in the order 0, 2, 3, 1 without gaps."""
    return len(shape) == 4 and follows_order(shape, strides, (1, 3, 2, 0))


def is_dense(shape: Sequence[IntLike], strides: Sequence[IntLike]) -> bool:
    """Whether some order of the dimensions makes it contiguous: no overlap and no gaps."""
    if len(shape) == 1:
        return bool(shape[0] < 2 or strides[0] == 1)
    if is_contiguous(shape, strides):
        return True
    order = [dim for dim, size in enumerate(shape) if not size < 2]

    def compare(a: int, b: int) -> int:
        return -1 if strides[a] < strides[b] else 1

    order.sort(key=cmp_to_key(compare))
    return follows_order(shape, strides, order)


def has_no_elements(shape: Sequence[IntLike]) -> bool:
    """Whether some size is 0."""
    return 0 in shape


def follows_order(
    shape: Sequence[IntLike], strides: Sequence[IntLike], order: Iterable[int]
) -> bool:
    """Whether the dimensions, taken in `order`, each step over exactly what came before."""
    expected: IntLike = 1
    for dim in order:
        size = shape[dim]
        if size == 1:
            continue
        if strides[dim] != expected:
            return False
        expected = expected * size
    return True


# ---------------------------------------------------------------- broadcasting


def broadcast_shapes(*shapes: Sequence[IntLike], operator: str = "broadcast") -> Shape:
    """The common shape of `shapes`, aligned at the last dimension. Raises ShapeMismatch."""
    if not shapes:
        return ()
    result: list[IntLike] = list(shapes[0])
    for shape in shapes[1:]:
        missing = len(shape) - len(result)
        if missing > 0:
            result[:0] = shape[:missing]
        shift = len(result) - len(shape)
        for dim, size in enumerate(shape, shift):
            known = result[dim]
            if known is size or size == 1:
                continue
            if known == 1:
                result[dim] = size
            elif known != size:
                raise ShapeMismatch(
                    f"{operator}: shapes cannot be broadcast together; got sizes {known} and {size}"
                    f" at dimension {dim} of {', '.join(str(tuple(s)) for s in shapes)}; expected "
                    "equal sizes, or 1. (The size of tensor a must match the size of tensor b)"
                )
    return tuple(result)


def broadcast_strides(
    shape: Sequence[IntLike], strides: Sequence[IntLike], target: Sequence[IntLike]
) -> Shape:
    """Strides that show `shape` as `target` (known to be broadcastable): 0 where stretched."""
    missing = len(target) - len(shape)
    stretched: list[IntLike] = [0] * missing
    for dim, size in enumerate(shape):
        wanted = target[missing + dim]
        is_stretched = wanted is not size and size == 1 and wanted != 1
        stretched.append(0 if is_stretched else strides[dim])
    return tuple(stretched)


def expand(layout: Layout, sizes: Sequence[IntLike], operator: str = "expand") -> Layout:
    """Stretch dimensions of size 1, and add leading ones; -1 keeps a size. Raises ShapeMismatch."""
    missing = len(sizes) - len(layout.shape)
    if missing < 0:
        raise ShapeMismatch(
            f"{operator}: argument 'size' has fewer dimensions than the tensor; got {tuple(sizes)} "
            f"for shape {layout.shape}; expected at least {len(layout.shape)} sizes. (the number "
            "of sizes provided must be greater or equal to the number of dimensions)"
        )
    shape: list[IntLike] = list(sizes)
    strides: list[IntLike] = [0] * len(shape)
    for dim in range(len(shape) - 1, -1, -1):
        wanted = shape[dim]
        if dim < missing:
            if wanted < 0:
                raise ShapeMismatch(
                    f"{operator}: argument 'size' keeps a dimension that does not exist; got "
                    f"{wanted} at dimension {dim} of {tuple(sizes)} for shape {layout.shape}; "
                    "expected a size. (The expanded size isn't allowed in a leading dimension)"
                )
            if layout.shape and wanted == 1:
                strides[dim] = shape[dim + 1] * strides[dim + 1]
            continue
        size = layout.shape[dim - missing]
        if wanted is size or wanted == -1 or wanted == size:
            shape[dim], strides[dim] = size, layout.strides[dim - missing]
        elif size != 1 or wanted < 0:
            raise ShapeMismatch(
                f"{operator}: argument 'size' cannot stretch size {size} to {wanted} at dimension "
                f"{dim}; got {tuple(sizes)} for shape {layout.shape}; expected the same size where "
                "it is not 1. (The expanded size must match the existing size)"
            )
    return Layout(tuple(shape), tuple(strides), layout.offset)


# ---------------------------------------------------------------- reshaping without a copy


def infer_size(sizes: Sequence[IntLike], count: IntLike, operator: str = "view") -> Shape:
    """Replace one -1 in `sizes` so that they hold `count` elements. Raises ShapeMismatch."""
    known: IntLike = 1
    inferred: int | None = None
    for dim, size in enumerate(sizes):
        if isinstance(size, int) and size == -1:
            if inferred is not None:
                raise ShapeMismatch(
                    f"{operator}: argument 'size' has -1 twice; got {tuple(sizes)}; expected one at"
                    " most. (only one dimension can be inferred)"
                )
            inferred = dim
        elif size < 0:
            raise ShapeMismatch(
                f"{operator}: argument 'size' has a negative size; got {tuple(sizes)}; expected "
                "sizes >= 0, or one -1. (invalid shape dimension)"
            )
        else:
            known = known * size
    if inferred is None:
        if known is count or known == count:
            return tuple(sizes)
    elif known == 0:
        raise ShapeMismatch(
            f"{operator}: argument 'size' = {tuple(sizes)} leaves -1 open for a tensor of {count} "
            "elements, since any size would do; give the size. (the unspecified dimension size -1 "
            "can be any value and is ambiguous)"
        )
    elif count % known == 0:
        return (*sizes[:inferred], count // known, *sizes[inferred + 1 :])
    raise ShapeMismatch(
        f"{operator}: argument 'size' does not hold the tensor's elements; got {tuple(sizes)}; "
        f"expected sizes whose product is {count}. (shape is invalid for input of size {count})"
    )


def view(layout: Layout, sizes: Shape) -> Layout | None:
    """The same elements under the shape `sizes` (no -1, equal count), or None if that needs a copy.

    PyTorch's `computeStride`: dimensions are taken from the last in chunks that lie evenly in
    memory, and each chunk must be covered exactly by some of the new dimensions.
    """
    shape, strides = layout.shape, layout.strides
    if not shape:
        return Layout(sizes, (1,) * len(sizes), layout.offset)
    if has_no_elements(shape):
        return layout if shape == sizes else Layout(sizes, None, layout.offset)
    if strides[-1] == 1 and is_contiguous(shape, strides):
        return Layout(sizes, None, layout.offset)
    new_strides: list[IntLike] = [1] * len(sizes)
    new_dim = len(sizes) - 1
    base, chunk = strides[-1], 1
    for dim in range(len(shape) - 1, -1, -1):
        chunk = chunk * shape[dim]
        if dim and (shape[dim - 1] == 1 or strides[dim - 1] == chunk * base):
            continue
        covered: IntLike = 1
        while new_dim >= 0 and (covered < chunk or sizes[new_dim] == 1):
            new_strides[new_dim] = covered * base
            covered = covered * sizes[new_dim]
            new_dim -= 1
        if covered != chunk:
            return None
        if dim:
            base, chunk = strides[dim - 1], 1
    return Layout(sizes, tuple(new_strides), layout.offset) if new_dim == -1 else None


# ---------------------------------------------------------------- moving through dimensions


def permute(layout: Layout, dims: Sequence[int], operator: str = "permute") -> Layout:
    """Reorder dimensions. Raises ShapeMismatch unless `dims` names each exactly once."""
    if len(dims) != len(layout.shape):
        raise ShapeMismatch(
            f"{operator}: argument 'dims' must name every dimension once; got {tuple(dims)}; "
            f"expected {len(layout.shape)} of them for shape {layout.shape}."
        )
    order = wrap_dims(dims, len(layout.shape), operator)
    shape = tuple(layout.shape[dim] for dim in order)
    return Layout(shape, tuple(layout.strides[dim] for dim in order), layout.offset)


def transpose(layout: Layout, dim0: int, dim1: int, operator: str = "transpose") -> Layout:
    """Swap two dimensions."""
    ndim = len(layout.shape)
    dim0, dim1 = wrap_dim(dim0, ndim, operator), wrap_dim(dim1, ndim, operator)
    if not ndim:
        return layout
    order = list(range(ndim))
    order[dim0], order[dim1] = dim1, dim0
    return permute(layout, order, operator)


def _replaced(values: Shape, dim: int, *new: IntLike) -> Shape:
    """`values` with the one at `dim` replaced by `new`."""
    return (*values[:dim], *new, *values[dim + 1 :])


def _require_rank(layout: Layout, operator: str) -> None:
    if not layout.shape:
        raise IndexOutOfRange(
            f"{operator}: argument 'self' has no dimensions; got a 0-d tensor; "
            "expected at least one dimension."
        )


def select(layout: Layout, dim: int, index: IntLike, operator: str = "select") -> Layout:
    """Drop dimension `dim` at position `index` (negative counts from the end)."""
    _require_rank(layout, operator)
    dim = wrap_dim(dim, len(layout.shape), operator)
    size = layout.shape[dim]
    if index >= size or index < -size:
        raise IndexOutOfRange(
            f"{operator}: argument 'index' is out of range for dimension {dim} of shape "
            f"{layout.shape}; got {index}; expected {-size} <= index < {size}."
        )
    position = index + size if index < 0 else index
    offset = layout.offset + position * layout.strides[dim]
    return Layout(_replaced(layout.shape, dim), _replaced(layout.strides, dim), offset)


def slice_(
    layout: Layout,
    dim: int,
    start: IntLike | None,
    end: IntLike | None,
    step: IntLike = 1,
    *,
    operator: str = "slice",
) -> Layout:
    """Keep positions start, start + step, ... < end of `dim`; bounds are clamped as in Python."""
    _require_rank(layout, operator)
    dim = wrap_dim(dim, len(layout.shape), operator)
    if step <= 0:
        raise InvalidArgument(
            f"{operator}: argument 'step' must be positive; got {step}; expected step >= 1. "
            "Use flip to reverse."
        )
    size = layout.shape[dim]
    first = 0 if start is None else _clamped(start, size)
    last = size if end is None else _clamped(end, size)
    length: IntLike = 0 if last < first else last - first
    if step != 1:
        length = (length + step - 1) // step
    stride = layout.strides[dim]
    return Layout(
        _replaced(layout.shape, dim, length),
        _replaced(layout.strides, dim, stride * step),
        layout.offset + first * stride,
    )


def _clamped(position: IntLike, size: IntLike) -> IntLike:
    """A slice bound as a position in 0..size."""
    if position < 0:
        position = position + size
        return 0 if position < 0 else position
    return size if position is size or position >= size else position


def unsqueeze(layout: Layout, dim: int, operator: str = "unsqueeze") -> Layout:
    """Insert a dimension of size 1 before `dim`."""
    ndim = len(layout.shape)
    dim = wrap_dim(dim, ndim + 1, operator)
    stride = layout.shape[dim] * layout.strides[dim] if dim < ndim else 1
    shape = (*layout.shape[:dim], 1, *layout.shape[dim:])
    return Layout(shape, (*layout.strides[:dim], stride, *layout.strides[dim:]), layout.offset)


def squeeze(layout: Layout, dims: Sequence[int] | None = None, operator: str = "squeeze") -> Layout:
    """Drop the dimensions of size 1 (those among `dims`, if given)."""
    ndim = len(layout.shape)
    chosen = range(ndim) if dims is None else wrap_dims(dims, ndim, operator)
    kept = [dim for dim in range(ndim) if dim not in chosen or layout.shape[dim] != 1]
    shape = tuple(layout.shape[dim] for dim in kept)
    return Layout(shape, tuple(layout.strides[dim] for dim in kept), layout.offset)


def diagonal(
    layout: Layout, offset: IntLike = 0, dim1: int = 0, dim2: int = 1, operator: str = "diagonal"
) -> Layout:
    """Show a diagonal of dims `dim1`, `dim2` as the last dimension."""
    dim1, dim2 = wrap_dims((dim1, dim2), len(layout.shape), operator)
    rows, columns = layout.shape[dim1], layout.shape[dim2]
    if offset >= 0:
        length = _smaller(rows, columns - offset)
        start = offset * layout.strides[dim2]
    else:
        length = _smaller(rows + offset, columns)
        start = -offset * layout.strides[dim1]
    if length <= 0:
        length, start = 0, 0
    kept = [dim for dim in range(len(layout.shape)) if dim not in (dim1, dim2)]
    shape = (*(layout.shape[dim] for dim in kept), length)
    step = layout.strides[dim1] + layout.strides[dim2]
    strides = (*(layout.strides[dim] for dim in kept), step)
    return Layout(shape, strides, layout.offset + start)


def _smaller(a: IntLike, b: IntLike) -> IntLike:
    return a if a <= b else b


def unfold(layout: Layout, dim: int, size: int, step: int, operator: str = "unfold") -> Layout:
    """Windows of `size` every `step` positions along `dim`; the window becomes the last dim."""
    dim = wrap_dim(dim, len(layout.shape), operator)
    extent: IntLike = layout.shape[dim] if layout.shape else 1
    stride: IntLike = layout.strides[dim] if layout.shape else 1
    if step <= 0 or size < 0 or size > extent:
        raise InvalidArgument(
            f"{operator}: arguments 'size' and 'step' do not fit dimension {dim} of size {extent}; "
            f"got size {size}, step {step}; expected 0 <= size <= {extent} and step >= 1."
        )
    if not layout.shape:
        return Layout((size,), (1,), layout.offset)
    count = (extent - size) // step + 1
    return Layout(
        (*_replaced(layout.shape, dim, count), size),
        (*_replaced(layout.strides, dim, stride * step), stride),
        layout.offset,
    )


def as_strided(
    layout: Layout,
    shape: Sequence[IntLike],
    strides: Sequence[IntLike],
    offset: IntLike | None = None,
    *,
    operator: str = "as_strided",
) -> Layout:
    """Any layout of the same storage; `offset=None` keeps the present one.

    Raises InvalidArgument for negative values. Whether it fits the storage is for the caller to
    check, with `extent`.
    """
    start = layout.offset if offset is None else offset
    if len(shape) != len(strides):
        raise ShapeMismatch(
            f"{operator}: arguments 'size' and 'stride' differ in length; got {tuple(shape)} and "
            f"{tuple(strides)}; expected one stride for each size."
        )
    if any(value < 0 for value in (*shape, *strides, start)):
        raise InvalidArgument(
            f"{operator}: a size, stride or offset is negative; got size {tuple(shape)}, stride "
            f"{tuple(strides)}, storage_offset {start}; expected values >= 0."
        )
    return Layout(tuple(shape), tuple(strides), start)


def extent(shape: Sequence[IntLike], strides: Sequence[IntLike]) -> IntLike:
    """Distance in elements from the first element to just past the last; 0 when there are none."""
    if has_no_elements(shape):
        return 0
    span: IntLike = 1
    for size, stride in zip(shape, strides):
        span = span + (size - 1) * stride
    return span


# ---------------------------------------------------------------- layouts of results


def elementwise_strides(
    shape: Sequence[IntLike], operands: Sequence[tuple[Sequence[IntLike], Sequence[IntLike]]]
) -> Shape:
    """Strides of a pointwise result of `shape` from its (shape, strides) operands.

    PyTorch's TensorIterator. Operands are the tensors of the call, in order (0-d ones included;
    Python numbers are not operands). Shapes are tuples.
    """
    ndim, contiguous = len(shape), contiguous_strides(shape)
    if ndim < 2:
        return contiguous
    # Ranks first: comparing tuples compares sizes before lengths, which might guard.
    if all(len(operand[0]) == ndim and operand[0] == shape for operand in operands):
        if all(strides == contiguous for _, strides in operands):
            return contiguous
        same = _strides_of_equal_shapes(shape, [strides for _, strides in operands])
        if same is not None:
            return same
    stretched = [broadcast_strides(*operand, shape) for operand in operands]
    order = _memory_order(shape, stretched)
    if order == list(range(len(shape) - 1, -1, -1)):
        return contiguous
    result: list[IntLike] = [1] * len(shape)
    step: IntLike = 1
    for dim in order:
        result[dim] = step
        step = step * shape[dim]
    return tuple(result)


def _strides_of_equal_shapes(
    shape: Sequence[IntLike], strides: Sequence[Sequence[IntLike]]
) -> Shape | None:
    """TensorIterator's shortcuts when no operand is broadcast, in its order; None if none fits."""
    distinct = list(dict.fromkeys(map(tuple, strides)))
    if all(is_contiguous(shape, item) for item in distinct):
        return contiguous_strides(shape)
    if all(is_channels_last(shape, item) for item in distinct):
        return strides_in_order(shape, (1, 3, 2, 0))
    if len(distinct) == 1 and is_dense(shape, distinct[0]):
        return distinct[0]
    return None


def preserved_strides(shape: Sequence[IntLike], strides: Sequence[IntLike]) -> Shape:
    """Strides of a copy that keeps the memory order (`clone`, `empty_like`): dense, no gaps."""
    if is_contiguous(shape, strides) or is_dense(shape, strides):
        return tuple(strides)
    return strides_in_order(shape, _memory_order(shape, [strides]))


def _memory_order(shape: Sequence[IntLike], operands: Sequence[Sequence[IntLike]]) -> list[int]:
    """Dimensions from the fastest to the slowest, by the first operand that can tell two apart."""

    def comes_after(a: int, b: int) -> int:
        for strides in operands:
            if strides[a] == 0 or strides[b] == 0:
                continue
            if strides[a] != strides[b]:
                return -1 if strides[a] < strides[b] else 1
            if shape[a] > shape[b]:
                return 1
        return 0

    order = list(range(len(shape) - 1, -1, -1))
    for start in range(1, len(order)):
        here = start
        for before in range(start - 1, -1, -1):
            comparison = comes_after(order[before], order[here])
            if comparison > 0:
                order[before], order[here] = order[here], order[before]
                here = before
            elif comparison < 0:
                break
    return order
