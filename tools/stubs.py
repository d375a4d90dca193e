"""Types of what is attached at run time: methods of `Tensor`, functions of `plait`, as stub files.

Owns the way from an operator's schema, or a function's annotations, to a line of a stub.
"""

from __future__ import annotations

import ast
import importlib
import inspect
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tools.source_tree import ROOT

__all__ = ["stubs"]

HEADER = '''"""{what} Read by type checkers only; written by `make docs`."""

import builtins
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from plait.tensor.device import Device
from plait.tensor.dtype import DType
from plait.tensor.tensor import Tensor

Number = builtins.int | builtins.float | builtins.complex
Dim = builtins.int | Sequence[builtins.int] | None
'''

_TYPES = {
    "Tensor": "Tensor",
    "Scalar": "Number",
    "int": "builtins.int",
    "SymInt": "builtins.int",
    "float": "builtins.float",
    "bool": "builtins.bool",
    "str": "builtins.str",
    "ScalarType": "DType",
    "Device": "Device | builtins.str",
}
# Annotations of functions written out, as they are in the stub.
_KNOWN = re.compile(r"(?<![\w.])(int|float|bool|str|tuple|list|dict|object|type)\b")
_LOCAL = re.compile(r"\b(_Dim)\b")
_FOREIGN = re.compile(
    r"\b(?!Tensor|Device|DType|Any|None|Sequence|Callable|Iterator|Dim|builtins)[A-Z]\w+"
)

_BINARY = "add sub mul truediv pow and or xor"
_DUNDERS = {
    **{f"__{n}__": "(self, other: Any) -> Tensor" for n in _BINARY.split()},
    **{f"__r{n}__": "(self, other: Any) -> Tensor" for n in _BINARY.split()},
    **{f"__i{n}__": "(self, other: Any) -> Tensor" for n in _BINARY.split()},
    **{f"__{n}__": "(self, other: Any) -> Tensor" for n in ("lt", "le", "gt", "ge", "matmul")},
    **{f"__{n}__": "(self) -> Tensor" for n in ("neg", "pos", "abs", "invert")},
    "__eq__": "(self, other: Any) -> Tensor: ...  # type: ignore[override]",
    "__ne__": "(self, other: Any) -> Tensor: ...  # type: ignore[override]",
    "__getitem__": "(self, index: Any) -> Tensor",
    "__setitem__": "(self, index: Any, value: Any) -> None",
    "__iter__": "(self) -> Iterator[Tensor]",
}


def stubs() -> dict[Path, str]:
    """Both stub files: path -> text."""
    for name in ("plait", "plait.autograd"):
        importlib.import_module(name)
    package = ROOT / "src" / "plait"
    return {
        package / "tensor" / "_methods.pyi": _methods_stub(),
        package / "ops" / "_functions.pyi": _functions_stub(),
    }


def _functions_stub() -> str:
    functional = importlib.import_module("plait.ops.functional")
    lines = [HEADER.format(what="Types of the functions that `plait` exports.")]
    for name in sorted(functional.__all__):
        lines.append(f"def {name}{_signature(name, functional.FUNCTIONS[name])}: ...")
    return "\n".join(lines) + "\n"


def _methods_stub() -> str:
    tensor = importlib.import_module("plait.tensor.tensor")
    written = _class_body(ROOT / "src" / "plait" / "tensor" / "tensor.py", "Tensor")
    lines = [HEADER.format(what="Types of what is attached to `Tensor`."), "class TensorMethods:"]
    for name in sorted(set(vars(tensor.Tensor)) - written):
        value = vars(tensor.Tensor)[name]
        if isinstance(value, property):
            lines += ["    @property", f"    def {name}(self) -> Tensor: ..."]
        elif name in _DUNDERS:
            text = _DUNDERS[name]
            lines.append(f"    def {name}{text}" + ("" if "..." in text else ": ..."))
        elif callable(value) and not name.startswith("__"):
            lines.append(f"    def {name}{_as_method(_signature(name, value))}: ...")
    return "\n".join(lines) + "\n"


