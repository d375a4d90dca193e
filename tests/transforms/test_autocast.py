"""Autocast: PyTorch's lists and types, gradients, the cache, nesting, compiled and mapped."""

from __future__ import annotations

import gc
import threading
import weakref
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import plait
from plait.base.errors import ArgumentTypeError, InvalidArgument, ShapeMismatch
from plait.dispatch.dispatcher import all_overloads
from plait.dispatch.state import tls
from plait.testing.compare import assert_close
from plait.transforms.autocast import FP32, LOWER_PRECISION, PROMOTE

torch = pytest.importorskip("torch")

F = plait.nn.functional
TF = torch.nn.functional


def state() -> tuple[Any, ...]:
    return tls.autocast_dtype, tls.autocast_cache, tls.include, tls.exclude, tls.autocast_states


def pair(*shape: int, dtype: str = "float32", seed: int = 0) -> tuple[Any, Any]:
    """The same values as a tensor of plait and of PyTorch."""
    values = np.random.default_rng(seed).standard_normal(shape)
    ours = plait.tensor(values, dtype=plait.float64).to(getattr(plait, dtype))
    return ours, torch.tensor(values).to(getattr(torch, dtype))


def as_float(t: Any) -> Any:
    return t.detach().to(plait.float64 if isinstance(t, plait.Tensor) else torch.float64).numpy()


# ---------------------------------------------------------------- lists and types


def test_the_lists_are_pytorchs() -> None:
    listed = LOWER_PRECISION | FP32 | PROMOTE
    for op in all_overloads():
        name = op.qualname.removesuffix(".default")
        if not name.startswith("aten::"):
            continue
        try:
            theirs = torch._C._dispatch_has_kernel_for_dispatch_key(name, "AutocastCPU")
        except RuntimeError:  # PyTorch has no such overload
            continue
        assert theirs == (name in listed), name


def _calls() -> dict[str, tuple[Callable[..., Any], Callable[..., Any], tuple[Any, ...]]]:
    """name -> (our call, PyTorch's, shapes)."""
    target = np.array([1, 0, 2])
    ours, theirs = plait.tensor(target), torch.tensor(target)
    return {
        "mm": (plait.mm, torch.mm, ((3, 4), (4, 5))),
        "bmm": (plait.bmm, torch.bmm, ((2, 3, 4), (2, 4, 5))),
        "addmm": (plait.addmm, torch.addmm, ((5,), (3, 4), (4, 5))),
        "matmul": (plait.matmul, torch.matmul, ((3, 4), (4,))),
        "linear": (F.linear, TF.linear, ((3, 4), (5, 4), (5,))),
        "attention": (
            F.scaled_dot_product_attention,
            TF.scaled_dot_product_attention,
            ((1, 2, 3, 4), (1, 2, 3, 4), (1, 2, 3, 4)),
        ),
        "prod": (lambda x: x.prod(), lambda x: x.prod(), ((3,),)),
        "prod_dim": (lambda x: x.prod(0), lambda x: x.prod(0), ((3, 2),)),
        "mse": (F.mse_loss, TF.mse_loss, ((3,), (3,))),
        "cross_entropy": (
            lambda x: F.cross_entropy(x, ours),
            lambda x: TF.cross_entropy(x, theirs),
            ((3, 4),),
        ),
        "cat": (lambda x, y: plait.cat([x, y]), lambda x, y: torch.cat([x, y]), ((3,), (3,))),
        "stack": (lambda x, y: plait.stack([x, y]), lambda x, y: torch.stack([x, y]), ((3,), (3,))),
        "softmax": (lambda x: x.softmax(-1), lambda x: x.softmax(-1), ((3, 4),)),
        "add": (lambda x, y: x + y, lambda x, y: x + y, ((3,), (3,))),
        "exp": (lambda x: x.exp(), lambda x: x.exp(), ((3,),)),
        "layer_norm": (
            lambda x: F.layer_norm(x, (4,)),
            lambda x: TF.layer_norm(x, (4,)),
            ((3, 4),),
        ),
    }


