"""Function schemas: the text that declares an operator, as immutable data.

``str(FunctionSchema.parse(text)) == text`` for canonical text. The grammar is that of ATen's
``native_functions.yaml``: ``ns::name.overload(Type arg=default, *, Type kw) -> Type``, with alias
annotations ``Tensor(a)`` (a view of set a) and ``Tensor(a!)`` (written). Knows no kernels.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final

from plait.base.errors import SchemaError

__all__ = ["NO_DEFAULT", "AliasInfo", "Argument", "FunctionSchema", "Return", "Type"]


class _NoDefault:
    """The default of an argument that has none."""

    def __repr__(self) -> str:
        return "NO_DEFAULT"


NO_DEFAULT: Final = _NoDefault()

BASE_TYPES = frozenset((
    "Tensor", "Scalar", "int", "SymInt", "float", "bool", "str", "ScalarType", "Device", "Layout",
    "MemoryFormat", "Generator", "Opaque", "Any",
))  # fmt: skip


@dataclass(frozen=True, slots=True)
class AliasInfo:
    """Which alias set a tensor belongs to, and whether the operator writes it."""

    name: str
    is_write: bool = False

    def __str__(self) -> str:
        return f"({self.name}{'!' if self.is_write else ''})"


@dataclass(frozen=True, slots=True)
class Type:
    """A schema type: a base name, maybe a list (optional elements, fixed size), maybe optional."""

    base: str
    is_list: bool = False
    list_size: int | None = None
    optional: bool = False
    optional_elements: bool = False

    @property
    def is_tensor_like(self) -> bool:
        """A tensor, an optional tensor or a list of tensors."""
        return self.base == "Tensor"

    def format(self, alias: AliasInfo | None) -> str:
        """The type's text with ``alias`` written after its base."""
        text = self.base + (str(alias) if alias else "")
        if self.is_list:
            size = "" if self.list_size is None else str(self.list_size)
            text += ("?" if self.optional_elements else "") + f"[{size}]"
        return text + ("?" if self.optional else "")

    def __str__(self) -> str:
        return self.format(None)


@dataclass(frozen=True, slots=True)
class Argument:
    """One declared argument."""

    name: str
    type: Type
    default: Any = NO_DEFAULT
    kwarg_only: bool = False
    alias: AliasInfo | None = None

    @property
    def has_default(self) -> bool:
        return self.default is not NO_DEFAULT

    @property
    def is_write(self) -> bool:
        return self.alias is not None and self.alias.is_write

    def __str__(self) -> str:
        default = f"={_format_default(self.default)}" if self.has_default else ""
        return f"{self.type.format(self.alias)} {self.name}{default}"


@dataclass(frozen=True, slots=True)
class Return:
    """One declared result."""

    type: Type
    alias: AliasInfo | None = None
    name: str | None = None

    def __str__(self) -> str:
        return self.type.format(self.alias) + (f" {self.name}" if self.name else "")


@dataclass(frozen=True)
class FunctionSchema:
    """A parsed operator declaration.

    >>> s = FunctionSchema.parse(
    ...     "aten::add.Tensor(Tensor self, Tensor other, *, Scalar alpha=1) -> Tensor"
    ... )
    >>> s.qualname, [a.name for a in s.kwonly], s.is_mutable
    ('aten::add.Tensor', ['alpha'], False)
    """

    namespace: str
    name: str
    overload: str
    arguments: tuple[Argument, ...]
    returns: tuple[Return, ...]

    @staticmethod
    def parse(text: str) -> FunctionSchema:
        """Parse ``text``; a SchemaError tells the position of the first fault."""
        return _Parser(text).schema()

    @property
    def qualname(self) -> str:
        """``ns::name.overload``, or ``ns::name`` for the default overload."""
        return self.packet_name + (f".{self.overload}" if self.overload else "")

    @property
    def packet_name(self) -> str:
        return f"{self.namespace}::{self.name}"

    @cached_property
    def positional(self) -> tuple[Argument, ...]:
        return tuple(a for a in self.arguments if not a.kwarg_only)

    @cached_property
    def kwonly(self) -> tuple[Argument, ...]:
        return tuple(a for a in self.arguments if a.kwarg_only)

    @cached_property
    def is_mutable(self) -> bool:
        """Whether some argument is written."""
        return any(a.is_write for a in self.arguments)

    @cached_property
    def is_view(self) -> bool:
        """Whether some result aliases an argument that is not written."""
        return any(r.alias is not None and not r.alias.is_write for r in self.returns)

    @cached_property
    def mutated_names(self) -> tuple[str, ...]:
        return tuple(a.name for a in self.arguments if a.is_write)

    @cached_property
    def tensor_positions(self) -> tuple[int, ...]:
        """Positions among the positional arguments that hold tensors or lists of tensors."""
        return tuple(i for i, a in enumerate(self.positional) if a.type.is_tensor_like)

    def argument(self, name: str) -> Argument:
        """The argument called ``name``; KeyError if there is none."""
        for a in self.arguments:
            if a.name == name:
                return a
        raise KeyError(name)

    def __str__(self) -> str:
        parts = [str(a) for a in self.positional]
        if self.kwonly:
            parts += ["*", *(str(a) for a in self.kwonly)]
        returns = [str(r) for r in self.returns]
        shown = (
            returns[0]
            if len(returns) == 1 and not self.returns[0].name
            else f"({', '.join(returns)})"
        )
        return f"{self.qualname}({', '.join(parts)}) -> {shown}"


