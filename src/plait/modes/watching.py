"""What the ready-made modes share: the user's line of a call, also of a call in the backward.

Knows the tape only as the node that is running. Changes no result.
"""

from __future__ import annotations

from typing import Any

from plait.capture.source import user_stack
from plait.dispatch.modes import DispatchMode
from plait.dispatch.state import tls
from plait.ir.graph import Frame
from plait.tensor.tensor import Tensor
from plait.tensor.wrapper import inner_tensors

__all__ = ["WatchingMode", "at", "phase", "place", "tensors_of"]


class WatchingMode(DispatchMode):
    """A mode under which nodes of the tape remember the user's line that made them."""

    def __init__(self) -> None:
        self._sources: list[Any] = []

    def __enter__(self) -> Any:
        super().__enter__()
        self._sources.append(tls.node_source)
        if tls.node_source is None:
            tls.node_source = user_stack
        return self

    def __exit__(self, *exc: object) -> None:
        super().__exit__(*exc)
        tls.node_source = self._sources.pop()


def phase() -> str:
    """ "forward", or "backward" while a derivative runs."""
    return "forward" if tls.backward_node is None else "backward"


def place() -> Frame | None:
    """(file, line, function) of the user's call; in the backward, of the forward call."""
    node = tls.backward_node
    stack = user_stack() if node is None else getattr(node, "source", ())
    return stack[-1] if stack else None


def at(frame: Frame | None) -> str:
    """A place as the end of a sentence; "" if it is not known."""
    return "" if frame is None else f" at {frame[0]}:{frame[1]} (in {frame[2]})"


def tensors_of(value: Any) -> list[Tensor]:
    """The plain tensors in ``value``: inside lists and tuples, and inside wrappers."""
    if isinstance(value, Tensor):
        return list(inner_tensors(value))
    if isinstance(value, tuple | list):
        return [t for item in value for t in tensors_of(item)]
    return []
