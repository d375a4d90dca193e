"""From a schema to the call path: argument conversion and the keyset of a call.

:func:`build_call` writes, once per overload, a Python function whose signature is the schema's,
which converts arguments, joins the keysets of the tensors with the thread state, and calls the
table's entry. Knows no operator in particular. The generated source holds only names taken from a
parsed schema.
"""

from __future__ import annotations

import functools
import numbers
from collections.abc import Callable, Iterable
from types import CodeType
from typing import TYPE_CHECKING, Any

from plait.base.errors import ArgumentTypeError
from plait.dispatch.keys import DispatchKey
from plait.dispatch.schema import Argument, FunctionSchema
from plait.dispatch.state import tls
from plait.symbolic.symint import SymInt

if TYPE_CHECKING:
    from plait.dispatch.operator import Overload

__all__ = ["CONVERTERS", "DEVICE_KEYS", "build_call"]

# Converters of schema types that this layer does not know (ScalarType, Device): the tensor layer
# adds its own. Each takes (value) and returns the converted value or raises TypeError.
CONVERTERS: dict[str, Callable[[Any], Any]] = {}
# Keys that a factory operator gets from its device argument.
DEVICE_KEYS: dict[str, int] = {
    "cpu": DispatchKey.CPU.mask,
    "meta": DispatchKey.META.mask,
    "cuda": DispatchKey.CUDA.mask,
}
_SCALAR_TYPES = frozenset((int, float, bool, complex))


def _wrong_type(op: Overload, name: str, value: Any, expected: str) -> ArgumentTypeError:
    return ArgumentTypeError(
        f"{op.qualname}: argument {name!r} has the wrong type; got {type(value).__name__}"
        f" ({_shorten(value)}); expected {expected}. Schema: {op.schema}"
    )


