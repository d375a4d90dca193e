"""`plait.overrides`: what can be handled, by whom, and the names of it."""

from __future__ import annotations

import pytest

import plait
from plait import overrides
from plait.base.errors import ArgumentTypeError
from plait.dispatch import lookup
from plait.testing.samples import sampled, samples
from plait.testing.two_tensor import TwoTensor


class Inner(TwoTensor):
    """More derived than its base."""


def test_who_would_handle_a_call() -> None:
    plain, two = plait.ones(2), TwoTensor(plait.ones(2), plait.ones(2))
    inner = Inner(plait.ones(2), plait.ones(2))
    assert not overrides.has_handler(plain, 3, [plain])
    assert overrides.has_handler(plain, [two]) and overrides.handlers_of(plain) == ()
    assert overrides.handlers_of(two, plain, [inner]) == (Inner, TwoTensor)
    with plait.DispatchMode():
        assert overrides.has_handler(plain)
        assert overrides.handlers_of(two) == (plait.DispatchMode, TwoTensor)


def test_what_can_be_handled() -> None:
    names = overrides.overridable_operators()
    assert list(names) == sorted(set(names)) and "aten::add.Tensor" in names
    assert "aten::linear" not in names and "aten::addmm" in names
    with pytest.raises(ArgumentTypeError, match="is_overridable: got a str; expected an operator"):
        overrides.is_overridable("aten::add")  # type: ignore[arg-type]


def test_every_overridable_operator_reaches_a_mode_when_called() -> None:
    seen: set[str] = set()

    class Seeing(plait.DispatchMode):
        def __plait_dispatch__(self, op, types, args, kwargs):  # type: ignore[no-untyped-def]
            seen.add(op.qualname)
            return op(*args, **kwargs)

    called = set()
    with Seeing():
        for name in sampled():
            op = lookup(name)
            if overrides.is_overridable(op):
                called.add(name)
                sample = samples(name)[0]
                op(*sample.args, **sample.kwargs)
    assert called and called <= seen


def test_names_of_functions() -> None:
    assert overrides.resolve_name(plait.ops.aten.add) == "aten::add"
    assert overrides.resolve_name(plait.Tensor.sin) == "aten::sin"
    with pytest.raises(ArgumentTypeError, match="resolve_name: got <built-in function len>"):
        overrides.resolve_name(len)
