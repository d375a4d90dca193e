"""Operators by attribute: a namespace, a packet, an overload."""

from __future__ import annotations

import difflib

from plait.base.errors import InvalidArgument
from plait.dispatch import dispatcher
from plait.dispatch.operator import OperatorPacket

__all__ = ["OperatorNamespace", "namespace"]


class OperatorNamespace:
    """The operators of one namespace as attributes; each access looks them up anew."""

    def __init__(self, name: str) -> None:
        self.__name__ = name

    def __getattr__(self, name: str) -> OperatorPacket:
        try:
            return dispatcher.packet(f"{self.__name__}::{name}")
        except InvalidArgument as error:
            raise AttributeError(str(error)) from None

    def __dir__(self) -> list[str]:
        return sorted(p.name.partition("::")[2] for p in dispatcher.packets_of(self.__name__))

    def __repr__(self) -> str:
        return f"<OperatorNamespace {self.__name__}: {len(dir(self))} operators>"


def namespace(name: str) -> OperatorNamespace:
    """The namespace called ``name``; AttributeError if no operator is defined in it."""
    known = dispatcher.namespaces()
    if name not in known:
        close = difflib.get_close_matches(name, known)
        hint = f"; close names: {', '.join(close)}" if close else ""
        raise AttributeError(f"no operator is defined in a namespace {name!r}{hint}")
    return OperatorNamespace(name)