def _shorten(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def scalar_argument(op: Overload, name: str, value: Any) -> Any:
    """A Python number or a SymInt; NumPy scalars become Python numbers."""
    if type(value) in _SCALAR_TYPES or isinstance(value, SymInt):
        return value
    # Some NumPy scalars are floats or complex numbers by inheritance, so they are asked first.
    if isinstance(value, numbers.Number) and hasattr(value, "item"):
        return value.item()
    if isinstance(value, int | float | complex):
        return value
    raise _wrong_type(op, name, value, "a number")


def int_argument(op: Overload, name: str, value: Any) -> Any:
    """An int or SymInt; integral NumPy scalars and bools become int."""
    if isinstance(value, SymInt):
        return value
    if isinstance(value, numbers.Integral):
        return int(value)
    raise _wrong_type(op, name, value, "an int")


def int_list_argument(op: Overload, name: str, value: Any) -> Any:
    """A tuple of ints; one int stands for a list of one."""
    if isinstance(value, SymInt | numbers.Integral):
        return (int_argument(op, name, value),)
    if (
        isinstance(value, Iterable)
        and not isinstance(value, str | bytes)
        and not hasattr(value, "_keys")
    ):
        return tuple(int_argument(op, name, v) for v in value)
    raise _wrong_type(op, name, value, "a sequence of ints")


def float_argument(op: Overload, name: str, value: Any) -> Any:
    """A Python float (ints, bools and NumPy scalars are converted)."""
    if isinstance(value, numbers.Real):
        return float(value)
    raise _wrong_type(op, name, value, "a float")


def bool_argument(op: Overload, name: str, value: Any) -> Any:
    """A bool; NumPy bools are converted."""
    if isinstance(value, bool | int) or type(value).__name__ in ("bool_", "bool"):
        return bool(value)
    raise _wrong_type(op, name, value, "a bool")


def str_argument(op: Overload, name: str, value: Any) -> Any:
    """A str."""
    if isinstance(value, str):
        return value
    raise _wrong_type(op, name, value, "a str")


def tensor_argument(op: Overload, name: str, value: Any) -> Any:
    """A tensor: anything with dispatch keys."""
    if hasattr(value, "_keys"):
        return value
    raise _wrong_type(op, name, value, "a Tensor")


def tensor_list_argument(op: Overload, name: str, value: Any) -> Any:
    """A tuple of tensors (or None, where the schema has optional elements)."""
    if isinstance(value, list | tuple):
        optional = op.schema.argument(name).type.optional_elements
        for item in value:
            if not hasattr(item, "_keys") and not (optional and item is None):
                raise _wrong_type(op, name, item, "a Tensor in every place of the list")
        return tuple(value)
    raise _wrong_type(op, name, value, "a list of Tensors")


def other_argument(op: Overload, name: str, value: Any) -> Any:
    """A type of a higher layer, through its converter."""
    base = op.schema.argument(name).type.base
    converter = CONVERTERS.get(base)
    if converter is None:
        return value
    try:
        return converter(value)
    except TypeError as error:
        raise _wrong_type(op, name, value, f"a {base}") from error


def list_argument(op: Overload, name: str, value: Any) -> Any:
    """A list of scalars, floats, bools or strings, as a tuple."""
    if isinstance(value, list | tuple):
        return tuple(value)
    raise _wrong_type(op, name, value, f"a list ({op.schema.argument(name).type})")


_KEY_SOURCE = {"tls": tls, "scalar_types": _SCALAR_TYPES}

# (schema base type, is list) -> (test that the value needs no conversion, converter)
_CONVERSIONS: dict[tuple[str, bool], tuple[str, Callable[..., Any]]] = {
    ("Scalar", False): ("type({0}) in scalar_types", scalar_argument),
    ("int", False): ("type({0}) is int", int_argument),
    ("SymInt", False): ("type({0}) is int", int_argument),
    ("float", False): ("type({0}) is float", float_argument),
    ("bool", False): ("type({0}) is bool", bool_argument),
    ("str", False): ("type({0}) is str", str_argument),
    ("int", True): ("False", int_list_argument),
    ("SymInt", True): ("False", int_list_argument),
    ("Tensor", True): ("False", tensor_list_argument),
}


def _conversion(argument: Argument, scope: dict[str, Any]) -> list[str]:
    """Source lines that convert one argument; a plain tensor is checked by reading its keys."""
    kind, name = argument.type, argument.name
    if kind.base == "Tensor" and not kind.is_list:
        return []
    fallback = list_argument if kind.is_list else other_argument
    test, converter = _CONVERSIONS.get((kind.base, kind.is_list), ("False", fallback))
    if converter is other_argument and kind.base not in ("ScalarType", "Device", "Opaque"):
        return []
    scope[converter.__name__] = converter
    guard = f"{name} is not None and " if kind.optional else ""
    return [
        f"if {guard}not ({test.format(name)}): {name} = {converter.__name__}(op, {name!r}, {name})"
    ]


def _key_terms(schema: FunctionSchema) -> tuple[list[str], list[str]]:
    """Expressions of the keyset of the call, and statements that must follow for lists."""
    terms, statements = [], []
    for a in schema.arguments:
        if not a.type.is_tensor_like:
            continue
        if a.type.is_list:
            keys = "0 if item is None else item._keys" if a.type.optional_elements else "item._keys"
            items = f"({a.name} or ())" if a.type.optional else a.name
            statements.append(f"for item in {items}: keys |= {keys}")
        elif a.type.optional:
            statements.append(f"if {a.name} is not None: keys |= {a.name}._keys")
        else:
            terms.append(f"{a.name}._keys")
    return terms, statements


@functools.lru_cache(maxsize=1024)
def _code(source: str) -> CodeType:
    """Compiled source; operators with the same arguments share it."""
    return compile(source, "<call path>", "exec")


def build_call(op: Overload) -> Callable[..., Any]:
    """The call path of ``op``: a function with the schema's signature."""
    schema = op.schema
    scope: dict[str, Any] = {"op": op, "table": op.table, "miss": op.resolve, **_KEY_SOURCE}
    signature, lines = _signature(schema, scope), []
    for a in schema.arguments:
        lines += _conversion(a, scope)
    terms, statements = _key_terms(schema)
    if not terms and not statements:
        terms = [_factory_keys(schema, scope)]
    lines += ["try:", f"    keys = {' | '.join(terms) or '0'}"]
    lines += ["    " + s for s in statements]
    scope["fail"] = _tensor_failure
    tensors = ", ".join(f"{a.name!r}: {a.name}" for a in schema.arguments if a.type.is_tensor_like)
    lines += ["except AttributeError:", f"    fail(op, {{{tensors}}})"]
    lines += ["keys = (keys | tls.include) & ~tls.exclude", "fn = table.get(keys)"]
    lines += ["if fn is None: fn = miss(keys)", f"return fn({_forwarded(schema)})"]
    source = f"def call({signature}):\n" + "".join(f"    {line}\n" for line in lines)
    exec(_code(source), scope)
    call: Callable[..., Any] = scope["call"]
    call.__name__, call.__qualname__ = schema.name, op.qualname
    return call


def _signature(schema: FunctionSchema, scope: dict[str, Any]) -> str:
    parts = []
    for i, a in enumerate(schema.arguments):
        if a.kwarg_only and "*" not in parts:
            parts.append("*")
        if not a.has_default:
            # A Python signature cannot have a required argument after a defaulted one.
            parts.append(a.name)
            continue
        scope[f"_default{i}"] = a.default
        parts.append(f"{a.name}=_default{i}")
    return ", ".join(parts)


def _forwarded(schema: FunctionSchema) -> str:
    return ", ".join(
        [a.name for a in schema.positional] + [f"{a.name}={a.name}" for a in schema.kwonly]
    )


def _factory_keys(schema: FunctionSchema, scope: dict[str, Any]) -> str:
    if not any(a.name == "device" for a in schema.arguments):
        return str(DispatchKey.CPU.mask)
    scope["device_keys"] = DEVICE_KEYS
    return f"({DispatchKey.CPU.mask} if device is None else device_keys[device.type])"


def _tensor_failure(op: Overload, values: dict[str, Any]) -> None:
    """Raise for the first argument that should be a tensor and is not."""
    for name, value in values.items():
        kind = op.schema.argument(name).type
        if kind.is_list:
            tensor_list_argument(op, name, value)
        elif not (kind.optional and value is None):
            tensor_argument(op, name, value)
    raise AssertionError(f"{op.qualname}: no argument explains the failure")
