"""The table of backends, with those that installed packages offer by entry point.

A backend is ``backend(graph, options) -> callable(*flat_inputs) -> outputs``. Names of packages'
backends (entry-point group ``plait.backends``) are listed without importing them.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable
from importlib import import_module
from typing import Any

from plait.base.errors import InvalidBackend, RegistrationError

__all__ = [
    "Backend",
    "list_backends",
    "lookup_backend",
    "register_backend",
    "register_debug_backend",
]

Backend = Callable[..., Callable[..., Any]]

ENTRY_POINT_GROUP = "plait.backends"
_BUILT_IN = {
    "llvm": ("plait.backends.llvm.compiler", "compile_graph", ()),
    "aot_eager": ("plait.backends.interpreter", "aot_eager", ("debug",)),
    "eager": ("plait.backends.interpreter", "eager", ("debug",)),
}
_registered: dict[str, tuple[Backend, tuple[str, ...]]] = {}


def register_backend(
    fn: Backend | None = None, name: str | None = None, tags: Iterable[str] = ()
) -> Any:
    """Register a backend, as a decorator or by a call; its name defaults to the function's.

    Tags "debug" and "experimental" hide it from the default listing. RegistrationError if the name
    is taken, TypeError if ``fn`` cannot be called.

    >>> @register_backend(name="print_then_run_doctest", tags=["debug"])
    ... def backend(graph, options):
    ...     from plait.ir.interpret import run
    ...     return lambda *inputs: run(graph, inputs)
    >>> lookup_backend("print_then_run_doctest") is backend
    True
    """
    if fn is None:
        return lambda f: register_backend(f, name, tags)
    if not callable(fn):
        raise InvalidBackend(f"register_backend: got a {type(fn).__name__}; expected a callable.")
    chosen = name or fn.__name__
    if chosen in _registered or chosen in _BUILT_IN:
        raise RegistrationError(
            f"register_backend: a backend is called {chosen!r} already; choose another name."
        )
    _registered[chosen] = (fn, tuple(tags))
    return fn


def register_debug_backend(fn: Backend, name: str | None = None) -> Backend:
    """Register a backend that the default listing hides."""
    registered: Backend = register_backend(fn, name, ("debug",))
    return registered


def _entry_points() -> dict[str, Any]:
    from importlib import metadata  # 40 ms, which no backend of our own needs

    return {point.name: point for point in metadata.entry_points(group=ENTRY_POINT_GROUP)}


def lookup_backend(backend: str | Backend) -> Backend:
    """The backend called ``backend``; a callable is returned as it is.

    InvalidBackend, with close names, if there is none. What was registered wins over entry points.
    """
    if not isinstance(backend, str):
        if callable(backend):
            return backend
        raise InvalidBackend(
            f"compile: argument 'backend' is a {type(backend).__name__}; "
            "expected a name or a callable."
        )
    if backend in _registered:
        return _registered[backend][0]
    if backend in _BUILT_IN:
        module, attribute, _ = _BUILT_IN[backend]
        found: Backend = getattr(import_module(module), attribute)
        return found
    point = _entry_points().get(backend)
    if point is not None:
        loaded: Backend = point.load()
        return loaded
    close = difflib.get_close_matches(backend, list_backends(exclude_tags=None), n=3)
    hint = f"; close names: {', '.join(close)}" if close else ""
    raise InvalidBackend(
        f"compile: no backend is called {backend!r}{hint}. plait.list_backends() lists them."
    )


def list_backends(exclude_tags: Iterable[str] | None = ("debug", "experimental")) -> list[str]:
    """Names of the backends, sorted; ``None`` or ``()`` lists all, with those of entry points."""
    excluded = set(exclude_tags or ())
    tagged = {name: tags for name, (_, tags) in _registered.items()}
    tagged |= {name: tags for name, (_, _, tags) in _BUILT_IN.items()}
    tagged |= {name: () for name in _entry_points() if name not in tagged}
    return sorted(name for name, tags in tagged.items() if not excluded & set(tags))
