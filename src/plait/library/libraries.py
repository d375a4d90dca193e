"""Library objects: registrations with a common lifetime, and the namespaces they own.

Everything registered through a `Library` is taken back when it is destroyed or collected.
"""

from __future__ import annotations

import sys
import weakref
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, Literal

from plait.base.errors import InvalidArgument, MissingKernel, RegistrationError
from plait.dispatch import dispatcher
from plait.dispatch.entry import FALLBACKS, find_kernel
from plait.dispatch.keys import AliasKey, DispatchKey
from plait.dispatch.keyset import KeySet, below
from plait.dispatch.operator import Overload
from plait.dispatch.python_dispatcher import key_named
from plait.dispatch.schema import FunctionSchema
from plait.dispatch.tags import Tag
from plait.library.mutable import define_functional

__all__ = ["Library", "caller_place", "get_kernel", "scoped_library"]

_OWN = ("plait.library", "contextlib", "functools")
_RESERVED = ("prim",)
_KINDS = ("DEF", "FRAGMENT", "IMPL")
_owners: dict[str, str] = {"aten": "the operators of plait", "plait": "plait itself"}

Key = DispatchKey | AliasKey
Undo = Callable[[], None]


def caller_place() -> str:
    """``file:line`` of the nearest frame outside of this package: where the user registers."""
    frame: Any = sys._getframe(1)
    while frame is not None and frame.f_globals.get("__name__", "").startswith(_OWN):
        frame = frame.f_back
    return f"{frame.f_code.co_filename}:{frame.f_lineno}" if frame is not None else "<unknown>"


