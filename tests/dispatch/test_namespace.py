"""Operators by attribute."""

from __future__ import annotations

import pytest

import plait
from plait import Tensor
from plait.base.errors import MissingKernel
from plait.library import custom_op, scoped_library


def test_namespaces_packets_and_overloads_are_attributes() -> None:
    x = plait.ones(2)
    assert plait.ops.aten.add(x, x).tolist() == [2.0, 2.0]
    assert plait.ops.aten.add.Tensor.qualname == "aten::add.Tensor"
    assert "add" in dir(plait.ops.aten)
    with scoped_library("byname", "DEF") as lib:
        lib.define("twice(Tensor x) -> Tensor")
        lib.impl("twice", lambda x: x * 2, "CPU")
        assert plait.ops.byname.twice(x).tolist() == [2.0, 2.0]
        assert repr(plait.ops.byname) == "<OperatorNamespace byname: 1 operators>"
    with pytest.raises(AttributeError, match="no operator is defined in a namespace 'byname'"):
        _ = plait.ops.byname


def test_a_name_that_is_wrong_is_answered_with_close_ones() -> None:
    with pytest.raises(AttributeError, match=r"no operator is called 'aten::ad'.*aten::add"):
        _ = plait.ops.aten.ad
    with pytest.raises(AttributeError, match=r"namespace 'atem'; close names: aten"):
        _ = plait.ops.atem


def test_an_older_definition_says_that_there_is_a_newer_one() -> None:
    def define(by: float) -> plait.library.CustomOpDef:
        @custom_op("byname::scaled", mutates_args=())
        def scaled(x: Tensor) -> Tensor:
            return x * by

        return scaled

    x = plait.ones(1)
    older, newer = define(2.0), define(3.0)
    try:
        assert newer(x).item() == plait.ops.byname.scaled(x).item() == 3.0
        with pytest.raises(MissingKernel, match=r"was taken away.*plait\.ops\.byname\.scaled"):
            older(x)
    finally:
        newer.destroy()
