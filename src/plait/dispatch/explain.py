"""What a call would do: its keyset, where each key comes from, and the kernel each would get.

Reads the dispatcher, changes nothing, runs no kernel.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from plait.base.errors import ArgumentTypeError
from plait.dispatch.entry import FALLTHROUGH, fallthrough, find_fallback, find_kernel
from plait.dispatch.extract import DEVICE_KEYS
from plait.dispatch.keys import DispatchKey
from plait.dispatch.keyset import BACKEND_KEYS, KeySet
from plait.dispatch.modes import mode_stack
from plait.dispatch.operator import OperatorPacket, Overload
from plait.dispatch.python_key import tensors_in
from plait.dispatch.state import tls

__all__ = ["CallExplanation", "KeyExplanation", "explain"]


class KeyExplanation(NamedTuple):
    """One key of a call, from the highest down."""

    key: DispatchKey
    origins: tuple[str, ...]
    """Arguments and thread state that put it there."""
    excluded: bool
    """The thread excludes it."""
    answer: str
    """The kernel or fallback it would get."""


class CallExplanation(NamedTuple):
    """What `explain` found; prints as a table."""

    operator: str
    keys: tuple[KeyExplanation, ...]
    modes: tuple[str, ...]
    """Active modes, in the order in which they are asked."""

    @property
    def keyset(self) -> KeySet:
        """The keys that are asked."""
        return KeySet([row.key for row in self.keys if not row.excluded])

    def __str__(self) -> str:
        rows = [("key", "from", "answers")]
        for row in self.keys:
            answer = "excluded by the thread" if row.excluded else row.answer
            rows.append((row.key.name, ", ".join(row.origins), answer))
        widths = [max(len(row[k]) for row in rows) for k in range(2)]
        lines = [f"{key:{widths[0]}}  {origin:{widths[1]}}  {what}" for key, origin, what in rows]
        if self.modes:
            lines.append(f"modes, first asked first: {', '.join(self.modes)}")
        return "\n".join([self.operator, *lines])


def explain(op: Overload | OperatorPacket, *args: Any, **kwargs: Any) -> CallExplanation:
    """Explain the call ``op(*args, **kwargs)`` in this thread, without making it.

    ArgumentTypeError if no overload fits the arguments.

    >>> import plait
    >>> from plait.dispatch import explain, lookup
    >>> print(explain(lookup("aten::neg"), plait.ones(2)))
    aten::neg
    key                from           answers
    AUTOGRAD_CPU       argument self  fallback of the key
    ADINPLACE_OR_VIEW  argument self  fallback of the key, which falls through
    CPU                argument self  kernel registered at ...define.py:... (1: registered for ...
    """
    if isinstance(op, OperatorPacket):
        op = op.select(args, kwargs)
    if len(args) > len(op.schema.positional):
        raise ArgumentTypeError(
            f"{op.qualname}: got {len(args)} positional arguments; expected at most "
            f"{len(op.schema.positional)}. Schema: {op.schema}"
        )
    positional, keywords = op.normalize(args, kwargs)
    origins: dict[DispatchKey, list[str]] = {}
    for name, value in op.bind(positional, keywords).items():
        for tensor in tensors_in((value,)):
            _note(origins, tensor._keys, f"argument {name}")
    if not origins:
        device = op.bind(positional, keywords).get("device")
        mask = DEVICE_KEYS[getattr(device, "type", device)] if device else DispatchKey.CPU.mask
        _note(origins, mask, "argument device" if device else "no tensor argument")
    _note(origins, tls.include, "the thread")
    rows = [
        KeyExplanation(
            key,
            tuple(dict.fromkeys(origins[key])),
            bool(tls.exclude & key.mask),
            "" if tls.exclude & key.mask else _answer(op, key, lower),
        )
        for key, lower in _descending(origins)
    ]
    modes = tuple(type(mode).__name__ for mode in mode_stack())
    return CallExplanation(op.qualname, tuple(rows), modes)


def _note(origins: dict[DispatchKey, list[str]], mask: int, origin: str) -> None:
    for key in KeySet(mask):
        origins.setdefault(key, []).append(origin)


def _descending(origins: dict[DispatchKey, list[str]]) -> list[tuple[DispatchKey, int]]:
    """Keys from the highest down, each with the mask of those below it."""
    keys = sorted(origins, reverse=True)
    return [(key, KeySet(keys[k + 1 :]).mask & ~tls.exclude) for k, key in enumerate(keys)]


def _answer(op: Overload, key: DispatchKey, lower: int) -> str:
    found = find_kernel(op, key)
    if found is not None:
        if found.kernel is FALLTHROUGH or found.kernel.fn is fallthrough:
            return "falls through, as registered"
        return f"kernel registered at {found.kernel.location} ({found.rule})"
    specialiser = find_fallback(op, key)
    if specialiser is None:
        return "no kernel" if key.mask & BACKEND_KEYS else "nothing: the call goes on below"
    whose = "the operator's own fallback" if key in op.fallbacks else "fallback of the key"
    through = specialiser(op, lower) is None
    return f"{whose}, which falls through" if through else whose
