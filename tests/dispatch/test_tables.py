"""Tables, precedence, fallbacks, modes and thread state, with fake kernels and no tensors."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from plait.base.errors import ArgumentTypeError, MissingKernel, RegistrationError
from plait.dispatch import dispatcher
from plait.dispatch.entry import FALLBACKS, FALLTHROUGH
from plait.dispatch.keys import AliasKey, DispatchKey
from plait.dispatch.keyset import KeySet, highest
from plait.dispatch.modes import DispatchMode, InfraMode, PreDispatchMode
from plait.dispatch.operator import Overload
from plait.dispatch.schema import FunctionSchema
from plait.dispatch.state import exclude_keys, include_keys, tls

CPU = DispatchKey.CPU.mask
AUTOGRAD = DispatchKey.AUTOGRAD_CPU.mask


class Thing:
    """Something with dispatch keys, as a tensor has."""

    def __init__(self, keys: int = CPU) -> None:
        self._keys = keys


@pytest.fixture
def op() -> Overload:
    return Overload(
        FunctionSchema.parse("test::f(Tensor x, int n=2, *, float scale=1.0) -> Tensor")
    )


def test_direct_kernel_and_calling_convention(op: Overload) -> None:
    op.register(DispatchKey.CPU, lambda x, n, *, scale: ("cpu", n, scale))
    assert op(Thing()) == ("cpu", 2, 1.0)
    assert op(Thing(), 5, scale=3) == ("cpu", 5, 3.0)


def test_precedence_of_composites(op: Overload) -> None:
    op.register(AliasKey.COMPOSITE_IMPLICIT_AUTOGRAD, lambda x, n, *, scale: "implicit")
    assert op(Thing(CPU | AUTOGRAD)) == "implicit"
    op.register(AliasKey.COMPOSITE_EXPLICIT_AUTOGRAD, lambda x, n, *, scale: "explicit")
    assert op(Thing(CPU)) == "explicit"
    op.register(DispatchKey.CPU, lambda x, n, *, scale: "cpu")
    assert op(Thing(CPU)) == "cpu"
    op.register(AliasKey.AUTOGRAD, lambda x, n, *, scale: "autograd")
    assert op(Thing(CPU | AUTOGRAD)) == "autograd"
    op.register(DispatchKey.AUTOGRAD_CPU, lambda x, n, *, scale: "autograd cpu")
    assert op(Thing(CPU | AUTOGRAD)) == "autograd cpu"


@pytest.mark.spec("E14")
def test_registration_takes_effect_at_the_next_call(op: Overload) -> None:
    op.register(DispatchKey.CPU, lambda x, n, *, scale: 1)
    assert op(Thing()) == 1
    op.register(DispatchKey.CPU, lambda x, n, *, scale: 2, replace=True)
    assert op(Thing()) == 2


def test_second_registration_names_the_place_of_the_first(op: Overload) -> None:
    op.register(DispatchKey.CPU, lambda x, n, *, scale: 1)
    with pytest.raises(RegistrationError, match=r"test_tables\.py:\d+"):
        op.register(DispatchKey.CPU, lambda x, n, *, scale: 2)


@pytest.mark.spec("E2")
def test_fallthrough_is_skipped(op: Overload) -> None:
    op.register(DispatchKey.CPU, lambda x, n, *, scale: "cpu")
    op.kernels[DispatchKey.AUTOGRAD_CPU] = FALLTHROUGH
    assert op(Thing(CPU | AUTOGRAD)) == "cpu"


def test_missing_kernel_names_operator_and_backend(op: Overload) -> None:
    with pytest.raises(MissingKernel, match=r"test::f: no kernel for KeySet\(CUDA\)"):
        op(Thing(DispatchKey.CUDA.mask))


@pytest.mark.spec("E2")
def test_global_fallback_runs_only_where_there_is_no_kernel(op: Overload) -> None:
    op.register(DispatchKey.CPU, lambda x, n, *, scale: "cpu")
    key = DispatchKey.TRACER
    dispatcher.register_fallback(
        key, lambda op, lower: lambda *a, **k: ("fallback", op.resolve(lower)(*a, **k))
    )
    try:
        assert op(Thing(CPU | key.mask)) == ("fallback", "cpu")
        op.register(key, lambda x, n, *, scale: "own")
        assert op(Thing(CPU | key.mask)) == "own"
    finally:
        del FALLBACKS[key]


def test_wrong_arguments_name_operator_and_argument(op: Overload) -> None:
    op.register(DispatchKey.CPU, lambda x, n, *, scale: 0)
    with pytest.raises(ArgumentTypeError, match="test::f: argument 'x'.*got int"):
        op(3)
    with pytest.raises(ArgumentTypeError, match="argument 'n'.*expected an int"):
        op(Thing(), "two")
    with pytest.raises(ArgumentTypeError, match="argument 'scale'.*expected a float"):
        op(Thing(), scale="big")
    with pytest.raises(TypeError):
        op(Thing(), unknown=1)


@pytest.mark.spec("E3")
def test_guards_restore_state_after_an_exception() -> None:
    before = (tls.include, tls.exclude)
    with pytest.raises(ZeroDivisionError), include_keys(1), exclude_keys(2):
        1 / 0
    assert (tls.include, tls.exclude) == before


@pytest.mark.spec("E3")
def test_threads_have_their_own_state() -> None:
    seen: list[int] = []
    with include_keys(DispatchKey.TRACER.mask):
        thread = threading.Thread(target=lambda: seen.append(tls.include))
        thread.start()
        thread.join()
    assert seen == [0]


class Recorder(DispatchMode):
    def __init__(self, name: str, log: list[str], answer: bool = True) -> None:
        self.name, self.log, self.answer = name, log, answer

    def __plait_dispatch__(self, op: Overload, types: Any, args: Any, kwargs: Any) -> Any:
        self.log.append(self.name)
        return op(*args, **kwargs) if self.answer else NotImplemented


class Functional(Recorder, InfraMode):
    slot = "functional_mode"


class Fake(Recorder, InfraMode):
    slot = "fake_mode"


@pytest.fixture
def cpu_op(op: Overload) -> Iterator[Overload]:
    op.register(DispatchKey.CPU, lambda x, n, *, scale: "cpu")
    yield op
    assert not tls.modes and tls.include == 0 and tls.exclude == 0


@pytest.mark.spec("E6")
def test_modes_are_asked_innermost_first_then_the_slots(cpu_op: Overload) -> None:
    log: list[str] = []
    with (
        Fake("fake", log),
        Functional("functional", log),
        Recorder("outer", log),
        Recorder("inner", log),
    ):
        assert cpu_op(Thing(CPU)) == "cpu"
    assert log == ["inner", "outer", "functional", "fake"]


@pytest.mark.spec("E6")
def test_a_taken_slot_is_an_error(cpu_op: Overload) -> None:
    with Fake("a", []), pytest.raises(RegistrationError, match="slot is taken"), Fake("b", []):
        pass


def test_not_implemented_goes_on_and_lists_who_declined(cpu_op: Overload) -> None:
    log: list[str] = []
    with Recorder("outer", log), Recorder("inner", log, answer=False):
        assert cpu_op(Thing()) == "cpu"
    with (
        Recorder("outer", log, answer=False),
        pytest.raises(ArgumentTypeError, match="mode Recorder"),
    ):
        cpu_op(Thing())


def test_a_failing_handler_restores_modes(cpu_op: Overload) -> None:
    class Failing(DispatchMode):
        def __plait_dispatch__(self, op: Overload, types: Any, args: Any, kwargs: Any) -> Any:
            raise ValueError("no")

    with Failing() as mode:
        with pytest.raises(ValueError, match="no"):
            cpu_op(Thing())
        assert tls.modes == [mode]


def test_handlers_run_below_autograd(op: Overload) -> None:
    op.register(DispatchKey.CPU, lambda x, n, *, scale: "cpu")
    calls: list[str] = []

    def autograd_kernel(x: Any, n: int, *, scale: float) -> Any:
        calls.append("autograd")
        return op.resolve(CPU | DispatchKey.PYTHON.mask)(x, n, scale=scale)

    op.register(DispatchKey.AUTOGRAD_CPU, autograd_kernel)
    with Recorder("mode", calls):
        op(Thing(CPU | AUTOGRAD))
    assert calls == ["autograd", "mode"]


@pytest.mark.spec("E4")
def test_stale_python_key_redispatches(cpu_op: Overload) -> None:
    with include_keys(DispatchKey.PYTHON.mask):
        assert cpu_op(Thing()) == "cpu"


def test_pre_dispatch_sees_the_outermost_call_only() -> None:
    inner = Overload(FunctionSchema.parse("test::inner(Tensor x) -> Tensor"))
    outer = Overload(FunctionSchema.parse("test::outer(Tensor x) -> Tensor"))
    inner.register(DispatchKey.CPU, lambda x: "inner")
    outer.register(AliasKey.COMPOSITE_IMPLICIT_AUTOGRAD, lambda x: inner(x))
    seen: list[str] = []

    class Capture(PreDispatchMode):
        def __plait_predispatch__(
            self, op: Overload, args: Any, kwargs: Any, redispatch: Callable[..., Any]
        ) -> Any:
            seen.append(op.name)
            return redispatch(*args, **kwargs)

    with Capture():
        assert outer(Thing(CPU)) == "inner"
    assert seen == ["outer"]
    assert tls.include == 0 and tls.predispatch is None


def test_keysets_print_and_order() -> None:
    keys = KeySet([DispatchKey.CPU, DispatchKey.AUTOGRAD_CPU])
    assert repr(keys) == "KeySet(AUTOGRAD_CPU, CPU)"
    assert highest(0) is None and keys.highest() is DispatchKey.AUTOGRAD_CPU
