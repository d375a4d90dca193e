"""Rules of custom operators for vmap, autocast and modes; declared effects."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import plait
from plait import Tensor
from plait.base import log
from plait.base.errors import InplaceError, InvalidArgument
from plait.library import CustomOpDef, custom_op


def scaled() -> CustomOpDef:
    @custom_op("tests::scaled", mutates_args=())
    def scaled(x: Tensor, factor: float = 2.0) -> Tensor:
        return x.clone()

    definition: CustomOpDef = scaled
    return definition


@pytest.mark.spec("A7")
def test_a_rule_for_one_mode_is_called_once() -> None:
    op = scaled()
    calls: list[str] = []

    class Mode(plait.DispatchMode):
        def __plait_dispatch__(self, op: Any, types: Any, args: Any, kwargs: Any) -> Any:
            return op(*args, **kwargs)

    @op.register_plait_dispatch(Mode)
    def _(mode: Any, op: Any, types: Any, args: Any, kwargs: Any) -> Any:
        calls.append(op.qualname)
        return op(*args, **kwargs)

    with Mode():
        op(plait.ones(1))
    assert calls == ["tests::scaled"]


@pytest.mark.spec("A7")
def test_autocast_rule_casts_what_the_kernel_sees() -> None:
    seen: list[Any] = []

    @custom_op("tests::watch", mutates_args=())
    def watch(x: Tensor, y: Tensor) -> Tensor:
        seen.append((x.dtype, y.dtype))
        return x.clone()

    watch.register_autocast("cpu", plait.bfloat16)
    with plait.autocast("cpu", dtype=plait.float16):
        watch(plait.ones(1), plait.ones(1, dtype=plait.float64))
        with plait.autocast(enabled=False):
            watch(plait.ones(1), plait.ones(1))
    watch(plait.ones(1), plait.ones(1))
    single = (plait.float32, plait.float32)
    assert seen == [(plait.bfloat16, plait.float64), single, single]
    with pytest.raises(InvalidArgument, match="device type 'meta'"):
        watch.register_autocast("meta", plait.bfloat16)
    with pytest.raises(InvalidArgument, match="expected a dtype"):
        watch.register_autocast("cpu", "bf16")


def product() -> CustomOpDef:
    """x @ w, with all its rules."""

    @custom_op("tests::product", mutates_args=())
    def product(x: Tensor, w: Tensor) -> Tensor:
        return plait.from_numpy(np.matmul(x.float().numpy(), w.float().numpy())).to(x.dtype)

    definition: CustomOpDef = product
    product.register_fake(lambda x, w: x.new_empty((x.shape[0], w.shape[1])))

    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        ctx.save_for_backward(*inputs)

    def backward(ctx: Any, g: Any) -> Any:
        x, w = ctx.saved_tensors
        return g @ w.t(), x.t() @ g

    product.register_autograd(backward, setup_context=setup_context)
    return definition


@pytest.mark.spec("A7")
@pytest.mark.parametrize("backend", ["eager", "aot_eager", "llvm"])
def test_autocast_rule_compiled_is_eager(backend: str) -> None:
    op = product()
    op.register_autocast("cpu", plait.bfloat16)
    x, w = plait.randn(3, 4), plait.randn(4, 2)

    def f(x: Any, w: Any) -> Any:
        with plait.autocast():
            return op(x, w)

    wanted, found = f(x, w), plait.compile(f, backend=backend)(x, w)
    assert found.dtype is wanted.dtype is plait.bfloat16
    assert found.tolist() == wanted.tolist()
    grads = plait.func.grad(lambda w: f(x, w).float().sum())
    with plait.autocast():  # where the kernel's own operators are not cast
        compiled = plait.compile(grads, backend=backend)(w)
        np.testing.assert_allclose(compiled.numpy(), grads(w).numpy(), rtol=0.02)


@pytest.mark.spec("A7")
def test_a_kernel_without_autocast_rule_computes_as_it_is_written() -> None:
    seen: list[Any] = []

    @custom_op("tests::inner", mutates_args=())
    def inner(x: Tensor) -> Tensor:
        seen.append((x @ x).dtype)
        return x.clone()

    with plait.autocast():
        inner(plait.ones(2, 2))
    assert seen == [plait.float32]


def with_batching(op: CustomOpDef, seen: list[Any]) -> CustomOpDef:
    """A rule for samples of x, of w, or of both."""

    @op.register_vmap
    def _(info: Any, in_dims: Any, x: Any, w: Any) -> Any:
        seen.append((info.batch_size, info.randomness, in_dims))
        if in_dims[1] is None:
            rows = plait.movedim(x, in_dims[0], 0)
            out = op(rows.reshape(-1, rows.shape[2]), w)
            return out.reshape(*rows.shape[:2], -1), 0
        if in_dims[0] is None:
            columns = plait.movedim(w, in_dims[1], 2)
            out = op(x, columns.reshape(columns.shape[0], -1))
            return out.reshape(x.shape[0], columns.shape[1], -1), -1
        pairs = zip(x.unbind(in_dims[0]), w.unbind(in_dims[1]), strict=True)
        return plait.stack([op(a, b) for a, b in pairs]), 0

    return op


@pytest.mark.spec("A7")
@pytest.mark.parametrize("in_dims", [(0, None), (None, 2), (1, 1), (-1, 0)])
def test_batching_rule_is_a_loop(in_dims: tuple[Any, Any]) -> None:
    seen: list[Any] = []
    op = with_batching(product(), seen)
    shapes = [(3, 4), (4, 2)]
    args = []
    for shape, dim in zip(shapes, in_dims, strict=True):
        size = list(shape)
        if dim is not None:
            size.insert(dim if dim >= 0 else len(size) + 1 + dim, 5)
        args.append(plait.randn(*size, dtype=plait.float64))

    def loop(x: Any, w: Any) -> Any:
        rows = []
        for k in range(5):
            a = x if in_dims[0] is None else x.select(in_dims[0], k)
            b = w if in_dims[1] is None else w.select(in_dims[1], k)
            rows.append(op(a, b))
        return plait.stack(rows)

    mapped = plait.vmap(op, in_dims=in_dims, randomness="same")
    found, wanted = mapped(*args), loop(*args)
    normal = tuple(None if d is None else d % 3 for d in in_dims)
    assert seen == [(5, "same", normal)]
    np.testing.assert_allclose(found.numpy(), wanted.numpy(), rtol=1e-12)
    for backend in ("aot_eager", "llvm"):
        compiled = plait.compile(mapped, backend=backend)
        np.testing.assert_allclose(compiled(*args).numpy(), wanted.numpy(), rtol=1e-12)
    pair = [
        plait.func.grad(lambda *t, fn=fn: (fn(*t) ** 2).sum(), argnums=(0, 1))(*args)
        for fn in (mapped, loop)
    ]
    for mine, theirs in zip(*pair, strict=True):
        np.testing.assert_allclose(mine.numpy(), theirs.numpy(), rtol=1e-12)


@pytest.mark.spec("A7")
def test_per_sample_gradients_through_a_batching_rule() -> None:
    """The formula's operators are batched, and so is the operator itself."""
    op = with_batching(product(), [])
    x, w = plait.randn(5, 3, 4, dtype=plait.float64), plait.randn(4, 2, dtype=plait.float64)
    grad = plait.func.grad(lambda w, x: plait.tanh(op(x, w)).sum())
    found = plait.vmap(grad, in_dims=(None, 0))(w, x)
    wanted = plait.stack([grad(w, row) for row in x])
    np.testing.assert_allclose(found.numpy(), wanted.numpy(), rtol=1e-12)
    nested = plait.vmap(plait.vmap(op, in_dims=(None, 0)), in_dims=(0, None))
    many = plait.randn(6, 4, 2, dtype=plait.float64)
    wanted = plait.stack([plait.stack([op(row, m) for m in many]) for row in x])
    np.testing.assert_allclose(nested(x, many).numpy(), wanted.numpy(), rtol=1e-12)


