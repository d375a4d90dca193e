"""Matrix products: mm, bmm, mv, dot, addmm, and the composites matmul and linear.

Products of float32 and float64 go to the BLAS that NumPy carries; integers are exact and wrap
around; the half types are multiplied in float32. Results are contiguous.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from plait.base.errors import ShapeMismatch
from plait.dispatch.tags import Tag
from plait.ops import aten
from plait.ops.arrays import check_number, widened
from plait.ops.checks import require, require_no_bool, require_rank, require_same_dtype
from plait.ops.define import Array, Rule, checked_scalar, define
from plait.tensor import dtype as dt
from plait.tensor import layout as lay
from plait.tensor.dtype import FROM_NUMPY
from plait.tensor.layout import Layout, Shape, TensorMeta

if TYPE_CHECKING:
    from plait.tensor.tensor import Tensor

__all__: list[str] = []

# ---------------------------------------------------------------- kernels


def _product(a: Array, b: Array) -> Any:
    """``a @ b`` of matrices (or stacks of them)."""
    return np.matmul(widened(a), widened(b))


def _number(value: Any, like: Array) -> Any:
    """A factor in the array's type; a fraction is cut off where integers are multiplied."""
    return checked_scalar("addmm", value, FROM_NUMPY[like.dtype], "alpha")


def _addmm_kernel(self: Array, mat1: Array, mat2: Array, *, beta: Any, alpha: Any) -> Any:
    """``beta * self + alpha * (mat1 @ mat2)``; what has the factor 0 is not read, NaN or not."""
    shape = (mat1.shape[0], mat2.shape[1])
    out = np.zeros(shape, mat1.dtype) if alpha == 0 else _product(mat1, mat2)
    if alpha not in (0, 1):
        out *= _number(alpha, out)
    if beta == 1:
        out += self
    elif beta != 0:
        out += _number(beta, out) * self.astype(out.dtype, copy=False)
    return out


# ---------------------------------------------------------------- shape rules


def _check_operands(operator: str, first: tuple[str, Any], second: tuple[str, Any]) -> None:
    require_no_bool(operator, *first)
    require_same_dtype(operator, (first, second))


def _check_inner(operator: str, first: tuple[str, Any], second: tuple[str, Any]) -> None:
    """The last dimension of the first operand meets the one before last of the second."""
    a, b = tuple(first[1].shape), tuple(second[1].shape)
    require(
        a[-1] == b[-2],
        lambda: (
            f"{operator}: arguments {first[0]!r} and {second[0]!r} cannot be multiplied; got "
            f"shapes {a} and {b}; expected the last size of the first ({a[-1]}) to equal the size "
            f"before the last of the second ({b[-2]})."
        ),
    )


def _mm_shape(self: Any, mat2: Any, *, operator: str = "mm", name: str = "self") -> TensorMeta:
    first, second = (name, self), ("mat2", mat2)
    for operand in (first, second):
        require_rank(operator, *operand, 2)
    _check_operands(operator, first, second)
    _check_inner(operator, first, second)
    return TensorMeta((self.shape[0], mat2.shape[1]), self.dtype, self.device)


def _bmm_shape(self: Any, mat2: Any) -> TensorMeta:
    first, second = ("self", self), ("mat2", mat2)
    for operand in (first, second):
        require_rank("bmm", *operand, 3)
    _check_operands("bmm", first, second)
    require(
        self.shape[0] == mat2.shape[0],
        lambda: (
            f"bmm: arguments 'self' and 'mat2' must hold equally many matrices; got shapes "
            f"{tuple(self.shape)} and {tuple(mat2.shape)}; expected equal first sizes. Use "
            "matmul to broadcast."
        ),
    )
    _check_inner("bmm", first, second)
    return TensorMeta((self.shape[0], self.shape[1], mat2.shape[2]), self.dtype, self.device)


