"""Keys made of named ingredients, so that a cache miss can be explained.

Owns `KeyBuilder` and `explain_difference`; must not know what is cached. Ingredients become text by
rules that hold across processes: no `hash()`, no object address, no order of a set or dictionary.
"""

import hashlib
from collections.abc import Mapping, Set
from dataclasses import fields, is_dataclass
from enum import Enum
from typing import Any

from plait.base.errors import ArgumentTypeError, InvalidArgument

__all__ = ["Ingredients", "KeyBuilder", "canonical_text", "explain_difference"]

Ingredients = tuple[tuple[str, str], ...]  # (name, canonical text), in order of addition


def canonical_text(value: Any) -> str:
    """Text that two values share exactly when they are equal and of one type, in every process.

    Takes None, bool, int, float, str, bytes, enums, tuples, lists, sets, mappings and dataclasses;
    ArgumentTypeError for anything else: turn it into text first.
    """
    if value is None or type(value) in (bool, int, float, str, bytes):
        return repr(value)
    if isinstance(value, Enum):
        return f"{type(value).__name__}.{value.name}"
    if isinstance(value, tuple):
        return "(" + "".join(canonical_text(item) + "," for item in value) + ")"
    if isinstance(value, list):
        return "[" + "".join(canonical_text(item) + "," for item in value) + "]"
    if isinstance(value, Mapping):
        pairs = sorted((canonical_text(k), canonical_text(v)) for k, v in value.items())
        return "{" + "".join(f"{k}:{v}," for k, v in pairs) + "}"
    if isinstance(value, Set):
        return "{" + "".join(text + "," for text in sorted(map(canonical_text, value))) + "}"
    if is_dataclass(value) and not isinstance(value, type):
        members = ((field.name, getattr(value, field.name)) for field in fields(value))
        return (
            f"{type(value).__name__}("
            + "".join(f"{name}={canonical_text(member)}," for name, member in members)
            + ")"
        )
    raise ArgumentTypeError(
        f"canonical_text: argument 'value' cannot be part of a key; got {type(value).__name__}; "
        "expected plain data. Add its text instead."
    )


class KeyBuilder:
    """Collects the named ingredients of a key.

    >>> builder = KeyBuilder().add("level", 3).add("target", "zen4")
    >>> builder.ingredients()
    (('level', '3'), ('target', "'zen4'"))
    >>> len(builder.key())
    64
    """

    __slots__ = ("_ingredients",)

    def __init__(self) -> None:
        self._ingredients: dict[str, str] = {}

    def add(self, name: str, value: Any) -> "KeyBuilder":
        """Add an ingredient (see `canonical_text`); InvalidArgument if the name is taken."""
        if name in self._ingredients:
            raise InvalidArgument(f"KeyBuilder.add: ingredient {name!r} was added already.")
        self._ingredients[name] = canonical_text(value)
        return self

    def ingredients(self) -> Ingredients:
        """The ingredients so far, in order; what `explain_difference` compares."""
        return tuple(self._ingredients.items())

    def key(self) -> str:
        """SHA-256 over names and texts, in hexadecimal; equal exactly when the ingredients are."""
        digest = hashlib.sha256()
        for name, text in self._ingredients.items():
            for part in (name, text):
                data = part.encode()
                digest.update(f"{len(data)}:".encode() + data)
        return digest.hexdigest()


def explain_difference(a: KeyBuilder | Ingredients, b: KeyBuilder | Ingredients) -> str | None:
    """The first ingredient in which two keys differ, in words; None if they are the same.

    >>> explain_difference((("level", "3"),), (("level", "1"),))
    "ingredient 'level' differs: 3 against 1"
    """
    left = a.ingredients() if isinstance(a, KeyBuilder) else a
    right = b.ingredients() if isinstance(b, KeyBuilder) else b
    others = dict(right)
    for name, text in left:
        if name not in others:
            return f"ingredient {name!r} is only in the first key"
        if others[name] != text:
            return f"ingredient {name!r} differs: {_shorten(text)} against {_shorten(others[name])}"
    names = {name for name, _ in left}
    for name, _ in right:
        if name not in names:
            return f"ingredient {name!r} is only in the second key"
    return None if left == right else "the ingredients are the same, in another order"


def _shorten(text: str, limit: int = 60) -> str:
    return text if len(text) <= limit else text[: limit - 3] + "..."
