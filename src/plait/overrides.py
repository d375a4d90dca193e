"""For those who write modes and tensor subclasses: base classes, helpers, and what can be handled.

Handlers see operators at the Python key, below autograd and autocast: what a user's call became.
Which ones: :func:`overridable_operators`. The guides are ``docs/guides/write_a_mode.md`` and
``docs/guides/write_a_tensor_subclass.md``. Owns no dispatching; re-exports what lower layers own.
"""

from __future__ import annotations

from typing import Any

from plait.base.errors import ArgumentTypeError
from plait.dispatch.dispatcher import all_overloads
from plait.dispatch.keys import DispatchKey
from plait.dispatch.modes import DispatchMode, current_mode, disable_modes, mode_stack, pop_mode
from plait.dispatch.operator import OperatorPacket, Overload
from plait.dispatch.python_key import (
    HandlerEvent,
    record_handlers,
    restore_entry_state,
    tensors_in,
)
from plait.tensor.wrapper import (
    WrapperTensor,
    correct_aliasing,
    flatten_wrapper,
    inner_tensors,
    is_wrapper,
    map_tensors,
    unflatten_wrapper,
)

__all__ = [
    "DispatchMode",
    "HandlerEvent",
    "WrapperTensor",
    "correct_aliasing",
    "current_mode",
    "disable_modes",
    "flatten_wrapper",
    "handlers_of",
    "has_handler",
    "inner_tensors",
    "is_overridable",
    "is_wrapper",
    "map_tensors",
    "mode_stack",
    "overridable_operators",
    "pop_mode",
    "record_handlers",
    "resolve_name",
    "restore_entry_state",
    "tensors_in",
    "unflatten_wrapper",
]

_PYTHON = DispatchKey.PYTHON.mask


def has_handler(*values: Any) -> bool:
    """Whether a call with these arguments would reach a handler: of a mode, or of one of them.

    >>> import plait
    >>> has_handler(plait.ones(2))
    False
    >>> with DispatchMode():
    ...     has_handler(1)
    True
    """
    return bool(mode_stack()) or any(t._keys & _PYTHON for t in tensors_in(values))


def handlers_of(*values: Any) -> tuple[type, ...]:
    """The classes whose handlers a call with these arguments asks, in that order.

    Active modes, innermost first; then subclasses among the arguments, in their order, a class
    before its base.
    """
    order: list[type] = []
    for tensor in tensors_in(values):
        cls = type(tensor)
        if tensor._keys & _PYTHON and cls not in order:
            place = next((k for k, c in enumerate(order) if issubclass(cls, c)), len(order))
            order.insert(place, cls)
    return (*[type(mode) for mode in mode_stack()], *order)


def is_overridable(op: Overload) -> bool:
    """Whether handlers see calls of ``op``; a composite is seen by its parts.

    >>> import plait
    >>> is_overridable(plait.ops.aten.add.Tensor), is_overridable(plait.ops.aten.matmul.default)
    (True, False)
    """
    if not isinstance(op, Overload):
        raise ArgumentTypeError(
            f"is_overridable: got a {type(op).__name__}; expected an operator, such as "
            "plait.ops.aten.add.Tensor."
        )
    return not op.is_composite


def overridable_operators() -> tuple[str, ...]:
    """Qualified names of all operators whose calls reach handlers, sorted."""
    return tuple(sorted(op.qualname for op in all_overloads() if is_overridable(op)))


def resolve_name(fn: Any) -> str:
    """The qualified name of an operator, or of the function or method that calls it.

    ArgumentTypeError for what is none of these.

    >>> import plait
    >>> resolve_name(plait.ops.aten.add.Tensor), resolve_name(plait.relu)
    ('aten::add.Tensor', 'aten::relu')
    """
    if isinstance(fn, Overload):
        return fn.qualname
    if isinstance(fn, OperatorPacket):
        return fn.name
    qualname = getattr(fn, "__qualname__", "")
    if "::" in qualname:  # the call path of an operator
        return str(qualname)
    name = getattr(fn, "__name__", None)
    known = {op.name: f"{op.schema.namespace}::{op.name}" for op in all_overloads()}
    if name in known and (getattr(fn, "__module__", "") or "").startswith("plait"):
        return known[name]
    raise ArgumentTypeError(
        f"resolve_name: got {fn!r}; expected an operator, or a function or method of plait that "
        "calls one."
    )
