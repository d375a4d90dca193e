"""Normalisations: softmax, log_softmax, layer norm, and dropout's composite.

Kernels of the half types compute in float32. Each operator has a decomposition into pointwise
operators and reductions, which backends fuse; results are contiguous.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

import numpy as np

from plait.base.errors import DtypeMismatch, InvalidArgument, ShapeMismatch, check
from plait.dispatch.tags import Tag
from plait.ops import aten, row_kernels
from plait.ops.checks import require, require_floating
from plait.ops.define import Array, Rule, define
from plait.tensor import dtype as dt
from plait.tensor import layout as lay
from plait.tensor.dtype import DType
from plait.tensor.layout import Shape, TensorMeta, has_no_elements, wrap_dim

if TYPE_CHECKING:
    from plait.tensor.tensor import Tensor

__all__: list[str] = []

_HALF = (dt.float16, dt.bfloat16)


def _cast(x: Tensor, dtype: DType) -> Tensor:
    if x.dtype is dtype:
        return x
    converted: Tensor = aten._to_copy.default(x, dtype=dtype)
    return converted


# ---------------------------------------------------------------- softmax


def _softmax_shape(name: str) -> Rule:
    def shape(self: Any, dim: int, half_to_float: bool) -> TensorMeta:
        require_floating(name, "self", self)
        wrap_dim(dim, len(self.shape), name)
        check(
            not half_to_float or self.dtype in _HALF,
            DtypeMismatch,
            lambda: (
                f"{name}: argument 'half_to_float' = True asks for float32 results of half "
                f"inputs; got {self.dtype}; expected float16 or bfloat16. Pass False."
            ),
        )
        dtype = dt.float32 if half_to_float else self.dtype
        return TensorMeta(tuple(self.shape), dtype, self.device)

    return shape


def _softmax_kernel(self: Array, dim: int, half_to_float: bool) -> Any:
    return row_kernels.softmax(self, dim)


def _log_softmax_kernel(self: Array, dim: int, half_to_float: bool) -> Any:
    return row_kernels.log_softmax(self, dim)


def _shifted_operators(self: Tensor, dim: int) -> Any:
    """The elements minus the greatest of their row; None where there are no elements."""
    wide = _cast(self, dt.float32 if self.dtype in _HALF else self.dtype)
    if has_no_elements(self.shape):
        return None
    wide = aten.contiguous.default(wide)
    return wide - aten.amax.default(wide, (dim,), True)


def _empty_result(self: Tensor, half_to_float: bool) -> Any:
    dtype = dt.float32 if half_to_float else self.dtype
    return aten.zeros.default(self.shape, dtype=dtype, device=self.device)


def _softmax_decomposition(self: Tensor, dim: int, half_to_float: bool) -> Any:
    shifted = _shifted_operators(self, dim)
    if shifted is None:
        return _empty_result(self, half_to_float)
    weights = aten.exp.default(shifted)
    out = weights / aten.sum.dim_IntList(weights, (dim,), True)
    return out if half_to_float else _cast(out, self.dtype)


def _log_softmax_decomposition(self: Tensor, dim: int, half_to_float: bool) -> Any:
    shifted = _shifted_operators(self, dim)
    if shifted is None:
        return _empty_result(self, half_to_float)
    total = aten.sum.dim_IntList(aten.exp.default(shifted), (dim,), True)
    out = shifted - aten.log.default(total)
    return out if half_to_float else _cast(out, self.dtype)


def _softmax_vjp(g: Tensor, out: Tensor, dim: int) -> Any:
    weighted = g * out
    return weighted - out * aten.sum.dim_IntList(weighted, (dim,), True)


def _log_softmax_vjp(g: Tensor, out: Tensor, dim: int) -> Any:
    return g - aten.exp.default(out) * aten.sum.dim_IntList(g, (dim,), True)


define(
    "aten::_softmax(Tensor self, int dim, bool half_to_float) -> Tensor",
    shape=_softmax_shape("_softmax"),
    kernel=_softmax_kernel,
    vjp={"self": _softmax_vjp},
    decomposition=_softmax_decomposition,
    tags=(Tag.CORE,),
    kind="normalize",
)
define(
    "aten::_log_softmax(Tensor self, int dim, bool half_to_float) -> Tensor",
    shape=_softmax_shape("_log_softmax"),
    kernel=_log_softmax_kernel,
    vjp={"self": _log_softmax_vjp},
    decomposition=_log_softmax_decomposition,
    tags=(Tag.CORE,),
    kind="normalize",
)
define(
    "aten::softmax.int(Tensor self, int dim, ScalarType? dtype=None) -> Tensor",
    composite=lambda self, dim, dtype=None: aten._softmax.default(
        _cast(self, dtype or self.dtype), dim, False
    ),
)
define(
    "aten::log_softmax.int(Tensor self, int dim, ScalarType? dtype=None) -> Tensor",
    composite=lambda self, dim, dtype=None: aten._log_softmax.default(
        _cast(self, dtype or self.dtype), dim, False
    ),
)

# ---------------------------------------------------------------- layer norm


def _check_affine(
    operator: str, name: str, parameter: Any, normalized_shape: Shape, self: Any
) -> None:
    """A weight or bias has the normalised shape, and the input's dtype (or float32 for halves)."""
    if parameter is None:
        return
    require(
        tuple(parameter.shape) == normalized_shape,
        lambda: (
            f"{operator}: argument {name!r} must have the shape 'normalized_shape'; got "
            f"{tuple(parameter.shape)}; expected {normalized_shape}."
        ),
    )
    allowed = (self.dtype, dt.float32) if self.dtype in _HALF else (self.dtype,)
    check(
        parameter.dtype in allowed,
        DtypeMismatch,
        lambda: (
            f"{operator}: argument {name!r} has another dtype than 'input'; got "
            f"{parameter.dtype}; expected {' or '.join(d.name for d in allowed)}."
        ),
    )


