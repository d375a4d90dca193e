"""Running NumPy without floating-point warnings, cheaply.

``numpy.errstate`` costs about a microsecond, a third of what a small eager operator may cost in
all. NumPy keeps that state in one context variable, so setting it to a value made once does the
same in a tenth of the time. Where this NumPy has no such variable, ``numpy.errstate`` serves.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

__all__ = ["QUIET", "loud", "quiet"]


def _find() -> tuple[Any, Callable[[Any], Any], Callable[[Any], Any]]:
    """The value that silences NumPy, and the functions that set it and put the old one back."""
    try:
        from numpy._core.umath import _extobj_contextvar, _make_extobj
    except ImportError:
        return {"all": "ignore"}, lambda flags: np.seterr(**flags), lambda old: np.seterr(**old)
    return _make_extobj(all="ignore"), _extobj_contextvar.set, _extobj_contextvar.reset


# token = quiet(QUIET); try: ... finally: loud(token)
QUIET, quiet, loud = _find()
