"""What a function reads from outside its arguments: globals, closure cells, attribute chains.

Found from the code objects themselves, without rewriting bytecode: the function, the Python
functions that it names (transitively, outside plait and the standard library), and the code of the
user frames seen while recording. Each read ends as a guard by value, a captured tensor, a module,
or an entry in the list of reads that cannot be guarded.

Note [Identity]. A module, a function and an object that cannot be compared are guarded by being the
same object, so that another one in their place is noticed. What changes inside is noticed for
modules (by their epoch) and for functions (by their own reads); other objects are listed.
"""

from __future__ import annotations

import dis
import enum
import functools
import inspect
import types
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from plait.base.names import indefinite
from plait.capture.modules import is_module_like
from plait.capture.source import is_library_file
from plait.dispatch.operator import OperatorPacket, Overload
from plait.tensor.device import Device
from plait.tensor.dtype import DType
from plait.tensor.opaque import opaque_type_of
from plait.tensor.tensor import Tensor

__all__ = [
    "ExternalReads",
    "Place",
    "frozen",
    "is_guardable",
    "note_effect",
    "note_effects",
    "reads_of",
    "snapshot",
]

_IMMUTABLE = (bool, int, float, complex, str, bytes, type(None), DType, Device, enum.Enum)
_PRIMITIVES = (*_IMMUTABLE, np.generic)
_CONTAINERS = (tuple, list, dict, set, frozenset)
_MAX_ITEMS = 128
_LOOKUPS = frozenset({"eval", "exec", "globals", "input", "open"})
"""Builtins that read what no code object names."""
_MOODY_MODULES = frozenset({"os", "posix", "random", "secrets", "time", "uuid"})
"""Modules of the standard library whose functions answer differently at each call."""
_CLOCKS = frozenset({"now", "today", "utcnow"})


@dataclass(frozen=True)
class Place:
    """Where a value is read: ``path`` are the steps from the object ``root``, ``text`` its source.

    A step is ("attr", name), ("item", key), ("cell", None) or ("call", builtin function).
    """

    root: Any
    path: tuple[tuple[str, Any], ...]
    text: str

    def __hash__(self) -> int:
        return hash((id(self.root), self.path))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Place) and self.root is other.root and self.path == other.path

    def attr(self, name: str) -> Place:
        return Place(self.root, (*self.path, ("attr", name)), f"{self.text}.{name}")

    def item(self, key: Any) -> Place:
        return Place(self.root, (*self.path, ("item", key)), f"{self.text}[{key!r}]")

    def passed_to(self, fn: Any) -> Place:
        """What ``fn``, such as ``len``, says of the value."""
        return Place(self.root, (*self.path, ("call", fn)), f"{fn.__name__}({self.text})")

    def read(self) -> Any:
        """The value now; raises what the read raises."""
        value = self.root
        for kind, name in self.path:
            if kind == "attr":
                value = getattr(value, name)
            elif kind == "item":
                value = value[name]
            elif kind == "call":
                value = name(value)
            else:
                value = value.cell_contents
        return value


@dataclass
class ExternalReads:
    """All that was found."""

    values: dict[Place, Any] = field(default_factory=dict)  # guarded by value
    identities: dict[Place, Any] = field(default_factory=dict)  # see Note [Identity]
    tensors: dict[int, Place] = field(default_factory=dict)  # id of a tensor -> where it is read
    modules: dict[int, tuple[Any, str]] = field(default_factory=dict)  # id -> (module, source text)
    unguarded: dict[str, str] = field(default_factory=dict)  # source text -> why
    effects: dict[str, str] = field(default_factory=dict)  # source text -> what happens only once


def is_guardable(value: Any) -> bool:
    """Whether ``value`` can be guarded by equality."""
    if isinstance(value, _PRIMITIVES):
        return True
    opaque = opaque_type_of(value)
    if opaque is not None:
        return opaque.kind == "value"
    if isinstance(value, tuple | list | set | frozenset):
        return len(value) <= _MAX_ITEMS and all(is_guardable(v) for v in value)
    if isinstance(value, dict):
        return len(value) <= _MAX_ITEMS and all(is_guardable(v) for kv in value.items() for v in kv)
    return False


