"""The dispatcher: the table of all operators, and global fallbacks.

Operators are defined once under ``ns::name.overload`` and looked up by that name.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator

from plait.base.errors import InvalidArgument, RegistrationError
from plait.dispatch.entry import FALLBACKS, Specialiser
from plait.dispatch.keys import DispatchKey
from plait.dispatch.operator import OperatorPacket, Overload
from plait.dispatch.schema import FunctionSchema
from plait.dispatch.tags import Tag

__all__ = [
    "all_overloads",
    "define",
    "lookup",
    "namespaces",
    "packet",
    "packets_of",
    "register_fallback",
    "remove",
    "remove_fallback",
]

_overloads: dict[str, Overload] = {}
_packets: dict[str, OperatorPacket] = {}


def define(schema: str | FunctionSchema, tags: Iterable[Tag] = ()) -> Overload:
    """Define an operator by its schema; RegistrationError if the overload exists already."""
    parsed = schema if isinstance(schema, FunctionSchema) else FunctionSchema.parse(schema)
    if parsed.qualname in _overloads:
        raise RegistrationError(
            f"{parsed.qualname}: the operator is defined already, as "
            f"{_overloads[parsed.qualname].schema}; "
            "choose another overload name, or remove the earlier definition first."
        )
    op = Overload(parsed, frozenset(tags))
    _overloads[parsed.qualname] = op
    packet_ = _packets.setdefault(parsed.packet_name, OperatorPacket(parsed.packet_name))
    packet_.add(op)
    return op


def remove(op: Overload) -> None:
    """Take ``op`` out of the table; calls of those who still hold it find what it had and has."""
    op.is_defined = False
    del _overloads[op.qualname]
    packet_ = _packets[op.schema.packet_name]
    packet_.remove(op)
    if not packet_.overloads:
        del _packets[op.schema.packet_name]


def lookup(qualname: str) -> Overload:
    """The overload called ``qualname`` ("aten::add.Tensor"); InvalidArgument if there is none."""
    op = _overloads.get(qualname)
    if op is None:
        close = difflib.get_close_matches(qualname, _overloads, n=3)
        hint = f"; close names: {', '.join(close)}" if close else ""
        raise InvalidArgument(f"no operator is called {qualname!r}{hint}.")
    return op


def packet(name: str) -> OperatorPacket:
    """All overloads of ``name`` ("aten::add")."""
    found = _packets.get(name)
    if found is None:
        close = difflib.get_close_matches(name, _packets, n=3)
        hint = f"; close names: {', '.join(close)}" if close else ""
        raise InvalidArgument(f"no operator is called {name!r}{hint}.")
    return found


def namespaces() -> set[str]:
    """The namespaces in which operators are defined."""
    return {name.partition("::")[0] for name in _packets}


def packets_of(namespace: str) -> Iterator[OperatorPacket]:
    """The packets of one namespace."""
    prefix = namespace + "::"
    return (p for name, p in _packets.items() if name.startswith(prefix))


def all_overloads() -> list[Overload]:
    """Every defined overload, in order of definition."""
    return list(_overloads.values())


def register_fallback(key: DispatchKey, specialiser: Specialiser, *, replace: bool = False) -> None:
    """Set the fallback of ``key``: used by every operator without a kernel there.

    A fallback is a specialiser ``(op, lower_keyset) -> callable | None``; None falls through.
    """
    if key in FALLBACKS and not replace:
        raise RegistrationError(f"{key.name}: a fallback is registered already; pass replace=True.")
    FALLBACKS[key] = specialiser
    for op in _overloads.values():
        op.invalidate()


def remove_fallback(key: DispatchKey) -> None:
    """Take the fallback of ``key`` away."""
    del FALLBACKS[key]
    for op in _overloads.values():
        op.invalidate()