CALLS = _calls()
TYPES = ["float32", "bfloat16", "float16", "float64"]


@pytest.mark.parametrize("lower", ["bfloat16", "float16"])
@pytest.mark.parametrize("name", CALLS)
def test_types_and_values_are_pytorchs(name: str, lower: str) -> None:
    """For every pair of types of the first two arguments; both systems refuse the same ones."""
    ours, theirs, shapes = CALLS[name]
    for first in TYPES:
        for second in TYPES if len(shapes) > 1 else TYPES[:1]:
            dtypes = [first, second, second][: len(shapes)]
            args = [pair(*s, dtype=d, seed=k) for k, (s, d) in enumerate(zip(shapes, dtypes))]
            try:
                with torch.autocast("cpu", dtype=getattr(torch, lower)):
                    wanted = theirs(*[t for _, t in args])
            except RuntimeError as error:
                if "prioritize" in str(error):  # see the next test
                    continue
                with pytest.raises(RuntimeError), plait.autocast(dtype=getattr(plait, lower)):
                    ours(*[o for o, _ in args])
                continue
            with plait.autocast("cpu", dtype=getattr(plait, lower)):
                found = ours(*[o for o, _ in args])
            assert str(found.dtype).removeprefix("plait.") == str(wanted.dtype)[6:], dtypes
            half = {str(wanted.dtype)[6:], first, second, lower} & {"bfloat16", "float16"}
            np.testing.assert_allclose(
                as_float(found), as_float(wanted), rtol=0.04 if half else 1e-5, atol=0.04
            )


def test_joins_of_half_types_promote_in_any_order() -> None:
    """PyTorch refuses the other half type, unless a float32 tensor stands before it."""
    half, other, single = (
        plait.ones(1, dtype=d) for d in (plait.float16, plait.bfloat16, plait.float32)
    )
    with plait.autocast():
        assert plait.cat([half, half]).dtype is plait.float16
        for join in (plait.cat, plait.stack):
            assert join([half, single]).dtype is plait.float32
            assert join([single, half]).dtype is plait.float32
            assert join([half, other]).dtype is plait.float32


def test_integers_complex_numbers_and_meta_tensors_are_left_alone() -> None:
    with plait.autocast():
        assert (
            plait.ones(2, 2, dtype=plait.int64) @ plait.ones(2, 2, dtype=plait.int64)
        ).dtype is (plait.int64)
        z = plait.ones(2, 2, dtype=plait.complex64)
        assert (z @ z).dtype is plait.complex64
        m = plait.ones(2, 2, device="meta")
        assert (m @ m).dtype is plait.float32


def test_in_place_operators_keep_their_target() -> None:
    x = plait.ones(2, 2)
    with plait.autocast():
        x.mul_(x @ x)
    assert x.dtype is plait.float32


# ---------------------------------------------------------------- the context


def test_nesting_and_switching_off() -> None:
    w = plait.ones(2, 2)
    before = state()
    with plait.autocast(dtype=plait.float16):
        assert (w @ w).dtype is plait.float16
        with plait.autocast(enabled=False):
            assert (w @ w).dtype is plait.float32
            assert not plait.is_autocast_enabled()
            with plait.autocast():
                assert (w @ w).dtype is plait.bfloat16
        assert plait.get_autocast_dtype("cpu") is plait.float16
        assert (w @ w).dtype is plait.float16
    assert not plait.is_autocast_enabled("cpu")
    assert state() == before


def test_one_object_is_entered_again_inside_itself() -> None:
    context = plait.autocast()
    with context, context:
        assert plait.is_autocast_enabled()
    assert not plait.is_autocast_enabled()


