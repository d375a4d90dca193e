"""The ready-made modes: what they report, forward and backward, and around compiled functions."""

from __future__ import annotations

import gc
import inspect
import io
import threading
from typing import Any

import pytest

import plait
from plait import modes
from plait.base import log
from plait.base.errors import NonFiniteError
from plait.dispatch.state import tls
from plait.testing.two_tensor import TwoTensor

torch = pytest.importorskip("torch")
flop_counter = pytest.importorskip("torch.utils.flop_counter")


def here() -> int:
    """The line of the caller."""
    frame = inspect.currentframe()
    assert frame is not None and frame.f_back is not None
    return frame.f_back.f_lineno


# ---------------------------------------------------------------- the logger


def test_the_logger_names_operators_types_and_lines() -> None:
    text = io.StringIO()
    x = plait.ones(2, 3, requires_grad=True)
    with modes.OperatorLogger(file=text) as logger:
        y = plait.cat([x, x], 1).sum(1, keepdim=True)
        line = here() - 1
        y.sum().backward()
    first = logger.calls[0]
    assert (first.operator, first.arguments) == (
        "aten::cat",
        "(float32[2, 3], float32[2, 3]), 1",
    )
    assert first.results == "float32[2, 6]" and first.phase == "forward"
    assert first.place is not None and first.place[:2] == (__file__, line)
    backward = [c for c in logger.calls if c.phase == "backward"]
    assert backward and all(c.place is None or c.place[0] == __file__ for c in backward)
    assert any(c.place is not None and c.place[1] == line for c in backward)
    assert text.getvalue() == str(logger) + "\n"
    assert "aten::sum.dim_IntList(float32[2, 6], (1,), True)" in str(logger)


def test_the_logger_shows_subclasses_and_keyword_arguments() -> None:
    x = TwoTensor(plait.ones(2), plait.ones(2))
    with modes.OperatorLogger() as logger:
        plait.ops.aten.add.Tensor(x, x, alpha=2)
        plait.zeros(2, dtype=plait.int64)
    assert [c.arguments for c in logger.calls] == [
        "TwoTensor float32[2], TwoTensor float32[2], alpha=2",
        "(2,), dtype=plait.int64",
    ]


# ---------------------------------------------------------------- the FLOP counter


def both(plait_fn: Any, torch_fn: Any) -> None:
    with modes.FlopCounter() as ours:
        plait_fn()
    with flop_counter.FlopCounterMode(display=False) as theirs:
        torch_fn()
    assert ours.total == theirs.get_total_flops() > 0


def test_products_are_counted_as_pytorch_counts_them() -> None:
    a, b, c = (4, 5), (5, 6), (6,)
    both(
        lambda: plait.ones(*a) @ plait.ones(*b),
        lambda: torch.ones(*a) @ torch.ones(*b),
    )
    both(
        lambda: plait.addmm(plait.ones(*c), plait.ones(*a), plait.ones(*b)),
        lambda: torch.addmm(torch.ones(*c), torch.ones(*a), torch.ones(*b)),
    )
    both(
        lambda: plait.ones(3, *a) @ plait.ones(2, 1, *b),
        lambda: torch.ones(3, *a) @ torch.ones(2, 1, *b),
    )


def test_a_training_step_is_counted_as_pytorch_counts_it() -> None:
    model = plait.nn.Sequential(plait.nn.Linear(8, 16), plait.nn.ReLU(), plait.nn.Linear(16, 4))
    other = torch.nn.Sequential(torch.nn.Linear(8, 16), torch.nn.ReLU(), torch.nn.Linear(16, 4))
    x = plait.ones(32, 8)
    both(lambda: model(x).sum().backward(), lambda: other(torch.ones(32, 8)).sum().backward())


