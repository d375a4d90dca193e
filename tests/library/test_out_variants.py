"""From a functional operator to its out overload, and what layout tags promise to kernels."""

from __future__ import annotations

from typing import Any

import pytest

import plait
from plait import Tensor
from plait.dispatch.dispatcher import lookup
from plait.library import Library, Tag, custom_op, out_variant


@pytest.mark.spec("A8")
def test_an_out_overload_is_found_by_its_signature() -> None:
    assert out_variant(lookup("aten::add.Tensor")) is lookup("aten::add.out")
    assert out_variant(lookup("aten::add.out")) is None
    lib = Library("tests_out", "DEF")
    split = lib.define("split(Tensor x, *, int at) -> (Tensor, Tensor)")
    lib.define("split.other(Tensor x, *, int by, Tensor(a!) a, Tensor(b!) b) -> ()")
    lib.define("split.half(Tensor x, *, int at, Tensor(a!) out) -> Tensor(a!)")
    assert out_variant(split) is None
    both = lib.define(
        "split.both(Tensor x, *, int at, Tensor(a!) a, Tensor(b!) b) -> (Tensor(a!), Tensor(b!))"
    )
    assert out_variant(split) is both
    lib.destroy()


@pytest.mark.spec("A14")
@pytest.mark.parametrize("tag", [None, Tag.NEEDS_CONTIGUOUS_STRIDES, Tag.NEEDS_FIXED_STRIDE_ORDER])
def test_layout_tags_hold_eagerly_and_compiled(tag: Tag | None) -> None:
    seen: list[Any] = []

    @custom_op("tests::layout", mutates_args=(), tags=tag and (tag,))
    def layout(x: Tensor, rest: list[Tensor]) -> Tensor:
        seen.append([t.stride() for t in (x, *rest)])
        return x + 1

    laid_out = tag is not Tag.NEEDS_CONTIGUOUS_STRIDES
    layout.register_fake(lambda x, rest: plait.empty_like(x) if laid_out else x.new_empty(x.shape))

    def f(x: Tensor) -> Any:
        return layout((x + 1).t(), [x.t(), x * 2])

    x = plait.ones(4, 5)
    f(x)
    plait.compile(f)(x)
    expected = [(1, 5), (1, 5), (5, 1)]
    if tag is Tag.NEEDS_CONTIGUOUS_STRIDES:
        expected = [(4, 1), (4, 1), (5, 1)]
    assert seen == [expected, expected]