def test_the_decorator_works_and_refuses_generators() -> None:
    @plait.autocast("cpu", dtype=plait.float16)
    def product(x: Any) -> Any:
        """Documented."""
        return x @ x

    assert product(plait.ones(2, 2)).dtype is plait.float16
    assert product.__doc__ == "Documented."
    with pytest.raises(ArgumentTypeError, match="generator"):

        @plait.autocast()
        def numbers() -> Any:
            yield 1


@pytest.mark.parametrize(
    "make",
    [
        lambda: plait.autocast("cuda"),
        lambda: plait.autocast(dtype=plait.float32),
        lambda: plait.is_autocast_enabled("meta"),
    ],
)
def test_bad_arguments(make: Callable[[], Any]) -> None:
    with pytest.raises(InvalidArgument, match="argument '(device_type|dtype)' is .*; expected"):
        make()


def test_an_exception_inside_leaves_the_state_as_it_was() -> None:
    before = state()
    w = plait.ones(2, 2, requires_grad=True)
    with pytest.raises(ShapeMismatch), plait.autocast():
        w @ plait.ones(3, 3)
    assert state() == before
    with plait.autocast():
        inside = state()
        with pytest.raises(ShapeMismatch):
            w @ plait.ones(3, 3)
        with pytest.raises(ZeroDivisionError), plait.autocast(enabled=False):
            raise ZeroDivisionError
        assert state() == inside


