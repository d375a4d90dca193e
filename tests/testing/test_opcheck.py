"""opcheck: legal operators pass all tests; each broken one fails its own."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

import plait
from plait import Tensor
from plait.base.errors import InvalidArgument, OpCheckError
from plait.dispatch import DispatchKey
from plait.library import Library, custom_op, definition_of, definitions
from plait.testing.opcheck import TESTS, opcheck

AUTOGRAD = DispatchKey.AUTOGRAD_CPU.mask
ONE = "(Tensor x) -> Tensor"


@pytest.fixture(autouse=True)
def forget_definitions() -> Iterator[None]:
    before = set(definitions.defined_names())
    yield
    for name in set(definitions.defined_names()) - before:
        definition_of(name).destroy()


def legal(name: str) -> tuple[Any, tuple[Any, ...]]:
    """An operator with everything registered, and arguments."""
    x = plait.tensor([[1.0, -2.0, 3.0]], requires_grad=True)
    if name == "differentiable":
        op = custom_op(
            "oc::d", lambda x: plait.from_numpy(np.exp(x.numpy())), mutates_args=(), schema=ONE
        )
        op.register_fake(lambda x: plait.empty_like(x))
        op.register_autograd(
            lambda ctx, g: g * ctx.saved_tensors[0],
            setup_context=lambda ctx, inputs, output: ctx.save_for_backward(output),
        )
        return op, (x,)
    if name == "integers":
        op = custom_op(
            "oc::i", lambda x, n: x * n, mutates_args=(), schema="(Tensor x, SymInt n) -> Tensor"
        )
        op.register_fake(lambda x, n: plait.empty_like(x))
        return op, (plait.tensor([1, 2]), 3)
    if name == "written":

        def add(x: Any) -> None:
            x.numpy()[...] += 1

        return custom_op("oc::w", add, mutates_args=("x",), schema="(Tensor(a!) x) -> ()"), (
            plait.ones(3),
        )
    if name == "lists":
        op = custom_op("oc::l", lambda xs: sum(xs[1:], xs[0] * 1), mutates_args=(),
                       schema="(Tensor[] xs) -> Tensor")  # fmt: skip
        op.register_fake(lambda xs: plait.empty_like(xs[0]))
        op.register_autograd(
            lambda ctx, g: ([g] * ctx.n,),
            setup_context=lambda ctx, inputs, output: setattr(ctx, "n", len(inputs[0])),
        )
        return op, ([x, x.detach()],)
    return plait.dispatch.lookup("aten::add.Tensor"), (x, plait.ones(3, 1))


@pytest.mark.spec("A10")
@pytest.mark.parametrize("name", ["differentiable", "integers", "written", "lists", "built in"])
def test_legal_operators_pass(name: str) -> None:
    op, args = legal(name)
    before = [t.tolist() for t in args if isinstance(t, Tensor)]
    assert opcheck(op, args) == dict.fromkeys(TESTS, "SUCCESS")
    assert [t.tolist() for t in args if isinstance(t, Tensor)] == before


def undeclared_write() -> Any:
    def kernel(x: Any) -> Any:
        result = x * 2
        x.numpy()[...] = 0
        return result

    op = custom_op("oc::broken", kernel, mutates_args=(), schema=ONE)
    op.register_fake(lambda x: plait.empty_like(x))
    return op, plait.ones(3)


def wrong_strides() -> Any:
    op = custom_op("oc::broken", lambda x: x * 2, mutates_args=(), schema=ONE)
    op.register_fake(lambda x: x.new_empty(tuple(reversed(x.shape))).t())
    return op, plait.ones(3, 2)


def lost_gradient() -> Any:
    lib = Library("oclost", "DEF")
    op = lib.define("f(Tensor x) -> Tensor")
    op.fake_rule = lambda x: plait.empty_like(x)
    lib.impl("f", lambda x: x.detach() * 2, "CPU")
    lib.impl(
        "f",
        lambda keys, x: op.redispatch(keys.mask & ~AUTOGRAD, x),
        "AutogradCPU",
        with_keyset=True,
    )
    op.library = lib
    return op, plait.ones(3, requires_grad=True)


def untraceable_backward() -> Any:
    op = custom_op("oc::broken", lambda x: x * 2, mutates_args=(), schema=ONE)
    op.register_fake(lambda x: plait.empty_like(x))
    op.register_autograd(lambda ctx, g: plait.from_numpy(g.numpy() * 2))
    return op, plait.ones(3, requires_grad=True)


@pytest.mark.spec("A10")
@pytest.mark.parametrize(
    ("broken", "failing"),
    [
        (undeclared_write, {"test_schema"}),
        (wrong_strides, {"test_faketensor", "test_compiled"}),
        (lost_gradient, {"test_autograd_registration"}),
        (untraceable_backward, {"test_aot_dispatch_dynamic", "test_compiled"}),
    ],
    ids=lambda v: getattr(v, "__name__", ""),
)
def test_a_broken_operator_fails_its_own_test(broken: Any, failing: set[str]) -> None:
    op, x = broken()
    verdicts = opcheck(op, (x,), raise_exception=False)
    assert {name for name, v in verdicts.items() if v != "SUCCESS"} == failing
    with pytest.raises(
        OpCheckError,
        match=rf"opcheck\({op.qualname}\): {min(failing, key=list(TESTS).index)} failed",
    ):
        opcheck(op, (x,))
    if hasattr(op, "library"):
        op.library.destroy()


@pytest.mark.spec("A10")
def test_names_of_tests_and_operators_are_checked() -> None:
    with pytest.raises(InvalidArgument, match="names \\['test_speed'\\]; expected some of"):
        opcheck("aten::neg", (plait.ones(1),), test_utils="test_speed")
    with pytest.raises(InvalidArgument, match="argument 'op' is a int"):
        opcheck(3, ())
    found = opcheck("aten::neg", (plait.ones(1),), test_utils=["test_schema"])
    assert found == {"test_schema": "SUCCESS"}


def test_the_callers_arguments_are_left_as_they_are() -> None:
    @custom_op("tests::secret", mutates_args=())
    def secret(x: Tensor) -> Tensor:
        x.detach().numpy()[...] += 1
        return x * 2

    secret.register_fake(lambda x: plait.empty_like(x))
    x = plait.ones(3)
    x.numpy()  # the memory has an owner by now
    verdicts = opcheck(secret, (x,), raise_exception=False)
    assert x.tolist() == [1.0, 1.0, 1.0]
    assert "'x' was written" in str(verdicts["test_schema"])
