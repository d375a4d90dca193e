"""In-place and ``out=`` overloads, derived from functional ones.

Owns the rules of writing results into given memory: shape, dtype, overlap, read-only memory. The
derived overloads are never written by hand; their derivative is that of their functional form.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from plait.base.errors import DtypeMismatch, InplaceError, ShapeMismatch, check
from plait.dispatch import dispatcher
from plait.dispatch.keys import DispatchKey
from plait.dispatch.operator import Overload
from plait.dispatch.schema import AliasInfo, Argument, FunctionSchema, Return, Type
from plait.dispatch.tags import Tag
from plait.ops.arrays import Rule, convert, empty_array
from plait.ops.quiet import QUIET, loud, quiet
from plait.tensor.dtype import DType
from plait.tensor.layout import TensorMeta
from plait.tensor.overlap import Overlap, has_internal_overlap, overlap
from plait.tensor.promotion import can_cast
from plait.tensor.tensor import Tensor

__all__ = ["check_writable", "derive", "inplace_schema", "out_schema", "write"]

_WRITTEN = AliasInfo("a", is_write=True)
_TENSOR = Type("Tensor")


def derive(
    op: Overload,
    *,
    inplace: bool | str = True,
    out: bool | str = True,
    direct: tuple[Rule, frozenset[DType]] | None = None,
) -> None:
    """Define the in-place and the ``out=`` overload of a functional operator with one result.

    inplace, out: may name the overloads; the defaults are those of PyTorch's names: that of the
        functional overload, and "out" or "<overload>_out".
    direct: a NumPy function and the dtypes for which its own answer is the operator's, so that it
        may write straight into the first argument.
    """
    if inplace:
        _derive_inplace(op, direct, inplace if isinstance(inplace, str) else None)
    if out:
        _derive_out(op, out if isinstance(out, str) else None)


def inplace_schema(schema: FunctionSchema, overload: str | None = None) -> FunctionSchema:
    """The schema with ``_`` at its name and a written first argument, which is the result."""
    first = replace(schema.arguments[0], alias=_WRITTEN)
    return FunctionSchema(
        schema.namespace,
        schema.name + "_",
        schema.overload if overload is None else overload,
        (first, *schema.arguments[1:]),
        (Return(_TENSOR, _WRITTEN),),
    )


def out_schema(schema: FunctionSchema, overload: str | None = None) -> FunctionSchema:
    """The schema with a last keyword argument ``Tensor(a!) out``."""
    if overload is None:
        overload = f"{schema.overload}_out" if schema.overload else "out"
    out = Argument("out", _TENSOR, kwarg_only=True, alias=_WRITTEN)
    return FunctionSchema(
        schema.namespace,
        schema.name,
        overload,
        (*schema.arguments, out),
        (Return(_TENSOR, _WRITTEN),),
    )


# ---------------------------------------------------------------- rules of writing


def check_dtype_fits(name: str, result: Any, target: Any) -> None:
    """Raise DtypeMismatch if results of type ``result`` may not be written into ``target``."""
    if not can_cast(result, target):
        raise DtypeMismatch(
            f"{name}: the result's type can't be cast to the desired output type; got a result of "
            f"{result}; expected one that fits {target}. Convert the tensor first."
        )


def check_writable(name: str, target: Tensor, inputs: tuple[Any, ...] = ()) -> None:
    """Raise InplaceError for read-only memory, and for elements that share a memory location."""
    array = target._array
    if array is not None and not array.flags.writeable:
        raise InplaceError(
            f"{name}: the tensor written to stands on read-only memory; expected writable memory. "
            "Use clone() first."
        )
    if array is not None and array.flags.c_contiguous and not inputs:
        return
    if has_internal_overlap(target.layout):
        raise InplaceError(
            f"{name}: more than one element of the written-to tensor refers to a single memory "
            f"location; got strides {target.strides} for shape {target.shape}. Use clone() first. "
            "(unsupported operation)"
        )
    for other in inputs:
        if other.__class__ is Tensor and _overlaps_partly(target, other):
            raise InplaceError(
                f"{name}: some elements of the input tensor and the written-to tensor refer to a "
                "single memory location. Use clone() on the input first. (unsupported operation)"
            )


def _overlaps_partly(target: Tensor, other: Tensor) -> bool:
    return (
        other is not target
        and other._storage is not None
        and other._storage is target._storage
        and other._dtype is target._dtype
        and overlap(target.layout, other.layout) is Overlap.PARTIAL
    )


def write(target: Tensor, result: Tensor) -> None:
    """Copy ``result`` into the memory of ``target``, converting its dtype."""
    token = quiet(QUIET)
    try:
        convert(target._array, result._array)  # type: ignore[arg-type]
    finally:
        loud(token)


# ---------------------------------------------------------------- in place


def _derive_inplace(
    op: Overload, direct: tuple[Rule, frozenset[DType]] | None, overload: str | None
) -> Overload:
    variant = dispatcher.define(inplace_schema(op.schema, overload), (*op.tags, Tag.INPLACE))
    variant.functional, op.inplace, variant.kind = op, variant, op.kind
    functional_shape = _required(op.shape_rule, op)
    name = variant.name

    def shape(self: Any, *args: Any, **kwargs: Any) -> TensorMeta:
        meta = functional_shape(self, *args, **kwargs)
        if meta.shape != tuple(self.shape):
            raise ShapeMismatch(
                f"{name}: the tensor cannot hold the result; got shape {tuple(self.shape)}; the "
                f"result has shape {meta.shape}. (output with shape {tuple(self.shape)} doesn't "
                "match the broadcast shape)"
            )
        check_dtype_fits(name, meta.dtype, self.dtype)
        check(
            not (self.dtype.is_complex and meta.dtype.is_floating),
            DtypeMismatch,
            lambda: (
                f"{name}: the result is real and may not be written into complex numbers; got "
                f"{self.dtype}. Use the form without the underscore. (In-place is not supported)"
            ),
        )
        return TensorMeta(self.shape, self.dtype, self.device, self.strides)

    variant.shape_rule = shape
    compute, calls_operators = _functional_kernel(op)

    def kernel(self: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        shape(self, *args, **kwargs)
        check_writable(name, self, args)
        write(self, compute(self, *args, **kwargs))
        return self

    fast = kernel if direct is None else _fast_inplace(op, kernel, *direct)
    variant.register(DispatchKey.CPU, fast, calls_operators=calls_operators)
    return variant


def _required(rule: Rule | None, op: Overload) -> Rule:
    assert rule is not None, f"{op.qualname}: variants are derived from a shape rule"
    return rule


def _functional_kernel(op: Overload) -> tuple[Rule, bool]:
    """What computes the functional result, and whether it issues operators."""
    own = op.kernels.get(DispatchKey.CPU)
    if own is not None:
        return own.fn, own.calls_operators
    return op.call, True


def _fast_inplace(op: Overload, slow: Rule, fn: Any, dtypes: frozenset[DType]) -> Rule:
    """Write straight into the first argument where NumPy's function gives the operator's answer.

    For contiguous memory of one dtype (see Note [Fast path]); NumPy refuses read-only memory and
    results that are too large with ValueError, and copies operands that overlap.
    """
    fn = getattr(fn, "plain", fn)
    types = [a.type.base for a in op.schema.positional[:2]]
    if not dtypes or not isinstance(fn, np.ufunc) or types != ["Tensor", "Tensor"]:
        return slow

    def kernel(self: Tensor, other: Tensor, **scale: Any) -> Tensor:
        dtype = self._dtype
        if dtype is other._dtype and dtype in dtypes and not (scale and scale["alpha"] != 1):
            a: Any = self._array
            b: Any = other._array
            apart = self is other or self._storage is None or self._storage is not other._storage
            if apart and a.flags.c_contiguous and b.flags.c_contiguous:
                token = quiet(QUIET)
                try:
                    fn(a, b, a)
                except ValueError:
                    return slow(self, other, **scale)  # type: ignore[no-any-return]
                finally:
                    loud(token)
                return self
        return slow(self, other, **scale)  # type: ignore[no-any-return]

    return kernel


# ---------------------------------------------------------------- out=


def _derive_out(op: Overload, overload: str | None) -> Overload:
    variant = dispatcher.define(out_schema(op.schema, overload), (*op.tags, Tag.OUT))
    variant.functional, op.out, variant.kind = op, variant, op.kind
    functional_shape = _required(op.shape_rule, op)
    name = f"{op.name}.out"
    exact = op.kind == "matmul"  # products are written by a BLAS, which does not convert

    def shape(*args: Any, out: Any, **kwargs: Any) -> TensorMeta:
        meta: TensorMeta = functional_shape(*args, **kwargs)
        check_dtype_fits(name, meta.dtype, out.dtype)
        check(
            not exact or out.dtype is meta.dtype,
            DtypeMismatch,
            lambda: (
                f"{name}: argument 'out' has another dtype than the product; got {out.dtype}; "
                f"expected {meta.dtype}."
            ),
        )
        if tuple(out.shape) == meta.shape:
            return TensorMeta(out.shape, out.dtype, out.device, out.strides)
        if all(size != 0 for size in out.shape):
            raise ShapeMismatch(
                f"{name}: argument 'out' has the wrong shape; got {tuple(out.shape)}; expected "
                f"{meta.shape}, or a tensor without elements, which is resized."
            )
        return TensorMeta(meta.shape, out.dtype, out.device, meta.strides)

    variant.shape_rule = shape
    compute, calls_operators = _functional_kernel(op)

    def kernel(*args: Any, out: Tensor, **kwargs: Any) -> Tensor:
        meta = shape(*args, out=out, **kwargs)
        if tuple(out.shape) != meta.shape:
            _give_memory(out, meta)
        check_writable(name, out, args)
        write(out, compute(*args, **kwargs))
        return out

    variant.register(DispatchKey.CPU, kernel, calls_operators=calls_operators)
    return variant


def _give_memory(out: Tensor, meta: TensorMeta) -> None:
    """Fresh memory for a tensor that had no elements."""
    out._array = empty_array(meta)
    out._storage, out._strides, out._offset = None, None, None