def test_attention_is_counted_as_its_products() -> None:
    q, k, v = (2, 3, 8, 16), (2, 3, 10, 16), (2, 3, 10, 16)

    def by_hand() -> None:
        q_, k_, v_ = torch.ones(*q), torch.ones(*k), torch.ones(*v)
        torch.softmax(q_ @ k_.mT, -1) @ v_

    attend = plait.ops.aten.scaled_dot_product_attention.default
    both(lambda: attend(plait.ones(*q), plait.ones(*k), plait.ones(*v)), by_hand)
    leaves = [plait.ones(*s, requires_grad=True) for s in (q, k, v)]
    with modes.FlopCounter() as counter:
        attend(*leaves).sum().backward()
    # docs/differences.md: the backward computes the scores again, so it is five products.
    assert counter.by_phase["backward"] * 2 == counter.by_phase["forward"] * 5


def test_vectors_and_formulas_of_ones_own() -> None:
    with modes.FlopCounter({"aten::sin": lambda x: 10 * x.numel()}) as counter:
        plait.mv(plait.ones(3, 4), plait.ones(4))
        plait.dot(plait.ones(4), plait.ones(4))
        plait.sin(plait.ones(2))
    # docs/differences.md: PyTorch counts neither mv nor dot.
    assert dict(counter.by_operator) == {"aten::mv": 24, "aten::dot": 8, "aten::sin": 20}
    (frame, count), *_ = counter.by_place.most_common(1)
    assert frame is not None and frame[0] == __file__ and count == 24
    assert "aten::mv" in str(counter) and str(counter).startswith("52 operations")


# ---------------------------------------------------------------- the memory tracker


def test_memory_is_followed_to_its_end() -> None:
    before = plait.ones(1024)
    with modes.MemoryTracker() as memory:
        x = before + 1
        view, y = x[2:], x * 2
        assert memory.live == 8192
        y.add_(1)
        assert (memory.live, memory.peak) == (8192, 8192)
        del x, y
        gc.collect()
        assert memory.live == 4096, "a view keeps the memory alive"
        del view
    gc.collect()
    assert memory.live == 0 and memory.peak == 8192
    assert memory.by_operator == {"aten::add.Scalar": 4096, "aten::mul.Scalar": 4096}
    assert memory.calls["aten::add_.Scalar"] == 1 and memory.live_by_operator.total() == 0
    assert memory.peak_at is not None and memory.peak_at[0] == "aten::mul.Scalar"
    assert "8192 at the peak" in str(memory) and __file__ in str(memory)


def test_what_the_tape_keeps_is_live_until_the_backward() -> None:
    x = plait.ones(256, requires_grad=True)
    with modes.MemoryTracker() as memory:
        y = x.exp().sin().sum()
        assert memory.live == 1024 + 4  # what exp made, and the sum
        y.backward()
        del y
        gc.collect()
        assert memory.live == 1024 and x.grad is not None  # the gradient


def test_a_freed_address_is_followed_again() -> None:
    with modes.MemoryTracker() as memory:
        for _ in range(5):
            x = plait.ones(256)
            del x
        gc.collect()
    assert memory.by_operator["aten::ones"] == 5 * 1024 and memory.live == 0


def test_memory_inside_of_wrappers_counts() -> None:
    x = TwoTensor(plait.ones(256), plait.ones(256))
    with modes.MemoryTracker() as memory:
        y = x + 1
        assert memory.live == 2048 and type(y) is TwoTensor


# ---------------------------------------------------------------- the NaN finder


def test_the_first_nan_is_found_with_its_line() -> None:
    x = plait.tensor([1.0, -1.0])
    with modes.NanFinder() as finder:
        y = plait.sqrt(x)
        line = here() - 1
        _ = plait.log(x) + y
    first = finder.first
    assert first is not None and (first.operator, first.elements, first.shape) == (
        "aten::sqrt",
        1,
        (2,),
    )
    assert first.place is not None and first.place[:2] == (__file__, line)
    assert str(first).startswith("aten::sqrt: made 1 NaN in a result of shape (2,) from arguments")
    assert f" at {__file__}:{line} (in test_the_first_nan" in str(first)


