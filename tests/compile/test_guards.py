"""Guards: what makes an entry answer or not, and what a recompile says of its reason."""

from __future__ import annotations

import dataclasses
import re
from typing import Any

import numpy as np
import pytest

import plait
from plait import nn
from plait.base import log

FLAG = 1
SETTINGS = {"scale": 2.0, "layers": [1, 2]}
TENSOR = plait.tensor([10.0])


def compiled(fn: Any, **options: Any) -> Any:
    return plait.compile(fn, backend="aot_eager", **options)


def last_reason(c: Any) -> str:
    return str(c.recompiles[-1])


def test_same_call_compiles_once() -> None:
    c = compiled(lambda x: x + 1.0)
    for _ in range(3):
        c(plait.ones(3))
    assert len(c.entries) == 1 and not c.recompiles


@pytest.mark.parametrize(
    ("first", "second", "says"),
    [
        (
            lambda: plait.ones(3),
            lambda: plait.ones(3, dtype=plait.float64),
            "x.dtype: expected plait.float32, got plait.float64",
        ),
        (
            lambda: plait.ones(3),
            lambda: plait.ones(3, 1),
            r"x.shape: expected \(3,\), got \(3, 1\)",
        ),
        (lambda: plait.ones(3, 2), lambda: plait.ones(2, 3).t(), "x.strides"),
        (
            lambda: plait.ones(3),
            lambda: plait.ones(3, requires_grad=True),
            "x.requires_grad: expected False, got True",
        ),
        (lambda: 2.0, lambda: 3.0, "x: expected 2.0, got 3.0"),
        (lambda: 2, lambda: 2.0, "x: expected 2, got 2.0"),
        (lambda: "a", lambda: "b", "x: expected 'a', got 'b'"),
        (lambda: None, lambda: True, "x: expected None, got True"),
        (lambda: [plait.ones(2)], lambda: (plait.ones(2),), "x: expected a list of 1"),
        (
            lambda: {"a": plait.ones(2)},
            lambda: {"b": plait.ones(2)},
            r"keys of x: expected \('a',\), got \('b',\)",
        ),
    ],
)
def test_recompile_names_the_condition_and_both_values(first: Any, second: Any, says: str) -> None:
    def f(x: Any) -> Any:
        leaves = (
            [x]
            if not isinstance(x, list | tuple | dict)
            else list(x.values() if isinstance(x, dict) else x)
        )
        t = leaves[0] if isinstance(leaves[0], plait.Tensor) else plait.ones(2)
        return t * 2.0

    c = compiled(f, dynamic=False)
    for argument in (first(), second(), first(), second()):
        np.testing.assert_array_equal(c(argument).detach().numpy(), f(argument).detach().numpy())
    assert len(c.entries) == 2
    assert len(c.recompiles) == 1
    assert re.search(says, last_reason(c)), last_reason(c)


def test_a_size_that_varies_becomes_symbolic() -> None:
    c = compiled(lambda x: (x * 2.0).sum(0))
    for rows in (3, 4, 5, 6, 50):
        assert c(plait.ones(rows, 2)).tolist() == [2.0 * rows] * 2
    assert len(c.entries) == 2, [str(r) for r in c.recompiles]
    assert "x.shape" in last_reason(c)
    c(plait.ones(1, 2))  # sizes 0 and 1 are never symbolic
    assert len(c.entries) == 3


def test_dynamic_false_never_makes_symbols_and_true_at_once() -> None:
    never, always = (
        compiled(lambda x: x * 2.0, dynamic=False),
        compiled(lambda x: x * 2.0, dynamic=True),
    )
    for rows in (2, 3, 4):
        never(plait.ones(rows))
        always(plait.ones(rows))
    assert len(never.entries) == 3 and len(always.entries) == 1


def test_a_branch_on_a_size_is_a_guard_with_its_line() -> None:
    def f(x: Any) -> Any:
        if x.shape[0] > 4:
            return x * 2.0
        return x + 1.0

    c = compiled(f, dynamic=True)
    for rows in (3, 4, 8, 9, 2):
        assert c(plait.ones(rows)).tolist() == f(plait.ones(rows)).tolist()
    assert len(c.entries) == 2
    assert "test_guards.py" in last_reason(c)


def test_globals_closures_and_attribute_chains_are_guarded() -> None:
    global FLAG  # a change of it is the point of the test
    factor = 3.0

    @dataclasses.dataclass
    class Config:
        shift: float = 1.0

    config = Config()

    def f(x: Any) -> Any:
        y = x * factor + config.shift + SETTINGS["scale"]
        return y * 2.0 if FLAG == 1 else y

    c = compiled(f)
    x = plait.ones(2)

    def check(entries: int, says: str = "") -> None:
        assert c(x).tolist() == f(x).tolist()
        assert len(c.entries) == entries
        assert not says or says in last_reason(c)

    check(1)
    config.shift = 5.0
    check(2, "config.shift: expected 1.0, got 5.0")
    factor = 4.0
    check(3, "factor: expected 3.0, got 4.0")
    FLAG = 2
    check(4, "FLAG: expected 1, got 2")
    SETTINGS["scale"] = 7.0
    check(5, "SETTINGS")
    check(5)
    FLAG, SETTINGS["scale"] = 1, 2.0


