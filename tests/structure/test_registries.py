"""Every operator has what every operator must have."""

from __future__ import annotations

import importlib

import pytest

import plait
from plait.dispatch import all_overloads

importlib.import_module("plait.ops.methods")
OPERATORS = [op for op in all_overloads() if op.schema.namespace in ("aten", "plait")]
FUNCTIONAL = [op for op in OPERATORS if not op.schema.is_mutable]
PRIMITIVE = [op for op in FUNCTIONAL if not op.is_composite]


def names(ops):
    return sorted(op.qualname for op in ops)


def test_there_are_operators():
    assert len(OPERATORS) > 100
    assert plait.Tensor.add


def test_schemas_round_trip():
    wrong = [op for op in OPERATORS if type(op.schema).parse(str(op.schema)) != op.schema]
    assert not wrong, names(wrong)


def test_every_primitive_has_a_shape_rule():
    missing = [op for op in PRIMITIVE if op.shape_rule is None]
    assert not missing, names(missing)


def test_every_view_says_how_it_lies_in_memory_and_how_it_is_undone():
    views = [op for op in PRIMITIVE if op.schema.is_view]
    missing = [op for op in views if op.view_rule is None or op.view_inverse is None]
    assert not missing, names(missing)


def test_in_place_and_functional_overloads_know_each_other():
    wrong = []
    for op in OPERATORS:
        if op.inplace is not None and op.inplace.functional is not op:
            wrong.append(op)
        if op.functional is not None and op.functional.schema.is_mutable:
            wrong.append(op)
    assert not wrong, names(wrong)


@pytest.mark.parametrize("family", ["pointwise", "reduction", "view", "matmul", "creation"])
def test_families_have_samples(family):
    assert importlib.import_module(f"plait.testing.samples.{family}")


def test_every_primitive_has_samples():
    samples = importlib.import_module("plait.testing.samples")
    missing = [op for op in PRIMITIVE if not samples.samples(op.qualname)]
    assert not missing, names(missing)
