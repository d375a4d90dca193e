"""Tensors made from nothing: constants, ramps, identity matrices, memory; and the like of a tensor.

Owns the dtype that PyTorch infers for them. Sizes may be symbolic: shape rules only build metadata.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from plait.base.errors import InvalidArgument, ShapeMismatch, check
from plait.dispatch.operator import Overload
from plait.dispatch.tags import Tag
from plait.ops import aten
from plait.ops.define import Array, Rule, check_dtype, checked_scalar, define, empty_array
from plait.ops.elementwise import REAL
from plait.tensor import dtype as dt
from plait.tensor.device import CPU, Device
from plait.tensor.dtype import DType, get_default_dtype
from plait.tensor.layout import IntLike, TensorMeta, is_contiguous, preserved_strides
from plait.tensor.promotion import scalar_dtype
from plait.tensor.tensor import Tensor
from plait.tensor.tensor import empty_strided as strided_memory

__all__ = ["device_of", "factory_meta", "like_meta", "zeros_like"]

# ---------------------------------------------------------------- metadata


def factory_meta(
    name: str, size: Sequence[IntLike], dtype: DType, device: Device | None = None
) -> TensorMeta:
    """A contiguous result of these sizes. Raises ShapeMismatch for a negative one."""
    for extent in size:
        check(
            extent >= 0,
            ShapeMismatch,
            lambda: (
                f"{name}: argument 'size' has a negative dimension; got {tuple(size)}. "
                "(Trying to create tensor with negative dimension)"
            ),
        )
    return TensorMeta(size, dtype, device_of(device))


def device_of(device: Device | None) -> Device:
    """The device meant; there is one CPU."""
    return CPU if device is None or device.type == "cpu" else device


def like_meta(
    self: Any, *, dtype: DType | None = None, device: Any = None, memory_format: Any = None
) -> TensorMeta:
    """The sizes and the memory order of ``self``, without gaps."""
    strides = None
    if memory_format in (None, "preserve_format"):
        strides = preserved_strides(self.shape, self.strides)
    where = self.device if device is None else device_of(device)
    return TensorMeta(self.shape, dtype or self.dtype, where, strides)


# ---------------------------------------------------------------- constants

_OPTIONS = "ScalarType? dtype=None, Device? device=None"
_LIKE_OPTIONS = f"{_OPTIONS}, MemoryFormat? memory_format=None"
_CONSTANT: dict[str, Any] = {"self": None}  # nothing depends on the elements of `self`


def _creation(schema: str, shape: Rule, kernel: Rule) -> Overload:
    """Define a creation operator; its result depends on no element of any argument."""
    return define(
        f"aten::{schema}",
        shape=shape,
        kernel=kernel,
        vjp=_CONSTANT if "Tensor self" in schema else None,
        kind="creation",
        tags=(Tag.CORE,),
    )


def _sized(name: str) -> Rule:
    """Shape rule of ``name(size)``."""

    def shape(
        size: Any, *, dtype: DType | None = None, device: Any = None, memory_format: Any = None
    ) -> TensorMeta:
        return factory_meta(name, size, dtype or get_default_dtype(), device)

    return shape


def _new_sized(name: str) -> Rule:
    """Shape rule of ``new_name(self, size, ...)``: dtype and device are those of ``self``."""

    def shape(
        self: Any, size: Any, *rest: Any, dtype: DType | None = None, device: Any = None
    ) -> TensorMeta:
        return factory_meta(name, size, dtype or self.dtype, device or self.device)

    return shape


def _filled(meta: TensorMeta, value: Any) -> Array:
    out = empty_array(meta)
    out.fill(value)
    return out


def _constant(name: str, value: int) -> Overload:
    """``name`` and ``new_name``; returns ``name_like``."""

    def make(*args: Any, meta: TensorMeta, **options: Any) -> Array:
        if value == 0 and is_contiguous(meta.shape, meta.strides):
            return np.zeros(meta.shape, meta.dtype.numpy)  # the system may have zeroed it already
        return _filled(meta, value)

    _creation(f"{name}(SymInt[] size, *, {_OPTIONS}) -> Tensor", _sized(name), make)
    _creation(
        f"new_{name}(Tensor self, SymInt[] size, *, {_OPTIONS}) -> Tensor",
        _new_sized(f"new_{name}"),
        make,
    )
    return _creation(f"{name}_like(Tensor self, *, {_LIKE_OPTIONS}) -> Tensor", like_meta, make)


_constant("ones", 1)
zeros_like = _constant("zeros", 0)

# ---------------------------------------------------------------- memory that holds anything


def _unset(*args: Any, meta: TensorMeta, **options: Any) -> Array:
    return empty_array(meta)


_creation(
    f"empty.memory_format(SymInt[] size, *, {_LIKE_OPTIONS}) -> Tensor", _sized("empty"), _unset
)
_creation(f"empty_like(Tensor self, *, {_LIKE_OPTIONS}) -> Tensor", like_meta, _unset)
_creation(
    f"new_empty(Tensor self, SymInt[] size, *, {_OPTIONS}) -> Tensor",
    _new_sized("new_empty"),
    _unset,
)


def _strided_meta(
    size: Any, stride: Any, *, dtype: DType | None = None, device: Any = None
) -> TensorMeta:
    meta = factory_meta("empty_strided", size, dtype or get_default_dtype(), device)
    check(
        len(size) == len(stride) and all(step >= 0 for step in stride),
        ShapeMismatch,
        lambda: (
            f"empty_strided: argument 'stride' does not fit; got {stride}; expected one "
            f"number, not negative, for each of the sizes {size}."
        ),
    )
    return TensorMeta(meta.shape, meta.dtype, meta.device, stride)


def _empty_strided(size: Any, stride: Any, **options: Any) -> Tensor:
    meta = _strided_meta(size, stride, **options)
    return strided_memory(meta.shape, meta.strides, meta.dtype)


def _new_empty_strided(
    self: Tensor, size: Any, stride: Any, *, dtype: DType | None = None, device: Any = None
) -> Tensor:
    return _empty_strided(size, stride, dtype=dtype or self.dtype, device=device)


define(
    f"aten::empty_strided(SymInt[] size, SymInt[] stride, *, {_OPTIONS}) -> Tensor",
    shape=_strided_meta,
    tensor_kernel=_empty_strided,
    kind="creation",
    tags=(Tag.CORE,),
)
define(
    f"aten::new_empty_strided(Tensor self, SymInt[] size, SymInt[] stride, *, {_OPTIONS})"
    " -> Tensor",
    shape=lambda self, size, stride, *, dtype=None, device=None: _strided_meta(
        size, stride, dtype=dtype or self.dtype, device=device or self.device
    ),
    tensor_kernel=_new_empty_strided,
    vjp=_CONSTANT,
    kind="creation",
    tags=(Tag.CORE,),
)

# ---------------------------------------------------------------- filled with a number


def _full_meta(
    size: Any, fill_value: Any, *, dtype: DType | None = None, device: Any = None
) -> TensorMeta:
    return factory_meta("full", size, dtype or scalar_dtype(fill_value), device)


def _full_like_meta(self: Any, fill_value: Any, **options: Any) -> TensorMeta:
    return like_meta(self, **options)


def _scalar_tensor_meta(s: Any, *, dtype: DType | None = None, device: Any = None) -> TensorMeta:
    return factory_meta("scalar_tensor", (), dtype or get_default_dtype(), device)


def _filler(name: str) -> Rule:
    """The kernel of an operator whose last positional argument is the value."""

    def make(*args: Any, meta: TensorMeta, **options: Any) -> Array:
        return _filled(meta, checked_scalar(name, args[-1], meta.dtype))

    return make


_FILLED: dict[str, Rule] = {
    f"full(SymInt[] size, Scalar fill_value, *, {_OPTIONS})": _full_meta,
    f"full_like(Tensor self, Scalar fill_value, *, {_LIKE_OPTIONS})": _full_like_meta,
    f"new_full(Tensor self, SymInt[] size, Scalar fill_value, *, {_OPTIONS})": _new_sized(
        "new_full"
    ),
    f"scalar_tensor(Scalar s, *, {_OPTIONS})": _scalar_tensor_meta,
}
for _schema, _shape in _FILLED.items():
    _creation(f"{_schema} -> Tensor", _shape, _filler(_schema.partition("(")[0]))

# ---------------------------------------------------------------- ramps


def _ramp(bounds: tuple[Any, ...]) -> tuple[Any, Any, Any]:
    """(start, end, step) from the positional arguments of ``arange``."""
    if len(bounds) == 1:
        return 0, bounds[0], 1
    return bounds[0], bounds[1], bounds[2] if len(bounds) == 3 else 1


def _arange_meta(*bounds: Any, dtype: DType | None = None, device: Any = None) -> TensorMeta:
    start, end, step = _ramp(bounds)
    if dtype is None:
        is_real = any(isinstance(bound, float) for bound in bounds)
        dtype = get_default_dtype() if is_real else dt.int64
    check_dtype("arange", dtype, REAL)
    for bound in (start, end, step):
        check(
            not isinstance(bound, float) or math.isfinite(bound),
            ShapeMismatch,
            lambda: (
                f"arange: bounds and step must be finite; got ({start}, {end}, {step}). "
                "(unsupported range)"
            ),
        )
    check(step != 0, ShapeMismatch, lambda: "arange: argument 'step' is 0. (step must be nonzero)")
    check(
        end >= start if step > 0 else end <= start,
        ShapeMismatch,
        lambda: (
            f"arange: argument 'step' leads away from the end; got ({start}, {end}, {step}). "
            "(upper bound and lower bound inconsistent with step sign)"
        ),
    )
    return TensorMeta((_count(start, end, step, dtype),), dtype, device_of(device))


def _count(start: Any, end: Any, step: Any, dtype: DType) -> Any:
    """How many numbers there are from ``start`` up to, without, ``end``."""
    if dtype is dt.int64:
        start, end, step = [int(b) if isinstance(b, float) else b for b in (start, end, step)]
    if any(isinstance(bound, float) for bound in (start, end, step)):
        return math.ceil((end - start) / step)
    count: IntLike
    count = (end - start + step - (1 if step > 0 else -1)) // step
    return count


def _arange(*bounds: Any, meta: TensorMeta, **options: Any) -> Array:
    start, _, step = _ramp(bounds)
    if meta.dtype is dt.int64:
        start, step = int(start), int(step)
    is_real = isinstance(start, float) or isinstance(step, float)
    places: Array = np.arange(int(meta.shape[0]), dtype=np.float64 if is_real else np.int64)
    places *= step
    places += start
    return places


for _schema in (
    f"arange(Scalar end, *, {_OPTIONS})",
    f"arange.start(Scalar start, Scalar end, *, {_OPTIONS})",
    f"arange.start_step(Scalar start, Scalar end, Scalar step=1, *, {_OPTIONS})",
):
    _creation(f"{_schema} -> Tensor", _arange_meta, _arange)


def _linspace_meta(
    start: Any, end: Any, steps: int, *, dtype: DType | None = None, device: Any = None
) -> TensorMeta:
    check(
        steps >= 0,
        InvalidArgument,
        lambda: (
            f"linspace: argument 'steps' is negative; got {steps}. "
            "(number of steps must be non-negative)"
        ),
    )
    return factory_meta("linspace", (steps,), dtype or get_default_dtype(), device)


def _linspace(
    start: Any, end: Any, steps: int, *, dtype: DType | None = None, device: Any = None
) -> Any:
    """Each half is counted from its own end, so that the ramp is symmetric and ends exactly."""
    step = (end - start) / (steps - 1) if steps > 1 else 0.0
    forth = aten.arange.default(steps, dtype=dt.float64)
    back = aten.rsub.Scalar(forth, steps - 1)
    first = aten.lt.Scalar(forth, max(steps // 2, 1))
    from_start = aten.add.Scalar(aten.mul.Scalar(forth, step), start)
    from_end = aten.rsub.Scalar(aten.mul.Scalar(back, step), end)
    ramp = aten.where.self(first, from_start, from_end)
    return aten._to_copy.default(ramp, dtype=dtype or get_default_dtype())


define(
    f"aten::linspace(Scalar start, Scalar end, int steps, *, {_OPTIONS}) -> Tensor",
    shape=_linspace_meta,
    decomposition=_linspace,
    kind="creation",
)


def _eye_meta(*size: Any, dtype: DType | None = None, device: Any = None) -> TensorMeta:
    return factory_meta("eye", (size[0], size[-1]), dtype or get_default_dtype(), device)


def _eye(*size: Any, meta: TensorMeta, **options: Any) -> Array:
    return np.eye(size[0], size[-1], dtype=meta.dtype.numpy)


_creation(f"eye(SymInt n, *, {_OPTIONS}) -> Tensor", _eye_meta, _eye)
_creation(f"eye.m(SymInt n, SymInt m, *, {_OPTIONS}) -> Tensor", _eye_meta, _eye)
