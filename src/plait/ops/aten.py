"""The packets of the ``aten`` namespace as attributes: ``aten.mm.default(a, b)``.

Derivatives, decompositions and composites call operators through this module. Names are looked up
at first use, so that families of operators may refer to each other in any order.
"""

from __future__ import annotations

from plait.base.errors import InvalidArgument
from plait.dispatch.dispatcher import packet
from plait.dispatch.operator import OperatorPacket

__all__: list[str] = []


def __getattr__(name: str) -> OperatorPacket:
    try:
        found = globals()[name] = packet(f"aten::{name}")
    except InvalidArgument as error:
        raise AttributeError(str(error)) from None
    return found
