"""The dispatcher: schemas, keys, tables, operators, thread state and modes. No tensor code."""

# Importing python_key and python_dispatcher registers the fallbacks of their keys.
from plait.dispatch.dispatcher import all_overloads, define, lookup, packet, register_fallback
from plait.dispatch.entry import fallthrough
from plait.dispatch.explain import CallExplanation, explain
from plait.dispatch.higher_order import HigherOrderOperator
from plait.dispatch.keys import AliasKey, DispatchKey
from plait.dispatch.keyset import KeySet
from plait.dispatch.modes import (
    DispatchMode,
    PreDispatchMode,
    current_mode,
    disable_modes,
    mode_stack,
    pop_mode,
)
from plait.dispatch.operator import OperatorPacket, Overload
from plait.dispatch.python_dispatcher import TableSketch, enable_python_dispatcher
from plait.dispatch.python_key import HandlerEvent, record_handlers, restore_entry_state
from plait.dispatch.schema import FunctionSchema
from plait.dispatch.state import exclude_keys, include_keys
from plait.dispatch.tags import Tag

__all__ = [
    "AliasKey",
    "CallExplanation",
    "DispatchKey",
    "DispatchMode",
    "FunctionSchema",
    "HandlerEvent",
    "HigherOrderOperator",
    "KeySet",
    "OperatorPacket",
    "Overload",
    "PreDispatchMode",
    "TableSketch",
    "Tag",
    "all_overloads",
    "current_mode",
    "define",
    "disable_modes",
    "enable_python_dispatcher",
    "exclude_keys",
    "explain",
    "fallthrough",
    "include_keys",
    "lookup",
    "mode_stack",
    "packet",
    "pop_mode",
    "record_handlers",
    "register_fallback",
    "restore_entry_state",
]
