"""Grad mode: whether operators are recorded on the tape. Owns the context managers, nothing else.

The flag itself is `dispatch.state.tls.grad_enabled`, one per thread.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any, TypeVar

from plait.base.errors import ArgumentTypeError
from plait.dispatch.state import tls

__all__ = ["enable_grad", "is_grad_enabled", "no_grad", "set_grad_enabled"]

F = TypeVar("F", bound=Callable[..., Any])


def is_grad_enabled() -> bool:
    """Whether operators of this thread are recorded on the tape."""
    return tls.grad_enabled


class _GradMode:
    """A grad mode as context manager and as decorator; one object may be entered again inside."""

    __slots__ = ("_saved", "mode")

    def __init__(self, mode: bool) -> None:
        self.mode = mode
        self._saved: list[bool] = []

    def __enter__(self) -> None:
        self._saved.append(tls.grad_enabled)
        tls.grad_enabled = self.mode

    def __exit__(self, *exc: object) -> None:
        tls.grad_enabled = self._saved.pop()

    def __call__(self, function: F) -> F:
        """Make ``function`` run in this mode."""
        if inspect.isgeneratorfunction(function) or inspect.iscoroutinefunction(function):
            raise ArgumentTypeError(
                f"{type(self).__name__}: cannot decorate {function.__qualname__}, which is a "
                "generator or coroutine: its body runs after the decorator returned. "
                "Use a with-statement inside it."
            )
        mode = self.mode

        @functools.wraps(function)
        def in_mode(*args: Any, **kwargs: Any) -> Any:
            saved = tls.grad_enabled
            tls.grad_enabled = mode
            try:
                return function(*args, **kwargs)
            finally:
                tls.grad_enabled = saved

        return in_mode  # type: ignore[return-value]


def _decorated(cls: type[Any], function: Callable[..., Any] | None) -> Any:
    """`@no_grad` without parentheses decorates at once, as in PyTorch."""
    self = object.__new__(cls)
    if function is None:
        return self
    self.__init__()
    return self(function)


class no_grad(_GradMode):
    """Nothing is recorded inside: ``with no_grad():``, ``@no_grad()`` or ``@no_grad``."""

    __slots__ = ()

    def __new__(cls, function: Callable[..., Any] | None = None) -> Any:
        return _decorated(cls, function)

    def __init__(self) -> None:
        super().__init__(False)


class enable_grad(_GradMode):
    """Operators are recorded inside, also within ``no_grad``."""

    __slots__ = ()

    def __new__(cls, function: Callable[..., Any] | None = None) -> Any:
        return _decorated(cls, function)

    def __init__(self) -> None:
        super().__init__(True)


class set_grad_enabled(_GradMode):
    """Set grad mode at once; as a context manager, restore it at the end. Also a decorator."""

    __slots__ = ()

    def __init__(self, mode: bool) -> None:
        super().__init__(bool(mode))
        self._saved.append(tls.grad_enabled)
        tls.grad_enabled = self.mode

    def __enter__(self) -> None:
        if not self._saved:
            super().__enter__()

    def __call__(self, function: F) -> F:
        tls.grad_enabled = self._saved.pop()
        return super().__call__(function)
