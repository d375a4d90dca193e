"""Whether layouts show the same memory twice: the checks that guard in-place writes.

PyTorch's rules, on ints and SymInts alike. Knows layouts only; that two tensors share a storage is
for the caller to see.
"""

from __future__ import annotations

from enum import Enum

from plait.tensor.layout import Layout, extent, has_no_elements, is_dense

__all__ = ["Overlap", "has_internal_overlap", "may_overlap", "overlap"]


class Overlap(Enum):
    """What is known of two layouts of one storage."""

    NO = "no"
    FULL = "full"
    PARTIAL = "partial"
    UNKNOWN = "unknown"  # PyTorch's "too hard": nothing is checked


def has_internal_overlap(layout: Layout) -> bool:
    """Whether one element surely appears twice, as in an expanded tensor.

    In-place writes to such a tensor are refused. Odd strides made by `as_strided` may escape.
    """
    if has_no_elements(layout.shape):
        return False
    return any(stride == 0 and size > 1 for size, stride in zip(layout.shape, layout.strides))


def overlap(a: Layout, b: Layout) -> Overlap:
    """How two layouts of one storage, of one element type, lie to each other.

    In-place writes with a PARTIAL overlap between output and input are refused.
    """
    if a is b or a == b:
        return Overlap.FULL
    if has_no_elements(a.shape) or has_no_elements(b.shape):
        return Overlap.NO
    if not (is_dense(a.shape, a.strides) and is_dense(b.shape, b.strides)):
        return Overlap.UNKNOWN
    a_end, b_end = a.offset + a.numel(), b.offset + b.numel()
    if a.offset == b.offset and a_end == b_end:
        return Overlap.FULL if a.strides == b.strides else Overlap.PARTIAL
    return Overlap.PARTIAL if a.offset < b_end and b.offset < a_end else Overlap.NO


def may_overlap(a: Layout, b: Layout) -> bool:
    """False only if no element is in both: safe where a wrong no would give wrong results."""
    if has_no_elements(a.shape) or has_no_elements(b.shape):
        return False
    a_end = a.offset + extent(a.shape, a.strides)
    b_end = b.offset + extent(b.shape, b.strides)
    if not (a.offset < b_end and b.offset < a_end):
        return False
    return not _in_other_columns(a, b)


def _in_other_columns(a: Layout, b: Layout) -> bool:
    """Whether both are column blocks of one matrix, side by side: x[:, :3] and x[:, 3:]."""
    if a.strides != b.strides or not a.strides:
        return False
    row = max((stride for stride in a.strides if isinstance(stride, int)), default=0)
    offsets = (a.offset, b.offset)
    if row == 0 or not all(isinstance(value, int) for value in (*a.shape, *b.shape, *offsets)):
        return False
    return not _ranges_meet(_column_range(a, row), _column_range(b, row), row)


def _column_range(layout: Layout, row: int) -> tuple[int, int]:
    """First and last position inside the rows of length `row` that the layout touches."""
    first = int(layout.offset % row)
    inner = [(size, step) for size, step in zip(layout.shape, layout.strides) if step != row]
    return first, first + int(sum((size - 1) * step for size, step in inner))


def _ranges_meet(a: tuple[int, int], b: tuple[int, int], row: int) -> bool:
    """Whether two column ranges share a column; ranges that run over a row's end always may."""
    if a[1] >= row or b[1] >= row:
        return True
    return a[0] <= b[1] and b[0] <= a[1]