def test_a_nan_of_the_backward_is_at_the_forward_line() -> None:
    x = plait.tensor([0.0], requires_grad=True)
    with modes.NanFinder() as finder:
        y = plait.sqrt(x) * 0.0
        line = here() - 1
        y.backward(plait.ones(1))
    first = finder.first
    assert first is not None and first.phase == "backward"
    assert first.place is not None and first.place[:2] == (__file__, line)
    assert "in the derivative of the call" in str(first)


def test_given_nans_and_uninitialised_memory_are_not_blamed() -> None:
    x = plait.tensor([float("nan")])
    with modes.NanFinder() as finder:
        y = x + 1
        target = plait.empty(4)
        target.copy_(plait.ones(4))
        plait.ops.aten.add.out(plait.ones(4), plait.ones(4), out=target)
        _ = plait.where(plait.isnan(y), plait.ones(1), y)
    assert finder.first is None


@pytest.mark.parametrize("dtype", [plait.float64, plait.float16, plait.bfloat16, plait.complex64])
def test_every_float_type_is_looked_at(dtype: Any) -> None:
    with modes.NanFinder() as finder:
        _ = plait.zeros(2, dtype=dtype) / 0
    assert finder.first is not None and finder.first.elements == 2


def test_the_finder_can_stop_the_program() -> None:
    stopped = pytest.raises(NonFiniteError, match=r"aten::div\.Scalar: made 1 NaN or infinite")
    with stopped, modes.NanFinder(stop=True, infinities=True):
        _ = plait.ones(1) / 0
    assert not tls.modes and tls.node_source is None


# ---------------------------------------------------------------- compiled functions


def test_compiled_functions_run_eagerly_inside_a_mode_and_say_so() -> None:
    step = plait.compile(lambda x: (x * 2).sin())
    x = plait.ones(3)
    want = step(x).tolist()
    log.clear()
    with modes.OperatorLogger() as logger:
        assert step(x).tolist() == pytest.approx(want)
    assert [c.operator for c in logger.calls] == ["aten::mul.Scalar", "aten::sin"]
    assert any("OperatorLogger is active" in e.reason for e in log.events("fallback"))
    assert step(x).tolist() == want and len(step.entries) == 1


def test_a_mode_may_leave_compiled_functions_compiled() -> None:
    class Deaf(modes.OperatorLogger):
        ignores_compiled = True

    step = plait.compile(lambda x: (x * 2).sin())
    x = plait.ones(3)
    with Deaf() as logger:
        step(x)
        assert len(step.entries) == 1 and not logger.calls
        _ = x * 2
        assert len(logger.calls) == 1 and len(tls.modes) == 1
        with modes.FlopCounter():
            step(x)
    assert len(logger.calls) == 3


def test_a_compiled_backward_inside_a_mode_is_named() -> None:
    step = plait.compile(lambda x: (x * 2).sin().sum())
    x = plait.ones(3, requires_grad=True)
    y = step(x)
    log.clear()
    with modes.OperatorLogger() as logger:
        y.backward()
    assert "aten::cos" not in [c.operator for c in logger.calls]
    assert any("does not see the operators of a backward" in e.reason for e in log.events("mode"))
    assert x.grad is not None and x.grad.tolist() == pytest.approx([2 * -0.4161468] * 3)


# ---------------------------------------------------------------- state


@pytest.mark.parametrize(
    "make", [modes.OperatorLogger, modes.FlopCounter, modes.MemoryTracker, modes.NanFinder]
)
def test_modes_leave_the_thread_as_it_was(make: Any) -> None:
    failures: list[Any] = []

    def state() -> Any:
        return (tls.include, tls.exclude, list(tls.modes), tls.node_source, dict(tls.handling))

    def in_thread() -> None:
        before = state()
        mode = make()
        x = plait.ones(2, requires_grad=True)
        for _ in range(2):
            with pytest.raises(RuntimeError), mode, mode:
                y = x.exp() @ plait.ones(3)
                y.backward()
        with mode:
            (x * x).sum().backward()
        failures.append(None if state() == before else (before, state()))

    threads = [threading.Thread(target=in_thread) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == [None] * 4
