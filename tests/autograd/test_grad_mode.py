"""Grad mode as context manager, decorator and switch; one flag for each thread."""

from __future__ import annotations

import threading

import pytest

import plait
from plait import enable_grad, is_grad_enabled, no_grad, set_grad_enabled
from plait.base.errors import ArgumentTypeError


def test_context_managers_nest_and_restore() -> None:
    assert is_grad_enabled()
    with no_grad():
        assert not is_grad_enabled()
        with enable_grad():
            assert is_grad_enabled()
        assert not is_grad_enabled()
    assert is_grad_enabled()


def test_restored_after_an_error() -> None:
    with pytest.raises(ValueError), no_grad():
        raise ValueError
    assert is_grad_enabled()


def test_one_object_may_be_entered_twice() -> None:
    mode = no_grad()
    with mode, mode:
        assert not is_grad_enabled()
    assert is_grad_enabled()


def test_decorators() -> None:
    @no_grad()
    def with_call() -> bool:
        return is_grad_enabled()

    @no_grad
    def without_call() -> bool:
        return is_grad_enabled()

    @set_grad_enabled(False)
    def switched() -> bool:
        return is_grad_enabled()

    assert not with_call()
    assert not without_call()
    assert not switched()
    assert is_grad_enabled()
    assert with_call.__name__ == "with_call"


def test_generators_are_refused() -> None:
    with pytest.raises(ArgumentTypeError, match="generator"):

        @no_grad()
        def generate():  # type: ignore[no-untyped-def]
            yield 1


def test_switch_acts_at_once() -> None:
    set_grad_enabled(False)
    assert not is_grad_enabled()
    set_grad_enabled(True)
    with set_grad_enabled(False):
        assert not is_grad_enabled()
    assert is_grad_enabled()


def test_other_threads_have_their_own() -> None:
    seen: list[bool] = []
    with no_grad():
        thread = threading.Thread(target=lambda: seen.append(is_grad_enabled()))
        thread.start()
        thread.join()
    assert seen == [True]


def test_walks_in_two_threads() -> None:
    results: dict[int, list[float]] = {}

    def work(number: int) -> None:
        for _ in range(30):
            x = plait.tensor([float(number), 2.0], requires_grad=True)
            y = x
            for _ in range(10):
                y = y * x
            y.sum().backward()
        results[number] = x.grad.tolist()

    threads = [threading.Thread(target=work, args=(n,)) for n in (1, 3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == {1: [11.0, 11.0 * 1024], 3: [11.0 * 3.0**10, 11.0 * 1024]}