def _mv_shape(self: Any, vec: Any) -> TensorMeta:
    require_rank("mv", "self", self, 2)
    require_rank("mv", "vec", vec, 1)
    _check_operands("mv", ("self", self), ("vec", vec))
    require(
        self.shape[1] == vec.shape[0],
        lambda: (
            f"mv: arguments 'self' and 'vec' cannot be multiplied; got shapes "
            f"{tuple(self.shape)} and {tuple(vec.shape)}; expected a vector of {self.shape[1]}."
        ),
    )
    return TensorMeta((self.shape[0],), self.dtype, self.device)


def _dot_shape(self: Any, tensor: Any) -> TensorMeta:
    require_rank("dot", "self", self, 1)
    require_rank("dot", "tensor", tensor, 1)
    _check_operands("dot", ("self", self), ("tensor", tensor))
    require(
        self.shape[0] == tensor.shape[0],
        lambda: (
            f"dot: arguments 'self' and 'tensor' must have the same length; got "
            f"{self.shape[0]} and {tensor.shape[0]}."
        ),
    )
    return TensorMeta((), self.dtype, self.device)


def _addmm_shape(self: Any, mat1: Any, mat2: Any, *, beta: Any = 1, alpha: Any = 1) -> TensorMeta:
    meta = _mm_shape(mat1, mat2, operator="addmm", name="mat1")
    require_same_dtype("addmm", (("mat1", mat1), ("self", self)))
    _check_addend("addmm", "self", self, meta.shape)
    for name, factor in (("beta", beta), ("alpha", alpha)):
        check_number("addmm", name, factor, meta.dtype)
    return meta


def _check_addend(operator: str, name: str, addend: Any, shape: Shape) -> None:
    """What is added must broadcast to the product."""
    given = tuple(addend.shape)
    aligned = shape[len(shape) - len(given) :]
    require(
        len(given) <= len(shape)
        and all(a == 1 or a == b for a, b in zip(given, aligned, strict=True)),
        lambda: (
            f"{operator}: argument {name!r} must broadcast to the shape of the product; got "
            f"shape {given}; expected one that broadcasts to {shape}. (The expanded size must "
            "match)"
        ),
    )


# ---------------------------------------------------------------- derivatives


def _is_column_major(layout: Layout) -> bool:
    """Whether a matrix is stored by columns, as the transpose of a weight is."""
    (rows, columns), (down, across) = layout.shape, layout.strides
    return bool(down == 1 and across != 1 and across == rows and columns != 1)


def _left_vjp(g: Tensor, mat2: Tensor, layout: Layout) -> Any:
    """The cotangent of the left factor, stored as the factor is: g @ mat2.T."""
    if _is_column_major(layout):
        return aten.t.default(aten.mm.default(mat2, aten.t.default(g)))
    return aten.mm.default(g, aten.t.default(mat2))


def _right_vjp(g: Tensor, mat1: Tensor, layout: Layout) -> Any:
    """The cotangent of the right factor, stored as the factor is: mat1.T @ g."""
    if _is_column_major(layout):
        return aten.t.default(aten.mm.default(aten.t.default(g), mat1))
    return aten.mm.default(aten.t.default(mat1), g)


def _scaled(x: Tensor, factor: Any) -> Tensor:
    return x if isinstance(factor, int) and factor == 1 else x * factor


# fmt: off
_MM_VJP: dict[str, Rule] = {
    "self": lambda g, mat2, layout_of_self: _left_vjp(g, mat2, layout_of_self),
    "mat2": lambda g, self, layout_of_mat2: _right_vjp(g, self, layout_of_mat2),
}
_BMM_VJP: dict[str, Rule] = {
    "self": lambda g, mat2: aten.bmm.default(g, aten.transpose.int(mat2, 1, 2)),
    "mat2": lambda g, self: aten.bmm.default(aten.transpose.int(self, 1, 2), g),
}
_MV_VJP: dict[str, Rule] = {
    "self": lambda g, vec: aten.unsqueeze.default(g, 1) * vec,
    "vec": lambda g, self: aten.mv.default(aten.t.default(self), g),
}
_DOT_VJP: dict[str, Rule] = {
    "self": lambda g, tensor: g * tensor,
    "tensor": lambda g, self: g * self,
}
_ADDMM_VJP: dict[str, Rule] = {
    "self": lambda g, beta: _scaled(g, beta),
    "mat1": lambda g, mat2, alpha, layout_of_mat1:
        _scaled(_left_vjp(g, mat2, layout_of_mat1), alpha),
    "mat2": lambda g, mat1, alpha, layout_of_mat2:
        _scaled(_right_vjp(g, mat1, layout_of_mat2), alpha),
}
# fmt: on


