"""Higher-order operators, and the explanation of calls."""

from __future__ import annotations

from typing import Any

import pytest

import plait
from plait.base.errors import MissingKernel, RegistrationError
from plait.dispatch import (
    DispatchKey,
    DispatchMode,
    HigherOrderOperator,
    exclude_keys,
    explain,
    fallthrough,
    lookup,
    packet,
)
from plait.dispatch.operator import Overload
from plait.dispatch.schema import FunctionSchema


class Watching(DispatchMode):
    pass


class Other(DispatchMode):
    pass


@pytest.fixture
def twice() -> HigherOrderOperator:
    op = HigherOrderOperator("twice")

    @op.py_impl(DispatchKey.CPU)
    def cpu(fn: Any, x: Any) -> Any:
        return fn(fn(x))

    return op


@pytest.mark.spec("E11")
def test_missing_rules_name_operator_key_and_mode(twice: HigherOrderOperator) -> None:
    x = plait.ones(1)
    with pytest.raises(MissingKernel, match="twice: .*no rule for AUTOGRAD_CPU"):
        twice(lambda t: t * 3, x)
    twice.fallthrough(DispatchKey.AUTOGRAD_CPU)
    assert twice(lambda t: t * 3, x).tolist() == [9.0]
    with Watching(), pytest.raises(MissingKernel, match="twice: .*no rule for mode Watching"):
        twice(lambda t: t * 3, x)


@pytest.mark.spec("E11")
def test_each_mode_has_a_rule_and_may_decline(twice: HigherOrderOperator) -> None:
    log: list[str] = []

    @twice.py_impl(Watching)
    def watching(mode: Watching, fn: Any, x: Any) -> Any:
        log.append("watching")
        return NotImplemented

    @twice.py_impl(Other)
    def other(mode: Other, fn: Any, x: Any) -> Any:
        log.append("other")
        return twice(fn, x)

    x = plait.ones(1)
    twice.fallthrough(DispatchKey.AUTOGRAD_CPU)
    with Other(), Watching():
        assert twice(lambda t: t, x) is x
    assert log == ["watching", "other"]
    with Watching(), pytest.raises(MissingKernel, match="answered NotImplemented: mode Watching"):
        twice(lambda t: t, x)
    with pytest.raises(RegistrationError, match="a rule for Other is set already"):
        twice.py_impl(Other)(other)
    with pytest.raises(RegistrationError, match="got the key PYTHON"):
        twice.py_impl(DispatchKey.PYTHON)


def test_explanation_tells_origin_and_answer_of_each_key() -> None:
    x = plait.ones(2, requires_grad=True)
    add, y = packet("aten::add"), plait.ones(2)
    with Watching(), exclude_keys(DispatchKey.ADINPLACE_OR_VIEW.mask):
        found = explain(add, x, y)
    assert found.operator == "aten::add.Tensor" and found.modes == ("Watching",)
    by_key = {row.key: row for row in found.keys}
    assert by_key[DispatchKey.CPU].origins == ("argument self", "argument other")
    assert "1: registered for the key" in by_key[DispatchKey.CPU].answer
    assert by_key[DispatchKey.PYTHON].origins == ("the thread",)
    assert by_key[DispatchKey.ADINPLACE_OR_VIEW].excluded
    assert DispatchKey.ADINPLACE_OR_VIEW not in found.keyset
    assert "excluded by the thread" in str(found) and "modes, first asked first" in str(found)


def test_explanation_of_factories_fallthrough_and_missing_kernels() -> None:
    made = explain(lookup("aten::zeros"), (2,), device="meta")
    assert [row.key for row in made.keys] == [DispatchKey.META]
    assert made.keys[0].origins == ("argument device",)
    op = Overload(FunctionSchema.parse("test::through(Tensor x) -> Tensor"))
    op.register(DispatchKey.AUTOGRAD_CPU, fallthrough)
    answers = {row.key: row.answer for row in explain(op, plait.ones(1)).keys}
    assert answers[DispatchKey.AUTOGRAD_CPU] == "falls through, as registered"
    assert answers[DispatchKey.CPU] == "no kernel"


def test_kernel_with_keyset_redispatches_by_hand() -> None:
    op = Overload(FunctionSchema.parse("test::keyed(Tensor x) -> str"))
    seen: list[Any] = []

    def autograd(keyset: Any, x: Any) -> Any:
        seen.append(keyset)
        return op.redispatch(keyset.mask & ~DispatchKey.AUTOGRAD_CPU.mask, x)

    op.register(DispatchKey.AUTOGRAD_CPU, autograd, with_keyset=True)
    op.register(DispatchKey.ADINPLACE_OR_VIEW, fallthrough)
    op.register(DispatchKey.CPU, lambda x: "cpu")
    assert op(plait.ones(1)) == "cpu"
    assert seen[0].highest() is DispatchKey.AUTOGRAD_CPU
    assert op.has_kernel(DispatchKey.CPU) and not op.has_kernel(DispatchKey.CUDA)


@pytest.mark.spec("E2")
def test_an_operators_own_fallback_goes_before_the_one_for_all() -> None:
    op = Overload(FunctionSchema.parse("test::own(Tensor x) -> str"))
    op.register(DispatchKey.CPU, lambda x: "cpu")
    op.register_fallback(
        DispatchKey.AUTOGRAD_CPU, lambda op, lower: lambda x: ("own", op.resolve(lower)(x))
    )
    assert op(plait.ones(1, requires_grad=True)) == ("own", "cpu")
    op.register(DispatchKey.AUTOGRAD_CPU, lambda x: "kernel")
    assert op(plait.ones(1)) == "kernel"
    op.unregister(DispatchKey.AUTOGRAD_CPU)
    assert op(plait.ones(1)) == ("own", "cpu")
