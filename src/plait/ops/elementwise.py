"""Short forms of ``define`` for pointwise operators, and the fast adapters of their kernels.

A pointwise operator is given by a NumPy function and a *type rule*. Its shape rule, its slow path
(any dtype, any strides, all errors) and its fast path (equal dtypes, contiguous memory, no shape
rule) follow. Note [Fast path]: NumPy's answer for C-contiguous operands of one dtype has exactly
the dtype and strides that the shape rule gives; where the shapes do not broadcast NumPy raises
ValueError, and the slow path is asked, which raises our error. A test holds both paths equal.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from plait.base.errors import DtypeMismatch, check
from plait.dispatch.operator import Overload
from plait.dispatch.schema import FunctionSchema
from plait.dispatch.tags import Tag
from plait.ops import aten, variants
from plait.ops.define import (
    Array,
    Rule,
    cast_operand,
    check_dtype,
    define,
    elementwise_meta,
    fit,
)
from plait.ops.quiet import QUIET, loud, quiet
from plait.tensor import dtype as dtypes
from plait.tensor.dtype import DType, get_default_dtype
from plait.tensor.layout import TensorMeta
from plait.tensor.promotion import result_type
from plait.tensor.tensor import Tensor, wrap

__all__ = [
    "COMPLEX",
    "FLOATS",
    "NUMBERS",
    "ORDERED",
    "REAL",
    "Scaled",
    "boolean",
    "elementwise",
    "floating",
    "no_bool",
    "same",
    "zero_grad",
]

# (name, *operands) -> (dtype to compute in, dtype of the result)
TypeRule = Callable[..., tuple[DType, DType]]

FLOATS = frozenset({dtypes.float32, dtypes.float64})
NUMBERS = FLOATS | {dtypes.int64, dtypes.int32, dtypes.int16, dtypes.int8, dtypes.uint8}
ANY = NUMBERS | {dtypes.bool_}
ORDERED = frozenset(d for d in dtypes.ALL_DTYPES if not d.is_complex)
REAL = frozenset(d for d in dtypes.ALL_DTYPES if d.category in (1, 2))  # neither bool nor complex
COMPLEX = frozenset({dtypes.complex64, dtypes.complex128})
_HALVES = (dtypes.float16, dtypes.bfloat16)

_ndarray = np.ndarray
_asarray = np.asarray


# ---------------------------------------------------------------- type rules


def same(name: str, *operands: Any) -> tuple[DType, DType]:
    """The operands' common type, for computing and for the result."""
    dtype = result_type(*operands)
    return dtype, dtype


def floating(name: str, *operands: Any) -> tuple[DType, DType]:
    """The common type; integers and bools become the default floating type."""
    dtype = result_type(*operands)
    if dtype.category < 2:
        dtype = get_default_dtype()
    return dtype, dtype


def boolean(name: str, *operands: Any) -> tuple[DType, DType]:
    """Computed in the common type; the result is bool."""
    return result_type(*operands), dtypes.bool_


def no_bool(rule: TypeRule, advice: str) -> TypeRule:
    """``rule``, refusing a computation in bool."""

    def checked(name: str, *operands: Any) -> tuple[DType, DType]:
        compute, result = rule(name, *operands)
        check(
            not compute.is_bool,
            DtypeMismatch,
            lambda: f"{name}: not supported for bool tensors; got operands of {compute}. {advice}",
        )
        return compute, result

    return checked


# ---------------------------------------------------------------- the short form


