"""A bounded record of what happened and why: fallbacks, recompiles, cache outcomes, graph breaks.

Owns the events of the process; must not know who reports them. Nothing is printed unless
`config.log` names the kind (or holds "all"); the record is always kept, since "no silence" is a
promise of the project.
"""

import itertools
import sys
import time
from collections import deque

from plait.base.account import note
from plait.base.config import config

__all__ = ["CAPACITY", "Event", "clear", "events", "record"]

CAPACITY = 4096


class Event:
    """One thing that happened: a kind ("recompile"), a reason in words, and named fields."""

    __slots__ = ("fields", "kind", "number", "reason", "time")

    def __init__(self, kind: str, reason: str, fields: dict[str, object]) -> None:
        self.kind = kind
        self.reason = reason
        self.fields = fields
        self.number = next(_numbers)
        self.time = time.time()

    def __str__(self) -> str:
        details = ", ".join(f"{name}={value!r}" for name, value in self.fields.items())
        return f"{self.kind}: {self.reason}" + (f" ({details})" if details else "")

    def __repr__(self) -> str:
        return f"<Event {self.number} {self}>"


_numbers = itertools.count()
_events: deque[Event] = deque(maxlen=CAPACITY)


def record(kind: str, reason: str, **fields: object) -> Event:
    """Remember an event, and print it to stderr where `config.log` asks for its kind."""
    event = Event(kind, reason, fields)
    _events.append(event)  # atomic; no lock is needed
    note(event)
    wanted = config.log
    if wanted and (kind in wanted or "all" in wanted):
        print(f"[plait] {event}", file=sys.stderr)
    return event


def events(kind: str | None = None) -> list[Event]:
    """The events still remembered, oldest first; only those of one kind if it is given."""
    return [event for event in tuple(_events) if kind is None or event.kind == kind]


def clear() -> None:
    """Forget all events; meant for tests and for long-lived processes that have reported them."""
    _events.clear()
