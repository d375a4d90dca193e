"""Functionalisation: a program with views and in-place writes as one without.

:class:`FunctionalMode` stands at the Python key, below autograd. A functional tensor is a handle: a
*base* value that in-place writes replace, and the view steps that lead from the base to the tensor.
Writing to a view scatters the new value back through the steps by the inverse of each; reading a
view whose base has moved on replays them. Random operators become their explicit form.
"""

from __future__ import annotations

from typing import Any, Protocol

from plait.aot.metadata import ViewStep
from plait.base.errors import CaptureError
from plait.dispatch.dispatcher import lookup
from plait.dispatch.keys import DispatchKey
from plait.dispatch.keyset import ABOVE_PYTHON, CPU_TENSOR_KEYS
from plait.dispatch.modes import InfraMode
from plait.dispatch.operator import Overload
from plait.dispatch.python_key import tensors_in
from plait.dispatch.state import exclude_keys, tls
from plait.ir.effects import is_random
from plait.tensor.storage import Storage
from plait.tensor.tensor import Tensor, make_fake

__all__ = [
    "FunctionalMode",
    "FunctionalStorage",
    "FunctionalTensor",
    "RandomState",
    "current",
    "handle_of",
    "read",
    "wrap",
]

# Views that change nothing but autograd's history: the value is the same.
_IDENTITY_VIEWS = frozenset({"aten::detach", "aten::alias"})