def elementwise(
    schema: str,
    fn: Rule,
    types: TypeRule = same,
    *,
    vjp: dict[str, Any] | None = None,
    fast: frozenset[DType] = frozenset(),
    checks: Rule | None = None,
    decomposition: Rule | None = None,
    out: bool | str = True,
    inplace: bool | str = True,
    tags: Iterable[Tag] = (),
    memory_order: str = "operands",
    takes: frozenset[DType] | None = None,
    holomorphic: bool = True,
) -> Overload:
    """Define a pointwise operator.

    fn: over arrays cast to the computing dtype, one per leading Tensor or Scalar argument; other
        arguments as in the schema. Argument names: operands are the leading positional arguments
        of type Tensor or Scalar, up to the first one named ``alpha`` or ``value``.
    fast: dtypes for which ``fn`` may be called without the shape rule (Note [Fast path]).
    memory_order: of the result: that of the "operands", the first one deciding; of the operands
        "reversed", the last one deciding; or always "contiguous".
    takes: the dtypes it may compute in, if not all; MissingKernel for others.
    holomorphic: see :func:`define`; here it is the rule.
    checks: (operands and other arguments as in the schema) raises errors beyond those of types.
    """
    parsed = FunctionSchema.parse(schema)
    count = _operand_count(parsed)
    name = parsed.name

    def shape(*args: Any, **kwargs: Any) -> TensorMeta:
        operands = args[:count]
        if checks is not None:
            checks(*args, **kwargs)
        tensors = [a for a in operands if hasattr(a, "shape")]
        if memory_order == "reversed":
            tensors.reverse()
        compute, result = types(name, *operands)
        if takes is not None:
            check_dtype(name, compute, takes)
        meta = elementwise_meta(name, tensors, result)
        if memory_order == "contiguous":
            return TensorMeta(meta.shape, meta.dtype, meta.device)
        return meta

    slow = _slow_path(fn, shape, types, name, count)
    kernel = _fast_path(parsed, fn, fast, slow) if fast else slow
    op = define(
        schema,
        shape=shape,
        tensor_kernel=kernel,
        vjp=vjp,
        decomposition=decomposition,
        kind="elementwise",
        tags=(Tag.POINTWISE, *tags),
        holomorphic=holomorphic,
    )
    if parsed.arguments[0].type.base != "Tensor":
        inplace = False
    direct = None if types is boolean else (fn, fast)
    variants.derive(op, inplace=inplace, out=out, direct=direct)
    return op


def _operand_count(schema: FunctionSchema) -> int:
    count = 0
    for a in schema.positional:
        if a.type.base not in ("Tensor", "Scalar") or a.name in ("alpha", "value"):
            break
        count += 1
    return count


def _slow_path(fn: Rule, shape: Rule, types: TypeRule, name: str, count: int) -> Rule:
    """Any operands: shape rule, operands cast to the computing dtype, result fitted."""

    def kernel(*args: Any, **kwargs: Any) -> Tensor:
        meta = shape(*args, **kwargs)
        operands = args[:count]
        compute = types(name, *operands)[0]
        if compute in _HALVES:  # round once, at the end, as PyTorch does
            compute = dtypes.float32
        token = quiet(QUIET)
        try:
            arrays = [None if a is None else cast_operand(a, compute) for a in operands]
            result = fn(*arrays, *args[count:], **kwargs)
            return wrap(fit(result, meta), meta.dtype)
        finally:
            loud(token)

    return kernel


class Scaled:
    """``ufunc(a, alpha * b)``; ``plain`` is the ufunc, for alpha = 1."""

    __slots__ = ("plain",)

    def __init__(self, plain: np.ufunc) -> None:
        self.plain = plain

    def __call__(self, a: Array, b: Array, alpha: Any = 1) -> Any:
        return self.plain(a, b if alpha == 1 else b * np.asarray(alpha).astype(b.dtype))


# ---------------------------------------------------------------- fast paths


def _fast_path(schema: FunctionSchema, fn: Rule, fast: frozenset[DType], slow: Rule) -> Rule:
    """The adapter for the schema's pattern of arguments; ``slow`` where there is none."""
    pattern = [a.type.base for a in schema.positional if a.name not in ("alpha", "value")]
    scaled = any(a.name == "alpha" for a in schema.arguments)
    if pattern == ["Tensor"] and not schema.kwonly:
        return _fast_unary(fn, fast, slow)
    if pattern == ["Tensor", "Tensor"]:
        return _fast_scaled(fn, fast, slow) if scaled else _fast_binary(fn, fast, slow)
    if pattern == ["Tensor", "Scalar"]:
        return _fast_scalar_scaled(fn, fast, slow) if scaled else _fast_scalar(fn, fast, slow)
    return slow


