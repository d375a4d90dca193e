"""The dispatcher: schemas, keys, tables, operators, thread state and modes. No tensor code."""

# The import of modes registers the fallbacks of the Python and PreDispatch keys.
from plait.dispatch import modes as _modes
from plait.dispatch.dispatcher import all_overloads, define, lookup, packet, register_fallback
from plait.dispatch.keys import AliasKey, DispatchKey
from plait.dispatch.keyset import KeySet
from plait.dispatch.modes import DispatchMode
from plait.dispatch.operator import OperatorPacket, Overload
from plait.dispatch.schema import FunctionSchema
from plait.dispatch.tags import Tag

__all__ = [
    "AliasKey",
    "DispatchKey",
    "DispatchMode",
    "FunctionSchema",
    "KeySet",
    "OperatorPacket",
    "Overload",
    "Tag",
    "all_overloads",
    "define",
    "lookup",
    "packet",
    "register_fallback",
]
del _modes
