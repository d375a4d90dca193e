"""Modules as capture sees them: by structure, so that this layer need not know ``plait.nn``."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple, Protocol

from plait.base.errors import CaptureError
from plait.base.names import indefinite
from plait.capture.fake import fake_like
from plait.tensor.dtype import DType
from plait.tensor.tensor import Tensor
from plait.tensor.wrapper import WrapperTensor, flatten_wrapper

__all__ = ["ModuleLike", "ModuleState", "is_module_like", "swapped", "tensors_of"]

_swap_lock = threading.RLock()


class ModuleLike(Protocol):
    """What capture needs of a module."""

    _parameters: dict[str, Any]
    _buffers: dict[str, Any]
    _modules: dict[str, Any]
    training: bool


def is_module_like(value: Any) -> bool:
    """Whether ``value`` is a module (and not a class)."""
    return (
        hasattr(value, "_parameters") and hasattr(value, "_modules") and not isinstance(value, type)
    )


class OwnedTensor:
    """A parameter or buffer: its owner, its place there and its qualified name."""

    __slots__ = ("is_param", "key", "name", "table", "tensor")

    def __init__(self, table: dict[str, Any], key: str, name: str, is_param: bool) -> None:
        self.table = table
        self.key = key
        self.name = name
        self.is_param = is_param
        self.tensor: Tensor = table[key]


def tensors_of(module: Any, prefix: str = "") -> Iterator[OwnedTensor]:
    """Parameters and buffers of ``module`` and below by qualified name; shared ones repeat."""
    for table, is_param in ((module._parameters, True), (module._buffers, False)):
        for key, tensor in table.items():
            if tensor is not None:
                yield OwnedTensor(table, key, f"{prefix}{key}", is_param)
    for name, child in module._modules.items():
        if child is not None:
            yield from tensors_of(child, f"{prefix}{name}.")


class ModuleState:
    """A snapshot of everything that a trace may have read from modules: settings and tensors."""

    def __init__(self, roots: list[tuple[Any, str]]) -> None:
        self.roots = roots
        self.settings = self._settings()

    def _settings(self) -> list[tuple[str, Any]]:
        seen: set[int] = set()
        settings: list[tuple[str, Any]] = []
        for root, text in self.roots:
            _collect_settings(root, text, settings, seen)
        return settings

    def describe(self) -> list[str]:
        """A line for each module with its settings, and one for each of its tensors."""
        lines: list[str] = []
        for place, value in self.settings:
            if place.startswith("type("):
                lines.append(f"{place[5:-1]}: {indefinite(value.__name__)}")
                heading = len(lines) - 1
            elif isinstance(value, _TensorFacts):
                lines.append(f"{place}: {value}")
            elif not is_module_like(value) and value != frozenset():
                text = repr(value)
                shown = text if len(text) <= 60 else text[:57] + "..."
                lines[heading] += f", {place.rpartition('.')[2]}={shown}"
        return lines

    def difference(self) -> tuple[str, Any, Any] | None:
        """(place, value then, value now) of the first setting that changed, or None."""
        now = self._settings()
        then_by_name = dict(self.settings)
        for place, value in now:
            if place not in then_by_name:
                return place, "absent", value
            if not _same(then_by_name.pop(place), value):
                return place, dict(self.settings)[place], value
        if then_by_name:
            place = next(iter(then_by_name))
            return place, then_by_name[place], "absent"
        return None


_TABLES = ("_parameters", "_buffers", "_modules")


def _collect_settings(module: Any, text: str, into: list[tuple[str, Any]], seen: set[int]) -> None:
    if id(module) in seen:
        return
    seen.add(id(module))
    into.append((f"type({text})", type(module)))
    for name, value in vars(module).items():
        if name not in _TABLES:
            into.append((f"{text}.{name}", value))
    for table in ("_parameters", "_buffers"):
        for name, tensor in getattr(module, table).items():
            into.append((f"{text}.{name}", _tensor_facts(tensor)))
    for name, child in module._modules.items():
        into.append((f"{text}.{name}", child))
        if child is not None:
            _collect_settings(child, f"{text}.{name}", into, seen)


class _TensorFacts(NamedTuple):
    """What a program depends on in a module's tensor."""

    shape: tuple[Any, ...]
    strides: tuple[Any, ...]
    dtype: DType
    requires_grad: bool
    is_contiguous: bool
    wrapper: tuple[Any, ...] = ()

    def __repr__(self) -> str:
        strides = "" if self.is_contiguous else f", strides {self.strides}"
        grad = ", requires grad" if self.requires_grad else ""
        cls = f"{self.wrapper[0].__name__} of " if self.wrapper else ""
        return f"{cls}{self.dtype} of shape {self.shape}{strides}{grad}"


def _tensor_facts(tensor: Tensor | None) -> _TensorFacts | None:
    if tensor is None:
        return None
    shape, strides = tuple(tensor.shape), tuple(tensor.stride())
    return _TensorFacts(
        shape,
        strides,
        tensor.dtype,
        tensor.requires_grad,
        tensor.is_contiguous(),
        _wrapper_facts(tensor),
    )


def _wrapper_facts(tensor: Tensor) -> tuple[Any, ...]:
    """Class, context and inner tensors of a wrapper; nothing of a plain tensor."""
    if not isinstance(tensor, WrapperTensor):
        return ()
    names, context = flatten_wrapper(tensor)
    inner = tuple((name, _tensor_facts(getattr(tensor, name))) for name in names)
    return (type(tensor), context, inner)


def _same(then: Any, now: Any) -> bool:
    if then is now:
        return True
    if type(then) is not type(now):
        return False
    return (
        bool(then == now)
        if isinstance(then, int | float | str | tuple | list | dict | type)
        else False
    )


@contextmanager
def swapped(
    roots: list[tuple[Any, str]], cls: type[Tensor]
) -> Iterator[dict[int, tuple[OwnedTensor, Tensor]]]:
    """While inside, parameters and buffers of the modules are fakes; restored also by an exception.

    ``roots`` are (module, prefix of its names). Yields id of the fake -> (where the real tensor
    lives, the fake); a tensor owned twice is swapped for one fake. One swap at a time in the
    process, since owners are shared between threads.
    """
    with _swap_lock:
        fakes: dict[int, tuple[OwnedTensor, Tensor]] = {}
        made: dict[int, Tensor] = {}
        restore: dict[tuple[int, str], OwnedTensor] = {}
        try:
            for module, prefix in roots:
                for owned in tensors_of(module, prefix):
                    place = (id(owned.table), owned.key)
                    if place in restore:
                        continue
                    fake = made.get(id(owned.tensor))
                    if fake is None:
                        fake = made[id(owned.tensor)] = fake_like(owned.tensor, cls)
                        fakes[id(fake)] = (owned, fake)
                    restore[place] = owned
                    owned.table[owned.key] = fake
            yield fakes
            _refuse_rebound(restore.values(), made)
        finally:
            for owned in restore.values():
                owned.table[owned.key] = owned.tensor


def _refuse_rebound(owners: Any, made: dict[int, Tensor]) -> None:
    for owned in owners:
        if owned.table.get(owned.key) is not made[id(owned.tensor)]:
            raise CaptureError(
                "compile: the traced function assigns a new tensor to module attribute "
                f"{owned.name!r}; expected it to be changed in place (for example "
                f"module.{owned.name}.copy_(value))."
            )
