"""Operators given as a formula: eager, gradients, compiled, batched, and how they fuse."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import pytest

import plait
from plait import Tensor, library
from plait.base.errors import DtypeMismatch, FormulaError, InvalidArgument, MissingKernel
from plait.dispatch.dispatcher import lookup
from plait.library import PointwiseOpDef, pointwise_op
from plait.testing.compare import assert_close
from plait.testing.gradcheck import gradcheck, gradgradcheck
from plait.testing.opcheck import opcheck

torch = pytest.importorskip("torch")


def gate() -> PointwiseOpDef:
    @pointwise_op("tests::gate")
    def gate(x, y, *, slope: float = 0.25):  # type: ignore[no-untyped-def]
        t = math.tanh(x * slope) + y
        return t * t if x > y else max(x, y) - math.exp(-y * y)

    definition: PointwiseOpDef = gate
    return definition


def gate_of(lib: Any, x: Any, y: Any, slope: float = 0.25) -> Any:
    """The same in operators of ``lib``, plait or torch."""
    t = lib.tanh(x * slope) + y
    return lib.where(x > y, t * t, lib.maximum(x, y) - lib.exp(-y * y))


def pair(dtype: Any = plait.float32, grad: bool = False) -> tuple[Tensor, Tensor]:
    rng = np.random.default_rng(0)
    x = plait.tensor(rng.normal(size=(3, 4)).tolist(), dtype=dtype)
    y = plait.tensor(rng.normal(size=(4,)).tolist(), dtype=dtype)
    return x.requires_grad_(grad), y.requires_grad_(grad)


# ---------------------------------------------------------------- eager


def test_values_and_gradients_are_pytorchs() -> None:
    op = gate()
    x, y = pair(grad=True)
    tx, ty = (torch.tensor(t.detach().numpy(), requires_grad=True) for t in (x, y))
    out, expected = op(x, y, slope=0.5), gate_of(torch, tx, ty, 0.5)
    np.testing.assert_allclose(out.detach().numpy(), expected.detach().numpy(), rtol=1e-5)
    out.sum().backward()
    expected.sum().backward()
    for mine, theirs in ((x, tx), (y, ty)):
        assert mine.grad is not None
        np.testing.assert_allclose(mine.grad.numpy(), theirs.grad.numpy(), rtol=1e-4, atol=1e-6)


def test_second_derivatives() -> None:
    op = gate()
    x, y = pair(plait.float64, grad=True)
    gradcheck(lambda x, y: op(x, y), (x, y))
    gradgradcheck(lambda x, y: op(x, y), (x, y))


@pytest.mark.parametrize("fn", ["exp", "mul", "max", "where"])
def test_types_are_promoted_as_pytorch_does(fn: str) -> None:
    @pointwise_op("tests::exp")
    def exp(x, y):  # type: ignore[no-untyped-def]
        return math.exp(x) + y

    @pointwise_op("tests::mul")
    def mul(x, y):  # type: ignore[no-untyped-def]
        return 2 * x * y

    @pointwise_op("tests::max")
    def max_(x, y):  # type: ignore[no-untyped-def]
        return max(x, y)

    @pointwise_op("tests::where")
    def where(x, y):  # type: ignore[no-untyped-def]
        return x + 0.5 if x < y else y

    reference = {
        "exp": lambda x, y: torch.exp(x) + y, "mul": lambda x, y: 2 * x * y,
        "max": torch.maximum, "where": lambda x, y: torch.where(x < y, x + 0.5, y),
    }  # fmt: skip
    op = {"exp": exp, "mul": mul, "max": max_, "where": where}[fn]
    names = ["uint8", "int32", "int64", "float16", "bfloat16", "float32", "float64"]
    for a, b in itertools.product(names, names):
        for shapes in ((2, 2), (0, 2), (2, 0)):
            x, y = (
                plait.full((3,) * (n > 0), 2).to(getattr(plait, d)) for d, n in zip((a, b), shapes)
            )
            tx, ty = (
                torch.full((3,) * (n > 0), 2).to(getattr(torch, d)) for d, n in zip((a, b), shapes)
            )
            out, expected = op(x, y), reference[fn](tx, ty)
            assert str(out.dtype).removeprefix("plait.") == str(expected.dtype).removeprefix(
                "torch."
            ), (a, b, shapes)
            assert out.shape == tuple(expected.shape)
            np.testing.assert_allclose(
                out.to(plait.float64).numpy(), expected.double().numpy(), rtol=1e-2
            )


def test_half_types_are_rounded_once() -> None:
    @pointwise_op("tests::once")
    def once(x):  # type: ignore[no-untyped-def]
        return (x + 256.0) - 256.0

    x = plait.tensor([0.3125], dtype=plait.bfloat16)
    assert once(x).item() == 0.3125
    assert ((x + 256.0) - 256.0).item() != 0.3125


def test_layout_follows_the_operands_and_large_arrays_are_done_in_blocks() -> None:
    op = gate()
    x, y = plait.randn(40, 50), plait.randn(40, 50)
    assert op(x.t(), y.t()).stride() == (x.t() + y.t()).stride()
    x, y = plait.randn(300, 401), plait.randn(300, 401)
    assert_close(op(x, y), gate_of(plait, x, y))
    assert op(x[:0], y[:0]).shape == (0, 401)


def test_numbers_are_keywords_with_defaults() -> None:
    @pointwise_op("tests::numbers")
    def numbers(x, *, n: int, flip: bool = False, scale: float = 2.0):  # type: ignore[no-untyped-def]
        return (-x if flip else x) ** n * (scale / 2)

    x = plait.tensor([1.0, -2.0], requires_grad=True)
    assert numbers(x, n=3).tolist() == [1.0, -8.0]
    assert numbers(x, n=2, scale=4.0, flip=True).tolist() == [2.0, 8.0]
    numbers(x, n=3, flip=True).sum().backward()
    assert x.grad is not None
    assert x.grad.tolist() == [-3.0, -12.0]
    with pytest.raises(TypeError, match="n"):
        numbers(x)
    with pytest.raises(TypeError, match="scale"):
        numbers(x, n=1, scale="2")


def test_parameters_may_be_called_as_the_tape_calls_cotangents() -> None:
    @pointwise_op("tests::names")
    def names(g, out, g0):  # type: ignore[no-untyped-def]
        return g * out * g0

    values = [plait.tensor([v], requires_grad=True) for v in (2.0, 3.0, 5.0)]
    names(*values).backward()
    assert [v.grad.item() for v in values] == [15.0, 10.0, 6.0]


# ---------------------------------------------------------------- edges


def edge(fn: Any, *points: float) -> list[float]:
    x = plait.tensor(list(points), requires_grad=True)
    fn(x).sum().backward()
    assert x.grad is not None
    return x.grad.tolist()


def test_derivatives_at_edges_follow_pytorch() -> None:
    @pointwise_op("tests::abs")
    def abs_(x):  # type: ignore[no-untyped-def]
        return abs(x)

    @pointwise_op("tests::relu")
    def relu(x):  # type: ignore[no-untyped-def]
        return plait.relu(x)

    @pointwise_op("tests::clamp")
    def clamp(x):  # type: ignore[no-untyped-def]
        return plait.clamp(x, -1, 1)

    @pointwise_op("tests::tie")
    def tie(x):  # type: ignore[no-untyped-def]
        return max(x, 0.0)

    @pointwise_op("tests::power")
    def power(x):  # type: ignore[no-untyped-def]
        return x**0.5 + x**2 + x**0

    def theirs(fn: Any, *points: float) -> list[float]:
        x = torch.tensor(list(points), requires_grad=True)
        fn(x).sum().backward()
        found: list[float] = x.grad.tolist()
        return found

    points = (0.0, -1.0, 1.0, 2.0, -0.0, math.inf)
    assert edge(abs_, *points) == theirs(torch.abs, *points)
    assert edge(relu, *points) == theirs(torch.relu, *points)
    assert edge(clamp, *points) == theirs(lambda x: torch.clamp(x, -1, 1), *points)
    assert edge(tie, *points) == theirs(lambda x: torch.maximum(x, torch.zeros(())), *points)
    points = (0.0, 1.0, 4.0)
    assert edge(power, *points) == theirs(lambda x: x**0.5 + x**2 + x**0, *points)


def test_the_branch_that_was_not_chosen_spoils_no_gradient() -> None:
    @pointwise_op("tests::safe")
    def safe(x):  # type: ignore[no-untyped-def]
        return math.sqrt(x) * math.log(x) if x > 0 else 0

    assert edge(safe, 0.0, -1.0, 1.0) == [0.0, 0.0, 1.0]


def test_steps_and_unused_paths_have_no_gradient() -> None:
    @pointwise_op("tests::steps")
    def steps(x, y):  # type: ignore[no-untyped-def]
        return math.floor(x) * y

    x, y = plait.tensor([1.5], requires_grad=True), plait.tensor([2.0], requires_grad=True)
    steps(x, y).backward()
    assert x.grad is not None and y.grad is not None
    assert (x.grad.item(), y.grad.item()) == (0.0, 1.0)
    assert steps.derivative("x") == "0.0"


# ---------------------------------------------------------------- what follows from the formula


@pytest.mark.spec("A13")
@pytest.mark.parametrize("dtype", [plait.float32, plait.float64])
def test_opcheck_passes_as_it_is(dtype: Any) -> None:
    verdicts = opcheck(gate(), pair(dtype, grad=True), {"slope": 0.75})
    assert set(verdicts.values()) == {"SUCCESS"}


def kernels(fn: Any, *args: Any) -> dict[str, int]:
    (entry,) = plait.explain(fn)(*args).entries
    assert not entry.fallbacks
    return {graph: len(found) for graph, found in entry.kernels.items()}


@pytest.mark.spec("A13")
def test_a_formula_fuses_with_its_neighbours_and_an_opaque_operator_does_not() -> None:
    op = gate()

    @library.custom_op("tests::opaque", mutates_args=())
    def opaque(x: Tensor, y: Tensor) -> Tensor:
        return gate_of(plait, x, y)

    opaque.register_fake(lambda x, y: plait.empty_like(x))
    x, y = plait.randn(8, 16), plait.randn(8, 16)
    fused = lambda x, y: op(x * 2, y + 1).exp().sum(-1)
    assert kernels(fused, x, y) == {"forward": 1}
    (entry,) = plait.explain(lambda x, y: opaque(x * 2, y + 1).exp().sum(-1))(x, y).entries
    assert len(entry.kernels["forward"]) > 1
    assert "tests::opaque" in str(entry.fallbacks)


def test_the_backward_is_one_kernel_too() -> None:
    op = gate()
    x, y = plait.randn(8, 16, requires_grad=True), plait.randn(8, 16)
    assert kernels(lambda x, y: (op(x * 2, y) * 3).sum(), x, y) == {"forward": 1, "backward": 1}


@pytest.mark.parametrize("dtype", [plait.float32, plait.float64, plait.bfloat16, plait.int64])
@pytest.mark.parametrize("dynamic", [None, True])
def test_compiled_equals_eager(dtype: Any, dynamic: bool | None) -> None:
    op = gate()
    x, y = ((t * 4).to(dtype) for t in pair())

    def run(x: Tensor, y: Tensor) -> Any:
        return op(x, y), op(y, x, slope=2.0)

    for found, expected in zip(plait.compile(run, dynamic=dynamic)(x, y), run(x, y)):
        assert_close(found, expected)


def test_compiled_gradients_and_formulas_that_choose_numbers() -> None:
    @pointwise_op("tests::sign_of")
    def sign_of(x, *, on: bool):  # type: ignore[no-untyped-def]
        s = 0.1 if x > 0 else -0.1
        return x * s if on and x != 2 else x

    for dtype in (plait.float32, plait.float64):
        x = plait.tensor([1.0, -3.0, 2.0], dtype=dtype, requires_grad=True)
        eager = sign_of(x, on=True)
        assert eager.dtype is dtype
        assert_close(eager.detach(), plait.tensor([0.1, 0.3, 2.0], dtype=dtype))
        assert_close(plait.compile(lambda x: sign_of(x, on=True))(x).detach(), eager.detach())
        (grad,) = plait.autograd.grad(eager.sum(), (x,))
        (compiled,) = plait.autograd.grad(
            plait.compile(lambda x: sign_of(x, on=True).sum())(x), (x,)
        )
        assert_close(grad, compiled)


def test_meta_tensors_have_the_shape_and_type() -> None:
    op = gate()
    out = op(plait.empty(3, 1, device="meta"), plait.empty(5, device="meta", dtype=plait.float64))
    assert (out.shape, out.dtype, str(out.device)) == ((3, 5), plait.float64, "meta")


def test_defining_again_takes_the_operators_of_derivatives_along() -> None:
    for factor in (2.0, 3.0):

        @pointwise_op("tests::again")
        def again(x):  # type: ignore[no-untyped-def]
            return math.exp(x * factor)  # noqa: B023

        x = plait.zeros(1, requires_grad=True)
        again(x).backward()
        assert x.grad is not None
        assert x.grad.item() == factor

    @library.custom_op("tests::again", mutates_args=())
    def other(x: Tensor) -> Tensor:
        return x + 1

    assert other(plait.zeros(1)).item() == 1.0
    with pytest.raises(InvalidArgument, match="no operator is called"):
        lookup("tests::again.grad_x")


def test_faults_of_a_call_name_operator_and_part() -> None:
    op = gate()
    with pytest.raises(MissingKernel, match="tests::gate"):
        op(plait.zeros(2, dtype=plait.complex64), plait.zeros(2))
    with pytest.raises(DtypeMismatch, match=r"tests::gate \(.*test_pointwise_op.py:\d+\): .*bool"):
        op(plait.zeros(2, dtype=plait.bool_), plait.zeros(2, dtype=plait.bool_))
    with pytest.raises(RuntimeError, match="gate"):
        op(plait.zeros(2), plait.zeros(3))
    with pytest.raises(TypeError, match="'x'"):
        op(1.0, plait.zeros(3))
    with pytest.raises(ValueError, match="namespace::name"):
        pointwise_op("gate", gate_of)
    assert issubclass(FormulaError, ValueError)
