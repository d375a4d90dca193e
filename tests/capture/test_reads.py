"""No stale answers: what a compiled function reads from outside is guarded, or named."""

from __future__ import annotations

import dataclasses
import functools
import random
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import plait
from plait import nn
from plait.base.names import indefinite


class Thing:
    """A user's object with a plain attribute, a property and a method."""

    def __init__(self, k: float) -> None:
        self.k = k

    @property
    def twice(self) -> float:
        return self.k * 2.0

    def times(self, x: Any) -> Any:
        return x * self.k


@dataclasses.dataclass
class Config:
    k: float
    inner: Any = None


class World:
    """Names that functions read, as a namespace that tests may write."""

    table: dict[str, Any]
    numbers: set[int]
    scalar: np.float32
    thing: Thing
    config: Config
    tensors: list[Any]
    modules: list[nn.Module]
    module: nn.Module
    many: list[Any]


world = World()


def fresh() -> None:
    world.table = {"w": plait.full((2,), 2.0)}
    world.numbers = {1, 2}
    world.scalar = np.float32(3)
    world.thing = Thing(2.0)
    world.config = Config(2.0, Config(3.0))
    world.tensors = [plait.ones(2), plait.ones(2)]
    world.modules = [nn.Linear(2, 2), nn.Linear(2, 2)]
    world.module = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    world.many = list(range(200))


def sums(x: Any) -> Any:
    for tensor in world.tensors:
        x = x + tensor
    return x


def runs(x: Any) -> Any:
    for module in world.modules:
        x = module(x)
    return x


def by_default(x: Any, options: dict[str, float] = {"k": 2.0}) -> Any:  # noqa: B006
    return x * options["k"]


def by_keyword(x: Any, *, weights: list[Any] = [2.0]) -> Any:  # noqa: B006
    return x * weights[0]


def _set(name: str, value: Any) -> Callable[[], None]:
    return lambda: setattr(world, name, value)


GUARDED: dict[str, tuple[Callable[[Any], Any], Callable[[], Any]]] = {
    "an item by a method": (
        lambda x: x * world.table.get("w"),
        lambda: world.table.update(w=plait.full((2,), 5.0)),
    ),
    "a set": (lambda x: x * len(world.numbers), lambda: world.numbers.add(7)),
    "a number of NumPy's": (lambda x: x * world.scalar, _set("scalar", np.float32(4))),
    "a property": (lambda x: x * world.thing.twice, lambda: setattr(world.thing, "k", 5.0)),
    "a property of another object": (
        lambda x: x * world.thing.twice,
        _set("thing", Thing(7.0)),
    ),
    "a method": (lambda x: world.thing.times(x), lambda: setattr(world.thing, "k", 5.0)),
    "a method of another object": (lambda x: world.thing.times(x), _set("thing", Thing(7.0))),
    "a field of a field": (
        lambda x: x * world.config.inner.k,
        lambda: setattr(world.config, "inner", Config(9.0)),
    ),
    "a list that grows": (sums, lambda: world.tensors.append(plait.ones(2))),
    "an item of a list": (sums, lambda: world.tensors.__setitem__(0, plait.zeros(2))),
    "modules in a list": (runs, lambda: world.modules.append(nn.Linear(2, 2))),
    "a module in a list": (runs, lambda: world.modules.__setitem__(0, nn.Linear(2, 2))),
    "another module": (lambda x: world.module(x), _set("module", nn.Linear(2, 2))),
    "another module inside a module": (
        lambda x: world.module(x),
        lambda: setattr(world.module, "0", nn.Linear(2, 2)),
    ),
    "a default that is a dict": (
        by_default,
        lambda: by_default.__defaults__[0].update(k=3.0),  # type: ignore[index]
    ),
    "a default by keyword": (
        by_keyword,
        lambda: by_keyword.__kwdefaults__["weights"].__setitem__(0, 5.0),
    ),
}


READ_AGAIN = ("an item by a method", "an item of a list")  # tensors: an equal one needs no compile


@pytest.mark.parametrize("name", GUARDED)
def test_a_change_outside_is_noticed(name: str) -> None:
    fresh()
    fn, change = GUARDED[name]
    compiled = plait.compile(fn, backend="aot_eager")
    x = plait.ones(2)
    np.testing.assert_allclose(compiled(x).detach().numpy(), fn(x).detach().numpy())
    compiled(x)
    assert len(compiled.entries) == 1 and not compiled.entries[0].program.reads.unguarded
    change()
    np.testing.assert_allclose(compiled(x).detach().numpy(), fn(x).detach().numpy())
    if name in READ_AGAIN:
        assert len(compiled.entries) == 1
        return
    assert len(compiled.entries) == 2
    (recompile,) = compiled.recompiles
    assert recompile.failure.what and recompile.failure.expected != recompile.failure.got


