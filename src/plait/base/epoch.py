"""The epoch of modules: a number that moves whenever some module of the process is changed.

Modules advance it and guards compare it; it lives below both so that neither needs the other.
"""

from __future__ import annotations

import threading

__all__ = ["Epoch", "module_changes"]


class Epoch:
    """A counter of changes. The lock makes sure that no change goes uncounted."""

    __slots__ = ("_lock", "value")

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.value = 0

    def advance(self) -> None:
        """Note one change."""
        with self._lock:
            self.value += 1


module_changes = Epoch()
