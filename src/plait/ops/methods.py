"""Attaches the operators to `Tensor`: methods, Python's operators, subscripts.

Owns which names become methods, and how `x + y` chooses an overload. The functions themselves are
in ``functional`` and ``subscript``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from plait.base.errors import ArgumentTypeError
from plait.dispatch.dispatcher import lookup, packets_of
from plait.dispatch.operator import Overload
from plait.ops import aten, functional, subscript
from plait.ops.calling import NUMBERS, callable_of, is_number, plain_number
from plait.tensor import dtype as dtypes
from plait.tensor.promotion import result_type
from plait.tensor.tensor import Tensor

__all__ = ["METHODS", "OPERATORS", "PROPERTIES"]

METHODS: dict[str, Callable[..., Any]] = {}  # every attached method by name
OPERATORS: dict[str, Callable[..., Any]] = {}  # __add__ and the like
PROPERTIES: dict[str, property] = {}


# ---------------------------------------------------------------- Python's operators


def _binary(tensor_op: Overload, scalar_op: Overload) -> Callable[..., Any]:
    with_tensor, with_number = tensor_op.call, scalar_op.call

    def method(self: Tensor, other: Any) -> Any:
        if isinstance(other, Tensor):
            return with_tensor(self, other)
        if other.__class__ in NUMBERS:
            return with_number(self, other)
        return with_number(self, plain_number(other)) if is_number(other) else NotImplemented

    return method


def _pair(name: str, scalar: str = "Scalar", tensor: str = "Tensor") -> Callable[..., Any]:
    return _binary(lookup(f"aten::{name}.{tensor}".rstrip(".")), lookup(f"aten::{name}.{scalar}"))


def _reflected(op: Callable[[Tensor, Any], Any]) -> Callable[..., Any]:
    def method(self: Tensor, other: Any) -> Any:
        return op(self, plain_number(other)) if is_number(other) else NotImplemented

    return method


def _number_on_the_left(op: Overload) -> Callable[..., Any]:
    """``number op tensor`` of an operator that has no overload for a number on the left."""

    def run(self: Tensor, number: Any) -> Any:
        return op.call(aten.full.default((), number, dtype=result_type(self, number)), self)

    return _reflected(run)


def _unary(name: str) -> Callable[..., Any]:
    call = lookup(f"aten::{name}").call

    def method(self: Tensor) -> Any:
        return call(self)

    return method


def _matmul(self: Tensor, other: Any) -> Any:
    return aten.matmul.default(self, other) if isinstance(other, Tensor) else NotImplemented


def _iterate(self: Tensor) -> Any:
    if not self.shape:
        raise ArgumentTypeError("iter: iteration over a 0-d tensor; expected a dimension.")
    return iter(aten.unbind.int(self, 0))


def _operators() -> dict[str, Callable[..., Any]]:
    comparisons = {f"__{name}__": _pair(name) for name in ("eq", "ne", "lt", "le", "gt", "ge")}
    arithmetic = {f"__{name}__": _pair(name) for name in ("add", "sub", "mul")}
    in_place = {f"__i{name}__": _pair(f"{name}_") for name in ("add", "sub", "mul")}
    bits = {f"__{name}__": _pair(f"bitwise_{name}") for name in ("and", "or", "xor")}
    bits_in_place = {f"__i{name}__": _pair(f"bitwise_{name}_") for name in ("and", "or", "xor")}
    add, mul = lookup("aten::add.Scalar"), lookup("aten::mul.Scalar")
    return {
        **comparisons,
        **arithmetic,
        **in_place,
        **bits,
        **bits_in_place,
        "__radd__": _reflected(add.call),
        "__rmul__": _reflected(mul.call),
        "__rsub__": _reflected(lookup("aten::rsub.Scalar").call),
        "__rand__": _reflected(lookup("aten::bitwise_and.Scalar").call),
        "__ror__": _reflected(lookup("aten::bitwise_or.Scalar").call),
        "__rxor__": _reflected(lookup("aten::bitwise_xor.Scalar").call),
        "__truediv__": _pair("div"),
        "__itruediv__": _pair("div_"),
        "__rtruediv__": _reflected(lambda x, n: mul.call(aten.reciprocal.default(x), n)),
        "__pow__": _pair("pow", "Tensor_Scalar", "Tensor_Tensor"),
        "__ipow__": _pair("pow_"),
        "__rpow__": _reflected(lambda x, n: aten.pow.Scalar(n, x)),
        "__floordiv__": _pair("floor_divide", "Scalar", ""),
        "__ifloordiv__": _pair("floor_divide_", "Scalar"),
        "__mod__": _pair("remainder"),
        "__imod__": _pair("remainder_"),
        "__rfloordiv__": _number_on_the_left(lookup("aten::floor_divide")),
        "__rmod__": _number_on_the_left(lookup("aten::remainder.Tensor")),
        "__rlshift__": _number_on_the_left(lookup("aten::bitwise_left_shift.Tensor")),
        "__rrshift__": _number_on_the_left(lookup("aten::bitwise_right_shift.Tensor")),
        "__lshift__": _pair("bitwise_left_shift", "Tensor_Scalar"),
        "__ilshift__": _pair("bitwise_left_shift_", "Tensor_Scalar"),
        "__rshift__": _pair("bitwise_right_shift", "Tensor_Scalar"),
        "__irshift__": _pair("bitwise_right_shift_", "Tensor_Scalar"),
        "__neg__": _unary("neg"),
        "__abs__": _unary("abs"),
        "__invert__": _unary("bitwise_not"),
        "__pos__": lambda self: self,
        "__matmul__": _matmul,
        "__getitem__": subscript.get_item,
        "__setitem__": subscript.set_item,
        "__iter__": _iterate,
    }


# ---------------------------------------------------------------- methods of their own


def _is_dtype(value: Any) -> bool:
    """Whether an argument of `to` means an element type, not a device."""
    return isinstance(value, dtypes.DType | type | np.dtype) or dtypes.is_name(value)


def to(self: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    """``to(dtype)``, ``to(device)``, ``to(device, dtype)``, ``to(other)``; self if nothing changes.

    Keywords: dtype, device, copy, non_blocking, memory_format.
    """
    options = dict(kwargs)
    for value in args:
        if isinstance(value, Tensor):
            options.update(dtype=value.dtype, device=value.device)
        elif isinstance(value, bool):
            options["copy" if "non_blocking" in options else "non_blocking"] = value
        else:
            options["dtype" if _is_dtype(value) else "device"] = value
    if options.get("dtype") is not None:
        options["dtype"] = dtypes.as_dtype(options["dtype"])
    if not isinstance(options.get("device"), str):
        options["device"] = str(options["device"]) if options.get("device") else None
    if options["device"] not in (None, str(self.device)):
        return aten._to_copy.default(self, dtype=options.get("dtype"), device=options["device"])  # type: ignore[no-any-return]
    dtype = options.get("dtype") or self.dtype
    memory_format = options.get("memory_format")
    return aten.to.dtype(self, dtype, False, bool(options.get("copy")), memory_format)  # type: ignore[no-any-return]


def _converter(dtype: dtypes.DType) -> Callable[[Tensor], Tensor]:
    def convert(self: Tensor) -> Tensor:
        return aten.to.dtype(self, dtype)  # type: ignore[no-any-return]

    convert.__doc__ = f"The tensor as {dtype}; itself if it is so already."
    return convert


def cpu(self: Tensor) -> Tensor:
    """The tensor in main memory; itself if it is there already."""
    return to(self, "cpu")


def type_as(self: Tensor, other: Tensor) -> Tensor:
    """The tensor with the dtype of ``other``."""
    return aten.to.dtype(self, other.dtype)  # type: ignore[no-any-return]


_CONVERTERS = {
    "float": dtypes.float32,
    "double": dtypes.float64,
    "cfloat": dtypes.complex64,
    "cdouble": dtypes.complex128,
    "half": dtypes.float16,
    "bfloat16": dtypes.bfloat16,
    "long": dtypes.int64,
    "int": dtypes.int32,
    "short": dtypes.int16,
    "char": dtypes.int8,
    "byte": dtypes.uint8,
    "bool": dtypes.bool_,
}

# ---------------------------------------------------------------- attaching


def _is_method(name: str, op: Overload) -> bool:
    """Operators whose first argument is the tensor ``self`` are methods, if public."""
    arguments = op.schema.positional
    return bool(arguments) and arguments[0].name == "self" and not name.startswith("_")


def _attach(name: str, function: Callable[..., Any], group: dict[str, Any]) -> None:
    group[name] = function
    setattr(Tensor, name, function)


def _part(name: str, doc: str) -> property:
    """The real or imaginary parts as a property."""
    read = getattr(aten, name).default

    def write(self: Tensor, value: Any) -> None:
        subscript.set_item(read(self), ..., value)

    return property(lambda self: read(self), write, doc=doc)


def _attach_properties() -> None:
    PROPERTIES["T"] = property(functional.reverse_dims, doc="The dimensions in reverse order.")
    PROPERTIES["mT"] = property(
        lambda self: aten.transpose.int(self, -2, -1), doc="The last two dimensions swapped."
    )
    for name in ("H", "mH"):
        PROPERTIES[name] = property(
            lambda self: aten.adjoint.default(self), doc="Matrices transposed and conjugated."
        )
    for name, doc in (
        ("real", "The real parts, as a view; assigning writes them."),
        ("imag", "The imaginary parts, as a view; assigning writes them."),
    ):
        PROPERTIES[name] = _part(name, doc)
    for name, value in PROPERTIES.items():
        setattr(Tensor, name, value)


def _attach_all() -> None:
    _attach_properties()
    for packet in packets_of("aten"):
        name = packet.name.partition("::")[2]
        first = next(iter(packet.overloads.values()))
        if _is_method(name, first) and not hasattr(Tensor, name):
            _attach(name, functional.FUNCTIONS.get(name) or callable_of(name), METHODS)
    for name in functional.METHOD_NAMES:
        _attach(name, functional.FUNCTIONS[name], METHODS)
    for name, dtype in _CONVERTERS.items():
        _attach(name, _converter(dtype), METHODS)
    for function in (to, cpu, type_as):
        _attach(function.__name__, function, METHODS)
    for name, function in _operators().items():
        _attach(name, function, OPERATORS)


_attach_all()