def test_functions_called_by_name_are_looked_into() -> None:
    scale = [2.0]

    def inner(x: Any) -> Any:
        return x * scale[0]

    c = compiled(lambda x: inner(x) + 1.0)
    assert c(plait.ones(1)).tolist() == [3.0]
    scale[0] = 5.0
    assert c(plait.ones(1)).tolist() == [6.0]


def test_tensors_from_outside_are_read_again_at_each_call() -> None:
    global TENSOR  # a change of it is the point of the test
    c = compiled(lambda x: x + TENSOR)
    assert c(plait.ones(1)).tolist() == [11.0]
    TENSOR = plait.tensor([20.0])
    assert c(plait.ones(1)).tolist() == [21.0]
    assert len(c.entries) == 1
    assert "TENSOR" in c.print_io()


def test_grad_mode_is_guarded() -> None:
    c = compiled(lambda x: x * 2.0)
    x = plait.ones(2, requires_grad=True)
    assert c(x).requires_grad
    with plait.no_grad():
        assert not c(x).requires_grad
    assert "grad mode: expected True, got False" in last_reason(c)


class Scaled(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(3, 2)
        self.scale = 2.0
        self.register_buffer("count", plait.zeros(1))

    def forward(self, x: Any) -> Any:
        if self.training:
            self.count.add_(1.0)
        return self.linear(x) * self.scale


def test_modules_are_guarded_by_their_state_and_their_tensors_are_named() -> None:
    model = Scaled()
    c = compiled(model)
    x = plait.ones(4, 3)
    np.testing.assert_allclose(
        c(x).detach().numpy(), (model.linear(x) * 2.0).detach().numpy(), rtol=1e-6
    )
    assert "ParamAOTInput(target='linear.weight')" in c.print_io()
    assert "BufferAOTInput(target='count')" in c.print_io()
    assert model.count.tolist() == [1.0]
    c(x)
    assert model.count.tolist() == [2.0] and len(c.entries) == 1
    model.scale = 3.0
    np.testing.assert_allclose(
        c(x).detach().numpy(), (model.linear(x) * 3.0).detach().numpy(), rtol=1e-6
    )
    assert "scale: expected 2.0, got 3.0" in last_reason(c)
    model.eval()
    c(x)
    assert "training" in last_reason(c) and model.count.tolist() == [3.0]
    model.linear.weight = nn.Parameter(plait.zeros(2, 3))
    bias = model.linear.bias
    assert bias is not None
    np.testing.assert_allclose(c(x).detach().numpy()[:, 0], [3.0 * bias[0].item()] * 4, rtol=1e-6)


def test_gradients_reach_module_parameters() -> None:
    model = Scaled().eval()
    x = plait.ones(4, 3)
    compiled(model)(x).sum().backward()
    got = model.linear.weight.grad
    assert got is not None
    got = got.clone()
    model.zero_grad()
    model(x).sum().backward()
    expected = model.linear.weight.grad
    assert expected is not None
    np.testing.assert_allclose(got.numpy(), expected.numpy(), rtol=1e-6)


def test_too_many_recompiles_run_eagerly_with_a_reason() -> None:
    c = compiled(lambda x, n: x * n)
    for n in range(20):
        assert c(plait.ones(1), float(n)).tolist() == [float(n)]
    assert len(c.entries) == 16
    assert any("16 entries" in e.reason for e in log.events("fallback"))


def test_unguardable_reads_are_listed() -> None:
    class Odd:
        value = 3

    odd = Odd()
    c = compiled(lambda x: x * (1.0 if odd else 2.0))
    c(plait.ones(1))
    assert any("unguarded: odd" in line for line in c.explain_guards())


def test_same_tensor_twice() -> None:
    c = compiled(lambda x, y: x.mul_(2.0) + y)
    x = plait.ones(2)
    assert c(x, x).tolist() == [4.0, 4.0]
    assert c(plait.ones(2), plait.ones(2)).tolist() == [3.0, 3.0]


class Affine:
    """A plain class with a compiled method: what the method reads from ``self`` is guarded."""

    def __init__(self) -> None:
        self.scale = 2.0
        self.shift = plait.tensor([1.0])
        self.inner = Inner()

    @plait.compile(backend="aot_eager")
    def apply(self, x: Any) -> Any:
        return self.grow(x) + self.shift

    def grow(self, x: Any) -> Any:
        return x * self.scale * self.inner.factor


class Inner:
    factor = 1.0


def test_attributes_of_plain_object_arguments_are_guarded() -> None:
    a = Affine()
    x = plait.ones(1)
    assert a.apply(x).tolist() == [3.0]
    a.scale = 5.0
    assert a.apply(x).tolist() == [6.0]
    a.inner.factor = 2.0
    assert a.apply(x).tolist() == [11.0]
    a.shift = plait.tensor([10.0])
    assert a.apply(x).tolist() == [20.0]
    assert Affine().apply(x).tolist() == [3.0]


def test_a_configuration_argument_is_guarded() -> None:
    inner = Inner()
    c = compiled(lambda x, config: x * config.factor)
    assert c(plait.ones(1), inner).tolist() == [1.0]
    inner.factor = 4.0
    assert c(plait.ones(1), inner).tolist() == [4.0]
    assert "config.factor: expected 1.0, got 4.0" in last_reason(c)