def _statistics_shape(operator: str, input: Any, normalized_shape: Shape) -> Shape:
    """The shape of a statistic of each row: sizes of 1 where the input is normalised."""
    require_floating(operator, "input", input)
    shape, inner = tuple(input.shape), tuple(normalized_shape)
    if not inner:
        raise ShapeMismatch(
            f"{operator}: argument 'normalized_shape' is empty; expected at least one size."
        )
    require(
        len(shape) >= len(inner) and shape[len(shape) - len(inner) :] == inner,
        lambda: (
            f"{operator}: argument 'input' must end in 'normalized_shape'; got shape "
            f"{shape} and normalized_shape {inner}."
        ),
    )
    return (*shape[: len(shape) - len(inner)], *(1,) * len(inner))


def _layer_norm_shape(
    input: Any, normalized_shape: Shape, weight: Any, bias: Any, eps: float
) -> tuple[TensorMeta, TensorMeta, TensorMeta]:
    rows = _statistics_shape("native_layer_norm", input, normalized_shape)
    shape, inner = tuple(input.shape), tuple(normalized_shape)
    _check_affine("native_layer_norm", "weight", weight, inner, input)
    _check_affine("native_layer_norm", "bias", bias, inner, input)
    mixed = any(p is not None and p.dtype is not input.dtype for p in (weight, bias))
    statistics = dt.float32 if mixed else input.dtype
    return (
        TensorMeta(shape, input.dtype, input.device),
        TensorMeta(rows, statistics, input.device),
        TensorMeta(rows, statistics, input.device),
    )


def _inner_dims(ndim: int, normalized_shape: Shape) -> tuple[int, ...]:
    return tuple(range(ndim - len(normalized_shape), ndim))


def _layer_norm_kernel(
    input: Array, normalized_shape: Any, weight: Any, bias: Any, eps: float, *, meta: Any
) -> tuple[Array, Array, Array]:
    found = row_kernels.layer_norm(_matrix(input, normalized_shape, meta), weight, bias, eps)
    out, mean, rstd = (a.reshape(m.shape) for a, m in zip(found, meta, strict=True))
    return out, mean, rstd


