"""`vmap`: dims, structures, levels, randomness, chunks and errors, beside `torch.func.vmap`."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import optree
import pytest

import plait
from plait.base import log
from plait.base.errors import (
    AutogradError,
    DataDependentError,
    InplaceError,
    InvalidArgument,
    PlaitError,
    ShapeMismatch,
    TransformError,
)
from plait.dispatch.state import tls

torch = pytest.importorskip("torch")
SYSTEMS = ((torch, torch.func.vmap), (plait, plait.vmap))


@pytest.fixture(autouse=True)
def state_is_as_before() -> Any:
    def state() -> Any:
        return tls.include, tls.exclude, tls.grad_enabled, tls.vmap_levels, list(tls.modes)

    before = state()
    yield
    assert state() == before


def arrays(m: Any, *shapes: tuple[int, ...]) -> list[Any]:
    rng = np.random.default_rng(0)
    return [m.tensor(rng.standard_normal(s), dtype=m.float64) for s in shapes]


def flat(result: Any) -> list[Any]:
    leaves: Any = optree.tree_leaves(result)
    return [t.detach().numpy() if hasattr(t, "detach") else t for t in leaves]


# ---------------------------------------------------------------- the same as PyTorch

# name -> (m, vmap) -> result, where m is plait or torch
Case = Callable[[Any, Any], Any]


def _in_place_on_the_argument(m: Any, v: Any) -> Any:
    x, y = arrays(m, (3, 4), (3, 4))
    out = v(lambda a, b: a.add_(b).mul_(2.0))(x, y)
    return x, out


def _in_place_on_fresh_memory(m: Any, v: Any) -> Any:
    def f(x: Any) -> Any:
        y = m.zeros_like(x)
        y[1] = x[0]
        y[2:].copy_(x[:2] * 3)
        y.new_zeros((2,)).add_(x[0])
        return y

    return v(f)(*arrays(m, (3, 4)))


def _levels(m: Any, v: Any) -> Any:
    x, y, z = arrays(m, (2,), (3,), (4, 5))

    def inner(a: Any) -> Any:
        return v(lambda b: v(lambda c: (a * c).sum() + b, in_dims=1, out_dims=0)(z))(y)

    return v(inner, out_dims=1)(x)


CASES: dict[str, Case] = {
    "last dim": lambda m, v: v(lambda x: x * x[0], in_dims=-1)(*arrays(m, (4, 3))),
    "middle to last": lambda m, v: v(lambda x: x.sum(0), in_dims=1, out_dims=-1)(
        *arrays(m, (4, 3, 2))
    ),
    "different dims": lambda m, v: v(lambda x, y: x @ y, in_dims=(1, 2))(
        *arrays(m, (4, 3, 5), (5, 2, 3))
    ),
    "negative dims": lambda m, v: v(lambda x, y: x @ y, in_dims=(-2, -1), out_dims=-2)(
        *arrays(m, (4, 3, 5), (5, 2, 3))
    ),
    "shared argument": lambda m, v: v(lambda x, y: x @ y, in_dims=(None, 0))(
        *arrays(m, (4, 5), (3, 5))
    ),
    "numbers by None": lambda m, v: v(lambda x, k, s: x * k, in_dims=(0, None, None))(
        *arrays(m, (3, 2)), 2.0, "text"
    ),
    "dict and list": lambda m, v: v(
        lambda d, pair: d["w"] * pair[0] + pair[1], in_dims=({"w": 1}, [0, None])
    )({"w": arrays(m, (2, 3))[0]}, [*arrays(m, (3, 2), (2,))]),
    "an int for a part": lambda m, v: v(
        lambda d, y: d["a"]["b"] + d["c"] + y, in_dims=({"a": 0, "c": None}, 1)
    )({"a": {"b": arrays(m, (3, 2))[0]}, "c": arrays(m, (2,))[0]}, arrays(m, (2, 3))[0]),
    "keywords are shared": lambda m, v: v(lambda x, y=None: x * y)(
        *arrays(m, (3, 2)), y=arrays(m, (2,))[0]
    ),
    "results in a structure": lambda m, v: v(
        lambda x: {"a": x, "b": (x * 2, [x.sum()])}, out_dims={"a": 1, "b": (-1, [0])}
    )(*arrays(m, (3, 2))),
    "one dim for all results": lambda m, v: v(lambda x: (x, {"k": x * 2}), out_dims=1)(
        *arrays(m, (3, 2))
    ),
    "a result that samples share": lambda m, v: v(lambda x: (x, m.ones(2)), out_dims=(0, None))(
        *arrays(m, (3, 2))
    ),
    "a shared result laid out": lambda m, v: v(lambda x: m.ones(2))(*arrays(m, (3, 2))),
    "no tensor": lambda m, v: v(lambda x: (x, 7), out_dims=(0, None))(*arrays(m, (3, 2))),
    "no samples": lambda m, v: v(lambda x: x.exp().sum(0))(m.ones(0, 2, dtype=m.float64)),
    "chunks": lambda m, v: v(lambda x: (x * 2, x.sum()), out_dims=(1, 0), chunk_size=3)(
        *arrays(m, (7, 2))
    ),
    "a large chunk": lambda m, v: v(lambda x: x * 2, chunk_size=100)(*arrays(m, (7, 2))),
    "iteration": lambda m, v: v(lambda x: sum(list(x)) * len(x) * x.shape[0])(*arrays(m, (3, 2))),
    "indices that differ": lambda m, v: v(lambda x, i: x[i])(
        *arrays(m, (3, 5)), m.tensor([[0, 1], [4, 3], [2, 2]])
    ),
    "one index that differs": lambda m, v: v(lambda x, i: x[i, 1:])(
        *arrays(m, (3, 5, 4)), m.tensor([0, -1, 2])
    ),
    "in place on the argument": _in_place_on_the_argument,
    "in place on fresh memory": _in_place_on_fresh_memory,
    "three levels": _levels,
    "shared outside, mapped inside": lambda m, v: v(
        v(lambda x, y: x * y, in_dims=(None, 0)), in_dims=(0, None)
    )(*arrays(m, (4,), (3,))),
    "gradient through": lambda m, v: m.autograd.grad(
        v(lambda a: (a * a).sum())(x := arrays(m, (3, 2))[0].requires_grad_()).sum(), x
    ),
    "types of samples without dims": lambda m, v: v(lambda x, y: x * y)(
        m.ones(3), m.ones(3, 2, dtype=m.float16)
    ),
    "conditions": lambda m, v: v(lambda x: m.where(x > 0, x, -x).sum())(*arrays(m, (3, 4))),
    "a network": lambda m, v: v(
        lambda w, b, x: m.softmax(m.tanh(x @ w + b) @ w, -1), in_dims=(0, 0, None)
    )(*arrays(m, (3, 4, 4), (3, 4), (5, 4))),
}


@pytest.mark.parametrize("name", CASES)
def test_the_result_is_pytorchs(name: str) -> None:
    wanted, found = (flat(CASES[name](m, v)) for m, v in SYSTEMS)
    assert len(wanted) == len(found)
    for theirs, mine in zip(wanted, found, strict=True):
        if isinstance(theirs, np.ndarray):
            assert mine.shape == theirs.shape and mine.dtype == theirs.dtype
            np.testing.assert_allclose(mine, theirs, rtol=1e-12, atol=1e-12)
        else:
            assert mine == theirs


def test_a_result_that_samples_share_may_lie_along_any_dim() -> None:
    assert plait.vmap(lambda x: plait.ones(2), out_dims=1)(plait.ones(3)).shape == (2, 3)
    assert plait.vmap(lambda x: plait.ones(2), out_dims=-1)(plait.ones(3)).shape == (2, 3)


# ---------------------------------------------------------------- errors


def _escape(m: Any, v: Any) -> Any:
    kept: list[Any] = []
    v(lambda x: kept.append(x) or x)(m.ones(2, 3))
    return kept[0] + 1


def _write_shared(m: Any, v: Any) -> Any:
    y = m.zeros(3)
    return v(lambda x: y.add_(x))(m.ones(2, 3))


def _write_item_of_shared(m: Any, v: Any) -> Any:
    def f(x: Any) -> Any:
        y = m.zeros(3)
        y[0] = x[0]
        return y

    return v(f)(m.ones(2, 3))


# name -> (call, our class, a part of our message, a part of PyTorch's message)
ERRORS: dict[str, tuple[Case, type[PlaitError], str, str]] = {
    "in_dims of another type": (
        lambda m, v: v(lambda x: x, in_dims="0")(m.ones(2)),
        InvalidArgument, "a str; expected `in_dims` to be int", "expected `in_dims` to be int",
    ),
    "in_dims alone None": (
        lambda m, v: v(lambda x: x, in_dims=None)(m.ones(2)),
        InvalidArgument, "expected `in_dims` to be int", "expected `in_dims` to be int",
    ),
    "in_dims a float": (
        lambda m, v: v(lambda x: x, in_dims=(1.0,))(m.ones(2)),
        InvalidArgument, "Got in_dim=1.0 for an input", "Got in_dim=1.0 for an input",
    ),
    "no inputs": (
        lambda m, v: v(lambda: 1)(), InvalidArgument, "got no inputs", "got no inputs",
    ),
    "in_dims too short": (
        lambda m, v: v(lambda x, y: x, in_dims=(0,))(m.ones(2), m.ones(2)),
        InvalidArgument, "in_dims is not compatible with the structure of inputs",
        "in_dims is not compatible with the structure of `inputs`",
    ),
    "in_dims without a key": (
        lambda m, v: v(lambda d: d["a"], in_dims=({"a": 0},))({"a": m.ones(2), "b": m.ones(2)}),
        InvalidArgument, "in_dims is not compatible with the structure of inputs",
        "in_dims is not compatible with the structure of `inputs`",
    ),
    "nothing mapped": (
        lambda m, v: v(lambda x: x, in_dims=(None,))(m.ones(2)),
        InvalidArgument, "Expected at least one Tensor to vmap over",
        "Expected at least one Tensor to vmap over",
    ),
    "in_dim too large": (
        lambda m, v: v(lambda x: x, in_dims=2)(m.ones(2, 3)),
        InvalidArgument, "expected -2 <= in_dim < 2", "satisfy -2 <= in_dim < 2",
    ),
    "in_dim too small": (
        lambda m, v: v(lambda x: x, in_dims=-3)(m.ones(2, 3)),
        InvalidArgument, "expected -2 <= in_dim < 2", "satisfy -2 <= in_dim < 2",
    ),
    "an argument without dims": (
        lambda m, v: v(lambda x: x)(m.ones(())),
        InvalidArgument, "a Tensor of dimensionality 0", "a Tensor of dimensionality 0",
    ),
    "an argument that is no tensor": (
        lambda m, v: v(lambda x, y: x)(m.ones(2), 3),
        InvalidArgument, "please use None as the respective in_dim",
        "please use None as the respective in_dim",
    ),
    "numbers of samples": (
        lambda m, v: v(lambda x, y: x)(m.ones(2), m.ones(3)),
        InvalidArgument, r"the same size in the mapped dimension; got sizes \[2, 3\]",
        r"the same size in the mapped dimension, got sizes \[2, 3\]",
    ),
    "a result that is no tensor": (
        lambda m, v: v(lambda x: (x, 3))(m.ones(2)),
        InvalidArgument, "must only return Tensors, got type int", "must only return Tensors",
    ),
    "no result": (
        lambda m, v: v(lambda x: None)(m.ones(2)),
        InvalidArgument, "must only return Tensors, got type NoneType",
        "must only return Tensors",
    ),
    "out_dims too long": (
        lambda m, v: v(lambda x: (x, x), out_dims=(0, 0, 0))(m.ones(2)),
        InvalidArgument, "out_dims is not compatible with the structure of `outputs`",
        "out_dims is not compatible with the structure of `outputs`",
    ),
    "out_dims of another type": (
        lambda m, v: v(lambda x: (x, x), out_dims=(0, 1.5))(m.ones(2)),
        InvalidArgument, "`out_dims` must be an int, None or a python collection of ints",
        "`out_dims` must be an int, None or a python collection of ints",
    ),
    "out_dim None with samples": (
        lambda m, v: v(lambda x: x, out_dims=None)(m.ones(2)),
        InvalidArgument, "can not return a BatchedTensor when out_dim is None",
        "can not return a BatchedTensor when out_dim is None",
    ),
    "out_dim too large": (
        lambda m, v: v(lambda x: x, out_dims=2)(m.ones(2, 3)),
        plait.base.errors.IndexOutOfRange, "Dimension out of range", "Dimension out of range",
    ),
    "chunk_size": (
        lambda m, v: v(lambda x: x, chunk_size=0)(m.ones(2)),
        InvalidArgument, "argument 'chunk_size' is 0", "chunk_size should be None or greater",
    ),
    "randomness": (
        lambda m, v: v(lambda x: x, randomness="some")(m.ones(2)),
        TransformError, "'error', 'different', or 'same'", "'error', 'different', or 'same'",
    ),
    "random numbers": (
        lambda m, v: v(lambda x: x + m.rand(2))(m.ones(2, 2)),
        TransformError, "called random operation while in randomness error mode",
        "called random operation while in randomness error mode",
    ),
    "different numbers into shared memory": (
        lambda m, v: v(lambda x: x + m.zeros(2).normal_(), randomness="different")(m.ones(2, 2)),
        InplaceError, "a tensor that all samples share", "",
    ),
    "reading a number": (
        lambda m, v: v(lambda x: x * x.sum().item())(m.ones(2, 3)),
        DataDependentError, r"calling .item\(\) on a Tensor", r"calling .item\(\) on a Tensor",
    ),
    "deciding by a value": (
        lambda m, v: v(lambda x: x if x.sum() > 0 else -x)(m.ones(2, 3)),
        DataDependentError, "data-dependent control flow", "data-dependent control flow",
    ),
    "NumPy": (
        lambda m, v: v(lambda x: x.numpy())(m.ones(2, 3)), DataDependentError, "numpy reads", "",
    ),
    "a list": (
        lambda m, v: v(lambda x: x.tolist())(m.ones(2, 3)), DataDependentError, "tolist reads", "",
    ),
    "writing shared memory": (
        _write_shared, InplaceError, "argument 'self' is written but has no samples", "",
    ),
    "writing an item of shared memory": (
        _write_item_of_shared, InplaceError, "is written but has no samples",
        "is not possible because there exists a Tensor",
    ),
    "out= into shared memory": (
        lambda m, v: v(lambda x: m.add(x, x, out=m.zeros(3)))(m.ones(2, 3)),
        InplaceError, "argument 'out' is written but has no samples", "out=",
    ),
    "a tensor that escaped": (_escape, TransformError, "after its vmap has ended", "escaped"),
    "backward inside": (
        lambda m, v: v(lambda x: (x * x).sum().backward())(m.ones(2, 3).requires_grad_()),
        AutogradError, "backward: called inside vmap", "backward",
    ),
    "autograd.grad inside": (
        lambda m, v: v(lambda x: m.autograd.grad((x * x).sum(), x)[0])(
            m.ones(2, 3).requires_grad_()
        ),
        AutogradError, "grad: called inside vmap", "does not require grad",
    ),
    "requires_grad_ inside": (
        lambda m, v: v(lambda x: x.requires_grad_())(m.ones(2, 3)),
        TransformError, "requires_grad_: called on a batched tensor", "requires_grad_",
    ),
    "shapes": (
        lambda m, v: v(lambda x, y: x @ y)(m.ones(2, 3, 4), m.ones(2, 3, 4)), ShapeMismatch, "", "",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", ERRORS)
def test_errors_are_of_pytorchs_class(name: str) -> None:
    """The builtin class is the same, and so are the words by which people find the cause."""
    call, cls, ours, theirs = ERRORS[name]
    with pytest.raises(Exception, match=theirs or None) as reference:
        call(*SYSTEMS[0])
    with pytest.raises(cls, match=ours or None) as found:
        call(*SYSTEMS[1])
    assert isinstance(found.value, type(reference.value))


def test_shapes_in_a_message_are_explained_for_each_level() -> None:
    f = plait.vmap(plait.vmap(lambda x, y: x + y, in_dims=(0, None)), in_dims=(0, None))
    with pytest.raises(ShapeMismatch) as caught:
        f(plait.ones(5, 6, 3), plait.ones(4))
    assert [n.split(":")[0] for n in caught.value.__notes__] == [
        "Inside vmap level 1",
        "Inside vmap level 2",
    ]


def test_an_exception_ends_its_levels_and_leaves_the_outer_ones() -> None:
    def outer(x: Any) -> Any:
        with pytest.raises(ZeroDivisionError):
            plait.vmap(lambda y: 1 // 0)(plait.ones(2))
        assert len(tls.vmap_levels) == 1
        with pytest.raises(ShapeMismatch):
            plait.vmap(lambda y: y + plait.ones(7))(plait.ones(2, 3))
        assert len(tls.vmap_levels) == 1
        return x * 2

    assert plait.vmap(outer)(plait.ones(2)).tolist() == [2.0, 2.0]


def test_threads_have_their_own_levels() -> None:
    barrier = threading.Barrier(4)
    found: dict[int, Any] = {}

    def work(number: int) -> None:
        x = plait.ones(3, 2) * number
        barrier.wait()
        for k in range(30):
            out = plait.vmap(plait.vmap(lambda t: t * t))(x)
            if k % 3 == number % 3:
                with pytest.raises(ShapeMismatch):
                    plait.vmap(lambda t: t + plait.ones(5))(x)
            if k % 5 == number:
                with pytest.raises(DataDependentError):
                    plait.vmap(lambda t: t.sum().item())(x)
        found[number] = (out.tolist(), tls.vmap_levels, tls.include)

    threads = [threading.Thread(target=work, args=(k,)) for k in range(4)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert found == {k: ([[float(k * k)] * 2] * 3, (), 0) for k in range(4)}


# ---------------------------------------------------------------- randomness


def test_the_same_numbers_for_all_or_different_ones() -> None:
    x = plait.ones(4, 3)
    for draw in (
        lambda x: x * 0 + plait.rand(3),
        lambda x: plait.rand_like(x),
        lambda x: plait.zeros_like(x).uniform_(),
        lambda x: plait.dropout(x * 5, 0.5, True),
        lambda x: plait.bernoulli(plait.full((3,), 0.5)) + x,
    ):
        same = plait.vmap(draw, randomness="same")(x).numpy()
        assert (same == same[0]).all()
        different = plait.vmap(draw, randomness="different")(plait.ones(20, 3)).numpy()
        assert len(np.unique(different, axis=0)) > 4


def test_draws_that_need_the_values_of_each_sample() -> None:
    p = plait.tensor([[0.0, 1.0], [1.0, 0.0]])
    draw = plait.vmap(plait.bernoulli, randomness="different")
    assert draw(p).tolist() == p.tolist()
    with pytest.raises(TransformError, match="the same numbers for samples of different"):
        plait.vmap(plait.bernoulli, randomness="same")(p)
    picks = plait.vmap(lambda p: plait.multinomial(p, 1), randomness="different")(p)
    assert picks.tolist() == [[1], [0]]


def test_inner_levels_say_how_they_draw() -> None:
    x = plait.ones(3, 4)
    inner = plait.vmap(lambda y: y * 0 + plait.rand(()), randomness="same")
    found = plait.vmap(inner, randomness="different")(x).numpy()
    assert (found == found[:, :1]).all()
    with pytest.raises(TransformError):
        plait.vmap(plait.vmap(lambda y: y + plait.rand(())), randomness="different")(x)


def test_the_seed_decides_compiled_and_eager_alike() -> None:
    x = plait.ones(5, 3)
    f = plait.vmap(lambda x: plait.dropout(x, 0.5, True), randomness="different")
    plait.manual_seed(3)
    wanted = f(x)
    for backend in ("aot_eager", "llvm"):
        compiled = plait.compile(f, backend=backend)
        plait.manual_seed(3)
        assert compiled(x).tolist() == wanted.tolist()


# ---------------------------------------------------------------- with everything else


class Square(plait.autograd.Function):
    """With two results, one of which is not differentiable."""

    @staticmethod
    def forward(ctx: Any, x: Any, w: Any) -> Any:
        ctx.save_for_backward(x, w)
        sign = x > 0
        ctx.mark_non_differentiable(sign)
        return x * x * w, sign

    @staticmethod
    def backward(ctx: Any, g: Any, _: Any) -> Any:
        x, w = ctx.saved_tensors
        return 2 * x * w * g, (x * x * g).sum()


class WithRule(plait.autograd.Function):
    """x * k with a batching rule of its own."""

    calls: list[Any] = []

    @staticmethod
    def forward(ctx: Any, x: Any, k: Any) -> Any:
        ctx.k = k
        return x * k

    @staticmethod
    def backward(ctx: Any, g: Any) -> Any:
        return g * ctx.k, None

    @staticmethod
    def vmap(info: Any, in_dims: Any, x: Any, k: Any) -> Any:
        WithRule.calls.append((info.batch_size, in_dims))
        return WithRule.apply(x, k), in_dims[0]


def test_a_function_with_a_backward_of_its_own() -> None:
    x, w = arrays(plait, (3, 4), ())
    x.requires_grad_()
    w.requires_grad_()
    y, sign = plait.vmap(Square.apply, in_dims=(0, None))(x, w)
    np.testing.assert_allclose(y.detach().numpy(), (x * x * w).detach().numpy())
    assert sign.tolist() == (x > 0).tolist()
    gx, gw = plait.autograd.grad(y.sum(), (x, w))
    np.testing.assert_allclose(gx.numpy(), (2 * x * w).detach().numpy())
    np.testing.assert_allclose(gw.numpy(), (x * x).sum().detach().numpy())
    per_sample = plait.vmap(
        plait.func.grad(lambda x, w: Square.apply(x, w)[0].sum(), argnums=(0, 1)), in_dims=(0, None)
    )
    found = plait.compile(per_sample)(x.detach(), w.detach())
    np.testing.assert_allclose(found[1].numpy(), (x * x).sum(1).detach().numpy())


def test_a_function_with_a_batching_rule_of_its_own() -> None:
    WithRule.calls.clear()
    x = plait.ones(4, 3)
    found = plait.vmap(lambda x: WithRule.apply(x, 2.0), in_dims=1, out_dims=1)(x)
    assert found.tolist() == [[2.0] * 3] * 4
    assert WithRule.calls == [(3, (1, None))]
    grads = plait.vmap(plait.func.grad(lambda x: WithRule.apply(x, 2.0).sum()))(x)
    assert grads.tolist() == [[2.0] * 3] * 4


def test_a_function_that_writes_its_input_is_refused() -> None:
    class Writes(plait.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Any) -> Any:
            ctx.mark_dirty(x)
            return x.mul_(2.0)

        @staticmethod
        def backward(ctx: Any, g: Any) -> Any:
            return g * 2

    with pytest.raises(TransformError, match="Writes: writes an input"):
        plait.vmap(lambda x: Writes.apply(x * 1))(plait.ones(2))


def test_checkpoints_inside_keep_what_they_save_with_a_recorded_reason() -> None:
    x = plait.randn(3, 4, requires_grad=True)
    log.clear()
    y = plait.vmap(plait.checkpoint(lambda t: t.sin().exp()))(x)
    assert "checkpoint inside vmap" in log.events("fallback")[0].reason
    y.sum().backward()
    np.testing.assert_allclose(
        x.grad.numpy(), (x.cos() * x.sin().exp()).detach().numpy(), rtol=1e-6
    )


def test_modes_and_hooks_see_all_samples_at_once() -> None:
    shapes: list[Any] = []

    class Shapes(plait.DispatchMode):
        def __plait_dispatch__(self, op: Any, types: Any, args: Any, kwargs: Any) -> Any:
            out = op(*args, **kwargs)
            shapes.append((op.name, tuple(out.shape)))
            return out

    with Shapes():
        plait.vmap(lambda x: x.exp())(plait.ones(3, 2))
    assert shapes == [("ones", (3, 2)), ("exp", (3, 2))]


@pytest.mark.parametrize("backend", ["eager", "aot_eager", "llvm"])
def test_compiled_maps_are_eager_maps(backend: str) -> None:
    x, w, b = arrays(plait, (6, 5), (5, 4), (4,))

    def f(x: Any, w: Any, b: Any) -> Any:
        return plait.softmax(plait.tanh(x @ w) + b, -1)

    mapped = plait.vmap(f, in_dims=(0, None, None), out_dims=1)
    compiled = plait.compile(mapped, backend=backend)
    for size in (6, 3, 4):
        mine, wanted = compiled(x[:size], w, b), mapped(x[:size], w, b)
        np.testing.assert_allclose(mine.numpy(), wanted.numpy(), rtol=1e-12)
    assert len(compiled.entries) == 2  # the second one has a symbol for the number of samples


def test_a_compiled_function_inside_a_map_runs_eagerly_with_a_recorded_reason() -> None:
    x = plait.randn(3, 4)
    compiled = plait.compile(lambda t: (t.sin() * 2).sum())
    log.clear()
    found = plait.vmap(compiled)(x)
    assert any("called inside vmap" in e.reason for e in log.events("fallback"))
    np.testing.assert_allclose(found.numpy(), (x.sin() * 2).sum(1).numpy(), rtol=1e-6)
    compiled(x[0])
    np.testing.assert_allclose(plait.vmap(compiled)(x).numpy(), found.numpy())
    assert len(compiled.entries) == 1


def test_names_and_documentation_are_those_of_the_function() -> None:
    def documented(x: Any) -> Any:
        """What it does."""
        return x

    mapped = plait.vmap(documented)
    assert mapped.__name__ == "documented" and mapped.__doc__ == "What it does."
    assert "BatchedTensor(level=1, bdim=1" in _shown(plait.ones(2, 3))


def _shown(x: Any) -> str:
    seen: list[str] = []
    plait.vmap(lambda t: seen.append(repr(t)) or t, in_dims=1)(x)
    return seen[0]
