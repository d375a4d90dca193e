"""A kernel that gives something else than its shape function promised is stopped, by name."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

import plait
from plait import Tensor, library
from plait.base.errors import DtypeMismatch, ShapeMismatch
from plait.library import CustomOpDef, custom_op


@pytest.fixture
def sums() -> Iterator[CustomOpDef]:
    @custom_op("tests::sums", mutates_args=())
    def sums(x: Tensor) -> Tensor:
        return x.sum(0)

    yield sums
    sums.destroy()


PROMISES: dict[str, tuple[Any, type[Exception], str]] = {
    "larger": (lambda x: plait.empty_like(x), ShapeMismatch, r"shape \(2,\).*promised \(3, 2\)"),
    "smaller": (lambda x: x.new_empty((1,)), ShapeMismatch, r"shape \(2,\).*promised \(1,\)"),
    "dtype": (lambda x: x.new_empty((2,), dtype=plait.float64), DtypeMismatch, "32.*float64"),
    "bound": (
        lambda x: x.new_empty((library.get_ctx().new_dynamic_size(min=3, max=9),)),
        ShapeMismatch,
        r"a size u0 of 2.*promised a size in \[3, 9\]",
    ),
}


@pytest.mark.parametrize("dynamic", [False, True])
@pytest.mark.parametrize("name", PROMISES)
def test_a_broken_promise_names_operator_and_place(
    sums: CustomOpDef, name: str, dynamic: bool
) -> None:
    fake, error, said = PROMISES[name]
    sums.register_fake(fake)
    with pytest.raises(error, match=f"tests::sums: .*{said}") as caught:
        plait.compile(lambda x: sums(x) + 1, dynamic=dynamic)(plait.ones(3, 2))
    assert "test_promises.py:" in str(caught.value) and "opcheck" in str(caught.value)


@pytest.mark.parametrize("alone", [True, False])
def test_strides_are_part_of_the_promise(alone: bool) -> None:
    @custom_op("tests::turned", mutates_args=())
    def turned(x: Tensor) -> Tensor:
        return plait.from_numpy(np.array(x.numpy(), order="F"))

    turned.register_fake(lambda x: plait.empty_like(x))
    try:
        fn = plait.compile(turned if alone else lambda x: turned(x * 2) * 2)
        assert fn(plait.ones(1, 4)).shape == (1, 4)  # no order to see
        with pytest.raises(ShapeMismatch, match=r"the strides \(1, 3\).*promised \(2, 1\)"):
            fn(plait.ones(3, 2))
    finally:
        turned.destroy()


def test_the_number_of_results_is_part_of_the_promise() -> None:
    @custom_op("tests::parts", mutates_args=())
    def parts(x: Tensor) -> list[Tensor]:
        return [x + 1, x + 2, x + 3]

    parts.register_fake(lambda x: [plait.empty_like(x)] * 2)
    try:
        with pytest.raises(ShapeMismatch, match="results in the number 3.*promised 2"):
            plait.compile(lambda x: parts(x)[0] + 1)(plait.ones(2))
    finally:
        parts.destroy()


def test_a_kept_promise_passes(sums: CustomOpDef) -> None:
    sums.register_fake(lambda x: x.new_empty((library.get_ctx().new_dynamic_size(max=9),)))
    x = plait.arange(6.0).reshape(3, 2)
    assert plait.compile(lambda x: sums(x) + 1)(x).tolist() == [7.0, 10.0]