def _matrix(input: Array, normalized_shape: Any, meta: Any) -> Array:
    """The input as one row for each that is normalised."""
    return input.reshape(int(np.prod(meta[1].shape)), int(np.prod(normalized_shape)))


def _layer_norm_decomposition(
    input: Tensor, normalized_shape: Shape, weight: Any, bias: Any, eps: float
) -> Any:
    meta = _layer_norm_shape(input, normalized_shape, weight, bias, eps)
    dims = _inner_dims(input.ndim, normalized_shape)
    wide = _cast(input, dt.float32 if input.dtype in _HALF else input.dtype)
    wide = aten.contiguous.default(wide)
    mean = aten.mean.dim(wide, dims, True)
    centered = wide - mean
    variance = aten.mean.dim(centered * centered, dims, True)
    rstd = aten.rsqrt.default(variance + eps)
    out = centered * rstd
    if weight is not None:
        out = out * weight
    if bias is not None:
        out = out + bias
    return tuple(_cast(x, m.dtype) for x, m in zip((out, mean, rstd), meta, strict=True))


def _layer_norm_vjp_input(
    input: Tensor,
    weight: Tensor | None,
    normalized_shape: Shape,
    out1: Tensor,
    out2: Tensor,
    g0: Tensor | None = None,
    g1: Tensor | None = None,
    g2: Tensor | None = None,
) -> Any:
    """Through the normalised values, and through the mean and rstd where those were used."""
    dims = _inner_dims(input.ndim, normalized_shape)
    normal = (input - out1) * out2
    parts: list[Any] = []
    if g0 is not None:
        inner = g0 if weight is None else g0 * weight
        along = normal * aten.mean.dim(inner * normal, dims, True)
        parts.append((inner - aten.mean.dim(inner, dims, True) - along) * out2)
    if g1 is not None:
        parts.append(aten.expand.default(g1 / lay.numel(normalized_shape), input.shape))
    if g2 is not None:
        parts.append(g2 * out2 * out2 * normal / -lay.numel(normalized_shape))
    return functools.reduce(lambda a, b: a + b, parts)


def _layer_norm_vjp_weight(
    g0: Tensor, input: Tensor, normalized_shape: Shape, out1: Tensor, out2: Tensor
) -> Any:
    return _sum_rows(g0 * ((input - out1) * out2), normalized_shape)


def _sum_rows(x: Tensor, normalized_shape: Shape) -> Any:
    """``x`` summed over the dimensions before the normalised ones."""
    outer = tuple(range(x.ndim - len(normalized_shape)))
    return aten.sum.dim_IntList(x, outer, False) if outer else x


def _layer_norm(
    input: Tensor,
    normalized_shape: Shape,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
    cudnn_enable: bool = True,
) -> Any:
    return aten.native_layer_norm.default(input, normalized_shape, weight, bias, eps)[0]


define(
    "aten::native_layer_norm(Tensor input, SymInt[] normalized_shape, Tensor? weight, "
    "Tensor? bias, float eps) -> (Tensor, Tensor, Tensor)",
    shape=_layer_norm_shape,
    kernel=_layer_norm_kernel,
    vjp={
        "input": _layer_norm_vjp_input,
        "weight": _layer_norm_vjp_weight,
        "bias": lambda g0, normalized_shape: _sum_rows(g0, normalized_shape),
    },
    decomposition=_layer_norm_decomposition,
    tags=(Tag.CORE,),
    kind="normalize",
)
define(
    "aten::layer_norm(Tensor input, SymInt[] normalized_shape, Tensor? weight=None, "
    "Tensor? bias=None, float eps=1e-05, bool cudnn_enable=True) -> Tensor",
    composite=_layer_norm,
)

# ---------------------------------------------------------------- root mean square