def frozen(value: Any) -> Any:
    """A copy that later changes of ``value`` do not reach."""
    if isinstance(value, list):
        return [frozen(v) for v in value]
    if isinstance(value, set):
        return set(value)
    if isinstance(value, dict):
        return {k: frozen(v) for k, v in value.items()}
    return value


def snapshot(reads: ExternalReads) -> dict[Place, Any]:
    """The values of ``reads`` as they are now."""
    return {place: frozen(value) for place, value in reads.values.items()}


def note_effects(reads: ExternalReads, before: dict[Place, Any]) -> None:
    """Name what is no longer as it was ``before`` the trace: the traced function changed it."""
    for place, value in before.items():
        try:
            now = place.read()
        except (ValueError, LookupError, AttributeError):
            now = "gone"
        if now is not value and (type(now) is not type(value) or bool(now != value)):
            note_effect(reads, place.text)


def note_effect(reads: ExternalReads, text: str) -> None:
    """Name one thing that the traced function changed."""
    reads.effects[text] = "changed by the function while it is captured, not by later calls"


def reads_of(fn: Any, arguments: dict[str, Any] | None = None) -> ExternalReads:
    """The external reads of ``fn``: a function, method, partial, module or callable object.

    ``arguments`` are plain objects passed by parameter name (the ``self`` of a compiled method, a
    configuration): what ``fn`` reads from their attributes counts as read from outside.
    """
    walker = _Walker()
    if isinstance(fn, types.FunctionType) and arguments:
        walker.function(fn, {name: Place(value, (), name) for name, value in arguments.items()})
    walker.callable(fn, getattr(fn, "__name__", type(fn).__name__))
    return walker.found


def extend_with_code(found: ExternalReads, code: types.CodeType, scope: dict[str, Any]) -> None:
    """Add the global reads of a frame's code that was met while recording."""
    walker = _Walker(found)
    walker.code(code, scope, {}, {})