def _fast_unary(fn: Rule, fast: frozenset[DType], slow: Rule) -> Rule:
    def kernel(self: Tensor) -> Tensor:
        array: Any = self._array
        if self._dtype in fast and array.flags.c_contiguous:
            token = quiet(QUIET)
            try:
                result = fn(array)
            finally:
                loud(token)
            return wrap(result if result.__class__ is _ndarray else _asarray(result))
        return slow(self)  # type: ignore[no-any-return]

    return kernel


def _fast_binary(fn: Rule, fast: frozenset[DType], slow: Rule) -> Rule:
    def kernel(self: Tensor, other: Tensor) -> Tensor:
        dtype = self._dtype
        if dtype is other._dtype and dtype in fast:
            a: Any = self._array
            b: Any = other._array
            if a.flags.c_contiguous and b.flags.c_contiguous:
                token = quiet(QUIET)
                try:
                    result = fn(a, b)
                except ValueError:
                    return slow(self, other)  # type: ignore[no-any-return]
                finally:
                    loud(token)
                return wrap(result if result.__class__ is _ndarray else _asarray(result))
        return slow(self, other)  # type: ignore[no-any-return]

    return kernel


def _fast_scaled(fn: Rule, fast: frozenset[DType], slow: Rule) -> Rule:
    """Like _fast_binary, for ``fn(a, b, alpha=1)`` whose ufunc for alpha = 1 is ``fn.plain``."""
    plain: Rule = getattr(fn, "plain", fn)

    def kernel(self: Tensor, other: Tensor, *, alpha: Any = 1) -> Tensor:
        dtype = self._dtype
        if alpha == 1 and dtype is other._dtype and dtype in fast:
            a: Any = self._array
            b: Any = other._array
            if a.flags.c_contiguous and b.flags.c_contiguous:
                token = quiet(QUIET)
                try:
                    result = plain(a, b)
                except ValueError:
                    return slow(self, other, alpha=alpha)  # type: ignore[no-any-return]
                finally:
                    loud(token)
                return wrap(result if result.__class__ is _ndarray else _asarray(result))
        return slow(self, other, alpha=alpha)  # type: ignore[no-any-return]

    return kernel


def _fast_scalar(fn: Rule, fast: frozenset[DType], slow: Rule) -> Rule:
    floats = fast & FLOATS
    takes = {float: floats, int: fast}  # bool, complex and SymInt take the slow path

    def kernel(self: Tensor, other: Any) -> Tensor:
        array: Any = self._array
        if self._dtype in takes.get(other.__class__, ()) and array.flags.c_contiguous:
            token = quiet(QUIET)
            try:
                result = fn(array, other)
            except (OverflowError, ValueError):
                return slow(self, other)  # type: ignore[no-any-return]
            finally:
                loud(token)
            return wrap(result if result.__class__ is _ndarray else _asarray(result))
        return slow(self, other)  # type: ignore[no-any-return]

    return kernel


def _fast_scalar_scaled(fn: Rule, fast: frozenset[DType], slow: Rule) -> Rule:
    plain: Rule = _fast_scalar(getattr(fn, "plain", fn), fast, lambda a, b: slow(a, b, 1))

    def kernel(self: Tensor, other: Any, alpha: Any) -> Tensor:
        if alpha == 1:
            return plain(self, other)  # type: ignore[no-any-return]
        return slow(self, other, alpha)  # type: ignore[no-any-return]

    return kernel


# ---------------------------------------------------------------- shared by rules


def zero_grad(g: Any) -> Any:
    """The rule of an argument on which the result depends by steps only."""
    return aten.zeros_like.default(g)
