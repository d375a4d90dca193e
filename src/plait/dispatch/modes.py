"""Modes: objects that see every operator of a thread while they are entered.

Owns the user stack, the three infra slots and the PreDispatch slot, and the entering and leaving
of all of them. How a call reaches the handlers is `python_key.py`'s.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, ClassVar

from plait.base.errors import DispatchError, RegistrationError
from plait.dispatch.keys import DispatchKey
from plait.dispatch.operator import Overload
from plait.dispatch.state import tls

__all__ = [
    "INFRA_SLOTS",
    "DispatchMode",
    "InfraMode",
    "PreDispatchMode",
    "current_mode",
    "disable_modes",
    "infra_mode",
    "mode_stack",
    "pop_mode",
    "sync_python_keys",
]

PYTHON = DispatchKey.PYTHON.mask
SNAPSHOT = DispatchKey.PYTHON_TLS_SNAPSHOT.mask
_PRE_DISPATCH = DispatchKey.PRE_DISPATCH.mask
INFRA_SLOTS = ("functional_mode", "proxy_mode", "fake_mode")


def sync_python_keys() -> None:
    """The Python key is in the thread's include set just while some mode is active.

    The snapshot of the entry state is for users' handlers, so infra modes do without its key.
    """
    include = tls.include & ~(PYTHON | SNAPSHOT)
    if tls.modes:
        include |= PYTHON | SNAPSHOT
    elif any(getattr(tls, slot) is not None for slot in INFRA_SLOTS):
        include |= PYTHON
    tls.include = include


class DispatchMode:
    """A mode of the user: sees every operator of this thread while it is entered.

    The handler runs below autograd, with its own mode taken off, so the operators that it issues go
    to the next mode. A mode may be entered more than once.

    >>> import plait
    >>> class Logger(plait.DispatchMode):
    ...     def __plait_dispatch__(self, op, types, args, kwargs):
    ...         print(op.qualname)
    ...         return op(*args, **kwargs)
    >>> with Logger():
    ...     y = plait.tensor([1.0]) + plait.tensor([2.0])
    aten::add.Tensor

    Inside a mode compiled functions run eagerly, so that it sees each operator. A class that sets
    ``ignores_compiled`` lets them run compiled instead, and sees nothing of them.
    """

    ignores_compiled: ClassVar[bool] = False

    def __plait_dispatch__(
        self, op: Overload, types: tuple[type, ...], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        """Handle one call; return NotImplemented to leave it to the next handler.

        ``types`` are the classes of the arguments that handle operators themselves. ``args`` and
        ``kwargs`` are in the calling convention of kernels: every positional argument by position,
        every keyword-only one by keyword, defaults filled in.
        """
        return NotImplemented

    def __enter__(self) -> Any:
        if tls.predispatch is self:
            raise DispatchError(
                f"mode {type(self).__name__}: is in the PreDispatch slot already; expected an "
                "object that stands on one stack only. Make a second one."
            )
        tls.modes.append(self)
        sync_python_keys()
        return self

    def __exit__(self, *exc: object) -> None:
        _leave(tls.modes, self)
        sync_python_keys()


def _leave(stack: list[Any], mode: Any) -> None:
    if stack and stack[-1] is mode:
        stack.pop()
        return
    top = type(stack[-1]).__name__ if stack else "nothing"
    raise DispatchError(
        f"mode {type(mode).__name__}: modes leave in the reverse of the order in which they were "
        f"entered; got an exit while the innermost is {top}. Use `with` statements."
    )


class InfraMode(DispatchMode):
    """A mode of the compiler, in the slot named by ``slot``; a slot holds one mode at a time."""

    slot: str = ""

    def __enter__(self) -> Any:
        if getattr(tls, self.slot) is not None:
            raise RegistrationError(
                f"the {self.slot} slot is taken by {getattr(tls, self.slot)!r}; "
                "it holds one mode at a time."
            )
        setattr(tls, self.slot, self)
        sync_python_keys()
        return self

    def __exit__(self, *exc: object) -> None:
        setattr(tls, self.slot, None)
        sync_python_keys()


class PreDispatchMode:
    """The mode of the PreDispatch slot: sees each outermost operator call above autograd."""

    def __plait_predispatch__(
        self,
        op: Overload,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        redispatch: Callable[..., Any],
    ) -> Any:
        """Handle one call; ``redispatch(*args, **kwargs)`` goes on below, unseen by this mode."""
        return redispatch(*args, **kwargs)

    def __enter__(self) -> Any:
        if tls.predispatch is not None:
            raise RegistrationError(
                "the PreDispatch slot is taken: a capture is running in this thread."
            )
        if any(mode is self for mode in tls.modes):
            raise DispatchError(
                f"mode {type(self).__name__}: is on the stack of modes already; expected an object "
                "that stands on one stack only. Make a second one."
            )
        tls.predispatch = self
        tls.include |= _PRE_DISPATCH
        return self

    def __exit__(self, *exc: object) -> None:
        tls.predispatch = None
        tls.include &= ~_PRE_DISPATCH


# ---------------------------------------------------------------- looking at the stack


def mode_stack() -> tuple[DispatchMode, ...]:
    """The active modes in the order in which they are asked: users', innermost first, then infra.

    >>> mode_stack()
    ()
    """
    infra = (getattr(tls, slot) for slot in INFRA_SLOTS)
    return (*reversed(tls.modes), *(mode for mode in infra if mode is not None))


def current_mode() -> DispatchMode | None:
    """The mode that is asked first; None if there is none."""
    stack = mode_stack()
    return stack[0] if stack else None


def infra_mode(slot: str) -> DispatchMode | None:
    """The mode in an infra slot: "functional_mode", "proxy_mode" or "fake_mode"."""
    mode: DispatchMode | None = getattr(tls, slot)
    return mode


@contextmanager
def pop_mode() -> Iterator[DispatchMode]:
    """Take the innermost user mode off while the block runs; the block gets the mode.

    DispatchError if there is none.
    """
    if not tls.modes:
        raise DispatchError("pop_mode: no mode is active; expected one. Enter a mode first.")
    saved = tls.modes
    tls.modes = saved[:-1]
    sync_python_keys()
    try:
        yield saved[-1]
    finally:
        tls.modes = saved
        sync_python_keys()


@contextmanager
def disable_modes() -> Iterator[None]:
    """No mode, user's or infra, sees what the block does. Restored also by an exception."""
    modes, slots = tls.modes, {slot: getattr(tls, slot) for slot in INFRA_SLOTS}
    tls.modes = []
    for slot in INFRA_SLOTS:
        setattr(tls, slot, None)
    sync_python_keys()
    try:
        yield
    finally:
        tls.modes = modes
        for slot, mode in slots.items():
            setattr(tls, slot, mode)
        sync_python_keys()
