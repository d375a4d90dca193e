"""`plait explain module:case`: the report of a function that the module offers with arguments.

Owns finding the case; what the report says is `plait.explain`'s.
"""

from __future__ import annotations

import importlib
import os
import sys

from plait.base.errors import InvalidArgument
from plait.explain import Explanation, explain

__all__ = ["explanation_of"]


def explanation_of(case: str, backend: str) -> Explanation:
    """The explanation of the case called ``module:name``.

    The module is imported as ``python -m`` would find it. ``name`` is a function without arguments
    that returns ``(function, tuple of arguments)``; InvalidArgument if there is none.
    """
    module_name, _, name = case.partition(":")
    if not module_name or not name:
        raise InvalidArgument(
            f"explain: argument 'case' is {case!r}; expected module:name, as in 'models:mlp'."
        )
    here = os.getcwd()
    if here not in sys.path:
        sys.path.insert(0, here)
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        raise InvalidArgument(f"explain: {error}; looked for it from {here}.") from error
    made = getattr(module, name, None)
    found = made() if callable(made) else None
    if not (isinstance(found, tuple) and len(found) == 2 and isinstance(found[1], tuple)):
        raise InvalidArgument(
            f"explain: {case!r} is not a function that returns (function, tuple of arguments)."
        )
    fn, arguments = found
    return explain(fn, backend=backend)(*arguments)