def test_threads_have_their_own_switch() -> None:
    seen: dict[int, Any] = {}
    barrier = threading.Barrier(4)
    shared = plait.autocast(dtype=plait.float16)

    def work(number: int) -> None:
        w = plait.ones(2, 2)
        barrier.wait()
        for _ in range(20):
            if number % 2:
                with shared:
                    inside = (w @ w).dtype
            else:
                inside = (w @ w).dtype
        try:
            with shared:
                raise ZeroDivisionError
        except ZeroDivisionError:
            seen[number] = (inside, (w @ w).dtype, tls.autocast_dtype)

    threads = [threading.Thread(target=work, args=(k,)) for k in range(4)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert seen == {
        k: (plait.float16 if k % 2 else plait.float32, plait.float32, None) for k in range(4)
    }


# ---------------------------------------------------------------- the cache


class CountCasts(plait.DispatchMode):
    """Counts casts to half types."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __plait_dispatch__(self, op: Any, types: Any, args: Any, kwargs: Any) -> Any:
        self.count += op.qualname == "aten::_to_copy"
        return op(*args, **kwargs)


def casts(fn: Callable[[], Any]) -> int:
    with CountCasts() as mode:
        fn()
    return mode.count


def test_a_parameter_is_cast_once_until_it_is_written() -> None:
    w = plait.ones(2, 2, requires_grad=True)
    x = plait.ones(2, 2, dtype=plait.bfloat16)
    with plait.autocast():
        assert casts(lambda: x @ w) == 1
        with plait.autocast():
            assert casts(lambda: (x @ w) @ w) == 0
        with plait.no_grad():
            assert casts(lambda: x @ w) == 1  # without history, so that it is another one
            w.add_(1.0)
        assert casts(lambda: x @ w) == 1
        assert (x @ w).tolist() == [[4.0, 4.0], [4.0, 4.0]]
        with plait.autocast(cache_enabled=False):
            assert casts(lambda: (x @ w) @ w) == 2
        frozen = plait.ones(2, 2)
        assert casts(lambda: (x @ frozen) @ frozen) == 2
    with plait.autocast():
        assert casts(lambda: x @ w) == 1


def test_a_cast_made_without_grad_does_not_cut_the_gradient() -> None:
    w = plait.ones(2, 2, requires_grad=True)
    with plait.autocast():
        with plait.no_grad():
            w @ w
        (w @ w).sum().backward()
    assert w.grad is not None and w.grad.dtype is plait.float32


def test_the_cache_ends_with_the_outermost_block() -> None:
    w = plait.ones(2, 2, requires_grad=True)
    gone = weakref.ref(w)
    with plait.autocast():
        with plait.autocast():
            w @ w
        assert tls.autocast_cache
    assert tls.autocast_cache is None
    del w
    gc.collect()
    assert gone() is None


def test_transforms_leave_nothing_in_the_cache() -> None:
    w, x = plait.ones(2, 2), plait.ones(2, 2)
    step = plait.func.grad(lambda w: ((x @ w) @ w).float().sum())
    with plait.autocast():
        first = step(w)
        _, pull = plait.func.vjp(lambda w: x @ w, w)
        pull(plait.ones(2, 2, dtype=plait.bfloat16))
        assert not tls.autocast_cache
    assert first.dtype is plait.float32


# ---------------------------------------------------------------- gradients


def test_gradients_are_pytorchs() -> None:
    (x, tx), (w, tw), (b, tb) = pair(6, 8), pair(8, 8, seed=1), pair(8, seed=2)
    for p, t in ((w, tw), (b, tb)):
        p.requires_grad_()
        t.requires_grad_()
    target, ttarget = plait.tensor([0, 1, 2, 3, 4, 5]), torch.arange(6)
    with plait.autocast():
        hidden = F.layer_norm(plait.relu(F.linear(x, w, b)), (8,))
        loss = F.cross_entropy(F.linear(hidden, w, b), target)
    with torch.autocast("cpu"):
        thidden = TF.layer_norm(torch.relu(TF.linear(tx, tw, tb)), (8,))
        tloss = TF.cross_entropy(TF.linear(thidden, tw, tb), ttarget)
    loss.backward()
    tloss.backward()
    assert loss.dtype is plait.float32 and w.grad.dtype is plait.float32
    for ours, theirs in ((loss, tloss), (w.grad, tw.grad), (b.grad, tb.grad)):
        np.testing.assert_allclose(as_float(ours), as_float(theirs), rtol=0.05, atol=0.03)


def test_a_checkpointed_region_is_run_again_as_the_first_time() -> None:
    w = plait.randn(4, 4, requires_grad=True)
    x = plait.randn(3, 4)
    seen = []

    def region(x: Any) -> Any:
        y = plait.tanh(x @ w)
        seen.append(y.dtype)
        return y @ w

    grads = []
    for fn in (region, plait.checkpoint(region)):
        with plait.autocast():
            loss = fn(x).float().sum()
        loss.backward()
        grads.append(w.grad)
        w.grad = None
    assert seen == [plait.bfloat16] * 3
    assert grads[0].tolist() == grads[1].tolist()


# ---------------------------------------------------------------- compiled


def network(x: Any, w: Any, b: Any) -> Any:
    hidden = plait.gelu(F.linear(x, w, b))
    return F.mse_loss(F.linear(hidden, w, b), x)


@pytest.mark.parametrize("backend", ["eager", "aot_eager", "llvm"])
@pytest.mark.parametrize("where", ["outside", "inside"])
def test_compiled_is_eager(backend: str, where: str) -> None:
    x, w, b = plait.randn(6, 8), plait.randn(8, 8) / 3, plait.randn(8)
    inside = plait.autocast()(network)
    grads = []
    for fn in (network, inside) if where == "inside" else (network,):
        function = plait.func.value_and_grad(fn if where == "inside" else network, argnums=(1, 2))
        compiled = plait.compile(function, backend=backend)
        for _ in range(2):
            with plait.autocast(enabled=where == "outside"):
                wanted, wanted_grads = function(x, w, b)
                found, found_grads = compiled(x, w, b)
            assert found.dtype is wanted.dtype is plait.float32
            np.testing.assert_allclose(found.item(), wanted.item(), rtol=0.02)
            for mine, theirs in zip(found_grads, wanted_grads):
                assert mine.dtype is plait.float32
                np.testing.assert_allclose(mine.numpy(), theirs.numpy(), rtol=0.05, atol=0.03)
        grads.append(found_grads[0])
        assert len(compiled.entries) == 1
    if where == "inside":
        assert grads[0].tolist() != grads[1].tolist()  # float32 is not bfloat16


@pytest.mark.parametrize("backend", ["aot_eager", "llvm"])
def test_backward_of_a_compiled_loss_inside_and_outside_of_the_block(backend: str) -> None:
    x, b = plait.randn(6, 8), plait.randn(8)
    w = plait.randn(8, 8).requires_grad_()
    compiled = plait.compile(network, backend=backend)
    found = []
    for backward_inside in (False, True):
        with plait.autocast():
            loss = compiled(x, w, b)
            if backward_inside:
                loss.backward()
        if not backward_inside:
            loss.backward()
        found.append(w.grad)
        w.grad = None
    with plait.autocast():
        loss = network(x, w, b)
    loss.backward()
    assert found[0].tolist() == found[1].tolist()
    np.testing.assert_allclose(found[0].numpy(), w.grad.numpy(), rtol=0.05, atol=0.03)


def test_the_state_is_guarded() -> None:
    w = plait.ones(2, 2)
    f = plait.compile(lambda w: w @ w, backend="eager")
    assert f(w).dtype is plait.float32
    with plait.autocast():
        assert f(w).dtype is plait.bfloat16
    with plait.autocast(dtype=plait.float16):
        assert f(w).dtype is plait.float16
    assert f(w).dtype is plait.float32
    assert len(f.entries) == 3
    assert [r.failure.what for r in f.recompiles] == ["autocast", "autocast"]
    assert "autocast: to plait.float16" in f.explain_guards()


def test_a_trace_that_fails_inside_leaves_the_state_as_it_was() -> None:
    before = state()

    @plait.compile
    def f(x: Any) -> Any:
        with plait.autocast():
            return x @ plait.ones(3, 3)

    with pytest.raises(ShapeMismatch):
        f(plait.ones(2, 2))
    assert state() == before


def test_composite_operators_are_traced_as_they_run() -> None:
    """A recorded node runs without autocast, so that what it is made of is recorded instead."""

    def f(x: Any, w: Any) -> Any:
        with plait.autocast():
            return plait.softmax(plait.reshape(F.linear(x, w), (-1,)), 0)

    x, w = plait.randn(3, 4), plait.randn(5, 4)
    wanted, found = f(x, w), plait.compile(f, backend="aot_eager")(x, w)
    assert found.dtype is wanted.dtype
    assert_close(found, wanted, family="elementwise")


# ---------------------------------------------------------------- with vmap


def test_vmap_is_a_loop() -> None:
    x, w, y = plait.randn(3, 4, 5), plait.randn(5, 5), plait.randn(3, 4, 5)

    def f(x: Any, y: Any) -> Any:
        return F.mse_loss(plait.stack([x @ w, x.bfloat16()]), y), plait.prod(x @ w, 0), x @ w

    for context in (plait.autocast(), plait.autocast(dtype=plait.float16)):
        with context:
            found = plait.vmap(f)(x, y)
            rows = [f(x[k], y[k]) for k in range(3)]
        for mine, column in zip(found, zip(*rows)):
            wanted = plait.stack(list(column))
            assert mine.dtype is wanted.dtype
            np.testing.assert_allclose(as_float(mine), as_float(wanted), rtol=0.02, atol=0.02)


def test_per_sample_gradients() -> None:
    w, x = plait.randn(4, 4), plait.randn(3, 4)

    @plait.autocast()
    def loss(w: Any, x: Any) -> Any:
        return F.mse_loss(plait.tanh(w @ x), x)

    found = plait.vmap(plait.func.grad(loss), in_dims=(None, 0))(w, x)
    wanted = plait.stack([plait.func.grad(loss)(w, x[k]) for k in range(3)])
    assert found.dtype is plait.float32
    np.testing.assert_allclose(found.numpy(), wanted.numpy(), rtol=0.03, atol=0.02)
