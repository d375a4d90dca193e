"""Ready-made modes: what a program calls, what it costs in work and memory, where NaN comes from.

They watch and change nothing. Inside of one, compiled functions run eagerly, so every operator is
seen; the gradients that a function compiled *before* takes in its backward are not, which the event
log says. Write your own with :class:`plait.overrides.DispatchMode`; the guide is
``docs/guides/write_a_mode.md``.
"""

from plait.modes.flops import FlopCounter
from plait.modes.logger import LoggedCall, OperatorLogger
from plait.modes.memory import MemoryTracker
from plait.modes.nans import NanFinder, NanOrigin

__all__ = [
    "FlopCounter",
    "LoggedCall",
    "MemoryTracker",
    "NanFinder",
    "NanOrigin",
    "OperatorLogger",
]