def _mv_as_mm(self: Tensor, vec: Tensor) -> Any:
    column = aten.mm.default(self, aten.unsqueeze.default(vec, 1))
    return aten.squeeze.dim(column, 1)


def _dot_as_sum(self: Tensor, tensor: Tensor) -> Any:
    dtype = self.dtype
    if dtype in (dt.float16, dt.bfloat16):
        self = aten._to_copy.default(self, dtype=dt.float32)
    return aten.sum.dim_IntList(self * tensor, (0,), False, dtype=dtype)


# ---------------------------------------------------------------- operators

define(
    "aten::mm(Tensor self, Tensor mat2) -> Tensor",
    shape=_mm_shape,
    kernel=_product,
    vjp=_MM_VJP,
    tags=(Tag.CORE,),
    kind="matmul",
    holomorphic=True,
    out=True,
)
define(
    "aten::bmm(Tensor self, Tensor mat2) -> Tensor",
    shape=_bmm_shape,
    kernel=_product,
    vjp=_BMM_VJP,
    tags=(Tag.CORE,),
    kind="matmul",
    holomorphic=True,
    out=True,
)
define(
    "aten::mv(Tensor self, Tensor vec) -> Tensor",
    shape=_mv_shape,
    kernel=_product,
    vjp=_MV_VJP,
    decomposition=_mv_as_mm,
    kind="matmul",
    holomorphic=True,
)
define(
    "aten::dot(Tensor self, Tensor tensor) -> Tensor",
    shape=_dot_shape,
    kernel=_product,
    vjp=_DOT_VJP,
    decomposition=_dot_as_sum,
    kind="matmul",
    holomorphic=True,
)
define(
    "aten::addmm(Tensor self, Tensor mat1, Tensor mat2, *, Scalar beta=1, Scalar alpha=1)"
    " -> Tensor",
    shape=_addmm_shape,
    kernel=_addmm_kernel,
    vjp=_ADDMM_VJP,
    tags=(Tag.CORE,),
    kind="matmul",
    holomorphic=True,
    out=True,
)

# ---------------------------------------------------------------- composites


def _check_matmul(operator: str, a: Tensor, b: Tensor) -> None:
    """All that can be wrong with the operands of ``matmul``, said in its own name."""
    require(
        a.ndim > 0 and b.ndim > 0,
        lambda: (
            f"{operator}: both arguments need at least one dimension; got shapes "
            f"{tuple(a.shape)} and {tuple(b.shape)}. Use mul for numbers."
        ),
    )
    require_no_bool(operator, "self", a)
    require_same_dtype(operator, (("self", a), ("other", b)))
    inner = b.shape[-2] if b.ndim > 1 else b.shape[0]
    require(
        a.shape[-1] == inner,
        lambda: (
            f"{operator}: arguments 'self' and 'other' cannot be multiplied; got shapes "
            f"{tuple(a.shape)} and {tuple(b.shape)}; expected the last size of the first "
            f"({a.shape[-1]}) to equal {inner}. (mat1 and mat2 shapes cannot be multiplied)"
        ),
    )


def _rows(x: Tensor) -> Any:
    """All but the last dimension of ``x`` made one."""
    return aten.reshape.default(x, (lay.numel(x.shape[:-1]), x.shape[-1]))


