"""Where a recorded operator stands in the user's program: stacks without our own frames."""

from __future__ import annotations

import os
import sys
import sysconfig
from types import CodeType, FrameType

from plait.ir.graph import Frame

__all__ = ["at_user_line", "is_library_file", "user_stack"]

_PACKAGE = os.path.dirname(os.path.dirname(os.path.abspath(__file__))) + os.sep
_STDLIB = sysconfig.get_paths()["stdlib"] + os.sep
_STOP = "_trace_user_function"
_cached: dict[str, bool] = {}
_MAX_DEPTH = 12


def is_library_file(filename: str) -> bool:
    """Whether code of ``filename`` is ours or the standard library's, and so not the user's."""
    known = _cached.get(filename)
    if known is None:
        in_stdlib = filename.startswith(_STDLIB) and "site-packages" not in filename
        ours = filename.startswith(_PACKAGE) and not filename.startswith(_PACKAGE + "demo" + os.sep)
        known = _cached[filename] = ours or in_stdlib or filename.startswith("<")
        if filename.startswith(("<stdin>", "<ipython", "<doctest", "<string>")):
            known = _cached[filename] = False
    return known


def user_stack() -> tuple[Frame, ...]:
    """The user's frames of the running trace, outermost first, innermost last."""
    frames: list[Frame] = []
    frame: FrameType | None = sys._getframe(1)
    while frame is not None and len(frames) < _MAX_DEPTH:
        code: CodeType = frame.f_code
        if code.co_name == _STOP:
            break
        if not is_library_file(code.co_filename):
            frames.append((code.co_filename, frame.f_lineno, code.co_name))
        frame = frame.f_back
    return tuple(reversed(frames))


def at_user_line() -> str:
    """Where the trace stands in the user's program, as the end of a sentence; "" if unknown."""
    stack = user_stack()
    return f" at {stack[-1][0]}:{stack[-1][1]} (in {stack[-1][2]})" if stack else ""
