"""Modes and wrapper subclasses together, beside PyTorch's: who is asked, in which order."""

from __future__ import annotations

import itertools
from typing import Any

import pytest

import plait
from plait.dispatch import DispatchMode
from plait.overrides import WrapperTensor, correct_aliasing, map_tensors

torch = pytest.importorskip("torch")
python_dispatch = pytest.importorskip("torch.utils._python_dispatch")


class Fails(Exception):
    """What a failing handler raises."""


class Log(list[str]):
    """Who was asked for what; asking one of ``failing`` is an error."""

    failing: str = ""

    def ask(self, name: str, operator: str) -> None:
        self.append(f"{name} {operator}")
        if name == self.failing:
            raise Fails


class Ours:
    """The program's parts in plait."""

    mul = staticmethod(plait.mul)

    def __init__(self, log: Log, declining: frozenset[str]) -> None:
        def handled(name: str, cls: Any, op: Any, args: Any, kwargs: Any) -> Any:
            log.ask(name, op.name)
            if name in declining:
                return NotImplemented
            args, kwargs = map_tensors(lambda t: t.inner, (args, kwargs), Base)
            out = map_tensors(cls, op(*args, **kwargs))
            return out

        class Base(WrapperTensor):
            def __init__(self, inner: Any) -> None:
                WrapperTensor.__init__(self, inner.shape, dtype=inner.dtype, strides=inner.strides)
                self.inner = inner

            def __plait_flatten__(self) -> Any:
                return ("inner",), None

            @classmethod
            def __plait_dispatch__(cls, op: Any, types: Any, args: Any, kwargs: Any) -> Any:
                out = handled(cls.__name__, cls, op, args, kwargs)
                return out if out is NotImplemented else correct_aliasing(op, args, kwargs, out)

        class Derived(Base):
            pass

        class Other(WrapperTensor):
            __init__ = Base.__init__
            __plait_flatten__ = Base.__plait_flatten__

            @classmethod
            def __plait_dispatch__(cls, op: Any, types: Any, args: Any, kwargs: Any) -> Any:
                log.ask(cls.__name__, op.name)
                if cls.__name__ in declining:
                    return NotImplemented
                args, kwargs = map_tensors(lambda t: t.inner, (args, kwargs), Other)
                return map_tensors(cls, op(*args, **kwargs))

        class Mode(DispatchMode):
            def __init__(self, name: str) -> None:
                self.name = name

            def __plait_dispatch__(self, op: Any, types: Any, args: Any, kwargs: Any) -> Any:
                log.ask(self.name, op.name)
                return NotImplemented if self.name in declining else op(*args, **kwargs)

        self.classes = {"Base": Base, "Derived": Derived, "Other": Other}
        self.mode = Mode

    def tensor(self, kind: str, value: float) -> Any:
        plain = plait.tensor([value])
        return plain if kind == "plain" else self.classes[kind](plain)


class Theirs:
    """The same in PyTorch."""

    mul = staticmethod(torch.mul)

    def __init__(self, log: Log, declining: frozenset[str]) -> None:
        def name_of(func: Any) -> str:
            return str(func._schema.name).removeprefix("aten::")

        def made(cls: Any, inner: Any) -> Any:
            return torch.Tensor._make_wrapper_subclass(
                cls, inner.shape, dtype=inner.dtype, strides=inner.stride()
            )

        def dispatch(cls: Any, func: Any, args: Any, kwargs: Any, root: Any) -> Any:
            log.ask(cls.__name__, name_of(func))
            if cls.__name__ in declining:
                return NotImplemented

            def inner(t: Any) -> Any:
                return t.inner if isinstance(t, root) else t

            tree_map = torch.utils._pytree.tree_map
            out = func(*tree_map(inner, args), **tree_map(inner, kwargs or {}))
            wrapped = tree_map(lambda t: cls(t) if isinstance(t, torch.Tensor) else t, out)
            return python_dispatch.return_and_correct_aliasing(func, args, kwargs or {}, wrapped)

        class Base(torch.Tensor):
            inner: Any
            __torch_function__ = torch._C._disabled_torch_function_impl

            @staticmethod
            def __new__(cls: Any, inner: Any) -> Any:
                return made(cls, inner)

            def __init__(self, inner: Any) -> None:
                self.inner = inner

            def __repr__(self) -> str:  # type: ignore[override]
                return type(self).__name__

            @classmethod
            def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None):  # type: ignore[no-untyped-def]
                return dispatch(cls, func, args, kwargs, Base)

        class Derived(Base):
            pass

        class Other(torch.Tensor):
            inner: Any
            __torch_function__ = torch._C._disabled_torch_function_impl
            __new__ = Base.__new__
            __init__ = Base.__init__
            __repr__ = Base.__repr__

            @classmethod
            def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None):  # type: ignore[no-untyped-def]
                return dispatch(cls, func, args, kwargs, Other)

        class Mode(python_dispatch.TorchDispatchMode):  # type: ignore[misc]
            def __init__(self, name: str) -> None:
                super().__init__()
                self.name = name

            def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None):  # type: ignore[no-untyped-def]
                log.ask(self.name, name_of(func))
                if self.name in declining:
                    return NotImplemented
                return func(*args, **(kwargs or {}))

        self.classes = {"Base": Base, "Derived": Derived, "Other": Other}
        self.mode = Mode

    def tensor(self, kind: str, value: float) -> Any:
        plain = torch.tensor([value])
        return plain if kind == "plain" else self.classes[kind](plain)