def _rms_norm_shape(
    input: Any, normalized_shape: Shape, weight: Any, eps: float | None
) -> tuple[TensorMeta, TensorMeta]:
    rows = _statistics_shape("_fused_rms_norm", input, normalized_shape)
    _check_affine("_fused_rms_norm", "weight", weight, tuple(normalized_shape), input)
    wide = dt.float32 if input.dtype in _HALF else input.dtype
    return (
        TensorMeta(tuple(input.shape), input.dtype, input.device),
        TensorMeta(rows, wide, input.device),
    )


def _rms_eps(eps: float | None, dtype: DType) -> float:
    """The step of the type that is computed in, unless given."""
    if eps is not None:
        return eps
    return float(np.finfo(np.float64 if dtype is dt.float64 else np.float32).eps)


def _rms_norm_kernel(
    input: Array, normalized_shape: Any, weight: Any, eps: float | None, *, meta: Any
) -> tuple[Array, Array]:
    matrix = _matrix(input, normalized_shape, meta)
    out, rstd = row_kernels.rms_norm(matrix, weight, _rms_eps(eps, meta[0].dtype))
    return out.reshape(meta[0].shape), rstd.reshape(meta[1].shape)


def _rms_norm_decomposition(
    input: Tensor, normalized_shape: Shape, weight: Any, eps: float | None
) -> Any:
    meta = _rms_norm_shape(input, normalized_shape, weight, eps)
    wide = aten.contiguous.default(_cast(input, meta[1].dtype))
    squares = aten.mean.dim(wide * wide, _inner_dims(input.ndim, normalized_shape), True)
    rstd = aten.rsqrt.default(squares + _rms_eps(eps, input.dtype))
    out = wide * rstd
    if weight is not None:
        out = out * weight
    return _cast(out, input.dtype), rstd


def _rms_norm_vjp_input(
    input: Tensor,
    weight: Tensor | None,
    normalized_shape: Shape,
    out1: Tensor,
    g0: Tensor | None = None,
    g1: Tensor | None = None,
) -> Any:
    """Through the normalised values, and through the statistic where that was used."""
    dims = _inner_dims(input.ndim, normalized_shape)
    normal = input * out1
    parts: list[Any] = []
    if g0 is not None:
        inner = g0 if weight is None else g0 * weight
        parts.append((inner - normal * aten.mean.dim(inner * normal, dims, True)) * out1)
    if g1 is not None:
        parts.append(g1 * out1 * out1 * normal / -lay.numel(normalized_shape))
    return functools.reduce(lambda a, b: a + b, parts)


def _rms_norm(
    input: Tensor, normalized_shape: Shape, weight: Tensor | None = None, eps: float | None = None
) -> Any:
    return aten._fused_rms_norm.default(input, normalized_shape, weight, eps)[0]


define(
    "aten::_fused_rms_norm(Tensor input, SymInt[] normalized_shape, Tensor? weight, float? eps)"
    " -> (Tensor, Tensor)",
    shape=_rms_norm_shape,
    kernel=_rms_norm_kernel,
    vjp={
        "input": _rms_norm_vjp_input,
        "weight": lambda g0, input, normalized_shape, out1: _sum_rows(
            g0 * (input * out1), normalized_shape
        ),
    },
    decomposition=_rms_norm_decomposition,
    tags=(Tag.CORE,),
    kind="normalize",
)
define(
    "aten::rms_norm(Tensor input, SymInt[] normalized_shape, Tensor? weight=None, "
    "float? eps=None) -> Tensor",
    composite=_rms_norm,
)

# ---------------------------------------------------------------- dropout


def _dropout(input: Tensor, p: float, train: bool) -> Any:
    """The input itself where nothing can be dropped."""
    check(
        0 <= p <= 1,
        InvalidArgument,
        lambda: (
            f"dropout: argument 'p' must be a probability (dropout probability has to be "
            f"between 0 and 1); got {p}; expected 0 <= p <= 1."
        ),
    )
    if not train or p == 0 or has_no_elements(input.shape):
        return input
    return aten.native_dropout.default(input, p, train)[0]


define("aten::dropout(Tensor input, float p, bool train) -> Tensor", composite=_dropout)
