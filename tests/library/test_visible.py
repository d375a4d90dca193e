"""Operators whose body the compiler sees: everything follows from the body, and it fuses."""

from __future__ import annotations

from typing import Any

import pytest

import plait
from plait import Tensor
from plait.base.errors import RegistrationError
from plait.library import CustomOpDef, custom_op
from plait.testing.compare import assert_close
from plait.testing.gradcheck import gradcheck, gradgradcheck
from plait.testing.opcheck import opcheck


def smooth(*, visible: bool) -> CustomOpDef:
    @custom_op("tests::smooth", mutates_args=(), visible=visible)
    def smooth(x: Tensor, y: Tensor, scale: float = 2.0) -> Tensor:
        return (x * scale).tanh() * y + x

    definition: CustomOpDef = smooth
    return definition


def kernels(fn: Any, *args: Any) -> int:
    (entry,) = plait.explain(fn)(*args).entries
    return len(entry.kernels["forward"])


@pytest.mark.spec("A13")
@pytest.mark.parametrize("grad", [False, True])
def test_generated_code_shows_the_fused_body_and_an_opaque_operator_does_not(grad: bool) -> None:
    x, y = plait.randn(4, 8).requires_grad_(grad), plait.randn(4, 8)
    op = smooth(visible=True)
    fused = lambda x, y: op(x * 2, y).exp()
    assert kernels(fused, x, y) == 1
    report = plait.explain(fused)(x, y)
    assert "tanh" in str(report.entries[0].kernels["forward"])
    assert not report.entries[0].fallbacks
    assert "smooth" in str(report.entries[0].graphs["captured"])
    assert_close(plait.compile(fused)(x, y).detach(), fused(x, y).detach())
    opaque = smooth(visible=False)
    opaque.register_fake(lambda x, y, scale: plait.empty_like(x))
    if not grad:
        (entry,) = plait.explain(lambda x, y: opaque(x * 2, y).exp())(x, y).entries
        assert "tanh" not in str(entry.kernels["forward"])
        assert "tests::smooth" in str(entry.fallbacks)


def test_gradients_shapes_and_checks_follow_from_the_body() -> None:
    op = smooth(visible=True)
    x, y = (plait.randn(3).to(plait.float64).requires_grad_() for _ in range(2))
    gradcheck(lambda x, y: op(x, y), (x, y))
    gradgradcheck(lambda x, y: op(x, y, 0.5), (x, y))
    assert op(plait.empty(2, 3, device="meta"), plait.empty(3, device="meta")).shape == (2, 3)
    assert set(opcheck(op, (x, y)).values()) == {"SUCCESS"}


def test_batching_and_autocast_follow_from_the_body() -> None:
    op = smooth(visible=True)
    x, y = plait.randn(5, 3), plait.randn(3)
    assert_close(plait.vmap(op, in_dims=(0, None))(x, y), op(x, y))


def test_nothing_else_can_be_registered() -> None:
    op = smooth(visible=True)
    for what, register in {
        "a kernel": lambda: op.register_kernel("cpu", lambda *args: None),
        "a shape function": lambda: op.register_fake(lambda *args: None),
        "a gradient formula": lambda: op.register_autograd(lambda ctx, g: g),
    }.items():
        with pytest.raises(RegistrationError, match=rf"test_visible.py:\d+ is visible.*{what}"):
            register()

    def write(x: Tensor) -> None:
        x.add_(1)

    with pytest.raises(RegistrationError, match="functional and serves every device"):
        custom_op("tests::write", write, mutates_args=("x",), visible=True)


def test_defining_again_may_change_the_kind() -> None:
    for visible in (True, False, True):
        assert smooth(visible=visible)(plait.ones(1), plait.zeros(1)).item() == 1.0