def outcome(
    system: type[Ours] | type[Theirs], modes: int, kinds: tuple[str, str], declining: frozenset[str]
) -> list[str]:
    """Who was asked for what, then the class of the result or the error."""
    log = Log()
    parts = system(log, declining)
    x, y = parts.tensor(kinds[0], 2.0), parts.tensor(kinds[1], 3.0)
    log.clear()
    entered = [parts.mode(f"mode{k}") for k in range(modes)]
    for mode in entered:
        mode.__enter__()
    try:
        result = type(parts.mul(x, y)).__name__
    except TypeError:
        result = "TypeError"
    finally:
        for mode in reversed(entered):
            mode.__exit__(None, None, None)
    return [*log, result]


KINDS = ["plain", "Base", "Derived", "Other"]
PAIRS = [p for p in itertools.product(KINDS, KINDS) if p != ("plain", "plain")]
DECLINING = [(), ("Base",), ("Derived",), ("Other",), ("Base", "Other"), ("Base", "Derived")]


@pytest.mark.spec("E7")
@pytest.mark.parametrize("modes", [0, 1, 2])
@pytest.mark.parametrize("kinds", PAIRS)
@pytest.mark.parametrize("declining", DECLINING)
def test_subclasses_are_asked_in_pytorchs_order(
    modes: int, kinds: tuple[str, str], declining: tuple[str, ...]
) -> None:
    names = frozenset(declining)
    assert outcome(Ours, modes, kinds, names) == outcome(Theirs, modes, kinds, names)


# ---------------------------------------------------------------- aliases


def facts(x: Any, storage: Any) -> dict[str, Any]:
    """What can be seen of sharing after writes, views and writes through views."""
    inner = x.inner
    written = x.add_(1)
    tail = x[1:]
    turned = tail.view(1, 2).t()
    turned.mul_(2)
    fresh = x * 1
    return {
        "in-place result is the tensor": written is x and x.inner is inner,
        "class of a view": type(tail).__name__,
        "views share the storage": storage(tail) == storage(x) == storage(turned),
        "others do not": storage(fresh) != storage(x),
        "versions": (x._version, tail._version, turned._version, fresh._version),
        "values": x.inner.tolist(),
    }


@pytest.mark.spec("E13")
def test_results_alias_as_pytorchs_do() -> None:
    ours = Ours(Log(), frozenset()).classes["Base"](plait.tensor([1.0, 2.0, 3.0]))
    theirs = Theirs(Log(), frozenset()).classes["Base"](torch.tensor([1.0, 2.0, 3.0]))
    found = facts(ours, lambda t: id(t.storage))
    assert found == facts(theirs, lambda t: t.untyped_storage()._cdata)
    assert found["in-place result is the tensor"] and found["versions"][:3] == (2, 2, 2)


@pytest.mark.spec("E13")
@pytest.mark.parametrize("kind", ["Base", "plain"])
def test_gradients_have_pytorchs_classes(kind: str) -> None:
    """A leaf that meets a wrapper has a gradient of the wrapper's class."""
    classes = []
    for parts in (Ours(Log(), frozenset()), Theirs(Log(), frozenset())):
        x, y = parts.tensor(kind, 2.0), parts.tensor("Base", 3.0)
        x.requires_grad_()
        parts.mul(x, y).sum().backward()
        classes.append((type(x.grad).__name__, x.grad.inner.tolist()))
    assert classes[0] == classes[1]


@pytest.mark.spec("E7")
@pytest.mark.parametrize("failing", ["outer", "inner", "Base"])
def test_a_failing_handler_leaves_the_stack_as_pytorchs_does(failing: str) -> None:
    """The same handlers are asked before and after a failure, in both."""
    logs = []
    for system in (Ours, Theirs):
        log = Log()
        parts = system(log, frozenset())
        x = parts.tensor("Base", 2.0)
        log.clear()
        with parts.mode("outer"), parts.mode("inner"):
            log.failing = failing
            with pytest.raises(Fails):
                parts.mul(x, x)
            log.failing = ""
            parts.mul(x, x)
        parts.mul(x, x)
        logs.append([*log])
    assert logs[0] == logs[1] and logs[0][-1] == "Base mul"
