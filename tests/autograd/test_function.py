"""User-defined functions: contexts, dirty and non-differentiable tensors, second derivatives."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import pytest

import plait
from plait.autograd import Function, once_differentiable
from plait.base.errors import ArgumentTypeError, AutogradError, InplaceError


@pytest.fixture
def x() -> plait.Tensor:
    return plait.tensor([1.0, 2.0, 3.0], requires_grad=True)


class Cube(Function):
    @staticmethod
    def forward(ctx: Any, x: Any) -> Any:
        ctx.save_for_backward(x)
        return x * x * x

    @staticmethod
    def backward(ctx: Any, g: Any) -> Any:
        (x,) = ctx.saved_tensors
        return g * x * x * 3.0


def test_gradient_and_double_backward(x: plait.Tensor) -> None:
    y = Cube.apply(x)
    assert y.grad_fn.name() == "CubeBackward"
    (g,) = plait.autograd.grad(y.sum(), x, create_graph=True)
    assert g.tolist() == [3.0, 12.0, 27.0]
    g.sum().backward()
    assert x.grad.tolist() == [6.0, 12.0, 18.0]


def test_separate_setup_context_and_saved_output(x: plait.Tensor) -> None:
    class Exponential(Function):
        @staticmethod
        def forward(x: Any) -> Any:
            return x.exp()

        @staticmethod
        def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
            ctx.save_for_backward(output)
            ctx.factor = 1.0

        @staticmethod
        def backward(ctx: Any, g: Any) -> Any:
            (y,) = ctx.saved_tensors
            assert y.grad_fn is None or y.grad_fn.name() == "ExponentialBackward"
            return g * y * ctx.factor

    y = Exponential.apply(x)
    (g,) = plait.autograd.grad(y.sum(), x, create_graph=True)
    (h,) = plait.autograd.grad(g.sum(), x)
    assert g.tolist() == pytest.approx(y.tolist())
    assert h.tolist() == pytest.approx(y.tolist())


def test_arguments_that_are_not_tensors_and_needs_input_grad(x: plait.Tensor) -> None:
    seen: list[Any] = []

    class Scale(Function):
        @staticmethod
        def forward(ctx: Any, x: Any, factor: float, other: Any) -> Any:
            ctx.factor = factor
            return x * factor + other

        @staticmethod
        def backward(ctx: Any, g: Any) -> Any:
            seen.append(ctx.needs_input_grad)
            return g * ctx.factor, None, g

    constant = plait.tensor([0.0, 0.0, 0.0])
    Scale.apply(x, 4.0, constant).sum().backward()
    assert seen == [(True, False, False)]
    assert x.grad.tolist() == [4.0, 4.0, 4.0]
    assert constant.grad is None
    assert not Scale.apply(constant, 4.0, constant).requires_grad
    with plait.no_grad():
        assert not Scale.apply(x, 4.0, constant).requires_grad


class TwoResults(Function):
    materialize = True
    seen: list[Any] = []

    @staticmethod
    def forward(ctx: Any, x: Any) -> Any:
        ctx.set_materialize_grads(TwoResults.materialize)
        return x * 2.0, x * 3.0

    @staticmethod
    def backward(ctx: Any, a: Any, b: Any) -> Any:
        TwoResults.seen.append([None if g is None else g.tolist() for g in (a, b)])
        return a * 2.0


@pytest.mark.parametrize("materialize", [True, False])
def test_undefined_cotangents(x: plait.Tensor, materialize: bool) -> None:
    TwoResults.materialize, TwoResults.seen = materialize, []
    a, _ = TwoResults.apply(x)
    a.sum().backward()
    assert TwoResults.seen == [[[1.0] * 3, [0.0] * 3 if materialize else None]]


def test_mark_dirty(x: plait.Tensor) -> None:
    class DoubleInPlace(Function):
        @staticmethod
        def forward(ctx: Any, t: Any) -> Any:
            t.mul_(2.0)
            ctx.mark_dirty(t)
            return t

        @staticmethod
        def backward(ctx: Any, g: Any) -> Any:
            return g * 2.0

    y = x * 1.0
    z = DoubleInPlace.apply(y)
    assert z is y
    assert y.grad_fn.name() == "DoubleInPlaceBackward"
    (y * y).sum().backward()
    assert x.grad.tolist() == [8.0, 16.0, 24.0]
    with pytest.raises(InplaceError, match="a leaf Variable that requires grad"):
        DoubleInPlace.apply(x)
    base = x.detach().requires_grad_() * 1.0
    DoubleInPlace.apply(base.view(3, 1))
    assert base.grad_fn.name() == "CopySlices"
    constant = plait.tensor([1.0])
    assert DoubleInPlace.apply(constant) is constant


def test_dirty_tensors_must_be_returned(x: plait.Tensor) -> None:
    class Forgetful(Function):
        @staticmethod
        def forward(ctx: Any, t: Any) -> Any:
            ctx.mark_dirty(t)
            return t * 2.0

    with pytest.raises(InplaceError, match="marked as dirty"):
        Forgetful.apply(x * 1.0)


def test_mark_non_differentiable(x: plait.Tensor) -> None:
    class WithMask(Function):
        @staticmethod
        def forward(ctx: Any, t: Any) -> Any:
            side, mask = t * 5.0, t > 1.5
            ctx.mark_non_differentiable(side)
            return t * 2.0, side, mask

        @staticmethod
        def backward(ctx: Any, g: Any, g_side: Any, g_mask: Any) -> Any:
            assert g_mask is None
            return g * 2.0

    y, side, mask = WithMask.apply(x)
    assert (y.requires_grad, side.requires_grad, mask.requires_grad) == (True, False, False)
    y.sum().backward()
    assert x.grad.tolist() == [2.0, 2.0, 2.0]


class Identity(Function):
    @staticmethod
    def forward(ctx: Any, t: Any) -> Any:
        return t

    @staticmethod
    def backward(ctx: Any, g: Any) -> Any:
        return g * 7.0


def test_input_returned_as_it_is(x: plait.Tensor) -> None:
    y = Identity.apply(x)
    assert y is not x
    assert x.grad_fn is None
    assert y.data_ptr() == x.data_ptr()
    y.sum().backward()
    assert x.grad.tolist() == [7.0, 7.0, 7.0]
    z = Identity.apply(x * 1.0)
    with pytest.raises(InplaceError, match="custom Function"):
        z.add_(1.0)


def test_view_made_inside(x: plait.Tensor) -> None:
    class Column(Function):
        @staticmethod
        def forward(ctx: Any, t: Any) -> Any:
            return t.view(3, 1)

        @staticmethod
        def backward(ctx: Any, g: Any) -> Any:
            return g.view(3) * 2.0

    y = Column.apply(x * 1.0)
    assert y.grad_fn.name() == "ColumnBackward"
    y.sum().backward()
    assert x.grad.tolist() == [2.0, 2.0, 2.0]
    with pytest.raises(InplaceError, match="custom Function"):
        y.add_(1.0)


def test_once_differentiable(x: plait.Tensor) -> None:
    class Once(Function):
        @staticmethod
        def forward(ctx: Any, t: Any) -> Any:
            ctx.save_for_backward(t)
            return t * t

        @staticmethod
        @once_differentiable
        def backward(ctx: Any, g: Any) -> Any:
            (t,) = ctx.saved_tensors
            return g * t * 2.0

    (g,) = plait.autograd.grad(Once.apply(x).sum(), x)
    assert g.tolist() == [2.0, 4.0, 6.0]
    assert not g.requires_grad
    (g,) = plait.autograd.grad(Once.apply(x).sum(), x, create_graph=True)
    with pytest.raises(AutogradError, match="once_differentiable"):
        g.sum().backward()


def test_saved_tensors_are_checked_and_freed(x: plait.Tensor) -> None:
    y = x * 1.0
    z = Cube.apply(y)
    with plait.no_grad():
        y.add_(1.0)
    with pytest.raises(InplaceError, match="CubeBackward"):
        z.sum().backward()
    z = Cube.apply(x)
    z.sum().backward()
    with pytest.raises(AutogradError, match=r"CubeBackward.*second time"):
        z.sum().backward()


def test_stashed_tensors_are_not_checked(x: plait.Tensor) -> None:
    class Stash(Function):
        @staticmethod
        def forward(ctx: Any, t: Any) -> Any:
            ctx.t = t
            return t * 2.0

        @staticmethod
        def backward(ctx: Any, g: Any) -> Any:
            return g * ctx.t

    y = x * 1.0
    z = Stash.apply(y)
    with plait.no_grad():
        y.mul_(10.0)
    z.sum().backward()
    assert x.grad.tolist() == [10.0, 20.0, 30.0]


def test_intermediates_can_be_saved(x: plait.Tensor) -> None:
    class Saved(Function):
        @staticmethod
        def forward(ctx: Any, t: Any) -> Any:
            inner = t.exp()
            ctx.save_for_backward(inner, None)
            return inner * inner

        @staticmethod
        def backward(ctx: Any, g: Any) -> Any:
            inner, nothing = ctx.saved_tensors
            assert nothing is None
            return g * inner * inner * 2.0

    Saved.apply(x).sum().backward()
    expected = plait.tensor([2.0, 4.0, 6.0]).exp() * 2.0
    assert x.grad.tolist() == pytest.approx(expected.tolist())


def wrong(backward: Any) -> type[Function]:
    return type(
        "Wrong",
        (Function,),
        {"forward": staticmethod(lambda ctx, t, n: t * n), "backward": staticmethod(backward)},
    )


def test_wrong_results_of_backward(x: plait.Tensor) -> None:
    cases = [
        (lambda ctx, g: g, r"incorrect number of gradients \(expected 2, got 1\)"),
        (lambda ctx, g: (g, g), "different from None at position 1"),
        (lambda ctx, g: (g.view(3, 1).expand(3, 2), None), "invalid gradient at index 0"),
        (lambda ctx, g: (1.0, None), "invalid gradient at index 0; got a float"),
    ]
    for backward, message in cases:
        with pytest.raises(AutogradError, match=message):
            wrong(backward).apply(x, 2.0).sum().backward()
    wrong(lambda ctx, g: (g, None, None, None)).apply(x, 2.0).sum().backward()
    assert x.grad.tolist() == [1.0, 1.0, 1.0]


def test_misuse(x: plait.Tensor) -> None:
    with pytest.raises(AutogradError, match="apply"):
        Cube()
    with pytest.raises(AutogradError, match="static"):
        type("NotStatic", (Function,), {"forward": lambda ctx, t: t})

    class SavesFloat(Function):
        @staticmethod
        def forward(ctx: Any, t: Any) -> Any:
            ctx.save_for_backward(1.0)
            return t

    with pytest.raises(ArgumentTypeError, match="save_for_backward can only save variables"):
        SavesFloat.apply(x)


def test_against_pytorch(torch: ModuleType) -> None:
    def run(m: Any) -> list[Any]:
        class Pair(m.autograd.Function):  # type: ignore[misc, name-defined]
            @staticmethod
            def forward(ctx: Any, a: Any, b: Any) -> Any:
                ctx.save_for_backward(a, b)
                return a * b, a + b

            @staticmethod
            def backward(ctx: Any, g: Any, h: Any) -> Any:
                a, b = ctx.saved_tensors
                return g * b + h, g * a + h

        a = m.tensor([1.0, 2.0], requires_grad=True)
        b = m.tensor([3.0, 5.0], requires_grad=True)
        p, s = Pair.apply(a, b)
        (g,) = m.autograd.grad((p * s).sum(), a, create_graph=True)
        (g * g).sum().backward()
        return [g.tolist(), a.grad.tolist(), b.grad.tolist()]

    assert run(plait) == run(torch)
