"""What the tape itself computes: sums, zeros, casts and copies of gradients, through operators.

Everything goes through the dispatcher, so that it is differentiated and traced like any operator.
Knows no nodes and no rules.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from plait.base.errors import AutogradError
from plait.dispatch.dispatcher import lookup
from plait.dispatch.keyset import CPU_TENSOR_KEYS
from plait.dispatch.state import tls
from plait.tensor.layout import Layout, extent
from plait.tensor.tensor import Tensor, wrap

if TYPE_CHECKING:
    from plait.autograd.graph import Node, ResultMeta
    from plait.tensor.dtype import DType

__all__ = ["add", "clone", "conform", "conj", "laid_out", "like", "ones_like", "sum_to", "zeros"]


def add(a: Tensor, b: Tensor) -> Tensor:
    """``a + b``."""
    total: Tensor = lookup("aten::add.Tensor").call(a, b)
    return total


def add_(a: Tensor, b: Tensor) -> Tensor:
    """``a += b``."""
    total: Tensor = lookup("aten::add_.Tensor").call(a, b)
    return total


def conj(t: Any) -> Any:
    """The conjugate of a tensor or of each in a sequence; None and real ones as they are."""
    if isinstance(t, tuple | list):
        return [conj(item) for item in t]
    return lookup("aten::_conj_physical").call(t) if t is not None and t._dtype.is_complex else t


def clone(t: Tensor) -> Tensor:
    """A copy in memory of its own."""
    copied: Tensor = lookup("aten::clone").call(t)
    return copied


def like(t: Tensor, model: Tensor) -> Tensor:
    """A copy of ``t`` with the strides that a dense ``model`` has."""
    if t.strides == model.strides:
        return clone(t)
    fresh: Tensor = lookup("aten::empty_like").call(model)
    lookup("aten::copy_").call(fresh, t)
    return fresh


def laid_out(t: Tensor, layout: Layout) -> Tensor:
    """``t`` in a memory of its own with the strides and the offset of ``layout``."""
    shape, strides, offset = layout.shape, layout.strides, layout.offset
    length = offset + extent(shape, strides)
    memory = zeros(((length,), t._dtype, t._device))
    memory = lookup("aten::as_strided_scatter").call(memory, t, shape, strides, offset)
    made: Tensor = lookup("aten::as_strided").call(memory, shape, strides, offset)
    return made


def zeros(meta: ResultMeta) -> Tensor:
    """Zeros of the described shape, dtype and device."""
    shape, dtype, device = meta
    made: Tensor = lookup("aten::zeros").call(shape, dtype=dtype, device=device)
    return made


def ones_like(t: Tensor) -> Tensor:
    """Ones of ``t``'s shape and dtype.

    Made directly where no mode, no tape and no tracer could ask for the call: this stands at the
    start of every ``loss.backward()``.
    """
    if t.__class__ is Tensor and t._keys == CPU_TENSOR_KEYS and not (tls.include or tls.exclude):
        array = t._array
        assert array is not None
        if array.size == 1:
            return wrap(np.array(1, array.dtype, ndmin=array.ndim), t._dtype)
    made: Tensor = lookup("aten::ones_like").call(t)
    return made


def sum_to(t: Tensor, shape: tuple[Any, ...]) -> Tensor:
    """``t`` summed over the dimensions along which ``shape`` was broadcast to ``t.shape``."""
    leading = t.ndim - len(shape)
    dims = list(range(leading))
    for i, size in enumerate(shape):
        if isinstance(size, int) and size == 1 and t.shape[leading + i] != 1:
            dims.append(leading + i)
    if dims:
        t = lookup("aten::sum.dim_IntList").call(t, dims, True)
    if leading:
        t = lookup("aten::view").call(t, shape)
    return t


def expands_to(shape: tuple[Any, ...], larger: tuple[Any, ...]) -> bool:
    """Whether ``shape`` broadcasts to ``larger``."""
    leading = len(larger) - len(shape)
    return leading >= 0 and all(
        size == got or size == 1 for size, got in zip(shape, larger[leading:], strict=True)
    )


def cast(t: Tensor, dtype: DType) -> Tensor:
    """``t`` as ``dtype``; the real part where a complex gradient meets a real tensor."""
    if t._dtype.is_complex and not dtype.is_complex:
        t = lookup("aten::real").call(t)
    if t._dtype is not dtype:
        t = lookup("aten::_to_copy").call(t, dtype=dtype)
    return t


def _name(producer: Node | None) -> str:
    return "backward" if producer is None else producer.name()


def conform(grad: Any, meta: ResultMeta, producer: Node | None, position: int) -> Tensor:
    """``grad`` summed to the shape and cast to the dtype of the tensor it is a gradient of.

    AutogradError if it is no tensor, or its shape does not broadcast from the tensor's.
    """
    if not hasattr(grad, "_keys"):
        raise AutogradError(
            f"{_name(producer)} returned an invalid gradient at index {position}; got a "
            f"{type(grad).__name__}; expected a Tensor or None."
        )
    shape, dtype, _ = meta
    if grad.shape != shape:
        if not expands_to(shape, grad.shape):
            raise AutogradError(
                f"{_name(producer)} returned an invalid gradient at index {position}; got shape "
                f"{tuple(grad.shape)}; expected a shape compatible with {tuple(shape)}, the shape "
                "of the tensor it belongs to. Return a gradient of that shape."
            )
        grad = sum_to(grad, shape)
    if grad._dtype is not dtype:
        grad = cast(grad, dtype)
    result: Tensor = grad
    return result