@pytest.mark.spec("A7")
def test_without_a_batching_rule_samples_run_one_by_one_with_a_recorded_reason() -> None:
    op = product()
    x, w = plait.randn(5, 3, 4), plait.randn(4, 2)
    log.clear()
    found = plait.vmap(op, in_dims=(0, None))(x, w)
    (event,) = log.events("fallback")
    assert "tests::product has no batching rule" in event.reason
    np.testing.assert_allclose(found.numpy(), np.matmul(x.numpy(), w.numpy()), rtol=1e-5)
    with pytest.raises(InvalidArgument, match="a batch of size 0"):
        plait.vmap(op, in_dims=(0, None))(plait.ones(0, 3, 4), w)


@pytest.mark.spec("A7")
def test_an_operator_that_writes_runs_on_each_sample(bump: CustomOpDef) -> None:
    op = bump
    x = plait.zeros(3, 2)
    plait.vmap(lambda row: op(row, 1.0) or row)(x)
    assert x.tolist() == [[1.0, 1.0]] * 3
    shared = plait.zeros(2)

    @custom_op("tests::store", mutates_args=("target",))
    def note(target: Tensor, value: Tensor) -> Tensor:
        target.numpy()[...] = value.numpy()
        return value.clone()

    with pytest.raises(InplaceError, match="argument 'target' is written but has no samples"):
        plait.vmap(lambda row: note(shared, row))(plait.ones(3))


@pytest.mark.spec("A7")
@pytest.mark.parametrize("backend", ["aot_eager", "llvm"])
def test_effects_keep_their_order_and_are_not_dropped(backend: str) -> None:
    log_: list[int] = []

    @custom_op("tests::note", mutates_args=())
    def note(x: Tensor, tag: int) -> Tensor:
        log_.append(tag)
        return x.clone()

    note.register_fake(lambda x, tag: plait.empty_like(x))
    note.register_effect("ordered")

    @plait.compile(backend=backend)
    def f(x: Any) -> Any:
        deep = note(note(x, 0), 1)
        note(x, 2)
        return deep + 1

    f(plait.ones(1))
    assert log_ == [0, 1, 2]
    with pytest.raises(InvalidArgument, match="'sometimes'; expected 'ordered'"):
        note.register_effect("sometimes")
