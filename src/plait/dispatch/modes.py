"""The Python key: modes, tensor subclasses, and the order in which they are asked.

User modes come first (innermost first), then the infra slots FUNCTIONAL, PROXY, FAKE, then tensor
subclasses among the arguments. A handler runs with its own mode taken off and with every key above
Python excluded, so that the operators it issues are post-autograd and go to the next mode. The
PreDispatch slot, above autograd, holds the capture mode.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

from plait.base.errors import ArgumentTypeError, RegistrationError
from plait.dispatch.dispatcher import register_fallback
from plait.dispatch.keys import DispatchKey
from plait.dispatch.keyset import ABOVE_PYTHON
from plait.dispatch.operator import Overload
from plait.dispatch.state import exclude_keys, tls

__all__ = ["DispatchMode", "InfraMode", "PreDispatchMode", "tensors_in"]

_PYTHON = DispatchKey.PYTHON.mask
_PRE_DISPATCH = DispatchKey.PRE_DISPATCH.mask
_INFRA_SLOTS = ("functional_mode", "proxy_mode", "fake_mode")


def tensors_in(args: Iterable[Any]) -> Iterator[Any]:
    """The tensors among ``args``, also inside lists and tuples."""
    for a in args:
        if hasattr(a, "_keys"):
            yield a
        elif isinstance(a, list | tuple):
            yield from tensors_in(a)


def _sync_python_key() -> None:
    """The Python key is in the thread's include set just while some mode is active."""
    active = tls.modes or any(getattr(tls, slot) is not None for slot in _INFRA_SLOTS)
    tls.include = tls.include | _PYTHON if active else tls.include & ~_PYTHON


class DispatchMode:
    """A mode of the user: sees every operator of this thread while it is entered.

    >>> import plait
    >>> class Logger(DispatchMode):
    ...     def __plait_dispatch__(self, op, types, args, kwargs):
    ...         print(op.qualname)
    ...         return op(*args, **kwargs)
    >>> with Logger():
    ...     y = plait.tensor([1.0]) + plait.tensor([2.0])
    aten::add.Tensor
    """

    def __plait_dispatch__(
        self, op: Overload, types: tuple[type, ...], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        """Handle one call; return NotImplemented to leave it to the next handler."""
        return NotImplemented

    def __enter__(self) -> Any:
        tls.modes.append(self)
        _sync_python_key()
        return self

    def __exit__(self, *exc: object) -> None:
        popped = tls.modes.pop()
        assert popped is self, "modes leave in the order in which they came"
        _sync_python_key()


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
        _sync_python_key()
        return self

    def __exit__(self, *exc: object) -> None:
        setattr(tls, self.slot, None)
        _sync_python_key()


def _handlers() -> Iterator[tuple[DispatchMode, str | None]]:
    """The active modes in the order in which they are asked, with their slot."""
    for mode in reversed(tls.modes):
        yield mode, None
    for slot in _INFRA_SLOTS:
        mode = getattr(tls, slot)
        if mode is not None:
            yield mode, slot


def _call_mode(
    mode: DispatchMode,
    slot: str | None,
    op: Overload,
    types: tuple[type, ...],
    args: Any,
    kwargs: Any,
) -> Any:
    """Run the handler with its mode, and the modes asked before it, taken off."""
    saved_modes, saved_include, saved_exclude = tls.modes, tls.include, tls.exclude
    saved_slots = None
    if slot is None:
        tls.modes = saved_modes[: saved_modes.index(mode)]
    else:
        tls.modes = []
        saved_slots = [(s, getattr(tls, s)) for s in _INFRA_SLOTS[: _INFRA_SLOTS.index(slot) + 1]]
        for s, _ in saved_slots:
            setattr(tls, s, None)
    _sync_python_key()
    tls.exclude = saved_exclude | ABOVE_PYTHON
    try:
        return mode.__plait_dispatch__(op, types, args, kwargs)
    finally:
        tls.modes, tls.include, tls.exclude = saved_modes, saved_include, saved_exclude
        for s, value in saved_slots or ():
            setattr(tls, s, value)


def _call_infra(op: Overload, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """The first infra mode, where there is no user mode: what a compiler's trace does at each call.

    The same as :func:`_call_mode`, with every choice made; NotImplemented if no slot is taken.
    """
    saved_include, saved_exclude = tls.include, tls.exclude
    functional, proxy, fake = tls.functional_mode, tls.proxy_mode, tls.fake_mode
    if functional is not None:
        mode, tls.functional_mode = functional, None
        is_last = proxy is None and fake is None
    elif proxy is not None:
        mode, tls.proxy_mode = proxy, None
        is_last = fake is None
    elif fake is not None:
        mode, tls.fake_mode = fake, None
        is_last = True
    else:
        return NotImplemented
    if is_last:
        tls.include = saved_include & ~_PYTHON
    tls.exclude = saved_exclude | ABOVE_PYTHON
    try:
        return mode.__plait_dispatch__(op, (), args, kwargs)
    finally:
        tls.include, tls.exclude = saved_include, saved_exclude
        tls.functional_mode, tls.proxy_mode, tls.fake_mode = functional, proxy, fake


def _handle(op: Overload, lower: int, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """One call at the Python key: modes, then subclasses, then (a stale key) the layers below."""
    if op.is_composite:
        return op.composite_body(*args, **kwargs)
    if not tls.modes:
        result = _call_infra(op, args, kwargs)
        if result is not NotImplemented:
            return result
    subclassed = [t for t in tensors_in((*args, *kwargs.values())) if t._keys & _PYTHON]
    types = tuple({type(t): None for t in subclassed})
    asked: list[str] = []
    for mode, slot in _handlers():
        result = _call_mode(mode, slot, op, types, args, kwargs)
        if result is not NotImplemented:
            return result
        asked.append(f"mode {type(mode).__name__}")
    for cls in types:
        with exclude_keys(ABOVE_PYTHON):
            result = cls.__plait_dispatch__(op, types, args, kwargs)
        if result is not NotImplemented:
            return result
        asked.append(f"subclass {cls.__name__}")
    if asked:
        raise ArgumentTypeError(
            f"{op.qualname}: every handler answered NotImplemented: {', '.join(asked)}. "
            "Let one of them handle the operator."
        )
    return op.resolve(lower)(*args, **kwargs)


def _python_fallback(op: Overload, lower: int) -> Callable[..., Any]:
    def python_kernel(*args: Any, **kwargs: Any) -> Any:
        return _handle(op, lower, args, kwargs)

    return python_kernel


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
        tls.predispatch = self
        tls.include |= _PRE_DISPATCH
        return self

    def __exit__(self, *exc: object) -> None:
        tls.predispatch = None
        tls.include &= ~_PRE_DISPATCH


def _pre_dispatch_fallback(op: Overload, lower: int) -> Callable[..., Any]:
    def redispatch(*args: Any, **kwargs: Any) -> Any:
        saved = tls.exclude
        tls.exclude = saved | _PRE_DISPATCH
        try:
            return op.call(*args, **kwargs)
        finally:
            tls.exclude = saved

    def pre_dispatch_kernel(*args: Any, **kwargs: Any) -> Any:
        mode = tls.predispatch
        if mode is None:
            return op.resolve(lower)(*args, **kwargs)
        return mode.__plait_predispatch__(op, args, kwargs, redispatch)

    return pre_dispatch_kernel


register_fallback(DispatchKey.PYTHON, _python_fallback)
register_fallback(DispatchKey.PRE_DISPATCH, _pre_dispatch_fallback)