def given(x: Any, thing: Any) -> Any:
    return x * thing.k


NAMED: dict[str, tuple[Callable[[Any], Any], str, str]] = {
    "an object passed on": (lambda x: given(x, world.thing), "world.thing", "a Thing"),
    "an attribute by name": (lambda x: x * getattr(world.thing, "k"), "world.thing", "a Thing"),  # noqa: B009
    "a large list": (lambda x: x * world.many[3], "world.many", "a list of 200 items"),
    "all globals": (lambda x: x * len(globals()["GUARDED"]), "globals()", "what it finds"),
    "a clock": (lambda x: x * time.time(), "time.time", "what it answers"),
    "a generator": (lambda x: x * random.random(), "random.random", "a method of a Random"),
    "NumPy's generator": (
        lambda x: x * np.random.rand(),
        "np.random.rand",
        "a method of a RandomState",
    ),
}


@pytest.mark.parametrize("name", NAMED)
def test_what_cannot_be_guarded_is_named(name: str) -> None:
    fresh()
    fn, place, why = NAMED[name]
    report = plait.explain(fn, backend="aot_eager")(plait.ones(2))
    assert report.entries[0].unguarded[place].startswith(why)
    assert f"{place}: {why}" in str(report)


def test_an_object_that_cannot_be_compared_is_known_by_identity() -> None:
    fresh()
    compiled = plait.compile(lambda x: given(x, world.thing), backend="aot_eager")
    compiled(plait.ones(2))
    world.thing = Thing(9.0)
    assert compiled(plait.ones(2)).tolist() == [9.0, 9.0]
    failure = compiled.recompiles[0].failure
    assert (failure.what, failure.expected) == ("world.thing", "the same Thing")


def test_arguments_of_a_partial_are_named_by_their_place() -> None:
    fresh()
    partial = functools.partial(given, thing=world.thing)
    report = plait.explain(partial, backend="aot_eager")(plait.ones(2))
    assert [place.partition(".")[2] for place in report.entries[0].unguarded] == [
        "keywords['thing']"
    ]


def test_pure_functions_of_libraries_are_not_named() -> None:
    fresh()
    fn = lambda x: plait.relu(x) * np.sqrt(4.0) * float(max([1, 2])) * functools.reduce(max, [1])
    (entry,) = plait.explain(fn, backend="aot_eager")(plait.ones(2)).entries
    assert not entry.unguarded


class Counting(nn.Module):
    """A module that writes its own attributes while it runs."""

    def __init__(self) -> None:
        super().__init__()
        self.calls = 0

    def forward(self, x: Any) -> Any:
        self.calls += 1
        return x * 2.0


def test_what_the_function_does_only_while_it_is_captured_is_named() -> None:
    seen: list[int] = []

    def notes(x: Any) -> Any:
        seen.append(x.shape[0])
        print("here")
        return x * 2.0

    report = plait.explain(notes, backend="aot_eager")(plait.ones(2))
    (entry,) = report.entries
    assert entry.effects == {
        "seen": "changed by the function while it is captured, not by later calls",
        "print()": "happens while the function is captured, not at later calls",
    }
    assert "done only once:\n    " in str(report) and "    seen: changed by" in str(report)
    module = Counting()
    (entry,) = plait.explain(module, backend="aot_eager")(plait.ones(2)).entries
    assert list(entry.effects) == ["Counting.calls"]
    (entry,) = plait.explain(nn.Linear(2, 2), backend="aot_eager")(plait.ones(2)).entries
    assert entry.effects == {}


def test_a_result_that_depends_on_what_the_function_changes_is_never_stale() -> None:
    class Stepping(Counting):
        def forward(self, x: Any) -> Any:
            self.calls += 1
            return x * self.calls

    compiled = plait.compile(Stepping(), backend="aot_eager")
    assert [compiled(plait.ones(1)).item() for _ in range(4)] == [1.0, 2.0, 3.0, 4.0]


def test_articles() -> None:
    assert [indefinite(w) for w in ("Thing", "object", "ndarray", "Iterator")] == [
        "a Thing",
        "an object",
        "an ndarray",
        "an Iterator",
    ]
