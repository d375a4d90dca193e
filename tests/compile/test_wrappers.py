"""Compiled functions of wrapper subclasses: against eager, guards, refusals with reasons."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

import plait
from plait import nn
from plait.base import log
from plait.base.errors import (
    ArgumentTypeError,
    AutogradError,
    CaptureError,
    DataDependentError,
    InplaceError,
)
from plait.tensor.tensor import Tensor
from plait.tensor.wrapper import WrapperTensor, correct_aliasing, map_tensors
from plait.tensor.wrapper_recipe import pieces_of, recipe_of
from plait.testing.two_tensor import TwoTensor

BACKENDS = ["eager", "aot_eager", "llvm"]


class Scaled(WrapperTensor):
    """Values times a number kept in the context; most operators give plain tensors."""

    def __init__(self, values: Tensor, scale: float) -> None:
        super().__init__(values.shape, dtype=values.dtype, strides=values.strides)
        self.values, self.scale = values, scale

    def __plait_flatten__(self) -> Any:
        return ("values",), self.scale

    @classmethod
    def __plait_unflatten__(cls, inner: Any, context: Any, shape: Any, strides: Any) -> Tensor:
        return cls(inner["values"], context)

    @classmethod
    def __plait_dispatch__(cls, op: Any, types: Any, args: Any, kwargs: Any) -> Any:
        if op.name in ("t", "detach", "alias", "clone", "slice"):
            made = cls(op(args[0].values, *args[1:], **kwargs), args[0].scale)
            return correct_aliasing(op, args, kwargs, made)
        args, kwargs = map_tensors(lambda t: t.values * t.scale, (args, kwargs), cls)
        return op(*args, **kwargs)


def two(*values: float, requires_grad: bool = False) -> TwoTensor:
    a = plait.tensor(list(values))
    return TwoTensor(a, a * 10, requires_grad=requires_grad)


def flat(tensor: Tensor) -> list[float]:
    values: list[float] = tensor.detach().reshape(-1).tolist()
    return values


def same(found: Any, want: Any) -> None:
    """Equal structure, classes and numbers."""
    assert type(found) is type(want)
    if isinstance(want, Tensor):
        assert found.shape == want.shape and found.stride() == want.stride()
        assert found.requires_grad == want.requires_grad
        for mine, theirs in zip(pieces_of(found), pieces_of(want), strict=True):
            assert mine.dtype is theirs.dtype
            assert flat(mine) == pytest.approx(flat(theirs), rel=1e-5, abs=1e-6)
    elif isinstance(want, tuple | list):
        assert len(found) == len(want)
        for mine, theirs in zip(found, want, strict=True):
            same(mine, theirs)
    elif isinstance(want, dict):
        same(list(found.items()), list(want.items()))
    else:
        assert found == want


def nested(x: TwoTensor) -> TwoTensor:
    return TwoTensor(x, TwoTensor(x.a + 1, x.b))


X = [0.1, 0.2, 0.3]
PROGRAMS: dict[str, tuple[Callable[..., Any], Callable[[], tuple[Any, ...]]]] = {
    "in and out": (lambda x: (x * 2).sin(), lambda: (two(*X),)),
    "mixed with dense": (lambda x, w: x * w + w, lambda: (two(*X), plait.ones(3))),
    "dense first": (lambda w, x: w.exp() * x, lambda: (plait.ones(3), two(*X))),
    "in containers": (lambda d: {"y": d["x"][0].sum()}, lambda: ({"x": [two(*X)]},)),
    "dense out": (lambda x: (x.a + x.b, x * 1), lambda: (two(*X),)),
    "inner of a result": (lambda x: x.exp().b.sum(), lambda: (two(*X),)),
    "made inside": (lambda a: TwoTensor(a, a + 1).sum(), lambda: (plait.ones(3),)),
    "made inside, returned": (lambda a: TwoTensor(a.sin(), a), lambda: (plait.ones(3),)),
    "only from constants": (lambda: TwoTensor(plait.ones(2), plait.zeros(2)) * 3, lambda: ()),
    "nested": (lambda x: (x * x).sum(), lambda: (nested(two(*X)),)),
    "nested made inside": (lambda x: nested(x).sin(), lambda: (two(*X),)),
    "identity": (lambda x: (x, x), lambda: (two(*X),)),
    "views": (lambda x: (x[1:], x.reshape(3, 1).t()), lambda: (two(*X),)),
    "context": (lambda x: x @ plait.ones(2, 2), lambda: (Scaled(plait.ones(2, 2), 3.0),)),
    "context kept": (lambda x: x.t(), lambda: (Scaled(plait.ones(2, 3), 3.0),)),
    "random": (lambda x: nn.functional.dropout(x, 0.0), lambda: (two(*X),)),
}


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("name", PROGRAMS)
def test_compiled_is_eager(name: str, backend: str) -> None:
    fn, make = PROGRAMS[name]
    compiled = plait.compile(fn, backend=backend, fullgraph=True)
    for _ in range(2):
        args = make()
        same(compiled(*args), fn(*args))
    assert len(compiled.entries) == 1


# ---------------------------------------------------------------- gradients


GRADIENTS: dict[str, Callable[..., Any]] = {
    "wrapper and dense": lambda x, w: (x * w).sin().sum(),
    "two results": lambda x, w: ((x * w).sum(), (w * w).sum()),
    "views inside": lambda x, w: (x[1:] * w[:-1]).exp().sum(),
    "written inside": lambda x, w: (x * 1).mul_(w).sum(),
    "not a scalar": lambda x, w: (x * w).exp(),
    "unused": lambda x, w: (x * 2).sum(),
    "grad inside": lambda x, w: plait.autograd.grad([(x**2).sum()], [x])[0] * w,
}


@pytest.mark.parametrize("backend", ["aot_eager", "llvm"])
@pytest.mark.parametrize("leaf", [True, False])
@pytest.mark.parametrize("name", GRADIENTS)
def test_gradients_are_eagers(name: str, leaf: bool, backend: str) -> None:
    fn = GRADIENTS[name]
    compiled = plait.compile(fn, backend=backend, fullgraph=True)

    def step(call: Callable[..., Any]) -> tuple[Any, ...]:
        x = two(*X, requires_grad=True)
        w = plait.tensor([1.0, 2.0, 3.0], requires_grad=True)
        given = x if leaf else x * 1
        results = call(given, w)
        results = results if isinstance(results, tuple) else (results,)
        tangents = [r.detach() * 0 + 1 for r in results]
        plait.autograd.backward(list(results), tangents)
        return (*results, x.grad, w.grad)

    same(step(compiled), step(fn))
    same(step(compiled), step(fn))
    assert len(compiled.entries) == 1 and not compiled.runs_eagerly


def test_the_graph_sees_plain_tensors_with_descriptors() -> None:
    compiled = plait.compile(lambda x, w: (x * w).sum(), fullgraph=True)
    compiled(two(*X, requires_grad=True), plait.ones(3))
    graph = compiled.graphs()["joint"]
    assert [i.desc.expr() for i in graph.inputs if i.desc is not None] == [
        "x.a",
        "x.b",
        "w",
        "output_tangent(output).a",
        "output_tangent(output).b",
    ]
    assert [d.expr() for d in graph.output_descs] == [
        "output.a",
        "output.b",
        "grad(x).a",
        "grad(x).b",
    ]
    assert [i.name for i in graph.inputs] == [
        "x_a",
        "x_b",
        "w",
        "tangent_output_a",
        "tangent_output_b",
    ]
    assert all(n.op.qualname.startswith("aten::") for n in graph.nodes)


def test_a_dense_argument_may_get_a_gradient_that_is_a_wrapper() -> None:
    compiled = plait.compile(lambda x, w: (x * w).sum(), fullgraph=True)
    w = plait.ones(3, requires_grad=True)
    compiled(two(*X), w).backward()
    assert type(w.grad) is TwoTensor and w.grad.b.tolist() == pytest.approx([1.0, 2.0, 3.0])


def test_a_cotangent_of_another_class_is_coerced_or_named() -> None:
    class Strict(TwoTensor):
        @classmethod
        def __plait_coerce_tangent__(cls, tangent: Tensor, context: Any) -> Tensor | None:
            return None

    def step(cls: type[TwoTensor], tangent: Tensor) -> Any:
        x = cls(plait.ones(2), plait.ones(2), requires_grad=True)
        y = plait.compile(lambda t: t * 3, fullgraph=True)(x)
        plait.autograd.backward([y], [tangent])
        return x.grad

    grad = step(TwoTensor, plait.ones(2))
    assert grad.a.tolist() == grad.b.tolist() == [3.0, 3.0]
    with pytest.raises(AutogradError, match=r"got a Tensor of shape \(2,\); expected a Strict"):
        step(Strict, plait.ones(2))
    w = plait.ones(2, requires_grad=True)
    y = plait.compile(lambda t: t * 3, fullgraph=True)(w)
    dense = plait.compile(lambda t, u: (t * 3, u * 2), fullgraph=True)(w, two(1.0, 2.0))[0]
    del y
    with pytest.raises(AutogradError, match="got a TwoTensor of shape .* expected a plain tensor"):
        plait.autograd.backward([dense], [two(1.0, 1.0)])


def test_a_second_derivative_is_refused_with_advice() -> None:
    x = two(*X, requires_grad=True)
    y = plait.compile(lambda t: (t * t).sum(), fullgraph=True)(x)
    with pytest.raises(AutogradError, match="create_graph=True through a compiled function"):
        plait.autograd.grad([y], [x], create_graph=True)


# ---------------------------------------------------------------- writes and aliases


def test_a_written_argument_is_written_and_returned_itself() -> None:
    def fn(x: Any) -> Any:
        x.add_(1)
        return x, x * 2

    compiled = plait.compile(fn, fullgraph=True)
    x = two(*X)
    inner, version = x.a, x._version
    for k in (1, 2):
        found, doubled = compiled(x)
        assert found is x and x.a is inner and x._version == version + k
        assert x.a.tolist() == pytest.approx([v + k for v in X])
        assert doubled.a.tolist() == pytest.approx([2 * (v + k) for v in X])


def test_a_returned_view_shares_memory_and_version() -> None:
    compiled = plait.compile(lambda x: x[1:], fullgraph=True)
    x = two(*X)
    tail = compiled(x)
    tail.mul_(0)
    assert x.a.tolist() == pytest.approx([0.1, 0.0, 0.0]) and x._version == 1
    assert tail.storage is x.storage


def test_writes_to_shared_inner_tensors_run_eagerly_with_a_reason() -> None:
    def fn(x: Any) -> Any:
        x.add_(1)
        return x.sum()

    compiled = plait.compile(fn)
    shared = plait.ones(2)
    log.clear()
    same(compiled(TwoTensor(shared, shared)), TwoTensor(plait.tensor(6.0), plait.tensor(6.0)))
    assert any("written arguments overlap" in e.reason for e in log.events("fallback"))
    apart = TwoTensor(plait.ones(2), plait.ones(2))
    assert compiled(apart).a.item() == 4.0 and len(compiled.entries) == 2


@pytest.mark.parametrize(
    ("fn", "reason"),
    [
        (lambda x, w: x.mul_(w), "requires grad, is written"),
        (lambda x, w: (x * w)[1:].unsqueeze(0), None),
        (lambda x, w: x[1:], "shares memory with an argument"),
    ],
)
def test_what_cannot_be_compiled_runs_eagerly_with_a_reason(fn: Any, reason: str | None) -> None:
    def args() -> tuple[Any, Any]:
        return two(*X, requires_grad=True) * 1, plait.ones(3, requires_grad=True)

    compiled = plait.compile(fn)
    log.clear()
    same(compiled(*args()), fn(*args()))
    same(compiled(*args()), fn(*args()))
    reasons = [e.reason for e in log.events("fallback")]
    assert [r for r in reasons if reason in r] if reason is not None else not reasons
    if reason is not None:
        with pytest.raises(CaptureError, match=reason):
            plait.compile(fn, fullgraph=True)(*args())


def test_what_a_trace_would_not_see_is_refused() -> None:
    def refused(fn: Any, match: str, error: Any = CaptureError) -> None:
        with pytest.raises(error, match=match):
            plait.compile(fn)(two(*X, requires_grad=True))

    refused(lambda x: x * x.grad, r"Tensor.grad of a wrapper")
    refused(lambda x: x.sum().backward(), r"Tensor.backward\(\) of a wrapper")
    refused(lambda x: x.register_hook(lambda g: g * 2), r"Tensor.register_hook\(\) of a wrapper")
    refused(lambda x: (x * 2).retain_grad(), r"Tensor.retain_grad\(\) of a wrapper")
    refused(lambda x: x.sum().item(), "reads the value", DataDependentError)
    refused(lambda x: TwoTensor(x.a, x.b, requires_grad=True) * 2, "that requires grad is made at ")


@pytest.mark.parametrize("backend", ["aot_eager", "llvm"])
@pytest.mark.parametrize("target", ["argument", "result", "view of the argument", "other"])
def test_a_write_between_forward_and_backward_is_an_error_as_in_eager(
    target: str, backend: str
) -> None:
    def fn(x: Any, y: Any) -> Any:
        z = (x * y).exp()
        return z, z.sum()

    def step(call: Callable[..., Any]) -> str:
        x, y = two(*X, requires_grad=True), two(*X)
        z, loss = call(x, y)
        with plait.no_grad():
            written = {"argument": y, "result": z, "view of the argument": y[1:]}.get(target)
            (two(*X) if written is None else written).add_(1)
        try:
            loss.backward()
        except InplaceError as error:
            assert "modified by an inplace operation" in str(error)
            return "InplaceError"
        assert x.grad is not None
        return str(flat(x.grad.a))

    compiled = plait.compile(fn, backend=backend, fullgraph=True)
    found, want = step(compiled), step(fn)
    if target == "result":  # what the caller gets may be computed again instead of being saved
        clean = step(lambda x, y: (fn(x, y)[0].clone(), fn(x, y)[1]))
        assert want == "InplaceError"
        assert found == want or found[:6] == clean[:6]
    else:
        assert (found == "InplaceError") == (want == "InplaceError") == (target != "other")


def test_a_gradient_of_an_inner_tensor_runs_eagerly() -> None:
    def args(requires_grad: bool) -> tuple[Any, Any]:
        a = plait.tensor(X, requires_grad=requires_grad)
        return TwoTensor(a, plait.ones(3)), a

    compiled = plait.compile(lambda x: (x.a * x.a).sum())
    x, _ = args(False)
    same(compiled(x), (x.a * x.a).sum())
    x, a = args(True)
    compiled(x).backward()
    assert a.grad is not None and flat(a.grad) == pytest.approx([0.2, 0.4, 0.6])
    assert "x.a.requires_grad" in str(compiled.recompiles[0])
    with pytest.raises(CaptureError, match="requires grad itself"):
        plait.compile(lambda t: (t.a * t.a).sum(), fullgraph=True)(x)


def test_other_inner_tensors_are_refused_or_run_eagerly() -> None:
    def assigns(x: Any) -> Any:
        x.a = x.a + 1
        return x * 1

    with pytest.raises(CaptureError, match=r"assigns the inner tensor 'a' of a TwoTensor"):
        plait.compile(assigns)(two(*X))

    class Replacing(TwoTensor):
        @classmethod
        def __plait_dispatch__(cls, op: Any, types: Any, args: Any, kwargs: Any) -> Any:
            if op.name != "add_":
                return super().__plait_dispatch__(op, types, args, kwargs)
            args[0].a, args[0].b = args[0].a + args[1], args[0].b + args[1]
            return args[0]

    def fn(x: Any) -> Any:
        x.add_(1)
        return x * 2

    compiled = plait.compile(fn)
    log.clear()
    for _ in range(2):
        x, y = (Replacing(plait.ones(2), plait.zeros(2)) for _ in range(2))
        same(compiled(x), fn(y))
        same(x, y)
    assert "replaces its inner tensors" in log.events("fallback")[0].reason


def test_a_context_must_compare() -> None:
    class Odd(TwoTensor):
        def __plait_flatten__(self) -> Any:
            return ("a", "b"), plait.ones(2)

    with pytest.raises(ArgumentTypeError, match=r"Odd.__plait_flatten__: the context is a Tensor"):
        plait.compile(lambda x: x * 2)(Odd(plait.ones(2), plait.ones(2)))


# ---------------------------------------------------------------- guards


def test_class_context_and_inner_metadata_are_guarded() -> None:
    compiled = plait.compile(lambda x: x + 1)

    class Other(TwoTensor):
        """Like its base, and another class."""

    calls: list[Any] = [
        two(*X),
        two(*X, 0.4),
        Other(plait.ones(3), plait.ones(3)),
        TwoTensor(two(*X), two(*X)),
        plait.ones(3),
        Scaled(plait.ones(3), 2.0),
        Scaled(plait.ones(3), 4.0),
        Scaled(plait.ones(3, dtype=plait.float64), 4.0),
    ]
    for count, x in enumerate(calls, 1):
        want = x + 1
        same(compiled(x), want)
        same(compiled(x), want)
        assert len(compiled.entries) == count, type(x)
    reasons = [str(r) for r in compiled.recompiles]
    assert reasons[0].startswith("entry 0: x.shape: expected (3,), got (4,)")
    assert "expected a TwoTensor, got 'Other'" in reasons[1]
    assert "context of x: expected 2.0, got 4.0" in reasons[5]


def test_inner_strides_are_guarded() -> None:
    compiled = plait.compile(lambda x: (x * 2).a)
    plain, turned = plait.ones(2, 2), plait.tensor([[1.0, 2.0], [3.0, 4.0]]).t()
    compiled(TwoTensor(plain, plain * 1))
    mixed = TwoTensor(plain, turned)
    same(compiled(mixed), (mixed * 2).a)
    assert "x.b.strides" in str(compiled.recompiles[0])


def test_a_wrapper_from_outside_is_an_input_read_again() -> None:
    held = two(*X)
    compiled = plait.compile(lambda x: x * held, fullgraph=True)
    same(compiled(plait.ones(3)), plait.ones(3) * held)
    held.add_(1)
    same(compiled(plait.ones(3)), plait.ones(3) * held)
    assert len(compiled.entries) == 1


def test_a_module_may_own_wrappers() -> None:
    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("scale", two(*X))

        def forward(self, x: Any) -> Any:
            return (x * self.scale).sum()

    model = Model()
    compiled = plait.compile(model, fullgraph=True)
    x = plait.ones(3, requires_grad=True)
    same(compiled(x), model(x))
    names = [i.desc.expr() for i in compiled.graphs()["joint"].inputs if i.desc is not None]
    assert names[0:2] == ["x", "self.get_buffer('scale').a"]
    held: Any = model.scale
    held.a = plait.arange(6, dtype=plait.float32)[::2]  # no attribute of the module changes
    same(compiled(x), model(x))
    assert len(compiled.entries) == 2 and "scale').a.strides" in str(compiled.recompiles[-1])
    model.scale = TwoTensor(plait.ones(3), plait.zeros(3))
    same(compiled(x), model(x))
    assert len(compiled.entries) == 2
    model.scale = plait.ones(3)
    same(compiled(x), model(x))
    assert len(compiled.entries) == 3


def test_symbolic_sizes_of_dense_arguments_reach_wrappers() -> None:
    def fn(a: Any) -> Any:
        return TwoTensor(a, a * 2).sin()

    compiled = plait.compile(fn, dynamic=True, fullgraph=True)
    for n in (3, 5, 7):
        x = plait.arange(n, dtype=plait.float32)
        same(compiled(x), fn(x))
    assert len(compiled.entries) == 1


def test_recipes_say_how_to_make_a_wrapper_again() -> None:
    x = nested(two(*X))
    recipe = recipe_of(x)
    assert recipe is not None and recipe.count == 4 and recipe_of(x.a.a) is None
    assert list(recipe.paths()) == [("a", "a"), ("a", "b"), ("b", "a"), ("b", "b")]
    same(recipe.rebuild(iter(pieces_of(x))), x)
    assert recipe.fits(x) and not recipe.fits(x.a) and not recipe.fits(TwoTensor(x.a.a, x.a.b))
    assert "Recipe(TwoTensor, a, b)" in repr(recipe) and not recipe.is_symbolic