def _class_body(path: Path, name: str) -> set[str]:
    """Names that the class statement itself defines."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    body = next(n for n in tree.body if isinstance(n, ast.ClassDef) and n.name == name).body
    found: set[str] = {"__module__", "__doc__", "__dict__", "__weakref__", "__annotations__"}
    for node in body:
        if isinstance(node, ast.FunctionDef):
            found.add(node.name)
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            found.add(node.target.id)
        elif isinstance(node, ast.Assign):
            found |= {t.id for t in node.targets if isinstance(t, ast.Name)}
    return found


def _as_method(signature: str) -> str:
    """The signature with its first parameter as `self`."""
    return re.sub(r"^\((\w+)(: [^,)]+(\[[^\]]*\])?)?", "(self", signature, count=1)


def _signature(name: str, function: Callable[..., Any]) -> str:
    is_operator = getattr(function, "__module__", None) in (None, "plait.ops.calling")
    if is_operator or not hasattr(function, "__annotations__"):
        return _of_operator(name)
    return _of_function(function)


# ---------------------------------------------------------------- functions written out


def _of_function(function: Callable[..., Any]) -> str:
    signature = inspect.signature(function)
    parts, star = [], False
    for parameter in signature.parameters.values():
        if parameter.kind is parameter.VAR_POSITIONAL:
            star = True
        elif parameter.kind is parameter.KEYWORD_ONLY and not star:
            parts.append("*")
            star = True
        prefix = {parameter.VAR_POSITIONAL: "*", parameter.VAR_KEYWORD: "**"}
        default = "" if parameter.default is parameter.empty else " = ..."
        parts.append(
            f"{prefix.get(parameter.kind, '')}{parameter.name}: "
            f"{_annotation(parameter.annotation)}{default}"
        )
    return f"({', '.join(parts)}) -> {_annotation(signature.return_annotation)}"


def _annotation(value: Any) -> str:
    if value is inspect.Parameter.empty:
        return "Any"
    text = value if isinstance(value, str) else getattr(value, "__name__", str(value))
    text = _LOCAL.sub("Dim", text)
    if _FOREIGN.search(text):
        return "Any"
    return _KNOWN.sub(r"builtins.\1", text)


# ---------------------------------------------------------------- operators


def _of_operator(name: str) -> str:
    dispatch = importlib.import_module("plait.dispatch")
    overloads = dispatch.packet(f"aten::{name}").overloads
    usual = [op.schema for key, op in overloads.items() if not key.endswith("out")]
    has_out = len(usual) < len(overloads)
    if len(usual) == 1:
        return _of_schema(usual[0], has_out)
    if {key.split("_")[-1] for key in overloads if not key.endswith("out")} == {"Tensor", "Scalar"}:
        with_tensor = next(s for s in usual if s.overload.endswith("Tensor"))
        second = with_tensor.arguments[1].name
        text = _of_schema(with_tensor, has_out)
        return text.replace(f"{second}: Tensor", f"{second}: Tensor | Number", 1)
    return f"(self: Tensor, *args: Any, **kwargs: Any) -> {_returns(usual[0])}"


def _of_schema(schema: Any, has_out: bool) -> str:
    parts, star = [], False
    for argument in schema.arguments:
        if argument.kwarg_only and not star:
            parts.append("*")
            star = True
        default = " = ..." if argument.has_default else ""
        parts.append(f"{argument.name}: {_type(argument.type)}{default}")
    if has_out:
        parts += [] if star else ["*"]
        parts.append("out: Tensor | None = ...")
    return f"({', '.join(parts)}) -> {_returns(schema)}"


def _type(kind: Any) -> str:
    base = _TYPES.get(kind.base, "Any")
    if kind.is_list:
        element = f"{base} | None" if kind.optional_elements else base
        base = f"Sequence[{element}]" + (f" | {element}" if kind.list_size else "")
    return f"{base} | None" if kind.optional and base != "Any" else base


def _returns(schema: Any) -> str:
    kinds = [
        "tuple[Tensor, ...]" if r.type.is_list else _TYPES.get(r.type.base, "Any")
        for r in schema.returns
    ]
    text = kinds[0] if len(kinds) == 1 else f"tuple[{', '.join(kinds)}]" if kinds else "None"
    return text.replace("tuple", "builtins.tuple")
