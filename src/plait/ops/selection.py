"""Pointwise operators that choose, copy or overwrite elements: where, masked_fill, clone, fill, ...

Also conversions between dtypes. Like all pointwise operators they follow PyTorch's strides; copies
keep the memory order of what they copy.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from plait.base.errors import DtypeMismatch, check
from plait.dispatch.keys import DispatchKey
from plait.dispatch.operator import Overload
from plait.dispatch.tags import Tag
from plait.ops import aten, variants
from plait.ops.arrays import convert
from plait.ops.define import (
    Array,
    Rule,
    checked_scalar,
    define,
    elementwise_meta,
    empty_array,
    run_quietly,
)
from plait.ops.elementwise import zero_grad
from plait.tensor import dtype as dtypes
from plait.tensor.dtype import DType
from plait.tensor.layout import (
    TensorMeta,
    broadcast_shapes,
    expand,
    is_dense,
    preserved_strides,
)
from plait.tensor.promotion import result_type, scalar_dtype
from plait.tensor.tensor import Tensor, wrap

__all__ = ["clone", "copy", "fill", "masked_fill", "to_copy", "where"]

_ndarray = np.ndarray


# ---------------------------------------------------------------- choosing


def _check_mask(name: str, argument: str, mask: Any) -> None:
    check(
        mask.dtype is dtypes.bool_,
        DtypeMismatch,
        lambda: f"{name}: argument {argument!r} must be a bool tensor; got {mask.dtype}.",
    )


def _where_meta(condition: Any, self: Any, other: Any) -> TensorMeta:
    _check_mask("where", "condition", condition)
    return elementwise_meta("where", [condition, self, other], result_type(self, other))


def _where_slow(condition: Tensor, self: Tensor, other: Tensor) -> Tensor:
    meta = _where_meta(condition, self, other)
    out = empty_array(meta)
    np.copyto(out, other._array, casting="unsafe")  # type: ignore[arg-type]
    np.copyto(out, self._array, casting="unsafe", where=condition._array)  # type: ignore[arg-type]
    return wrap(out, meta.dtype)


def _where(condition: Tensor, self: Tensor, other: Tensor) -> Tensor:
    a: Any = self._array
    b: Any = other._array
    c: Any = condition._array
    if (
        self._dtype is other._dtype
        and condition._dtype is dtypes.bool_
        and a.flags.c_contiguous
        and b.flags.c_contiguous
        and c.flags.c_contiguous
    ):
        try:
            result = np.where(c, a, b)
        except ValueError:
            return _where_slow(condition, self, other)
        return wrap(result, self._dtype)
    return run_quietly(_where_slow, condition, self, other)  # type: ignore[no-any-return]


where: Overload = define(
    "aten::where.self(Tensor condition, Tensor self, Tensor other) -> Tensor",
    shape=_where_meta,
    tensor_kernel=_where,
    kind="elementwise",
    tags=(Tag.POINTWISE, Tag.CORE),
    out="self_out",
    vjp={
        "condition": None,
        "self": lambda g, condition: masked_fill(g, _not(condition), 0),
        "other": lambda g, condition: masked_fill(g, condition, 0),
    },
)


def _not(condition: Any) -> Any:
    return aten.logical_not.default(condition)


def _number(like: Any, value: Any) -> Any:
    """A 0-d tensor for a Python number; like a number, it decides the dtype only by category."""
    dtype = scalar_dtype(value) if like is None else result_type(like, value)
    return aten.scalar_tensor.default(value, dtype=dtype)


where_scalar_self = define(
    "aten::where.ScalarSelf(Tensor condition, Scalar self, Tensor other) -> Tensor",
    composite=lambda condition, self, other: where(condition, _number(other, self), other),
)
where_scalar_other = define(
    "aten::where.ScalarOther(Tensor condition, Tensor self, Scalar other) -> Tensor",
    composite=lambda condition, self, other: where(condition, self, _number(self, other)),
)
where_scalar = define(
    "aten::where.Scalar(Tensor condition, Scalar self, Scalar other) -> Tensor",
    composite=lambda condition, self, other: where(
        condition, _number(None, self), _number(None, other)
    ),
)


def _masked_fill_meta(self: Any, mask: Any, value: Any) -> TensorMeta:
    _check_mask("masked_fill", "mask", mask)
    checked_scalar("masked_fill", value, self.dtype)
    shape = broadcast_shapes(self.shape, mask.shape, operator="masked_fill")
    return TensorMeta(shape, self.dtype, self.device)


def _masked_fill(self: Array, mask: Array, value: Any, meta: TensorMeta) -> Array:
    out = np.empty(meta.shape, self.dtype)
    np.copyto(out, self)
    np.copyto(out, checked_scalar("masked_fill", value, meta.dtype), where=mask)
    return out


masked_fill: Overload = define(
    "aten::masked_fill.Scalar(Tensor self, Tensor mask, Scalar value) -> Tensor",
    shape=_masked_fill_meta,
    kernel=_masked_fill,
    kind="elementwise",
    tags=(Tag.POINTWISE, Tag.CORE),
    inplace=True,
    out=True,
    vjp={"self": lambda g, mask: masked_fill(g, mask, 0), "mask": None},
    decomposition=lambda self, mask, value: where(
        mask, aten.scalar_tensor.default(value, dtype=self.dtype), self
    ),
)

# ---------------------------------------------------------------- copies


def _like(self: Any, dtype: DType, memory_format: Any = None) -> TensorMeta:
    """The meta of a copy that keeps the memory order."""
    strides = None
    if memory_format in (None, "preserve_format"):
        strides = preserved_strides(self.shape, self.strides)
    return TensorMeta(self.shape, dtype, self.device, strides)


def _clone(self: Tensor, *, memory_format: Any = None) -> Tensor:
    array: Any = self._array
    if array.flags.c_contiguous:
        return wrap(array.copy(), self._dtype)
    out = empty_array(_like(self, self._dtype, memory_format))
    np.copyto(out, array)
    return wrap(out, self._dtype)


clone = define(
    "aten::clone(Tensor self, *, MemoryFormat? memory_format=None) -> Tensor",
    shape=lambda self, *, memory_format=None: _like(self, self.dtype, memory_format),
    tensor_kernel=_clone,
    kind="elementwise",
    tags=(Tag.CORE,),
    vjp={"self": lambda g: g},
)


def _to_copy_meta(
    self: Any,
    *,
    dtype: DType | None = None,
    layout: Any = None,
    device: Any = None,
    pin_memory: Any = None,
    non_blocking: bool = False,
    memory_format: Any = None,
) -> TensorMeta:
    # Unlike clone, a copy of something not dense is contiguous.
    keeps = memory_format in (None, "preserve_format") and is_dense(self.shape, self.strides)
    return TensorMeta(
        self.shape, dtype or self.dtype, device or self.device, self.strides if keeps else None
    )


def _to_copy(self: Array, *, meta: TensorMeta, **options: Any) -> Array:
    out = empty_array(meta)
    convert(out, self)
    return out


to_copy = define(
    "aten::_to_copy(Tensor self, *, ScalarType? dtype=None, Layout? layout=None, "
    "Device? device=None, bool? pin_memory=None, bool non_blocking=False, "
    "MemoryFormat? memory_format=None) -> Tensor",
    shape=_to_copy_meta,
    kernel=_to_copy,
    kind="elementwise",
    tags=(Tag.CORE,),
    vjp={"self": lambda g: g},
)


def _to(self: Any, dtype: Any, non_blocking: bool, copy: bool, memory_format: Any) -> Any:
    if not copy and (dtype is None or self.dtype is dtype):
        return self
    return to_copy(self, dtype=dtype, memory_format=memory_format)


to_dtype = define(
    "aten::to.dtype(Tensor(a) self, ScalarType dtype, bool non_blocking=False, bool copy=False, "
    "MemoryFormat? memory_format=None) -> Tensor(a)",
    composite=_to,
)


def _copy_meta(self: Any, src: Any, non_blocking: bool = False) -> TensorMeta:
    expand(TensorMeta(src.shape, src.dtype).layout, tuple(self.shape), operator="copy")
    return _like(self, self.dtype)


def _copy(self: Array, src: Array, non_blocking: bool, meta: TensorMeta) -> Array:
    out = empty_array(meta)
    convert(out, src)
    return out


copy = define(
    "aten::copy(Tensor self, Tensor src, bool non_blocking=False) -> Tensor",
    shape=_copy_meta,
    kernel=_copy,
    kind="elementwise",
    tags=(Tag.CORE,),
    inplace=True,
    vjp={"self": zero_grad, "src": lambda g: g},
)

# ---------------------------------------------------------------- overwriting


def _fill_meta(self: Any, value: Any) -> TensorMeta:
    checked_scalar("fill", value, self.dtype)
    return _like(self, self.dtype)


def _fill(self: Array, value: Any, meta: TensorMeta) -> Array:
    out = empty_array(meta)
    out[...] = checked_scalar("fill", value, meta.dtype)
    return out


def _full_like(self: Any, value: Any) -> Any:
    return aten.full_like.default(self, value)


fill = define(
    "aten::fill.Scalar(Tensor self, Scalar value) -> Tensor",
    shape=_fill_meta,
    kernel=_fill,
    kind="elementwise",
    tags=(Tag.POINTWISE,),
    inplace=True,
    vjp={"self": zero_grad},
    decomposition=_full_like,
)
zero = define(
    "aten::zero(Tensor self) -> Tensor",
    shape=lambda self: _like(self, self.dtype),
    kernel=lambda self, meta: _fill(self, 0, meta),
    kind="elementwise",
    tags=(Tag.POINTWISE,),
    inplace=True,
    vjp={"self": zero_grad},
    decomposition=lambda self: _full_like(self, 0),
)


def _write_directly(op: Overload, value_of: Rule) -> None:
    """Replace the derived in-place kernel by one that makes no temporary."""
    variant = op.inplace
    assert variant is not None and variant.shape_rule is not None
    shape, name = variant.shape_rule, variant.name

    def kernel(self: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        shape(self, *args, **kwargs)
        variants.check_writable(name, self, args)
        run_quietly(convert, self._array, value_of(self, *args, **kwargs))
        return self

    variant.register(DispatchKey.CPU, kernel, replace=True)


_write_directly(copy, lambda self, src, non_blocking: src._array)
_write_directly(fill, lambda self, value: checked_scalar("fill_", value, self._dtype))
_write_directly(zero, lambda self: np.zeros((), self._dtype.numpy))
