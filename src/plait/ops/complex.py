"""Complex numbers: their parts, as values and as views; conjugates, angles, signs.

A conjugate is computed at once, not kept as a mark on the tensor, so `resolve_conj` has nothing to
do. Gradients follow PyTorch's convention: the gradient by z has the slopes by the real and the
imaginary part of z as its own parts, which is the conjugate of Wirtinger's derivative.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from plait.base.errors import DtypeMismatch, ShapeMismatch, check
from plait.dispatch.tags import Tag
from plait.ops import aten
from plait.ops.define import Array, check_dtype, define, view
from plait.ops.elementwise import elementwise, floating, zero_grad
from plait.tensor import dtype as dtypes
from plait.tensor.dtype import DType, to_real
from plait.tensor.layout import Layout
from plait.tensor.promotion import result_type

if TYPE_CHECKING:
    from plait.tensor.tensor import Tensor

__all__: list[str] = []

# ---------------------------------------------------------------- parts as views


def _require_complex(name: str, dtype: DType) -> None:
    check(
        dtype.is_complex,
        DtypeMismatch,
        lambda: (
            f"{name}: argument 'self' must be complex; got {dtype}. A real tensor has no such part."
        ),
    )


def _real_type(dtype: DType) -> DType:
    _require_complex("view_as_real", dtype)
    return to_real(dtype)


def _complex_type(dtype: DType) -> DType:
    check(
        dtype in (dtypes.float32, dtypes.float64),
        DtypeMismatch,
        lambda: f"view_as_complex: argument 'self' must be float32 or float64; got {dtype}.",
    )
    return dtypes.to_complex(dtype)


def _as_real_layout(layout: Layout) -> Layout:
    """Each element is two, which are neighbours."""
    strides = (*(2 * step for step in layout.strides), 1)
    return Layout((*layout.shape, 2), strides, 2 * layout.offset)


def _as_complex_layout(layout: Layout) -> Layout:
    shape, strides = layout.shape, layout.strides
    check(
        len(shape) > 0 and shape[-1] == 2,
        ShapeMismatch,
        lambda: (
            f"view_as_complex: argument 'self' must have a last dimension of size 2; got shape "
            f"{tuple(shape)}. (Tensor must have a last dimension of size 2)"
        ),
    )
    check(
        strides[-1] == 1 and all(step % 2 == 0 for step in strides[:-1]) and layout.offset % 2 == 0,
        ShapeMismatch,
        lambda: (
            f"view_as_complex: argument 'self' does not lie in memory in pairs; got strides "
            f"{tuple(strides)}, offset {layout.offset}; expected a last stride of 1 and even "
            "numbers before it. Use .contiguous() first."
        ),
    )
    return Layout(shape[:-1], tuple(step // 2 for step in strides[:-1]), layout.offset // 2)


def _joined(pairs: Tensor) -> Any:
    """A tensor whose last dimension holds real and imaginary parts as complex numbers, copied."""
    return aten.complex.default(aten.select.int(pairs, -1, 0), aten.select.int(pairs, -1, 1))


view(
    "aten::view_as_real(Tensor(a) self) -> Tensor(a)",
    layout=_as_real_layout,
    dtype=_real_type,
    inverse=lambda base, new: _joined(new),
    vjp={"self": lambda g: aten.view_as_complex.default(aten.contiguous.default(g))},
    tags=(Tag.CORE,),
)
view(
    "aten::view_as_complex(Tensor(a) self) -> Tensor(a)",
    layout=_as_complex_layout,
    dtype=_complex_type,
    inverse=lambda base, new: aten.view_as_real.default(new),
    vjp={"self": lambda g: aten.view_as_real.default(g)},
    tags=(Tag.CORE,),
)


def _real(self: Tensor) -> Any:
    """The real parts as a view; a real tensor itself."""
    if not self.dtype.is_complex:
        return self
    return aten.select.int(aten.view_as_real.default(self), -1, 0)


def _imag(self: Tensor) -> Any:
    """The imaginary parts as a view."""
    _require_complex("imag", self.dtype)
    return aten.select.int(aten.view_as_real.default(self), -1, 1)


define("aten::real(Tensor(a) self) -> Tensor(a)", composite=_real)
define("aten::imag(Tensor(a) self) -> Tensor(a)", composite=_imag)

# ---------------------------------------------------------------- from parts


def _check_parts(name: str, first: str, second: str) -> Any:
    def checked(*parts: Any) -> None:
        a, b = (part.dtype for part in parts)
        check_dtype(name, a, (dtypes.float32, dtypes.float64))
        check(
            a is b,
            DtypeMismatch,
            lambda: (
                f"{name}: arguments {first!r} and {second!r} must have the same dtype; got {a} and "
                f"{b}. Convert one with `.to(dtype)`."
            ),
        )

    return checked


def _paired(name: str, *parts: Any) -> tuple[DType, DType]:
    dtype = result_type(*parts)
    return dtype, dtypes.to_complex(dtype)


def _complex(real: Array, imag: Array) -> Array:
    shape = np.broadcast_shapes(real.shape, imag.shape)
    out = np.empty(shape, np.result_type(real, np.complex64))
    out.real, out.imag = real, imag
    return out


elementwise(
    "aten::complex(Tensor real, Tensor imag) -> Tensor",
    _complex,
    _paired,
    checks=_check_parts("complex", "real", "imag"),
    inplace=False,
    out="out",
    tags=(Tag.CORE,),
    holomorphic=False,
    vjp={"real": lambda g: aten.real.default(g), "imag": lambda g: aten.imag.default(g)},
)
elementwise(
    "aten::polar(Tensor abs, Tensor angle) -> Tensor",
    lambda size, angle: _complex(size * np.cos(angle), size * np.sin(angle)),
    _paired,
    checks=_check_parts("polar", "abs", "angle"),
    inplace=False,
    out="out",
    holomorphic=False,
    vjp={
        "abs": lambda g, angle: (
            aten.real.default(g) * aten.cos.default(angle)
            + aten.imag.default(g) * aten.sin.default(angle)
        ),
        "angle": lambda g, out: (
            aten.imag.default(g) * aten.real.default(out)
            - aten.real.default(g) * aten.imag.default(out)
        ),
    },
    decomposition=lambda abs, angle: aten.complex.default(
        abs * aten.cos.default(angle), abs * aten.sin.default(angle)
    ),
)

# ---------------------------------------------------------------- conjugates

elementwise(
    "aten::_conj_physical(Tensor self) -> Tensor",
    np.conjugate,
    inplace=False,
    out=False,
    tags=(Tag.CORE,),
    holomorphic=False,
    vjp={"self": lambda g: aten.conj.default(g)},
)


def _conj(self: Tensor) -> Any:
    """The conjugate, computed; a real tensor itself."""
    return aten._conj_physical.default(self) if self.dtype.is_complex else self


def _adjoint(self: Tensor) -> Any:
    """Each matrix transposed and conjugated."""
    check(
        self.ndim >= 2,
        ShapeMismatch,
        lambda: f"adjoint: argument 'self' must be matrices; got shape {tuple(self.shape)}.",
    )
    return _conj(aten.transpose.int(self, -2, -1))


define("aten::conj(Tensor(a) self) -> Tensor(a)", composite=_conj)
define("aten::conj_physical(Tensor self) -> Tensor", composite=_conj)
define("aten::resolve_conj(Tensor(a) self) -> Tensor(a)", composite=lambda self: self)
define("aten::resolve_neg(Tensor(a) self) -> Tensor(a)", composite=lambda self: self)
define("aten::adjoint(Tensor(a) self) -> Tensor(a)", composite=_adjoint)
define(
    "aten::vdot(Tensor self, Tensor other) -> Tensor",
    composite=lambda self, other: aten.dot.default(_conj(self), other),
)
define(
    "aten::isreal(Tensor self) -> Tensor",
    composite=lambda self: (
        aten.eq.Scalar(_imag(self), 0)
        if self.dtype.is_complex
        else aten.ones_like.default(self, dtype=dtypes.bool_)
    ),
)

# ---------------------------------------------------------------- angle and sign


def _angle_types(name: str, x: Any) -> tuple[DType, DType]:
    compute, _ = floating(name, x)
    return compute, to_real(compute)


def _angle(x: Array) -> Any:
    """Of real numbers 0 or pi by their sign, and NaN of NaN."""
    if x.dtype.kind == "c":
        return np.angle(x)
    return np.where(np.isnan(x), x, np.where(x < 0, x.dtype.type(np.pi), x.dtype.type(0)))


def _angle_vjp(g: Tensor, self: Tensor) -> Any:
    if not self.dtype.is_complex:
        return zero_grad(g)
    re, im = _real(self), _imag(self)
    squared = re * re + im * im
    is_zero = aten.eq.Scalar(squared, 0)
    slope = g / aten.masked_fill.Scalar(squared, is_zero, 1)
    slope = aten.masked_fill.Scalar(slope, is_zero, 0)
    return aten.complex.default(slope * -im, slope * re)


elementwise(
    "aten::angle(Tensor self) -> Tensor",
    _angle,
    _angle_types,
    inplace=False,
    holomorphic=False,
    vjp={"self": _angle_vjp},
)


def _sgn(x: Array) -> Any:
    """A complex number of size 1 in the same direction, or 0."""
    if x.dtype == np.bool_:
        return x
    if x.dtype.kind == "c":
        size = np.abs(x)
        return np.where(size == 0, x.dtype.type(0), x / np.where(size == 0, 1, size))
    return np.subtract(x > 0, x < 0, dtype=x.dtype)


def _sgn_vjp(g: Tensor, self: Tensor, out: Tensor) -> Any:
    """Only what is at right angles to the number turns it."""
    if not self.dtype.is_complex:
        return zero_grad(g)
    size = aten.abs.default(self)
    is_zero = aten.eq.Scalar(size, 0)
    along = out * _real(_conj(out) * g)
    across = (g - along) / aten.masked_fill.Scalar(size, is_zero, 1)
    return aten.masked_fill.Scalar(across, is_zero, 0)


def _sgn_parts(self: Tensor) -> Any:
    if not self.dtype.is_complex:
        return aten.sign.default(self)
    size = aten.abs.default(self)
    return self / aten.masked_fill.Scalar(size, aten.eq.Scalar(size, 0), 1)


elementwise(
    "aten::sgn(Tensor self) -> Tensor",
    _sgn,
    holomorphic=False,
    vjp={"self": _sgn_vjp},
    decomposition=_sgn_parts,
)
