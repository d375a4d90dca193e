"""Independent small kernels are one step over a table; equal structures are one piece of code."""

import numpy as np
import pytest

import plait
from plait.backends.llvm.native import pool
from plait.backends.llvm.plan import Gemm
from plait.optim import AdamW

SHAPES = [(64,), (12, 7), (3, 5, 2), (1,), (0,), (300,), (), (40, 40), (513,), (2, 0, 3)]


def f(rng, *shape):
    return plait.tensor(rng.standard_normal(shape).astype(np.float32))


def adamw(shapes, rng):
    opt = AdamW(lr=1e-2)
    params, grads = [f(rng, *s) for s in shapes], [f(rng, *s) for s in shapes]
    return opt, params, grads, opt.init(params)


def close(got, want):
    for a, b in zip(plait_leaves(got), plait_leaves(want), strict=True):
        np.testing.assert_allclose(a.numpy(), b.numpy(), rtol=2e-5, atol=1e-6)


def plait_leaves(tree):
    import optree

    return optree.tree_leaves(tree)


@pytest.fixture(params=["interpret", "native"])
def options(request):
    return {"execute": request.param}


def test_adamw_is_one_kernel_for_all_tensors(rng, options):
    opt, params, grads, state = adamw(SHAPES, rng)
    update = plait.compile(opt.update, options=options)
    grads[0][3] = float("nan")
    for _ in range(3):
        got, want = update(params, grads, state), opt.update(params, grads, state)
        close(got, want)
        params, state = got
    step, updates = update.kernels()
    assert step.segments == 1 and step.values[0] == "add"  # and the updates of single elements
    assert updates.segments == len([shape for shape in SHAPES if np.prod(shape) != 1])
    assert {"sqrt", "div", "mul"} <= set(updates.ops) and updates.not_fused


def test_the_code_does_not_grow_with_the_number_of_tensors(rng):
    sizes = []
    for count in (10, 40):
        opt, params, grads, state = adamw([(k + 2,) for k in range(count)], rng)
        update = plait.compile(opt.update, options={"execute": "interpret"})
        update(params, grads, state)
        plan = update._latest().forward_compiled.programs[0].plan
        assert plan.batches == ((1, 1 + count),)
        sizes.append(len({step.kernel for step in plan.steps}))
    assert sizes == [2, 2]


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_a_batch_is_shared_out_among_threads(rng, threads):
    shapes = [(200_003,), (17,), (0,), (70_000,), (333, 400), (5,)]
    inputs = [f(rng, *s) for s in shapes]
    compiled = plait.compile(lambda xs: [plait.tanh(x) * x + 1 for x in xs])
    before = pool.num_threads()
    try:
        pool.set_num_threads(threads)
        for got, x in zip(compiled(inputs), inputs, strict=True):
            np.testing.assert_allclose(got.numpy(), np.tanh(x.numpy()) * x.numpy() + 1, rtol=1e-5)
    finally:
        pool.set_num_threads(before)
    (info,) = compiled.kernels()
    assert info.segments == len(shapes)


def test_strided_and_broadcast_segments(rng, options):
    xs = [f(rng, 6, 4 + k).t() for k in range(5)]
    ys = [f(rng, 6)] * 5

    def fn(xs, ys):
        return [plait.exp(x) + y for x, y in zip(xs, ys, strict=True)]

    compiled = plait.compile(fn, options=options)
    close(compiled(xs, ys), fn(xs, ys))
    (info,) = compiled.kernels()
    assert info.segments == 5


def test_kernels_that_need_each_other_are_not_one_batch(rng, options):
    def fn(xs):
        sums = [x.sum() for x in xs]
        total = sums[0] + sums[1] + sums[2] + sums[3] + sums[4]
        return [x / total for x in xs]

    xs = [f(rng, 9, k + 2) for k in range(5)]
    compiled = plait.compile(fn, options=options)
    close(compiled(xs), fn(xs))
    sums, last, quotients = compiled.kernels()
    assert (sums.segments, last.segments, quotients.segments) == (4, 1, 4)


def test_symbolic_sizes_run_one_by_one(rng, options):
    def fn(xs):
        return [x * 2 + 1 for x in xs]

    compiled = plait.compile(fn, options=options, dynamic=True)
    for first in (3, 5, 8):
        xs = [f(rng, first + 2 * k) for k in range(6)]
        close(compiled(xs), fn(xs))
    assert len(compiled.entries) == 1


def test_temporaries_of_a_batch_do_not_share_memory(rng, options):
    """A temporary that one segment reads last must not be where another writes first."""

    def fn(xs, ws):
        made = [plait.exp(x) @ w for x, w in zip(xs, ws, strict=True)]
        return [(plait.sin(m) @ w).sum() for m, w in zip(made, ws, strict=True)]

    xs, ws = [f(rng, 32, 32) for _ in range(6)], [f(rng, 32, 32) for _ in range(6)]
    compiled = plait.compile(fn, options=options)
    for got, want in zip(compiled(xs, ws), fn(xs, ws), strict=True):
        np.testing.assert_allclose(got.numpy(), want.numpy(), rtol=1e-3)


def test_small_kernels_wait_for_products(rng):
    """Updates between products meet at the end."""

    def fn(params, x):
        new = []
        for p in params:
            x = x @ p
            new.append(p - 0.1 * plait.sigmoid(p))
        return new, x

    params = [f(rng, 16, 16) for _ in range(5)]
    compiled = plait.compile(fn, options={"execute": "interpret"})
    x = f(rng, 16, 16)
    close(compiled(params, x), fn(params, x))
    plan = compiled._latest().forward_compiled.programs[0].plan
    assert [isinstance(step, Gemm) for step in plan.steps] == [True] * 5 + [False] * 5
    assert plan.batches == ((5, 10),)


def test_wrong_argument_of_a_tabled_entry_is_named(rng):
    opt, params, grads, state = adamw([(k + 1,) for k in range(20)], rng)
    update = plait.compile(opt.update)
    update(params, grads, state)
    entry = update._latest().forward_compiled.programs[0].entry
    arrays = [np.zeros(1, np.float32)] * len(entry.plan.inputs)
    name = entry.plan.inputs[7].name
    with pytest.raises(TypeError, match=f"input '{name}' must be a NumPy array"):
        entry.call(*arrays[:7], "seven", *arrays[8:])
