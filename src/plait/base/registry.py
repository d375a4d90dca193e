"""Named things, looked up by name with helpful errors. Owns `Registry`; must not know what is
registered.
"""

import difflib
from collections.abc import Iterator
from typing import Generic, TypeVar

from plait.base.errors import InvalidArgument, RegistrationError

__all__ = ["Registry"]

T = TypeVar("T")


class Registry(Generic[T]):
    """A dictionary from names to values of one kind; `what` is that kind in words, for messages.

    >>> colours = Registry[int]("colour")
    >>> colours.register("red", 1)
    >>> colours.get("red"), "blue" in colours, colours.names()
    (1, False, ('red',))
    """

    __slots__ = ("_values", "what")

    def __init__(self, what: str) -> None:
        self.what = what
        self._values: dict[str, T] = {}

    def register(self, name: str, value: T, *, replace: bool = False) -> None:
        """Store `value`; RegistrationError if the name is taken by another value and `replace` is
        not set.
        """
        if not replace and name in self._values and self._values[name] is not value:
            raise RegistrationError(
                f"registry: {self.what} {name!r} is registered already. "
                "Pass replace=True to replace it."
            )
        self._values[name] = value

    def unregister(self, name: str) -> T:
        """Take a value out again and return it; InvalidArgument if there is none."""
        value = self.get(name)
        del self._values[name]
        return value

    def get(self, name: str) -> T:
        """The value of that name; InvalidArgument, listing close matches, if there is none."""
        try:
            return self._values[name]
        except KeyError:
            raise InvalidArgument(self.describe_missing(name)) from None

    def describe_missing(self, name: str) -> str:
        """What `get` says of a missing name, for callers that raise a class of their own."""
        close = difflib.get_close_matches(name, self._values, n=3)
        hint = (
            f"did you mean {' or '.join(map(repr, close))}?"
            if close
            else f"known: {', '.join(self._values)}."
        )
        return f"registry: there is no {self.what} {name!r}; {hint}"

    def names(self) -> tuple[str, ...]:
        """All names, in order of registration."""
        return tuple(self._values)

    def items(self) -> tuple[tuple[str, T], ...]:
        """All (name, value) pairs, in order of registration."""
        return tuple(self._values.items())

    def __contains__(self, name: object) -> bool:
        return name in self._values

    def __iter__(self) -> Iterator[str]:
        return iter(tuple(self._values))

    def __len__(self) -> int:
        return len(self._values)
