"""The users' operators by name, so that defining one again takes the earlier one away."""

from __future__ import annotations

from typing import Protocol

from plait.base.errors import InvalidArgument

__all__ = [
    "Definition",
    "defined_names",
    "find_definition",
    "forget",
    "remember",
    "replace",
    "split_name",
]


class Definition(Protocol):
    """What stands behind one operator of a user."""

    qualname: str

    def destroy(self) -> None:
        """Take the operator and all that was registered for it away."""


_definitions: dict[str, Definition] = {}


def split_name(name: str, caller: str) -> tuple[str, str]:
    """("namespace", "name"); InvalidArgument unless there are just these two parts."""
    namespace, separator, short = name.partition("::")
    if not separator or not namespace.isidentifier() or not short.isidentifier():
        raise InvalidArgument(
            f"{caller}: argument 'name' is {name!r}; expected 'namespace::name', without dots."
        )
    return namespace, short


def replace(qualname: str) -> None:
    """Destroy what stands under this name, if anything does."""
    earlier = _definitions.pop(qualname, None)
    if earlier is not None:
        earlier.destroy()


def remember(definition: Definition) -> None:
    """Put a definition under its name."""
    _definitions[definition.qualname] = definition


def forget(definition: Definition) -> None:
    """Take a definition out of the table, unless another of its name stands there by now."""
    if _definitions.get(definition.qualname) is definition:
        del _definitions[definition.qualname]


def find_definition(qualname: str) -> Definition | None:
    """What stands under a name."""
    return _definitions.get(qualname)


def defined_names() -> list[str]:
    """Every name, sorted."""
    return sorted(_definitions)
