"""Frozen records that cost next to nothing to define.

`@record` does what `@dataclass(frozen=True)` does for plain fields, by shared functions instead of
generated ones: a dataclass takes half a millisecond to define, and a module of forty of them is a
tenth of the start-up of a compiler. For families of small classes; a single class, or one that is
made in a hot loop, is better a dataclass or a named tuple.
"""

from __future__ import annotations

import inspect
from typing import Any, TypeVar, dataclass_transform

from plait.base.errors import ArgumentTypeError

__all__ = ["record"]

C = TypeVar("C", bound=type)


@dataclass_transform(frozen_default=True, eq_default=True)
def record(cls: C) -> C:
    """Make a class of annotated fields a frozen record: equal by type and fields, hashable.

    Fields of its bases come first; a value in the class body is a default; `__post_init__` is
    called if there is one. ArgumentTypeError for wrong arguments, AttributeError for writes.

    >>> @record
    ... class Point:
    ...     x: int
    ...     y: int = 0
    >>> Point(1), Point(1) == Point(x=1, y=0)
    (Point(x=1, y=0), True)
    """
    inherited: tuple[str, ...] = getattr(cls, "__match_args__", ())
    own = inspect.get_annotations(cls)
    members: dict[str, Any] = {
        "__match_args__": inherited + tuple(name for name in own if name not in inherited),
        "__init__": _init,
        "__eq__": _eq,
        "__hash__": _hash,
        "__repr__": _repr,
        "__setattr__": _refuse,
        "__delattr__": _refuse,
    }
    for name, value in members.items():
        if name == "__match_args__" or name not in cls.__dict__:
            setattr(cls, name, value)
    return cls


def _init(self: Any, *args: Any, **kwargs: Any) -> None:
    names: tuple[str, ...] = self.__match_args__
    if kwargs or len(args) != len(names):
        values = _bind(type(self), names, args, kwargs)
        self.__dict__.update(zip(names, values))
    else:
        self.__dict__.update(zip(names, args))
    check = getattr(self, "__post_init__", None)
    if check is not None:
        check()


def _bind(
    cls: type, names: tuple[str, ...], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> list[Any]:
    """Values in the order of the fields, from positions, keywords and defaults."""
    given = dict(zip(names, args))
    unknown = [name for name in kwargs if name not in names or name in given]
    if len(args) > len(names) or unknown:
        raise ArgumentTypeError(
            f"{cls.__name__}: got {len(args)} positional arguments and {sorted(kwargs)}; "
            f"expected each of {list(names)} once."
        )
    given |= kwargs
    missing = [name for name in names if name not in given and not hasattr(cls, name)]
    if missing:
        raise ArgumentTypeError(f"{cls.__name__}: arguments {missing} are missing.")
    return [given[name] if name in given else getattr(cls, name) for name in names]


def _eq(self: Any, other: object) -> Any:
    if type(self) is not type(other):
        return NotImplemented
    return self.__dict__ == other.__dict__


def _hash(self: Any) -> int:
    return hash((type(self), *self.__dict__.values()))


def _repr(self: Any) -> str:
    parts = ", ".join(f"{name}={value!r}" for name, value in self.__dict__.items())
    return f"{type(self).__qualname__}({parts})"


def _refuse(self: Any, name: str, *value: Any) -> None:
    raise AttributeError(f"{type(self).__name__} is a frozen record: {name!r} cannot be changed")
