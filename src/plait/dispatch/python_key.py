"""The Python key: how a call reaches modes and tensor subclasses, and in which order.

User modes come first (innermost first), then the infra slots FUNCTIONAL, PROXY, FAKE, then tensor
subclasses among the arguments. A handler runs with its own mode taken off and with every key above
Python excluded, so that the operators it issues are post-autograd and go to the next mode.
Also here: the two keys above autograd that serve handlers, PythonTLSSnapshot (the thread state as
it was when the outermost operator was entered) and PreDispatch (the slot of the capture mode).

Note [Users' subclasses and the compiler's modes]. The tensors of users' subclasses carry the key
PythonTLSSnapshot, those of the compiler (fakes, functional tensors) do not. A call with a user's
subclass is not for the compiler's modes: its handler answers it, with operators on inner tensors,
which the modes then see.

Note [Stale key]. The Python key may be in a thread's include set though nobody answers: re-entrant
code took the mode off. Then the key is dropped and the call goes on below. If the key came from
elsewhere, no handler was ever meant, and that is an error.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

from plait.base.errors import ArgumentTypeError, DispatchError
from plait.dispatch.dispatcher import register_fallback
from plait.dispatch.entry import find_fallback, find_kernel
from plait.dispatch.keys import DispatchKey
from plait.dispatch.keyset import ABOVE_PYTHON, below
from plait.dispatch.modes import INFRA_SLOTS, PYTHON, SNAPSHOT, DispatchMode, sync_python_keys
from plait.dispatch.operator import Overload
from plait.dispatch.state import tls

__all__ = ["HandlerEvent", "record_handlers", "restore_entry_state", "tensors_in"]

_PRE_DISPATCH = DispatchKey.PRE_DISPATCH.mask
RECURSION_LIMIT = 32
"""How often one handler may be running for one operator before that is called a recursion."""


def tensors_in(args: Iterable[Any]) -> Iterator[Any]:
    """The tensors among ``args``, also inside lists and tuples."""
    for a in args:
        if hasattr(a, "_keys"):
            yield a
        elif isinstance(a, list | tuple):
            yield from tensors_in(a)


# ---------------------------------------------------------------- what a profiler sees


class HandlerEvent(NamedTuple):
    """One call of a handler: label "PythonDispatchMode" or "PythonSubclass", and times in ns."""

    label: str
    operator: str
    handler: str
    start: int
    end: int


@contextmanager
def record_handlers() -> Iterator[list[HandlerEvent]]:
    """Record every call of a handler of this thread, in the order in which they end.

    >>> import plait
    >>> class Quiet(plait.DispatchMode):
    ...     def __plait_dispatch__(self, op, types, args, kwargs):
    ...         return op(*args, **kwargs)
    >>> with record_handlers() as events, Quiet():
    ...     y = plait.ones(2) * 3
    >>> [(e.label, e.operator, e.handler) for e in events][-1]
    ('PythonDispatchMode', 'aten::mul.Scalar', 'Quiet')
    """
    saved = tls.handler_events
    events: list[HandlerEvent] = []
    tls.handler_events = events
    try:
        yield events
    finally:
        tls.handler_events = saved


@contextmanager
def _running(handler: Any, name: str, label: str, op: Overload) -> Iterator[None]:
    """Count the handler as running for ``op``; DispatchError where it calls itself without end."""
    key = (id(handler), op)
    running = tls.handling.get(key, 0)
    if running >= RECURSION_LIMIT:
        raise DispatchError(
            f"{op.qualname}: {label} {name} handles this operator by calling it again on itself, "
            f"{running} times deep; expected an end. Inside a handler its own mode is off already: "
            "do not enter it again, and unwrap a subclass before calling the operator."
        )
    tls.handling[key] = running + 1
    events, start = tls.handler_events, time.perf_counter_ns()
    try:
        yield
    finally:
        if running:
            tls.handling[key] = running
        else:
            del tls.handling[key]
        if events is not None:
            shown = "PythonDispatchMode" if label == "mode" else "PythonSubclass"
            end = time.perf_counter_ns()
            events.append(HandlerEvent(shown, op.qualname, name, start, end))


# ---------------------------------------------------------------- asking handlers


def _handlers() -> Iterator[tuple[DispatchMode, int, str | None]]:
    """The active modes in the order in which they are asked, with their place."""
    for at in range(len(tls.modes) - 1, -1, -1):
        yield tls.modes[at], at, None
    for at, slot in enumerate(INFRA_SLOTS):
        mode = getattr(tls, slot)
        if mode is not None:
            yield mode, at, slot


def _call_mode(
    mode: DispatchMode,
    at: int,
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
        tls.modes = saved_modes[:at]
    else:
        tls.modes = []
        saved_slots = [(s, getattr(tls, s)) for s in INFRA_SLOTS[: at + 1]]
        for s, _ in saved_slots:
            setattr(tls, s, None)
    sync_python_keys()
    tls.exclude = saved_exclude | ABOVE_PYTHON
    try:
        with _running(mode, type(mode).__name__, "mode", op):
            rule = op.handler_rules.get(type(mode)) if op.handler_rules else None
            if rule is not None:
                return rule(mode, op, types, args, kwargs)
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
        tls.include = saved_include & ~PYTHON
    tls.exclude = saved_exclude | ABOVE_PYTHON
    try:
        rule = op.handler_rules.get(type(mode)) if op.handler_rules else None
        if rule is not None:
            return rule(mode, op, (), args, kwargs)
        return mode.__plait_dispatch__(op, (), args, kwargs)
    finally:
        tls.include, tls.exclude = saved_include, saved_exclude
        tls.functional_mode, tls.proxy_mode, tls.fake_mode = functional, proxy, fake


def _call_subclass(
    cls: Any, op: Overload, types: tuple[type, ...], args: Any, kwargs: dict[str, Any]
) -> Any:
    """Ask a tensor subclass, above whose handler every key of higher priority is excluded."""
    saved_exclude = tls.exclude
    tls.exclude = saved_exclude | ABOVE_PYTHON
    try:
        with _running(cls, cls.__name__, "subclass", op):
            rule = op.handler_rules.get(cls) if op.handler_rules else None
            if rule is not None:
                return rule(cls, op, types, args, kwargs)
            return cls.__plait_dispatch__(op, types, args, kwargs)
    finally:
        tls.exclude = saved_exclude


def _types_of(args: tuple[Any, ...], kwargs: dict[str, Any], key: int) -> tuple[type, ...]:
    """Classes of tensors with ``key``, in order of argument, a subclass before its base."""
    order: list[type] = []
    for t in tensors_in((*args, *kwargs.values())):
        cls = type(t)
        if t._keys & key and cls not in order:
            before = next((k for k, c in enumerate(order) if issubclass(cls, c)), len(order))
            order.insert(before, cls)
    return tuple(order)


def _has_users_subclass(values: Iterable[Any]) -> bool:
    """See Note [Users' subclasses and the compiler's modes]."""
    for value in values:
        if isinstance(value, list | tuple):
            if _has_users_subclass(value):
                return True
        elif getattr(value, "_keys", 0) & SNAPSHOT:
            return True
    return False


def _handle(op: Overload, lower: int, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """One call at the Python key: modes, then subclasses, then (Note [Stale key]) what is below."""
    if op.is_composite:
        return op.composite_body(*args, **kwargs)
    ours = not _has_users_subclass(args) and not (kwargs and _has_users_subclass(kwargs.values()))
    if ours and not tls.modes:
        result = _call_infra(op, args, kwargs)
        if result is not NotImplemented:
            return result
    tracing = not ours and any(getattr(tls, slot) is not None for slot in INFRA_SLOTS)
    types = _types_of(args, kwargs, SNAPSHOT if tracing else PYTHON)
    asked: list[str] = []
    for mode, at, slot in _handlers():
        if slot is not None and not ours:
            continue
        result = _call_mode(mode, at, slot, op, types, args, kwargs)
        if result is not NotImplemented:
            return result
        asked.append(f"mode {type(mode).__name__}")
    for cls in types:
        result = _call_subclass(cls, op, types, args, kwargs)
        if result is not NotImplemented:
            return result
        asked.append(f"subclass {cls.__name__}")
    if asked:
        raise ArgumentTypeError(
            f"{op.qualname}: every handler answered NotImplemented: {', '.join(asked)}. "
            "Let one of them handle the operator."
        )
    if tls.include & PYTHON:
        tls.include &= ~(PYTHON | SNAPSHOT)
        return op.resolve(lower)(*args, **kwargs)
    raise DispatchError(
        f"{op.qualname}: the keyset of the call holds PYTHON, but no mode is active and no "
        "argument is a tensor subclass with a handler; got a keyset put together by hand. "
        "Redispatch with the keyset that the kernel was given, without keys above its own."
    )


def _python_fallback(op: Overload, lower: int) -> Callable[..., Any]:
    def python_kernel(*args: Any, **kwargs: Any) -> Any:
        return _handle(op, lower, args, kwargs)

    return python_kernel


# ---------------------------------------------------------------- the state at entry


def _snapshot_fallback(op: Overload, lower: int) -> Callable[..., Any]:
    """Note the thread state of the outermost call; operators inside leave it as it is."""

    def snapshot_kernel(*args: Any, **kwargs: Any) -> Any:
        if tls.entry_state is not None:
            return op.resolve(lower)(*args, **kwargs)
        tls.entry_state = (tls.include, tls.exclude)
        try:
            return op.resolve(lower)(*args, **kwargs)
        finally:
            tls.entry_state = None

    return snapshot_kernel


@contextmanager
def restore_entry_state() -> Iterator[None]:
    """Inside a handler: dispatch as at the entry of the outermost operator, autograd included.

    The handler's own mode stays off. DispatchError outside of a handler.

    >>> import plait
    >>> class Differentiable(plait.DispatchMode):
    ...     def __plait_dispatch__(self, op, types, args, kwargs):
    ...         with restore_entry_state():
    ...             out = op(*args, **kwargs)
    ...         print("on the tape:", out.requires_grad)
    ...         return out.detach()
    >>> x = plait.ones(2).requires_grad_()
    >>> with Differentiable():
    ...     y = x * 3
    on the tape: True
    """
    state = tls.entry_state
    if state is None:
        raise DispatchError(
            "restore_entry_state: the dispatch state at entry is not accessible here; expected a "
            "call inside the handler of a mode or of a tensor subclass."
        )
    saved_include, saved_exclude = tls.include, tls.exclude
    tls.include, tls.exclude = state
    tls.entry_state = None
    sync_python_keys()
    try:
        yield
    finally:
        tls.include, tls.exclude, tls.entry_state = saved_include, saved_exclude, state


# ---------------------------------------------------------------- the PreDispatch slot


# Transforms, which answer a call by calling other operators: the slot sees those in its place.
_TRANSFORMS = (DispatchKey.BATCHED, DispatchKey.AUTOCAST_CPU)


def _is_transformed(op: Overload, lower: int) -> bool:
    """Whether a transform answers the call."""
    for key in _TRANSFORMS:
        if lower & key.mask:
            if find_kernel(op, key) is not None:
                return True
            specialiser = find_fallback(op, key)
            if specialiser is not None and specialiser(op, lower & below(key)) is not None:
                return True
    return False


def _pre_dispatch_fallback(op: Overload, lower: int) -> Callable[..., Any] | None:
    if _is_transformed(op, lower):
        return None

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
register_fallback(DispatchKey.PYTHON_TLS_SNAPSHOT, _snapshot_fallback)
register_fallback(DispatchKey.PRE_DISPATCH, _pre_dispatch_fallback)