def _format_default(value: Any) -> str:
    if isinstance(value, str):
        return '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'
    if isinstance(value, tuple):
        return "[" + ", ".join(_format_default(v) for v in value) + "]"
    return str(value)


_TOKEN = re.compile(
    r"\s*(?:(?P<name>[A-Za-z_][A-Za-z0-9_]*)|(?P<number>-?(?:\d+\.\d*|\.\d+|\d+)(?:[eE][-+]?\d+)?)"
    r"|(?P<string>\"(?:[^\"\\]|\\.)*\"|'(?:[^'\\]|\\.)*')|(?P<punct>->|::|[()\[\]?,=*!.|]))"
)


class _Parser:
    """Recursive descent over one schema text."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.tokens: list[tuple[str, str, int]] = []
        position = 0
        for match in _TOKEN.finditer(text):
            if match.start() != position:
                break
            kind = match.lastgroup or ""
            self.tokens.append((kind, match[kind], match.start(kind)))
            position = match.end()
        if position < len(text.rstrip()):
            raise SchemaError(f"schema: unexpected character at {position} in {text!r}")
        self.at = 0

    def fail(self, expected: str) -> SchemaError:
        kind, got, position = self.peek()
        shown = f"{got!r} at position {position}" if kind else f"the end (position {position})"
        return SchemaError(f"schema: got {shown} in {self.text!r}; expected {expected}")

    def peek(self, ahead: int = 0) -> tuple[str, str, int]:
        at = self.at + ahead
        return self.tokens[at] if at < len(self.tokens) else ("", "", len(self.text))

    def accept(self, token: str) -> bool:
        if self.peek()[1] == token and self.peek()[0] in ("punct", "name"):
            self.at += 1
            return True
        return False

    def expect(self, token: str) -> None:
        if not self.accept(token):
            raise self.fail(repr(token))

    def take(self, kind: str, expected: str) -> str:
        if self.peek()[0] != kind:
            raise self.fail(expected)
        self.at += 1
        return self.tokens[self.at - 1][1]

    def schema(self) -> FunctionSchema:
        namespace = self.take("name", "a namespace")
        self.expect("::")
        name = self.take("name", "an operator name")
        overload = self.take("name", "an overload name") if self.accept(".") else ""
        arguments = self.arguments()
        self.expect("->")
        returns = self.returns()
        if self.at != len(self.tokens):
            raise self.fail("the end")
        names = [a.name for a in arguments]
        duplicate = next((n for n in names if names.count(n) > 1), None)
        if duplicate is not None:
            raise SchemaError(f"schema: argument {duplicate!r} is declared twice in {self.text!r}")
        return FunctionSchema(namespace, name, overload, arguments, returns)

    def arguments(self) -> tuple[Argument, ...]:
        self.expect("(")
        arguments: list[Argument] = []
        kwarg_only = False
        while not self.accept(")"):
            if arguments or kwarg_only:
                self.expect(",")
            if self.accept("*"):
                if kwarg_only:
                    raise self.fail("only one '*'")
                kwarg_only = True
                continue
            kind, alias = self.type()
            name = self.take("name", "an argument name")
            default = self.default(kind) if self.accept("=") else NO_DEFAULT
            arguments.append(Argument(name, kind, default, kwarg_only, alias))
        return tuple(arguments)

    def returns(self) -> tuple[Return, ...]:
        if not self.accept("("):
            kind, alias = self.type()
            return (Return(kind, alias),)
        returns: list[Return] = []
        while not self.accept(")"):
            if returns:
                self.expect(",")
            kind, alias = self.type()
            name = self.take("name", "a name") if self.peek()[0] == "name" else None
            returns.append(Return(kind, alias, name))
        return tuple(returns)

    def type(self) -> tuple[Type, AliasInfo | None]:
        base = self.take("name", "a type")
        if base not in BASE_TYPES:
            self.at -= 1
            raise self.fail(f"a type, one of {', '.join(sorted(BASE_TYPES))}")
        alias = self.alias() if self.accept("(") else None
        optional_elements = self.peek()[1] == "?" and self.peek(1)[1] == "[" and self.accept("?")
        is_list, size = False, None
        if self.accept("["):
            is_list = True
            size = int(self.take("number", "a size")) if self.peek()[0] == "number" else None
            self.expect("]")
        optional = self.accept("?")
        return Type(base, is_list, size, optional, bool(optional_elements)), alias

    def alias(self) -> AliasInfo:
        name = self.take("name", "an alias set")
        is_write = self.accept("!")
        self.expect(")")
        return AliasInfo(name, is_write)

    def default(self, kind: Type) -> Any:
        token_kind, token, _ = self.peek()
        if self.accept("["):
            items: list[Any] = []
            while not self.accept("]"):
                if items:
                    self.expect(",")
                items.append(self.default(kind))
            return tuple(items)
        self.at += 1
        if token_kind == "number":
            is_float = kind.base == "float" or any(c in token for c in ".eE")
            return float(token) if is_float else int(token)
        if token_kind == "string":
            return re.sub(r"\\(.)", r"\1", token[1:-1])
        if token in ("True", "False", "None"):
            return {"True": True, "False": False, "None": None}[token]
        if token_kind == "name":
            return token
        self.at -= 1
        raise self.fail("a default value")
