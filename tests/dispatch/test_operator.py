"""Overloads of a packet, and what its arguments are converted to."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from plait.base.errors import ArgumentTypeError
from plait.dispatch import dispatcher
from plait.dispatch.keys import DispatchKey
from plait.dispatch.operator import Overload
from plait.dispatch.schema import FunctionSchema


@pytest.fixture
def op() -> Iterator[Overload]:
    made = dispatcher.define("test::packed.Scalar(Scalar value) -> Scalar")
    made.register(DispatchKey.CPU, lambda value: value)
    yield made
    if "test::packed" in {p.name for p in dispatcher.packets_of("test")}:
        dispatcher.remove(dispatcher.lookup("test::packed.Scalar"))


def test_attribute_access_keeps_the_overload(op: Overload) -> None:
    packet = dispatcher.packet("test::packed")
    assert packet.Scalar is op
    assert vars(packet)["Scalar"] is op
    assert not hasattr(packet, "Tensor")


def test_a_removed_overload_is_forgotten(op: Overload) -> None:
    packet = dispatcher.packet("test::packed")
    other = dispatcher.define("test::packed(Tensor self) -> Tensor")
    assert packet.Scalar is op and packet.default is other
    dispatcher.remove(op)
    with pytest.raises(AttributeError, match="no overload 'Scalar'"):
        packet.Scalar
    again = dispatcher.define("test::packed.Scalar(Scalar value) -> Scalar")
    assert packet.Scalar is again and packet.default is other
    dispatcher.remove(other)
    assert not hasattr(packet, "default") and packet.name == "test::packed"


def test_adding_in_place_of_an_overload_forgets_it(op: Overload) -> None:
    packet = dispatcher.packet("test::packed")
    assert packet.Scalar is op
    replacement = Overload(FunctionSchema.parse("test::packed.Scalar(Scalar value) -> Scalar"))
    packet.add(replacement)
    assert packet.Scalar is replacement
    packet.add(op)


@pytest.mark.parametrize(
    ("value", "kind"),
    [
        (np.float64(0.5), float),
        (np.float32(0.5), float),
        (np.complex128(1j), complex),
        (np.int64(3), int),
        (True, bool),
        (2, int),
    ],
)
def test_scalars_become_python_numbers(op: Overload, value: Any, kind: type) -> None:
    result = op(value)
    assert type(result) is kind and result == value


def test_what_is_no_scalar(op: Overload) -> None:
    with pytest.raises(ArgumentTypeError, match="expected a number"):
        op("text")