class _Walker:
    """Follows code objects, each once."""

    def __init__(self, found: ExternalReads | None = None) -> None:
        self.found = found or ExternalReads()
        self.seen: set[tuple[int, int]] = set()

    def callable(self, fn: Any, text: str) -> None:
        """Any callable of the user's."""
        if isinstance(fn, functools.partial):
            for k, value in enumerate(fn.args):
                self.value(Place(value, (), f"{text}.args[{k}]"), value)
            for name, value in fn.keywords.items():
                self.value(Place(value, (), f"{text}.keywords[{name!r}]"), value)
            self.callable(fn.func, text)
        elif isinstance(fn, types.MethodType):
            self.method(fn.__func__, fn.__self__, text)
        elif isinstance(fn, types.FunctionType):
            self.function(fn, {})
        elif is_module_like(fn):
            self.module(fn, text)
        elif callable(fn) and not isinstance(
            fn, type | Overload | OperatorPacket | types.BuiltinFunctionType
        ):
            call = type(fn).__call__
            if isinstance(call, types.FunctionType):
                self.method(call, fn, text)

    def method(self, fn: Any, owner: Any, text: str) -> None:
        if is_module_like(owner):
            self.module(owner, text.rpartition(".")[0] or text)
        if isinstance(fn, types.FunctionType):
            names = fn.__code__.co_varnames
            place = Place(owner, (), text.rpartition(".")[0] or "self")
            self.function(fn, {names[0]: place} if names else {})

    def module(self, module: Any, text: str) -> None:
        """A module: its forward and that of all below it; its state is guarded by the epoch."""
        if id(module) in self.found.modules:
            return
        self.found.modules[id(module)] = (module, text)
        forward = getattr(type(module), "forward", None)
        if isinstance(forward, types.FunctionType):
            self.function(forward, {forward.__code__.co_varnames[0]: Place(module, (), text)})
        for name, child in getattr(module, "_modules", {}).items():
            if child is not None:
                self.module(child, f"{text}.{name}")

    def function(self, fn: types.FunctionType, local: dict[str, Place]) -> None:
        wrapped = getattr(fn, "__wrapped__", None)
        if isinstance(wrapped, types.FunctionType):
            self.function(wrapped, local)
        code = fn.__code__
        owner = id(next(iter(local.values())).root) if local else id(fn)
        if (id(code), owner) in self.seen or is_library_file(code.co_filename):
            return
        self.seen.add((id(code), owner))
        cells = dict(zip(code.co_freevars, fn.__closure__ or (), strict=False))
        places = {n: Place(cell, (("cell", None),), n) for n, cell in cells.items()}
        defaults = _defaults(fn)
        for name, place in defaults.items():
            if name not in local:
                self.value(place, place.read())
        self.code(code, fn.__globals__, places, defaults | local)

    def code(
        self,
        code: types.CodeType,
        scope: dict[str, Any],
        cells: dict[str, Place],
        local: dict[str, Place],
    ) -> None:
        """Every chain ``root.attr.attr`` whose root lies outside the function."""
        for root, attrs in _chains(code):
            kind, name = root
            if kind == "global":
                if name not in scope:  # a builtin, or not defined yet
                    if name in _LOOKUPS:
                        why = "what it finds while the function is captured is kept"
                        self.found.unguarded.setdefault(f"{name}()", why)
                    elif name == "print":
                        why = "happens while the function is captured, not at later calls"
                        self.found.effects["print()"] = why
                    continue
                place = Place(scope, (("item", name),), name)
            elif kind == "deref":
                if name not in cells:
                    continue  # a local of an enclosing call
                place = cells[name]
            elif name in local:
                place = local[name]
            else:
                continue
            self.chain(place, attrs)
        for constant in code.co_consts:
            if isinstance(constant, types.CodeType):
                self.code(constant, scope, cells | local, {})

    def chain(self, place: Place, attrs: list[str]) -> None:
        """Follow plain attributes as far as they go, then judge the value found there."""
        try:
            value = place.read()
        except (ValueError, KeyError, AttributeError):
            return  # an empty cell, or a name bound later
        for name in attrs:
            if isinstance(value, (Tensor, *_CONTAINERS)) or is_guardable(value):
                break  # its methods tell no more than what it holds
            if is_module_like(value):
                self.module(value, place.text)
            if not _is_plain_attribute(value, name):
                if self.property(place, value, name):
                    return
                break
            self.same_module(place, value)
            place = place.attr(name)
            value = getattr(value, name)
        self.value(place, value)

    def property(self, place: Place, owner: Any, name: str) -> bool:
        """Follow a property written in Python; whether ``name`` is one."""
        found = inspect.getattr_static(type(owner), name, None)
        getter = getattr(
            found, "func" if isinstance(found, functools.cached_property) else "fget", None
        )
        if not isinstance(getter, types.FunctionType) or not getter.__code__.co_varnames:
            return False
        if is_library_file(getter.__code__.co_filename):
            return False
        if place.path:
            self.found.identities[place] = owner
        self.function(getter, {getter.__code__.co_varnames[0]: Place(owner, (), place.text)})
        return True

    def same_module(self, place: Place, value: Any) -> None:
        """Guard that a module is the same one, where no other module holds it."""
        if is_module_like(value) and place.path and not is_module_like(place.root):
            self.found.identities[place] = value

    def value(self, place: Place, value: Any) -> None:
        """Judge one value read at ``place``."""
        found = self.found
        if isinstance(value, Tensor):
            found.tensors.setdefault(id(value), place)
        elif is_module_like(value):
            self.same_module(place, value)
            self.module(value, place.text)
        elif is_guardable(value):
            found.values[place] = value
        elif isinstance(value, _CONTAINERS):
            self.container(place, value)
        elif isinstance(value, types.ModuleType | type | Overload | OperatorPacket):
            return
        elif callable(value):
            self.called(place, value)
        else:
            if place.path:
                found.identities[place] = value
            found.unguarded.setdefault(
                place.text,
                f"{indefinite(type(value).__name__)}, known by identity: "
                "a change inside it is not noticed",
            )

    def called(self, place: Place, value: Any) -> None:
        """A function, or an object that is called, read at ``place``."""
        mood = _mood(value)
        if mood is not None:
            self.found.unguarded.setdefault(place.text, mood)
        if isinstance(value, types.BuiltinFunctionType):
            return
        if is_library_file(getattr(getattr(value, "__code__", None), "co_filename", "")):
            return
        if place.path:
            self.found.identities[place] = value
        self.callable(value, place.text)

    def container(self, place: Place, value: Any) -> None:
        """A container that cannot be compared as a whole: what it holds, and how much of it."""
        is_mapping = isinstance(value, dict)
        if len(value) > _MAX_ITEMS or isinstance(value, set | frozenset):
            if place.path:
                self.found.identities[place] = value
            why = f"{indefinite(type(value).__name__)} of {len(value)} items, known by identity"
            self.found.unguarded.setdefault(place.text, f"{why}: a change inside is not noticed")
            return
        size = place.passed_to(tuple if is_mapping else len)
        self.value(size, tuple(value) if is_mapping else len(value))
        for key, item in value.items() if is_mapping else enumerate(value):
            self.value(place.item(key), item)


