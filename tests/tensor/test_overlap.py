"""Overlap of layouts against PyTorch's rules and against enumeration."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from plait.tensor.layout import Layout
from plait.tensor.overlap import Overlap, has_internal_overlap, may_overlap, overlap


@st.composite
def layouts(draw: Any) -> Layout:
    ndim = draw(st.integers(0, 3))
    shape = tuple(draw(st.integers(0, 3)) for _ in range(ndim))
    strides = tuple(draw(st.sampled_from([0, 1, 1, 2, 3, 6])) for _ in range(ndim))
    return Layout(shape, strides, draw(st.integers(0, 8)))


def positions(layout: Layout) -> list[int]:
    places = itertools.product(*(range(size) for size in layout.shape))  # type: ignore[arg-type]
    return [
        layout.offset + sum(i * stride for i, stride in zip(place, layout.strides))  # type: ignore[misc]
        for place in places
    ]


@given(layouts(), layouts())
def test_overlap_is_sound(a: Layout, b: Layout) -> None:
    shared = set(positions(a)) & set(positions(b))
    found = overlap(a, b)
    assert overlap(b, a) is found
    if found is Overlap.NO:
        assert not shared
    elif found is Overlap.FULL:
        assert positions(a) == positions(b)
    assert may_overlap(a, b) or not shared
    assert may_overlap(a, b) == may_overlap(b, a)


@given(layouts())
def test_internal_overlap_is_real(layout: Layout) -> None:
    if has_internal_overlap(layout):
        assert len(set(positions(layout))) < len(positions(layout))


def test_internal_overlap_of_expanded_layouts() -> None:
    assert has_internal_overlap(Layout((3, 2), (0, 1)))
    assert not has_internal_overlap(Layout((1, 2), (0, 1)))
    assert not has_internal_overlap(Layout((3, 0), (0, 1)))


@pytest.mark.parametrize(
    ("a", "b", "expected"),
    [
        (Layout((4,)), Layout((4,)), Overlap.FULL),
        (Layout((3,)), Layout((3,), None, 1), Overlap.PARTIAL),
        (Layout((2,)), Layout((2,), None, 2), Overlap.NO),
        (Layout((2, 2)), Layout((2, 2), (1, 2)), Overlap.PARTIAL),
        (Layout((2,), (2,)), Layout((4,)), Overlap.UNKNOWN),
        (Layout((0,), None, 1), Layout((4,)), Overlap.NO),
    ],
)
def test_overlap(a: Layout, b: Layout, expected: Overlap) -> None:
    assert overlap(a, b) is expected


def test_columns_side_by_side_do_not_meet() -> None:
    left, right = Layout((4, 3), (8, 1), 0), Layout((4, 5), (8, 1), 3)
    assert not may_overlap(left, right)
    assert may_overlap(left, Layout((4, 5), (8, 1), 2))
    assert may_overlap(Layout((2, 3), (8, 1), 6), Layout((2, 1), (8, 1), 0))  # runs over the end
