"""Wrappers whose handlers fail while a function is compiled or run, threads, and reports."""

from __future__ import annotations

import threading
from typing import Any

import pytest

import plait
from plait.base.errors import ArgumentTypeError
from plait.dispatch.state import tls
from plait.testing.two_tensor import TwoTensor


class Failing(TwoTensor):
    """Fails at the call of a stage that a test names, counting from 0."""

    stage = ""
    left = 0

    @classmethod
    def reach(cls, stage: str) -> None:
        if stage == cls.stage:
            cls.left -= 1
            if cls.left < 0:
                raise ValueError(f"no {stage}")

    def __plait_flatten__(self) -> Any:
        self.reach("flatten")
        return super().__plait_flatten__()

    @classmethod
    def __plait_unflatten__(cls, inner: Any, context: Any, shape: Any, strides: Any) -> Any:
        cls.reach("unflatten")
        return super().__plait_unflatten__(inner, context, shape, strides)

    @classmethod
    def __plait_dispatch__(cls, op: Any, types: Any, args: Any, kwargs: Any) -> Any:
        cls.reach("dispatch")
        return super().__plait_dispatch__(op, types, args, kwargs)


def state() -> Any:
    return (
        tls.include, tls.exclude, list(tls.modes), tls.functional_mode, tls.proxy_mode,
        tls.fake_mode, tls.predispatch, tls.shape_env, tls.node_source, tls.backward_node,
        tls.grad_enabled, tls.entry_state, dict(tls.handling),
    )  # fmt: skip


def step(compiled: Any) -> Any:
    x = Failing(plait.tensor([1.0, 2.0]), plait.tensor([3.0, 4.0]), requires_grad=True)
    compiled(x).backward()
    return x.grad


def loss(x: Any) -> Any:
    return (x * x).sin().sum()


@pytest.mark.spec("E13")
@pytest.mark.parametrize("stage", ["flatten", "unflatten", "dispatch"])
@pytest.mark.parametrize("number", [0, 1, 2, 3, 5, 8, 13])
def test_a_failure_at_any_stage_leaves_the_thread_as_it_was(
    stage: str, number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    want = step(loss)
    before = state()
    compiled = plait.compile(loss, fullgraph=True)
    monkeypatch.setattr(Failing, "stage", stage)
    monkeypatch.setattr(Failing, "left", number)
    with pytest.raises(ValueError, match=f"no {stage}"):
        for _ in range(20):
            step(compiled)
    assert state() == before
    monkeypatch.setattr(Failing, "stage", "")
    for _ in range(2):
        grad = step(compiled)
        assert grad.a.tolist() == pytest.approx(want.a.tolist())
        assert grad.b.tolist() == pytest.approx(want.b.tolist())
    assert state() == before


@pytest.mark.spec("E13")
def test_threads_compile_and_run_wrappers_apart() -> None:
    compiled = plait.compile(loss, fullgraph=True)
    want = step(loss).b.tolist()
    found: list[Any] = []
    states: list[Any] = []

    def in_thread(number: int) -> None:
        before = state()
        for _ in range(5):
            if number % 2:
                with Passing():
                    grad = step(compiled)
            else:
                grad = step(compiled)
            found.append(grad.b.tolist())
        states.append(state() == before)

    threads = [threading.Thread(target=in_thread, args=(k,)) for k in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 20 and all(g == pytest.approx(want) for g in found)
    assert states == [True] * 4 and len(compiled.entries) == 1


class Passing(plait.DispatchMode):
    """Sees everything and changes nothing."""

    def __plait_dispatch__(self, op: Any, types: Any, args: Any, kwargs: Any) -> Any:
        return op(*args, **kwargs)


def test_a_wrapper_that_comes_back_as_something_else_is_named() -> None:
    class Odd(TwoTensor):
        @classmethod
        def __plait_unflatten__(cls, inner: Any, context: Any, shape: Any, strides: Any) -> Any:
            return inner["a"]

    with pytest.raises(ArgumentTypeError, match=r"Odd.__plait_unflatten__: got a TracedTensor"):
        plait.compile(lambda x: x * 2)(Odd(plait.ones(2), plait.ones(2)))


def test_reports_name_inner_tensors_and_reasons() -> None:
    def fn(x: Any) -> Any:
        x.add_(1)
        return x[1:], (x * 2).sum()

    text = str(plait.explain(fn)(TwoTensor(plait.ones(2), plait.ones(2))))
    assert "x.a: its new value is" in text and "x.b: its new value is" in text
    assert "output[0].a is a view of the input x.a" in text, text
    compiled = plait.compile(lambda x: x[1:])
    x = TwoTensor(plait.ones(2), plait.ones(2), requires_grad=True)
    compiled(x)
    assert "shares memory with an argument" in str(plait.explain(compiled)(x))
    with pytest.raises(ValueError, match="runs eagerly: result 0 is a TwoTensor that requires"):
        compiled.print_io()
    assert not compiled.prepare(x)


def test_a_missing_cotangent_is_zeros_of_the_results_class() -> None:
    """docs/differences.md: eager walks only the part of the tape that was asked for."""
    compiled = plait.compile(lambda x, w: ((x * w).sum(), (w * w).sum()), fullgraph=True)
    w = plait.tensor([1.0, 2.0], requires_grad=True)
    _, plain = compiled(TwoTensor(plait.ones(2), plait.ones(2)), w)
    plain.backward()
    assert type(w.grad) is TwoTensor and w.grad.a.tolist() == w.grad.b.tolist() == [2.0, 4.0]
