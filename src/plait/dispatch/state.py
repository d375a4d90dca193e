"""Thread-local dispatcher state: the only thread-local of the package.

Holds what the dispatcher adds to or takes from the keysets of a call, the mode stacks, grad mode,
and the small slots through which higher layers hand themselves to lower ones. Knows no operator.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from plait.dispatch.keys import DispatchKey

__all__ = ["ThreadState", "autocasting", "exclude_keys", "include_keys", "set_autocast", "tls"]

_AUTOCAST = DispatchKey.AUTOCAST_CPU.mask


class ThreadState(threading.local):
    """Per-thread state. Class attributes are the initial values of each thread."""

    include: int = 0  # keys added to every call
    exclude: int = 0  # keys taken from every call; wins over include
    grad_enabled: bool = True
    backward_node: Any = None  # tape node whose rule is running
    node_source: Any = None  # callable giving the source of a tape node being made; set by tracers
    predispatch: Any = None  # the mode in the PreDispatch slot (capture)
    functional_mode: Any = None  # infra slots at the Python key, asked in this order
    proxy_mode: Any = None
    fake_mode: Any = None
    shape_env: Any = None  # symbolic shape environment of the trace in progress
    checkpoint: Any = None  # the checkpointed region being traced, which tags what is recorded
    saving: Any = None  # the checkpointed region being run, which is asked before a tensor is kept
    fake_context: Any = None  # of the user's shape function that is running
    deterministic: bool = False
    vmap_levels: tuple[Any, ...] = ()  # the vmaps that are running, innermost last
    autocast_dtype: Any = None  # what autocast casts to; None while it is off
    autocast_cache: Any = None  # casts of parameters by id, until the outermost autocast ends
    # (include, exclude) when the outermost operator of a handled call was entered
    entry_state: tuple[int, int] | None = None
    handler_events: list[Any] | None = None  # where a recorder wants handled calls to go

    def __init__(self) -> None:
        self.modes: list[Any] = []  # user modes, innermost last
        self.autocast_states: list[Any] = []  # what the autocasts that are entered restore
        self.handling: dict[Any, int] = {}  # (handler, operator) -> how often it is running


tls = ThreadState()


@contextmanager
def include_keys(mask: int) -> Iterator[None]:
    """Add ``mask`` to the keyset of every call of this thread; restored also by an exception."""
    saved = tls.include
    tls.include = saved | mask
    try:
        yield
    finally:
        tls.include = saved


@contextmanager
def exclude_keys(mask: int) -> Iterator[None]:
    """Take ``mask`` from the keyset of every call of this thread; restored also by an exception."""
    saved = tls.exclude
    tls.exclude = saved | mask
    try:
        yield
    finally:
        tls.exclude = saved


@contextmanager
def autocasting(dtype: Any, cache: Any = None) -> Iterator[None]:
    """Inside, autocast casts to ``dtype`` (None: is off) and keeps casts in ``cache``."""
    saved_dtype, saved_cache, was = tls.autocast_dtype, tls.autocast_cache, tls.include & _AUTOCAST
    set_autocast(dtype, cache)
    try:
        yield
    finally:
        tls.autocast_dtype, tls.autocast_cache = saved_dtype, saved_cache
        tls.include = (tls.include & ~_AUTOCAST) | was


def set_autocast(dtype: Any, cache: Any) -> None:
    """Switch autocast to ``dtype``, or off (None), and its cache of casts."""
    tls.autocast_dtype, tls.autocast_cache = dtype, cache
    tls.include = tls.include & ~_AUTOCAST if dtype is None else tls.include | _AUTOCAST
