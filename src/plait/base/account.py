"""Accounts: what a compile took, stage by stage, and what was recorded meanwhile.

Owns the account of the context (thread or task) that is open; must not know stages or events. Where
none is open, a stage costs well under a microsecond.
"""

from __future__ import annotations

import time
from contextvars import ContextVar, Token

__all__ = ["Account", "note", "stage"]


class Account:
    """Seconds by stage, and events; open inside its with-statement, again if need be.

    Stages count for the innermost account, events for all that are open.

    >>> account = Account()
    >>> with account, stage("outer"), stage("inner"):
    ...     pass
    >>> sorted(account.times), account.events
    (['inner', 'outer'], [])
    """

    def __init__(self) -> None:
        self.times: dict[str, float] = {}
        self.events: list[object] = []
        self.nested = 0.0  # seconds that the innermost open stage spent in stages inside it
        self.outer: Account | None = None
        self._token: Token[Account | None] | None = None

    def __enter__(self) -> Account:
        self.outer = _open.get()
        self._token = _open.set(self)
        return self

    def __exit__(self, *exc: object) -> None:
        assert self._token is not None
        _open.reset(self._token)
        self._token = self.outer = None

    @property
    def total(self) -> float:
        """Seconds of all stages."""
        return sum(self.times.values())


_open: ContextVar[Account | None] = ContextVar("plait_account", default=None)


def note(event: object) -> None:
    """Add ``event`` to every open account."""
    account = _open.get()
    while account is not None:
        account.events.append(event)
        account = account.outer


class stage:
    """Count the time inside the with-statement, less that of stages inside it, as ``name``."""

    __slots__ = ("account", "before", "name", "started")

    def __init__(self, name: str) -> None:
        self.name = name

    def __enter__(self) -> None:
        account = self.account = _open.get()
        if account is not None:
            self.before, account.nested = account.nested, 0.0
            self.started = time.perf_counter()

    def __exit__(self, *exc: object) -> None:
        account = self.account
        if account is None:
            return
        spent = time.perf_counter() - self.started
        known = account.times.get(self.name, 0.0)
        account.times[self.name] = known + spent - account.nested
        account.nested = self.before + spent