def _defaults(fn: types.FunctionType) -> dict[str, Place]:
    """Where the default values of parameters are read, of those that may change."""
    code = fn.__code__
    found: dict[str, Place] = {}
    values = fn.__defaults__ or ()
    names = code.co_varnames[code.co_argcount - len(values) : code.co_argcount]
    for k, (name, value) in enumerate(zip(names, values, strict=True)):
        if not isinstance(value, _IMMUTABLE):
            found[name] = Place(fn, (("attr", "__defaults__"), ("item", k)), name)
    for name, value in (fn.__kwdefaults__ or {}).items():
        if not isinstance(value, _IMMUTABLE):
            found[name] = Place(fn, (("attr", "__kwdefaults__"), ("item", name)), name)
    return found


def _mood(value: Any) -> str | None:
    """Why a function of somebody else's may answer differently at each call, or None."""
    kept = "what it answers while the function is captured is kept"
    owner = getattr(value, "__self__", None)
    module = getattr(value, "__module__", None) or getattr(owner, "__name__", None)
    if not isinstance(value, types.FunctionType | types.MethodType | types.BuiltinFunctionType):
        return None
    if isinstance(value, types.FunctionType) and not is_library_file(value.__code__.co_filename):
        return None
    if module in _MOODY_MODULES:
        return kept
    if isinstance(owner, type):
        is_clock = owner.__module__ == "datetime" and value.__name__ in _CLOCKS
        return kept if is_clock else None
    if owner is None or isinstance(owner, types.ModuleType) or is_module_like(owner):
        return None
    function = getattr(value, "__func__", None)
    if isinstance(function, types.FunctionType) and not is_library_file(
        function.__code__.co_filename
    ):
        return None  # its own reads are followed
    return f"a method of {indefinite(type(owner).__name__)}: {kept}"


def _is_plain_attribute(value: Any, name: str) -> bool:
    """Whether reading ``value.name`` runs no code of the user's."""
    if isinstance(value, types.ModuleType):
        return name in vars(value)
    if is_module_like(value) and any(
        name in getattr(value, table, {}) for table in ("_parameters", "_buffers", "_modules")
    ):
        return True
    if name in getattr(value, "__dict__", {}):
        return True
    for cls in type(value).__mro__:
        if name in vars(cls):
            found = vars(cls)[name]
            return not isinstance(found, property | functools.cached_property)
    return False


def _chains(code: types.CodeType) -> Iterator[tuple[tuple[str, str], list[str]]]:
    """(kind and name of the root, attributes read from it), for each chain in the bytecode."""
    root: tuple[str, str] | None = None
    attrs: list[str] = []
    for instruction in dis.get_instructions(code):
        name = instruction.opname
        if root is not None and name in ("LOAD_ATTR", "LOAD_METHOD"):
            attrs.append(str(instruction.argval))
            continue
        if name in ("CACHE", "PRECALL", "EXTENDED_ARG"):
            continue
        if root is not None:
            yield root, attrs
        root, attrs = _root_of(instruction), []
    if root is not None:
        yield root, attrs


_ROOTS: dict[str, str] = {
    "LOAD_GLOBAL": "global",
    "LOAD_NAME": "global",
    "LOAD_DEREF": "deref",
    "LOAD_CLASSDEREF": "deref",
    "LOAD_FAST": "local",
    "LOAD_FAST_CHECK": "local",
    "LOAD_FAST_BORROW": "local",
}


def _root_of(instruction: dis.Instruction) -> tuple[str, str] | None:
    kind = _ROOTS.get(instruction.opname)
    return (kind, str(instruction.argval)) if kind else None
