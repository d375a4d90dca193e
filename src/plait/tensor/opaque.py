"""Opaque types: Python objects, not tensors or numbers, that an operator may take.

A *value* type is compared by equality: calls with equal values share a compiled program, and an
unequal one compiles again with a reason. A *reference* type is compared by identity.
"""

from __future__ import annotations

import numbers
from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import dataclass
from typing import Any, Literal

from plait.base.errors import InvalidArgument, RegistrationError
from plait.dispatch.extract import CONVERTERS
from plait.tensor.device import Device
from plait.tensor.dtype import DType
from plait.tensor.tensor import Tensor

__all__ = ["OpaqueType", "is_opaque_type", "opaque_type_of", "register_opaque_type"]

_REFUSED = (
    numbers.Number, str, bytes, Mapping, Set, Sequence, Tensor, DType, Device, type(None),
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class OpaqueType:
    """How objects of one class are compared between calls of a compiled function."""

    cls: type
    kind: Literal["value", "reference"]
    guard: Callable[[Any], Any] | None = None
    """What of a reference object must stay equal, though the object is the same."""

    def key(self, item: Any) -> Any:
        """What two objects must have in common to share a compiled program."""
        if self.kind == "value":
            return item
        return (id(item), self.guard(item) if self.guard is not None else None)


_types: dict[type, OpaqueType] = {}


def register_opaque_type(
    cls: type,
    *,
    typ: Literal["value", "reference"],
    guard_fn: Callable[[Any], Any] | None = None,
) -> None:
    """Let operators take objects of ``cls``.

    ``typ="value"``: the class defines ``__eq__`` and ``__hash__``, and objects are immutable.
    ``typ="reference"``: objects are compared by identity, and by ``guard_fn(obj)`` where given.
    InvalidArgument for builtins, tensors and containers, which have schema types of their own, and
    for a value class without equality; RegistrationError for a second registration.

    >>> from dataclasses import dataclass
    >>> @dataclass(frozen=True)
    ... class Window:
    ...     size: int
    >>> register_opaque_type(Window, typ="value")
    >>> is_opaque_type(Window)
    True
    """
    if not isinstance(cls, type):
        raise InvalidArgument(f"register_opaque_type: got {cls!r}; expected a class.")
    if issubclass(cls, _REFUSED) or cls is object:
        raise InvalidArgument(
            f"register_opaque_type: {cls.__name__} has a schema type of its own or is a container; "
            "expected a class of your own."
        )
    if typ not in ("value", "reference"):
        raise InvalidArgument(
            f"register_opaque_type({cls.__name__}): argument 'typ' is {typ!r}; expected 'value' or "
            "'reference'."
        )
    if typ == "value" and (cls.__eq__ is object.__eq__ or cls.__hash__ in (None, object.__hash__)):
        raise InvalidArgument(
            f"register_opaque_type({cls.__name__}): a value type compares by equality; expected "
            "__eq__ and __hash__. A frozen dataclass has both."
        )
    if cls in _types:
        raise RegistrationError(f"register_opaque_type: {cls.__name__} is registered already.")
    _types[cls] = OpaqueType(cls, typ, guard_fn)


def is_opaque_type(annotation: Any) -> bool:
    """Whether ``annotation`` is a class registered here."""
    return isinstance(annotation, type) and annotation in _types


def opaque_type_of(item: Any) -> OpaqueType | None:
    """The registration of the object's class; None if there is none."""
    return _types.get(type(item))


def _checked(item: Any) -> Any:
    if type(item) not in _types:
        raise TypeError(type(item).__name__)
    return item


CONVERTERS.setdefault("Opaque", _checked)
