"""``x[...]`` and ``x[...] = value``, made of view operators.

Basic indices (ints, slices, None, Ellipsis) become select, slice and unsqueeze. One index tensor is
taken too: integers become an index_select along their dimension; a bool mask can be assigned to.
"""

from __future__ import annotations

from types import EllipsisType
from typing import Any

from plait.base.errors import IndexOutOfRange, MissingKernel
from plait.dispatch.dispatcher import lookup
from plait.dispatch.keys import DispatchKey
from plait.ops import aten, families
from plait.ops.calling import is_number
from plait.symbolic.symint import SymInt
from plait.tensor import dtype as dtypes
from plait.tensor.tensor import Tensor, tensor

__all__ = ["get_item", "set_item"]

assert families.MODULES  # the operators are defined before they are looked up
_select = lookup("aten::select.int").call
_BATCHED = DispatchKey.BATCHED.mask
_slice = lookup("aten::slice.Tensor").call


def get_item(self: Tensor, index: Any) -> Tensor:
    """``self[index]``: a view for basic indices, a copy for an integer tensor or list.

    Raises IndexOutOfRange for too many indices and for positions that do not exist.
    """
    if index.__class__ is int:
        return _select(self, 0, index)  # type: ignore[no-any-return]
    items = _items(self, index)
    out, dim = self, 0
    for item in items:
        if item is None:
            out = aten.unsqueeze.default(out, dim)
        elif isinstance(item, slice):
            out = _sliced(out, dim, item)
        elif _is_tensor_index(item):
            out = _taken(out, dim, item)
            dim += item.ndim - 1
        else:
            out = _select(out, dim, item if isinstance(item, SymInt) else _position(item))
            continue
        dim += 1
    return aten.alias.default(self) if out is self else out


def _is_tensor_index(item: Any) -> bool:
    """Whether positions are taken by their tensor: one without dims is read, unless vmap has it."""
    return isinstance(item, Tensor) and bool(item.ndim or item._keys & _BATCHED)


def _position(item: Any) -> int:
    if isinstance(item, bool) or not hasattr(item, "__index__"):
        raise IndexOutOfRange(
            f"getitem: the index has a wrong type; got {type(item).__name__}; expected ints, "
            "slices, None, Ellipsis or one integer tensor."
        )
    return int(item.__index__())


def _items(self: Tensor, index: Any) -> list[Any]:
    """The index as one item for each dimension it uses, with the Ellipsis replaced by slices."""
    if isinstance(index, list):
        index = tensor(index)
    items = list(index) if isinstance(index, tuple) else [index]
    items = [tensor(item) if isinstance(item, list) else item for item in items]
    used = sum(item is not None and not isinstance(item, EllipsisType) for item in items)
    if used > self.ndim:
        raise IndexOutOfRange(
            f"getitem: too many indices for a tensor of dimension {self.ndim}; got {used}."
        )
    dots = [i for i, item in enumerate(items) if isinstance(item, EllipsisType)]
    if len(dots) > 1:
        raise IndexOutOfRange("getitem: an index can have one Ellipsis ('...') only.")
    if dots:
        at = dots[0]
        items[at : at + 1] = [slice(None)] * (self.ndim - used)
    return items


def _sliced(x: Tensor, dim: int, item: slice) -> Tensor:
    if item.start is None and item.stop is None and item.step is None:
        return x
    step = 1 if item.step is None else _bound(item.step)
    return _slice(x, dim, _bound(item.start), _bound(item.stop), step)  # type: ignore[no-any-return]


def _bound(value: Any) -> Any:
    return value if value is None or isinstance(value, SymInt) else _position(value)


def _taken(x: Tensor, dim: int, index: Tensor) -> Tensor:
    """``x`` at the positions in ``index`` along ``dim``, whose place the index's shape takes."""
    if index.dtype not in (dtypes.int64, dtypes.int32):
        raise MissingKernel(
            f"getitem: an index tensor of {index.dtype} is not supported here; expected int64. "
            "Use where or masked_fill instead of a mask."
        )
    size = x.shape[dim]
    wrapped = aten.where.self(index < 0, index + size, index)
    if index.ndim == 1:
        return aten.index_select.default(x, dim, wrapped)  # type: ignore[no-any-return]
    flat = aten.index_select.default(x, dim, aten.reshape.default(wrapped, (-1,)))
    shape = (*x.shape[:dim], *index.shape, *x.shape[dim + 1 :])
    return aten.reshape.default(flat, shape)  # type: ignore[no-any-return]


def set_item(self: Tensor, index: Any, value: Any) -> None:
    """``self[index] = value`` in place; a bool mask takes a number or a tensor that broadcasts."""
    if isinstance(index, Tensor) and index.dtype is dtypes.bool_:
        _set_masked(self, index, value)
        return
    items = _items(self, index)
    if any(map(_is_tensor_index, items)):
        raise MissingKernel(
            "setitem: assignment through an index tensor is not supported; use index_add, scatter "
            "or scatter_add, which return a new tensor."
        )
    target = get_item(self, index)
    if is_number(value):
        aten.fill_.Scalar(target, value)
        return
    source = value if isinstance(value, Tensor) else tensor(value, dtype=self.dtype)
    while source.ndim > target.ndim and source.shape[0] == 1:
        source = aten.squeeze.dim(source, 0)
    aten.copy_.default(target, source)


def _set_masked(self: Tensor, mask: Tensor, value: Any) -> None:
    while mask.ndim < self.ndim:  # a mask of the leading dimensions
        mask = aten.unsqueeze.default(mask, mask.ndim)
    if is_number(value):
        aten.masked_fill_.Scalar(self, mask, value)
        return
    if value.ndim:
        raise MissingKernel(
            "setitem: only a number or a 0-d tensor can be assigned through a mask; got shape "
            f"{value.shape}. Use where."
        )
    aten.copy_.default(self, aten.where.self(mask, value, self))