def _matmul(self: Tensor, other: Tensor) -> Any:
    """Vectors are rows or columns; leading dimensions are batches, which broadcast."""
    _check_matmul("matmul", self, other)
    if self.ndim == 1 and other.ndim == 1:
        return aten.dot.default(self, other)
    if self.ndim == 2 and other.ndim == 1:
        return aten.mv.default(self, other)
    if self.ndim == 1 and other.ndim == 2:
        return aten.squeeze.dim(aten.mm.default(aten.unsqueeze.default(self, 0), other), 0)
    if self.ndim == 2 and other.ndim == 2:
        return aten.mm.default(self, other)
    if other.ndim <= 2:
        return _folded(self, other)
    return _batched(self, other)


def _folded(self: Tensor, other: Tensor) -> Any:
    """One matrix (or vector) for a whole stack: the stack is one tall matrix."""
    batch = self.shape[:-1]
    if other.ndim == 1:
        return aten.view.default(aten.mv.default(_rows(self), other), batch)
    product = aten.mm.default(_rows(self), other)
    return aten.view.default(product, (*batch, other.shape[-1]))


def _batched(self: Tensor, other: Tensor) -> Any:
    """Stacks of matrices whose leading dimensions broadcast."""
    is_row = self.ndim == 1
    if is_row:
        self = aten.unsqueeze.default(self, 0)
    batch = lay.broadcast_shapes(self.shape[:-2], other.shape[:-2], operator="matmul")
    product = aten.bmm.default(_stack(self, batch), _stack(other, batch))
    shape = (*batch, self.shape[-2], other.shape[-1])
    return aten.view.default(product, (*shape[:-2], shape[-1]) if is_row else shape)


def _stack(x: Tensor, batch: Shape) -> Any:
    """``x`` with its leading dimensions stretched to ``batch`` and made one."""
    matrix = x.shape[-2:]
    if x.shape[:-2] != batch:
        x = aten.expand.default(x, (*batch, *matrix))
    return x if len(batch) == 1 else aten.reshape.default(x, (lay.numel(batch), *matrix))


def _linear(input: Tensor, weight: Tensor, bias: Tensor | None = None) -> Any:
    """``input @ weight.T + bias``; with a bias and matrices, one addmm."""
    _check_linear(input, weight, bias)
    columns = aten.t.default(weight)
    if input.ndim == 2 and weight.ndim == 2:
        if bias is None:
            return aten.mm.default(input, columns)
        return aten.addmm.default(bias, input, columns)
    if bias is None:
        return _matmul(input, columns)
    if input.ndim < 2:
        return _matmul(input, columns) + bias
    if bias.ndim > 1:
        return _matmul(input, columns) + bias
    flat = aten.addmm.default(bias, _rows(input), columns)
    return aten.view.default(flat, (*input.shape[:-1], weight.shape[0]))


def _check_linear(input: Tensor, weight: Tensor, bias: Tensor | None) -> None:
    if weight.ndim not in (1, 2) or (bias is not None and weight.ndim != 2):
        raise ShapeMismatch(
            f"linear: argument 'weight' has the wrong rank; got shape {tuple(weight.shape)}; "
            "expected (out_features, in_features), or (in_features,) without a bias."
        )
    require(
        input.ndim > 0 and input.shape[-1] == weight.shape[-1],
        lambda: (
            f"linear: argument 'input' does not fit 'weight'; got shapes {tuple(input.shape)} "
            f"and {tuple(weight.shape)}; expected a last size of {weight.shape[-1]}. (mat1 "
            "and mat2 shapes cannot be multiplied)"
        ),
    )
    operands = [("input", input), ("weight", weight)]
    if bias is not None:
        _check_addend("linear", "bias", bias, (*input.shape[:-1], weight.shape[0]))
    require_same_dtype("linear", operands if bias is None else [*operands, ("bias", bias)])


define("aten::matmul(Tensor self, Tensor other) -> Tensor", composite=_matmul)
define("aten::linear(Tensor input, Tensor weight, Tensor? bias=None) -> Tensor", composite=_linear)