class FunctionalTensor(Tensor):
    """What autograd sees while a graph is functionalised; ``_trace`` holds its :class:`_Handle`."""

    _keys = CPU_TENSOR_KEYS | DispatchKey.PYTHON.mask

    @classmethod
    def __plait_dispatch__(
        cls, op: Overload, types: tuple[type, ...], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        raise CaptureError(
            f"{op.qualname}: got a functional tensor while no FunctionalMode is active; expected "
            "it to stay inside the trace that made it."
        )


class FunctionalStorage:
    """A base value that writes replace, and what was done to it."""

    __slots__ = ("base", "generation", "input_index", "outer", "written", "written_with_grad")

    def __init__(self, base: Tensor, outer: Storage, input_index: int | None = None) -> None:
        self.base = base
        self.outer = outer  # storage of the functional tensors, which carries the version counter
        self.generation = 0
        self.input_index = input_index
        self.written = False
        self.written_with_grad = False


class _Handle:
    """One tensor over a functional storage: the steps from the base, and the value last read."""

    __slots__ = ("generation", "inner", "steps", "storage")

    def __init__(
        self, storage: FunctionalStorage, steps: tuple[ViewStep, ...], inner: Tensor
    ) -> None:
        self.storage = storage
        self.steps = steps
        self.inner = inner
        self.generation = storage.generation


class RandomState(Protocol):
    """Gives each random call its (seed, call number)."""

    def next_call(self) -> tuple[Any, Any]: ...


def wrap(inner: Tensor, input_index: int | None = None) -> Tensor:
    """A functional tensor over a storage of its own whose value is ``inner``."""
    outer = make_fake(inner.meta, cls=FunctionalTensor)
    outer._trace = _Handle(FunctionalStorage(inner, outer.storage, input_index), (), inner)
    return outer


def handle_of(tensor: Tensor) -> _Handle:
    """The handle of a functional tensor (or of a shallow copy of one)."""
    handle = tensor._trace
    if not isinstance(handle, _Handle):
        raise CaptureError(
            f"aot: a tensor of shape {tuple(tensor.shape)} that is not functional entered the "
            "trace; expected graph inputs and what is computed from them."
        )
    return handle


def read(tensor: Tensor) -> Tensor:
    """The value of a functional tensor now."""
    handle = handle_of(tensor)
    storage = handle.storage
    if handle.generation != storage.generation:
        value = storage.base
        for step in handle.steps:
            value = _apply(step, value)
        handle.inner, handle.generation = value, storage.generation
    return handle.inner


def current(tensor: Tensor) -> Tensor:
    """As :func:`read`, from outside of the handler: what it replays goes below the mode."""
    mode, tls.functional_mode = tls.functional_mode, None
    try:
        with exclude_keys(ABOVE_PYTHON):
            return read(tensor)
    finally:
        tls.functional_mode = mode


def _apply(step: ViewStep, base: Tensor) -> Tensor:
    result = step.op.call(base, *step.args, **step.kwargs)
    chosen: Tensor = result if step.index is None else result[step.index]
    return chosen


def _write(tensor: Tensor, value: Tensor) -> None:
    """Make ``value`` the new value of ``tensor``, and so of all that share its memory."""
    handle = handle_of(tensor)
    storage = handle.storage
    bases = [storage.base]
    for step in handle.steps[:-1]:
        bases.append(_apply(step, bases[-1]))
    new = value
    for step, base in zip(reversed(handle.steps), reversed(bases), strict=False):
        inverse = step.op.view_inverse
        if inverse is None:
            raise CaptureError(
                f"{step.op.qualname}: has no inverse, so a write through it cannot be "
                "functionalised."
            )
        new = (
            inverse(base, new, *step.args, **step.kwargs)
            if step.index is None
            else inverse(base, new, *step.args, index=step.index, **step.kwargs)
        )
    storage.base = new
    storage.generation += 1
    storage.written = True
    storage.written_with_grad |= tls.grad_enabled
    handle.inner, handle.generation = value, storage.generation


class FunctionalMode(InfraMode):
    """Turns views and writes into functional operators on the values below."""

    slot = "functional_mode"

    def __init__(self, random: RandomState) -> None:
        self.random = random

    def __plait_dispatch__(
        self, op: Overload, types: tuple[type, ...], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        if op.schema.is_mutable:
            return self._mutate(op, args, kwargs)
        if op.view_rule is not None:
            return self._view(op, args, kwargs)
        inner_args, inner_kwargs = _unwrapped(args), {k: _unwrapped(v) for k, v in kwargs.items()}
        return _wrapped(self._functional(op, inner_args, inner_kwargs))

    def _functional(self, op: Overload, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Run a functional operator on values; a random one in its explicit form."""
        if is_random(op) and op.explicit_random is not None:
            seed, call = self.random.next_call()
            return op.explicit_random.call(*args, seed, call, **kwargs)
        return op.call(*args, **kwargs)

    def _view(self, op: Overload, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        source: Tensor = args[0]
        handle = handle_of(source)
        value = read(source)
        if op.qualname in _IDENTITY_VIEWS:
            return self._alias(source, value, handle.steps)
        results = op.call(value, *args[1:], **kwargs)
        if isinstance(results, Tensor):
            step = ViewStep(op, tuple(args[1:]), kwargs)
            return self._alias(source, results, (*handle.steps, step))
        return tuple(
            [
                self._alias(source, one, (*handle.steps, ViewStep(op, tuple(args[1:]), kwargs, i)))
                for i, one in enumerate(results)
            ]
        )

    def _alias(self, source: Tensor, inner: Tensor, steps: tuple[ViewStep, ...]) -> Tensor:
        handle = handle_of(source)
        outer = make_fake(inner.meta, storage=handle.storage.outer, cls=FunctionalTensor)
        outer._trace = _Handle(handle.storage, steps, inner)
        return outer

    def _mutate(self, op: Overload, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """An in-place or out operator: its functional form, then a write to each result."""
        functional = op.functional
        if functional is None:
            raise CaptureError(
                f"{op.qualname}: writes its arguments and has no functional form; "
                "it cannot be compiled."
            )
        named = op.bind(args, kwargs)
        written = [named[name] for name in op.schema.mutated_names]
        _check_apart(op, named)
        kept = functional.schema
        f_args = tuple([_unwrapped(named[a.name]) for a in kept.positional])
        f_kwargs = {a.name: _unwrapped(named[a.name]) for a in kept.kwonly}
        results = self._functional(functional, f_args, f_kwargs)
        values = results if len(kept.returns) > 1 else (results,)
        first = len(values) - len(written)
        for target, value in zip(written, values[first:], strict=True):
            targets, news = (
                (target, value) if isinstance(target, tuple | list) else ((target,), (value,))
            )
            for one, new in zip(targets, news, strict=True):
                if one is not None:
                    _write(one, _cast_like(new, one))
        fresh, again = iter(values[:first]), iter(written)
        out = [_wrapped(next(fresh)) if r.alias is None else next(again) for r in op.schema.returns]
        return None if not out else out[0] if len(out) == 1 else tuple(out)


def _check_apart(op: Overload, named: dict[str, Any]) -> None:
    """A user's operator gets values, so an argument that it writes may not be another one too."""
    if op.functional is None or op.functional.kind != "auto_functionalized":
        return
    seen: dict[FunctionalStorage, tuple[str, bool]] = {}
    for name, value in named.items():
        is_write = op.schema.argument(name).is_write
        for tensor in tensors_in((value,)):
            storage = handle_of(tensor).storage
            other = seen.get(storage)
            if other is not None and (is_write or other[1]):
                raise CaptureError(
                    f"{op.qualname}: arguments {other[0]!r} and {name!r} share memory, and one of "
                    "them is written, which cannot be compiled; pass a clone of one."
                )
            seen[storage] = (name, is_write)


def _cast_like(value: Tensor, target: Tensor) -> Tensor:
    """``value`` with the dtype and shape of ``target``, as an in-place write stores it."""
    if value.dtype is not target.dtype:
        value = lookup("aten::_to_copy")(value, dtype=target.dtype)
    if len(value.shape) != len(target.shape) or value.shape != target.shape:
        value = lookup("aten::expand")(value, tuple(target.shape))
    return value


def _unwrapped(item: Any) -> Any:
    if isinstance(item, Tensor):
        return read(item)
    if isinstance(item, tuple | list):
        return tuple([_unwrapped(part) for part in item])
    return item


def _wrapped(item: Any) -> Any:
    if isinstance(item, Tensor):
        return wrap(item)
    if isinstance(item, tuple | list):
        return tuple([_wrapped(part) for part in item])
    return item
