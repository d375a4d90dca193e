"""A user's function that raises: the error comes through, and the thread is as it was before."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

import plait
from plait import Tensor
from plait.capture.fake import FakeMode
from plait.library import CustomOpDef, custom_op

STAGES = (
    "kernel",
    "kernel under no_grad",
    "fake",
    "setup_context",
    "backward",
    "dispatch rule",
    "mutable kernel",
)
RUNS: dict[str, Callable[[Any], Any]] = {
    "eager": lambda fn: fn,
    "aot_eager": lambda fn: plait.compile(fn, backend="aot_eager"),
    "compiled": plait.compile,
    "dynamic": lambda fn: plait.compile(fn, dynamic=True),
}


class Broken(Exception):
    """What the user's function raises; not one of ours."""


class Listening(plait.dispatch.DispatchMode):
    """A mode that passes every call on."""

    def __plait_dispatch__(self, op: Any, types: Any, args: Any, kwargs: Any) -> Any:
        return op(*args, **kwargs)


class Ruled(plait.dispatch.DispatchMode):
    """A mode for which the operator has a rule of its own."""

    def __plait_dispatch__(self, op: Any, types: Any, args: Any, kwargs: Any) -> Any:
        return op(*args, **kwargs)


def broken_at(stage: str) -> CustomOpDef:
    """An operator that fails in one of the functions that its user gave, and nowhere else."""

    def step(name: str) -> None:
        if stage.startswith(name):
            raise Broken(stage)

    if stage == "mutable kernel":

        @custom_op("tests::broken", mutates_args=("x",))
        def writes(x: Tensor) -> None:
            x.mul_(2)
            raise Broken(stage)

        return writes

    @custom_op("tests::broken", mutates_args=())
    def broken(x: Tensor) -> Tensor:
        step("kernel")
        return x * 2

    @broken.register_fake
    def _(x: Any) -> Any:
        step("fake")
        return plait.empty_like(x)

    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        step("setup_context")

    def backward(ctx: Any, grad: Any) -> Any:
        step("backward")
        return grad * 2

    broken.register_autograd(backward, setup_context=setup_context)

    @broken.register_plait_dispatch(Ruled)
    def rule(mode: Any, op: Any, types: Any, args: Any, kwargs: Any) -> Any:
        step("dispatch rule")
        return op(*args, **kwargs)

    return broken


@pytest.fixture(params=STAGES)
def broken(request: pytest.FixtureRequest) -> Iterator[tuple[str, CustomOpDef]]:
    op = broken_at(request.param)
    yield request.param, op
    op.destroy()


def provoke(stage: str, op: CustomOpDef, run: Callable[[Any], Any]) -> None:
    x = plait.tensor([1.0, 2.0], requires_grad=stage in ("setup_context", "backward", "fake"))
    fn = run(lambda x: op(x * 1) if stage != "mutable kernel" else (op(x), x + 1)[1])
    if stage == "kernel under no_grad":
        with plait.no_grad():
            fn(x)
    elif stage == "dispatch rule":
        with Ruled():
            fn(x)
    elif stage == "fake" and run is RUNS["eager"]:
        with FakeMode():
            fn(plait.ones(2))
    else:
        out = fn(x)
        if stage == "backward":
            out.sum().backward()


@pytest.mark.parametrize("run", RUNS)
def test_the_thread_is_as_it_was(
    broken: tuple[str, CustomOpDef], run: str, state_of_thread: Callable[[], dict[str, object]]
) -> None:
    stage, op = broken
    wrong: list[Any] = []

    def in_thread() -> None:
        outer = Listening()
        with outer if run == "eager" else plait.enable_grad():
            before = state_of_thread()
            for _ in range(3):
                try:
                    provoke(stage, op, RUNS[run])
                    wrong.append("nothing was raised")
                except Broken as error:
                    if str(error) != stage:
                        wrong.append(error)
                except Exception as error:
                    wrong.append(error)
                if state_of_thread() != before:
                    wrong.append((before, state_of_thread()))
        doubled = plait.tensor([1.0], requires_grad=True)
        (doubled * 2).sum().backward()
        if doubled.grad is None or doubled.grad.tolist() != [2.0]:
            wrong.append("autograd is broken afterwards")

    threads = [threading.Thread(target=in_thread) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong, wrong