class Library:
    """Operators, kernels and fallbacks that are registered and taken back together.

    ``kind``: "DEF" owns the namespace, one library alone; "FRAGMENT" adds operators to a namespace;
    "IMPL" adds kernels only, by default at ``dispatch_key``. InvalidArgument for a reserved
    namespace or another kind, RegistrationError where the namespace has an owner.

    >>> lib = Library("docs_library", "DEF")
    >>> op = lib.define("twice(Tensor x) -> Tensor")
    >>> lib.impl("twice", lambda x: x * 2, "CompositeImplicitAutograd")
    >>> import plait
    >>> op(plait.ones(1))
    tensor([2.])
    >>> lib.destroy()
    """

    def __init__(
        self,
        ns: str,
        kind: Literal["DEF", "FRAGMENT", "IMPL"],
        dispatch_key: str | Key = "",
    ) -> None:
        if kind not in _KINDS:
            raise InvalidArgument(
                f"Library({ns!r}): argument 'kind' is {kind!r}; expected one of {_KINDS}."
            )
        if ns in _RESERVED:
            raise InvalidArgument(f"Library: the namespace {ns!r} is reserved; choose another.")
        place = caller_place()
        self.ns, self.kind = ns, kind
        self.key = key_named(dispatch_key) if dispatch_key != "" else None
        self._undo: list[Undo] = []
        if kind == "DEF":
            if ns in _owners:
                raise RegistrationError(
                    f"Library({ns!r}, 'DEF'): the namespace is owned already, by {_owners[ns]}; "
                    "expected one owner. Use kind 'FRAGMENT' to add operators to it."
                )
            _owners[ns] = f"the library made at {place}"
            self._undo.append(lambda: _disown(ns))
        self._finalizer = weakref.finalize(self, _take_back, self._undo)

    def __repr__(self) -> str:
        return f"<Library {self.ns} {self.kind}>"

    def define(self, schema: str | FunctionSchema, *, tags: Iterable[Tag] = ()) -> Overload:
        """Define ``name(...) -> ...`` in this namespace and return its overload.

        One that writes its arguments gets a functional form as well, which compiled graphs hold.
        """
        if self.kind == "IMPL":
            raise RegistrationError(
                f"Library({self.ns!r}, 'IMPL'): defines no operators; expected kind 'DEF' or "
                "'FRAGMENT'."
            )
        if isinstance(schema, str):
            named = schema if "::" in schema.partition("(")[0] else f"{self.ns}::{schema}"
            schema = FunctionSchema.parse(named)
        if schema.namespace != self.ns:
            raise InvalidArgument(
                f"Library({self.ns!r}): the schema names another namespace; got {schema.qualname}."
            )
        op = self._define(schema, tags)
        if schema.is_mutable:
            define_functional(op, lambda functional: self._define(functional, tags))
        return op

    def _define(self, schema: FunctionSchema, tags: Iterable[Tag]) -> Overload:
        op = dispatcher.define(schema, tags)
        self._undo.append(lambda: _remove(op))
        return op

    def impl(
        self,
        name: str | Overload,
        fn: Callable[..., Any],
        dispatch_key: str | Key = "",
        *,
        with_keyset: bool = False,
        allow_override: bool = False,
        calls_operators: bool = True,
    ) -> None:
        """Register ``fn`` as a kernel of ``name`` ("add.Tensor") at a dispatch key.

        ``with_keyset`` passes the keyset of the call first. A second kernel for one key is a
        RegistrationError, unless ``allow_override``; destroying the library brings the first back.
        """
        op = name if isinstance(name, Overload) else dispatcher.lookup(self._qualified(name))
        key = key_named(dispatch_key) if dispatch_key != "" else self.key
        if key is None:
            raise InvalidArgument(
                f"Library({self.ns!r}).impl({op.qualname}): no dispatch key is given, and the "
                "library has none; expected one, such as 'CPU'."
            )
        earlier = op.kernels.get(key)
        op.register(
            key,
            fn,
            calls_operators=calls_operators,
            with_keyset=with_keyset,
            replace=allow_override,
        )
        mine = op.kernels[key]
        mine.location = caller_place()

        def undo() -> None:
            if op.kernels.get(key) is mine:
                op.unregister(key)
                if earlier is not None:
                    op.kernels[key] = earlier

        self._undo.append(undo)

    def fallback(
        self, fn: Callable[..., Any], dispatch_key: str | Key = "", *, with_keyset: bool = False
    ) -> None:
        """Register ``fn(op, *args, **kwargs)`` for every operator without a kernel at the key.

        Only in the namespace "_". ``with_keyset``: ``fn(keyset, op, *args, **kwargs)``, to be
        passed to ``op.redispatch`` without the key itself.
        """
        key = key_named(dispatch_key) if dispatch_key != "" else self.key
        if self.ns != "_":
            raise InvalidArgument(
                f"Library({self.ns!r}).fallback: a fallback serves all operators; expected the "
                "namespace '_'."
            )
        if not isinstance(key, DispatchKey):
            raise InvalidArgument(
                f"Library('_').fallback: got the key {getattr(key, 'name', key)}; expected one "
                "run-time dispatch key."
            )
        place: DispatchKey = key

        def specialiser(op: Overload, lower: int) -> Callable[..., Any]:
            keyset = KeySet((lower & below(place)) | place.mask)

            def call(*args: Any, **kwargs: Any) -> Any:
                if with_keyset:
                    return fn(keyset, op, *args, **kwargs)
                return fn(op, *args, **kwargs)

            return call

        earlier = FALLBACKS.get(place)
        dispatcher.register_fallback(place, specialiser)

        def undo() -> None:
            if FALLBACKS.get(place) is specialiser:
                dispatcher.remove_fallback(place)
                if earlier is not None:
                    dispatcher.register_fallback(place, earlier)

        self._undo.append(undo)

    def on_destroy(self, undo: Undo) -> None:
        """Run ``undo`` when the library is destroyed, before what was registered earlier."""
        self._undo.append(undo)

    def destroy(self) -> None:
        """Take back everything that was registered through this library."""
        self._finalizer()

    def _qualified(self, name: str) -> str:
        return name if "::" in name else f"{self.ns}::{name}"


def _take_back(undo: list[Undo]) -> None:
    while undo:
        undo.pop()()


def _disown(ns: str) -> None:
    del _owners[ns]


def _remove(op: Overload) -> None:
    """Take the operator away, unless another of its name stands there by now."""
    if any(op is other for other in dispatcher.all_overloads()):
        dispatcher.remove(op)
    op.kernels.clear()
    op.fallbacks.clear()
    op.invalidate()


@contextmanager
def scoped_library(
    ns: str, kind: Literal["DEF", "FRAGMENT", "IMPL"], dispatch_key: str | Key = ""
) -> Iterator[Library]:
    """A library that is destroyed at the end of the block.

    >>> with scoped_library("docs_scoped", "DEF") as lib:
    ...     _ = lib.define("same(Tensor x) -> Tensor")
    """
    library = Library(ns, kind, dispatch_key)
    try:
        yield library
    finally:
        library.destroy()


def get_kernel(op: str | Overload, dispatch_key: str | DispatchKey) -> Callable[..., Any]:
    """The kernel that registrations give ``op`` at a key; MissingKernel if there is none."""
    found_op = op if isinstance(op, Overload) else dispatcher.lookup(op)
    key = key_named(dispatch_key)
    found = find_kernel(found_op, key) if isinstance(key, DispatchKey) else None
    if found is None:
        raise MissingKernel(f"{found_op.qualname}: no kernel is registered for {key.name}.")
    return found.kernel.fn
