"""Triangles of matrices, repetitions, cyclic shifts and outer products.

tril and triu have kernels; the others are written in views and copies. Results are new memory.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from plait.base.errors import ArgumentTypeError, InvalidArgument, ShapeMismatch, check
from plait.dispatch.tags import Tag
from plait.ops import aten
from plait.ops.checks import require, require_rank
from plait.ops.define import Array, Rule, define
from plait.tensor import layout as lay
from plait.tensor.layout import IntLike, Shape, TensorMeta, wrap_dim

if TYPE_CHECKING:
    from plait.tensor.tensor import Tensor

__all__: list[str] = []

# ---------------------------------------------------------------- triangles


def _triangle_shape(name: str) -> Rule:
    def shape(self: Any, diagonal: IntLike = 0) -> TensorMeta:
        require(
            len(self.shape) >= 2,
            lambda: (
                f"{name}: argument 'self' must have at least 2 dimensions, (..., rows, columns); "
                f"got shape {tuple(self.shape)}."
            ),
        )
        return TensorMeta(tuple(self.shape), self.dtype, self.device)

    return shape


def _triangle_decomposition(comparison: str) -> Rule:
    def decomposition(self: Tensor, diagonal: IntLike = 0) -> Any:
        rows = aten.arange.default(self.shape[-2], device=self.device)
        columns = aten.arange.default(self.shape[-1], device=self.device)
        edge = aten.unsqueeze.default(rows + diagonal, 1)
        inside = getattr(aten, comparison).Tensor(columns, edge)
        zero = aten.scalar_tensor.default(0, dtype=self.dtype)
        return aten.where.self(inside, aten.contiguous.default(self), zero)

    return decomposition


def _define_triangle(name: str, kernel: Rule, comparison: str) -> None:
    define(
        f"aten::{name}(Tensor self, SymInt diagonal=0) -> Tensor",
        shape=_triangle_shape(name),
        kernel=lambda self, diagonal: kernel(self, int(diagonal)),
        vjp={"self": lambda g, diagonal: getattr(aten, name).default(g, diagonal)},
        decomposition=_triangle_decomposition(comparison),
        tags=(Tag.CORE,),
        kind="rearrange",
        inplace=True,
        out=True,
    )


def _triangle(keep_lower: bool) -> Rule:
    def kernel(self: Array, diagonal: int) -> Array:
        rows, columns = self.shape[-2:]
        inside = np.tri(rows, columns, diagonal if keep_lower else diagonal - 1, dtype=np.bool_)
        out = np.zeros(self.shape, self.dtype)
        np.copyto(out, self, where=inside if keep_lower else ~inside)
        return out

    return kernel


_define_triangle("tril", _triangle(True), "le")
_define_triangle("triu", _triangle(False), "ge")

# ---------------------------------------------------------------- repetitions


def _repeat(self: Tensor, repeats: Shape) -> Any:
    """The whole tensor ``repeats[d]`` times along each dimension d; new dimensions in front."""
    extra = len(repeats) - self.ndim
    require(
        extra >= 0,
        lambda: (
            f"repeat: argument 'repeats' has fewer entries than the tensor has dimensions (number "
            f"of dimensions of repeat dims can not be smaller); got {tuple(repeats)} for shape "
            f"{tuple(self.shape)}."
        ),
    )
    for count in repeats:
        require(
            count >= 0,
            lambda: f"repeat: argument 'repeats' has a negative entry; got {tuple(repeats)}.",
        )
    sizes = (*(1,) * extra, *self.shape)
    split = [part for n in sizes for part in (1, n)]
    wide = [part for n, count in zip(sizes, repeats, strict=True) for part in (count, n)]
    stretched = aten.expand.default(aten.reshape.default(self, tuple(split)), tuple(wide))
    copied = aten.clone.default(stretched, memory_format="contiguous_format")
    return aten.view.default(copied, tuple(n * c for n, c in zip(sizes, repeats, strict=True)))


def _repeat_interleave(
    self: Tensor, repeats: IntLike, dim: int | None = None, *, output_size: IntLike | None = None
) -> Any:
    """Each element (each slice along ``dim``) ``repeats`` times, one after the other."""
    require(
        repeats >= 0,
        lambda: f"repeat_interleave: argument 'repeats' is negative; got {repeats}.",
    )
    if dim is None:
        self, dim = aten.reshape.default(self, (self.numel(),)), 0
    at = wrap_dim(dim, self.ndim, "repeat_interleave")
    before, size, after = self.shape[:at], self.shape[at], self.shape[at + 1 :]
    wide = aten.expand.default(
        aten.unsqueeze.default(self, at + 1), (*before, size, repeats, *after)
    )
    copied = aten.clone.default(wide, memory_format="contiguous_format")
    return aten.view.default(copied, (*before, size * repeats, *after))


define("aten::repeat(Tensor self, SymInt[] repeats) -> Tensor", composite=_repeat)
define(
    "aten::repeat_interleave.self_int(Tensor self, SymInt repeats, int? dim=None, *, "
    "SymInt? output_size=None) -> Tensor",
    composite=_repeat_interleave,
)

# ---------------------------------------------------------------- shifts


def _roll(self: Tensor, shifts: Any, dims: Any = ()) -> Any:
    """Elements moved ``shifts`` places along ``dims``, those pushed out coming in again."""
    shifts, dims = tuple(shifts), tuple(dims)
    if not dims and len(shifts) == 1:
        flat = aten.reshape.default(self, (self.numel(),))
        return aten.view.default(_rolled(flat, shifts[0], 0), self.shape)
    check(
        len(shifts) == len(dims) and bool(shifts),
        ShapeMismatch,
        lambda: (
            f"roll: arguments 'shifts' and 'dims' must have equally many entries (align); got "
            f"{shifts} and {dims}; shifts must not be empty."
        ),
    )
    for shift, dim in zip(shifts, dims, strict=True):
        self = _rolled(self, shift, wrap_dim(dim, self.ndim, "roll"))
    return self


def _rolled(self: Tensor, shift: Any, dim: int) -> Any:
    size = self.shape[dim]
    if lay.has_no_elements(self.shape):
        return aten.clone.default(self)
    cut = (size - shift) % size
    tail = aten.slice.Tensor(self, dim, cut, size, 1)
    return aten.cat.default([tail, aten.slice.Tensor(self, dim, 0, cut, 1)], dim)


define("aten::roll(Tensor self, SymInt[1] shifts, int[1] dims=[]) -> Tensor", composite=_roll)

# ---------------------------------------------------------------- products, filling


def _outer(self: Tensor, vec2: Tensor) -> Any:
    require_rank("outer", "self", self, 1)
    require_rank("outer", "vec2", vec2, 1)
    return aten.unsqueeze.default(self, 1) * vec2


define("aten::outer(Tensor self, Tensor vec2) -> Tensor", composite=_outer)


def _masked_fill(self: Tensor, mask: Tensor, value: Tensor) -> Any:
    """``value``, one element, where ``mask`` is true; the tensor's dtype stays."""
    require_rank("masked_fill", "value", value, 0)
    check(
        not (value.dtype.is_floating and not self.dtype.is_floating),
        InvalidArgument,
        lambda: (
            f"masked_fill: argument 'value' does not fit; got {value.dtype}; expected a type that "
            f"{self.dtype} holds."
        ),
    )
    check(
        mask.dtype.is_bool,
        ArgumentTypeError,
        lambda: f"masked_fill: argument 'mask' must be bool; got {mask.dtype}.",
    )
    wide = lay.broadcast_shapes(self.shape, mask.shape, operator="masked_fill")
    filled = aten.where.self(mask, aten.to.dtype(value, self.dtype), self)
    return filled if filled.shape == wide else aten.expand.default(filled, wide)


define(
    "aten::masked_fill.Tensor(Tensor self, Tensor mask, Tensor value) -> Tensor",
    composite=_masked_fill,
)
