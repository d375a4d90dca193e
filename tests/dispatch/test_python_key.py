"""The Python key: order of handlers, state at entry, recursion, threads, recorded events."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest

import plait
from plait.base.errors import ArgumentTypeError, DispatchError, RegistrationError
from plait.dispatch import (
    DispatchKey,
    DispatchMode,
    Overload,
    PreDispatchMode,
    current_mode,
    disable_modes,
    include_keys,
    lookup,
    mode_stack,
    pop_mode,
    record_handlers,
    restore_entry_state,
)
from plait.dispatch.keyset import CPU_TENSOR_KEYS
from plait.dispatch.modes import InfraMode
from plait.dispatch.state import tls
from plait.tensor.tensor import Tensor, shallow_copy

PYTHON = DispatchKey.PYTHON.mask


class Seen(DispatchMode):
    """Notes what it sees in a log, under its name, and answers or declines."""

    def __init__(self, log: list[Any], name: str = "mode", answers: bool = True) -> None:
        self.log, self.name, self.answers = log, name, answers

    def __plait_dispatch__(self, op: Overload, types: Any, args: Any, kwargs: Any) -> Any:
        self.log.append((self.name, op.qualname))
        return op(*args, **kwargs) if self.answers else NotImplemented


class Labelled(Tensor):
    """A subclass whose handler says so, then calls the operator on plain tensors."""

    _keys = CPU_TENSOR_KEYS | PYTHON | DispatchKey.PYTHON_TLS_SNAPSHOT.mask
    log: list[Any] = []
    answers = True

    @classmethod
    def __plait_dispatch__(cls, op: Overload, types: Any, args: Any, kwargs: Any) -> Any:
        cls.log.append((cls.__name__, op.qualname))
        if not cls.answers:
            return NotImplemented
        return op(*[plain(a) for a in args], **kwargs)


class MoreLabelled(Labelled):
    """A subclass of a subclass, asked before its base."""


def plain(value: Any) -> Any:
    if isinstance(value, tuple):
        return tuple(map(plain, value))
    if not isinstance(value, Labelled):
        return value
    return plait.from_numpy(value._array)


def labelled(values: list[float], cls: type[Labelled] = Labelled) -> Labelled:
    made = cls.__new__(cls)
    made.__dict__.update(shallow_copy(plait.tensor(values)).__dict__)
    return made


@pytest.fixture(autouse=True)
def fresh_log(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Labelled, "log", [])
    monkeypatch.setattr(Labelled, "answers", True)


# ---------------------------------------------------------------- E4: the four branches


@pytest.mark.spec("E4")
def test_a_mode_is_asked_before_a_subclass() -> None:
    log = Labelled.log
    with Seen(log):
        result = labelled([1.0]) + 1
    assert result.tolist() == [2.0]
    assert log == [("mode", "aten::add.Scalar"), ("Labelled", "aten::add.Scalar")]


@pytest.mark.spec("E4")
def test_without_a_mode_the_subclass_answers() -> None:
    assert plait.cat([plait.tensor([0.0]), labelled([1.0])]).tolist() == [0.0, 1.0]
    assert Labelled.log == [("Labelled", "aten::cat")]


@pytest.mark.spec("E4")
def test_a_stale_key_is_dropped_and_the_call_goes_on() -> None:
    with include_keys(PYTHON):
        assert (plait.tensor([1.0]) + 1).tolist() == [2.0]
        assert not tls.include & PYTHON


@pytest.mark.spec("E4")
def test_a_python_key_that_nobody_put_there_is_an_error() -> None:
    x = plait.tensor([1.0])
    with pytest.raises(DispatchError, match=r"aten::neg: the keyset.*no mode is active"):
        lookup("aten::neg").redispatch(PYTHON | DispatchKey.CPU.mask, x)


# ---------------------------------------------------------------- E5: the state at entry


@pytest.mark.spec("E5")
def test_entry_state_is_not_accessible_outside_a_handler() -> None:
    with pytest.raises(DispatchError, match="not accessible here"), restore_entry_state():
        pass


@pytest.mark.spec("E5")
def test_inside_a_handler_the_entry_state_brings_autograd_back() -> None:
    recorded: list[bool] = []

    class Restoring(DispatchMode):
        def __plait_dispatch__(self, op: Overload, types: Any, args: Any, kwargs: Any) -> Any:
            below = op(*args, **kwargs)
            recorded.append(below.requires_grad)
            with restore_entry_state():
                recorded.append(op(*args, **kwargs).requires_grad)
            return below

    x = plait.tensor([1.0], requires_grad=True)
    with Restoring():
        y = x * 2
    assert recorded == [False, True] and y.requires_grad
    assert tls.entry_state is None


@pytest.mark.spec("E5")
def test_entry_state_is_cleared_by_an_exception_and_kept_by_nested_calls() -> None:
    states: list[Any] = []

    class Nested(DispatchMode):
        def __plait_dispatch__(self, op: Overload, types: Any, args: Any, kwargs: Any) -> Any:
            states.append(tls.entry_state)
            with restore_entry_state():
                states.append(tls.entry_state)
                _ = plait.ones(1) + 1
            states.append(tls.entry_state)
            raise ValueError("no")

    with Nested(), pytest.raises(ValueError, match="no"):
        _ = plait.tensor([1.0]) * 2
    assert states[0] == states[2] and states[0] is not None and states[1] is None
    assert tls.entry_state is None


# ---------------------------------------------------------------- E6, E7: order and answers


@pytest.mark.spec("E7")
def test_when_all_decline_the_error_lists_modes_and_subclasses() -> None:
    Labelled.answers = False
    with (
        Seen([], answers=False),
        pytest.raises(ArgumentTypeError, match=r"aten::add\.Scalar.*mode Seen, subclass Labelled"),
    ):
        _ = labelled([1.0]) + 1


@pytest.mark.spec("E7")
def test_a_more_derived_subclass_is_asked_first() -> None:
    _ = labelled([1.0]) + labelled([2.0], MoreLabelled)
    assert [name for name, _ in Labelled.log] == ["MoreLabelled"]


@pytest.mark.spec("E7")
def test_not_implemented_passes_the_call_on() -> None:
    log: list[Any] = []
    with Seen(log, "outer"), Seen(log, "inner", answers=False):
        assert (plait.tensor([1.0]) * 3).tolist() == [3.0]
    assert [name for name, _ in log] == ["inner", "outer"]


@pytest.mark.spec("E6")
def test_helpers_show_and_take_off_modes() -> None:
    log: list[Any] = []
    outer, inner = Seen(log, "outer"), Seen(log, "inner")
    with outer, inner:
        assert mode_stack() == (inner, outer) and current_mode() is inner
        with pop_mode() as popped:
            assert popped is inner and current_mode() is outer
            _ = plait.ones(1) * 2
        with disable_modes():
            assert mode_stack() == () and not tls.include
            _ = plait.ones(1) * 2
        with pytest.raises(ZeroDivisionError), disable_modes():
            1 / 0
        assert mode_stack() == (inner, outer)
    assert {name for name, _ in log} == {"outer"}
    assert current_mode() is None
    with pytest.raises(DispatchError, match="no mode is active"), pop_mode():
        pass


@pytest.mark.spec("E6")
def test_modes_leave_in_reverse_order_only() -> None:
    a, b = Seen([], "a"), Seen([], "b")
    with a, b, pytest.raises(DispatchError, match="mode Seen: modes leave in the reverse"):
        a.__exit__(None, None, None)
    assert mode_stack() == ()


@pytest.mark.spec("E6")
def test_one_object_is_not_on_both_stacks() -> None:
    class Both(DispatchMode, PreDispatchMode):
        def __enter__(self) -> Any:
            return DispatchMode.__enter__(self)

        def __exit__(self, *exc: object) -> None:
            DispatchMode.__exit__(self, *exc)

    mode = Both()
    with mode, pytest.raises(DispatchError, match="on the stack of modes already"):
        PreDispatchMode.__enter__(mode)
    PreDispatchMode.__enter__(mode)
    try:
        with pytest.raises(DispatchError, match="in the PreDispatch slot already"), mode:
            pass
    finally:
        PreDispatchMode.__exit__(mode)


# ---------------------------------------------------------------- E8: recursion


@pytest.mark.spec("E8")
def test_a_mode_that_enters_itself_again_is_named() -> None:
    class Endless(DispatchMode):
        def __plait_dispatch__(self, op: Overload, types: Any, args: Any, kwargs: Any) -> Any:
            with self:
                return op(*args, **kwargs)

    with Endless(), pytest.raises(DispatchError, match=r"aten::neg: mode Endless handles"):
        _ = -plait.tensor([1.0])
    assert not tls.handling and not tls.modes


@pytest.mark.spec("E8")
def test_a_subclass_that_calls_the_operator_on_itself_is_named() -> None:
    class Forgetful(Labelled):
        @classmethod
        def __plait_dispatch__(cls, op: Overload, types: Any, args: Any, kwargs: Any) -> Any:
            return op(*args, **kwargs)

    with pytest.raises(DispatchError, match=r"aten::neg: subclass Forgetful handles"):
        _ = -labelled([1.0], Forgetful)


@pytest.mark.spec("E8")
def test_a_mode_may_enter_itself_for_another_operator() -> None:
    log: list[str] = []

    class Splitting(DispatchMode):
        def __plait_dispatch__(self, op: Overload, types: Any, args: Any, kwargs: Any) -> Any:
            log.append(op.name)
            if op.name != "sub":
                return op(*args, **kwargs)
            with self:
                return args[0] + (-args[1])

    with Splitting():
        result = plait.tensor([3.0]) - plait.tensor([1.0])
    assert result.tolist() == [2.0] and log == ["sub", "neg", "add"]


# ---------------------------------------------------------------- E12 and rules of one operator


@pytest.mark.spec("E12")
def test_recorded_events_have_label_and_operator() -> None:
    with record_handlers() as events, Seen([]):
        _ = labelled([1.0]) + 1
    shown = [(e.label, e.operator, e.handler) for e in events]
    assert shown == [
        ("PythonSubclass", "aten::add.Scalar", "Labelled"),
        ("PythonDispatchMode", "aten::add.Scalar", "Seen"),
    ]
    assert all(e.start <= e.end for e in events)
    _ = labelled([1.0]) + 1
    assert len(events) == 2 and tls.handler_events is None


@pytest.mark.spec("E12")
def test_a_handler_that_fails_is_recorded_too() -> None:
    class Failing(DispatchMode):
        def __plait_dispatch__(self, op: Overload, types: Any, args: Any, kwargs: Any) -> Any:
            raise ValueError("no")

    with record_handlers() as events, Failing(), pytest.raises(ValueError, match="no"):
        _ = plait.tensor([1.0]) * 2
    assert [e.handler for e in events] == ["Failing"]


def test_a_rule_for_a_class_of_mode_or_tensor_is_asked_in_place_of_its_handler() -> None:
    sin = lookup("aten::sin")
    log: list[Any] = []

    @sin.py_impl(Seen)
    def of_mode(mode: Seen, op: Overload, types: Any, args: Any, kwargs: Any) -> Any:
        log.append("rule of the mode")
        return op(*args, **kwargs)

    @sin.py_impl(Labelled)
    def of_subclass(cls: Any, op: Overload, types: Any, args: Any, kwargs: Any) -> Any:
        log.append("rule of the subclass")
        return op(plain(args[0]))

    try:
        with pytest.raises(RegistrationError, match="a rule for Seen is set already"):
            sin.py_impl(Seen)(of_mode)
        with pytest.raises(RegistrationError, match="py_impl got the key PYTHON"):
            sin.py_impl(DispatchKey.PYTHON)
        with Seen(log):
            plait.sin(labelled([0.0]))
        assert log == ["rule of the mode", "rule of the subclass"] and not Labelled.log
    finally:
        sin.py_impl_remove(Seen)
        sin.py_impl_remove(Labelled)


# ---------------------------------------------------------------- state, whatever happens


class Slot(InfraMode):
    slot = "fake_mode"

    def __plait_dispatch__(self, op: Overload, types: Any, args: Any, kwargs: Any) -> Any:
        raise ValueError("the slot")


def failing_mode() -> Any:
    class Failing(DispatchMode):
        def __plait_dispatch__(self, op: Overload, types: Any, args: Any, kwargs: Any) -> Any:
            raise ValueError("the mode")

    return Failing()


def failing_rule() -> Any:
    raise ValueError("a rule")


@pytest.mark.spec("E3")
@pytest.mark.parametrize("stage", ["mode", "infra", "subclass", "kernel", "predispatch"])
def test_an_exception_at_any_stage_leaves_the_state_as_it_was(stage: str) -> None:
    class Bad(Labelled):
        @classmethod
        def __plait_dispatch__(cls, op: Overload, types: Any, args: Any, kwargs: Any) -> Any:
            raise ValueError("the subclass")

    class Above(PreDispatchMode):
        def __plait_predispatch__(
            self, op: Overload, args: Any, kwargs: Any, redispatch: Callable[..., Any]
        ) -> Any:
            raise ValueError("above autograd")

    def state() -> Any:
        return (tls.include, tls.exclude, list(tls.modes), tls.fake_mode, dict(tls.handling))

    def provoke() -> None:
        x = plait.tensor([1.0], requires_grad=True)
        if stage == "subclass":
            _ = labelled([1.0], Bad) * 2
        elif stage == "kernel":
            _ = x @ plait.ones(3, 3, 3, 3).reshape(9, 9)
        else:
            with {"mode": failing_mode(), "infra": Slot(), "predispatch": Above()}[stage]:
                _ = x * 2

    failures: list[Any] = []

    def in_thread() -> None:
        with Seen([], "outer"):
            before = state()
            with pytest.raises((ValueError, RuntimeError)):
                provoke()
            failures.append(None if state() == before else (before, state()))

    threads = [threading.Thread(target=in_thread) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == [None] * 4


@pytest.mark.spec("E3")
def test_a_mode_of_one_thread_is_unseen_by_another() -> None:
    log: list[Any] = []
    with Seen(log):
        thread = threading.Thread(target=lambda: plait.ones(2) * 2)
        thread.start()
        thread.join()
    assert not log
