"""Records behave as frozen dataclasses do."""

from __future__ import annotations

import copy
import pickle
from dataclasses import dataclass

import pytest

from plait.base.errors import ArgumentTypeError
from plait.base.record import record


@record
class Base:
    """A base."""

    a: int


@record
class Derived(Base):
    b: str = "b"
    shared = "no field"

    def __post_init__(self) -> None:
        if self.a < 0:
            raise ValueError("negative")


@record
class Custom(Base):
    def __repr__(self) -> str:
        return "mine"


@dataclass(frozen=True)
class Reference:
    a: int
    b: str = "b"


def test_text_is_that_of_a_dataclass():
    assert repr(Derived(1)) == repr(Reference(1)).replace("Reference", "Derived")
    assert repr(Custom(1)) == "mine"


def test_equality_goes_by_type_and_fields():
    assert Derived(1) == Derived(a=1, b="b") and hash(Derived(1)) == hash(Derived(1, "b"))
    assert Derived(1) != Derived(2) and Base(1) != Custom(1)
    assert len({Base(1), Base(1), Custom(1)}) == 2


def test_fields_of_bases_come_first_and_can_be_matched():
    match Derived(3, "x"):
        case Derived(a, b):
            assert (a, b) == (3, "x")
    assert vars(Derived(3, "x")) == {"a": 3, "b": "x"}


@pytest.mark.parametrize(
    ("args", "kwargs"), [((), {}), ((1, "b", 2), {}), ((1,), {"a": 1}), ((1,), {"c": 1})]
)
def test_wrong_arguments(args, kwargs):
    with pytest.raises(ArgumentTypeError, match="Derived"):
        Derived(*args, **kwargs)
    with pytest.raises(TypeError):
        Reference(*args, **kwargs)


def test_nothing_can_be_changed():
    made = Derived(1)
    for change in (lambda: setattr(made, "a", 2), lambda: delattr(made, "b")):
        with pytest.raises(AttributeError, match="frozen"):
            change()
    assert made == Derived(1)


def test_check_after_init_runs():
    with pytest.raises(ValueError, match="negative"):
        Derived(-1)


def test_copies_and_pickles():
    made = Derived(1, "x")
    assert copy.deepcopy(made) == made == pickle.loads(pickle.dumps(made))
