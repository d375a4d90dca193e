"""Results in the memory of inputs: written inputs without copies, and donated arguments."""

import numpy as np
import optree
import pytest

import plait
from plait.backends.llvm.plan import InputRef
from plait.base.errors import DonatedError, InplaceError, InvalidArgument
from plait.optim import SGD, AdamW


def f(rng, *shape):
    return plait.tensor(rng.standard_normal(shape).astype(np.float32))


@pytest.fixture(params=["interpret", "native"])
def options(request):
    return {"execute": request.param}


def plan_of(compiled):
    return compiled._latest().forward_compiled.programs[0].plan


def in_place(compiled):
    """Numbers of the inputs that the plan's kernels write."""
    found = set()
    for step in plan_of(compiled).steps:
        for place, buffer in zip(step.buffers, step.kernel.buffers, strict=True):
            if isinstance(place, InputRef) and buffer.role != "in":
                found.add(place.index)
    return found


def both(fn, make, options, **settings):
    """(compiled function, its tensors and results, eager's)."""
    mine, theirs = make(), make()
    compiled = plait.compile(fn, options=options, **settings)
    return compiled, (mine, compiled(*mine)), (theirs, fn(*theirs))


def check_equal(got, want):
    leaves = zip(optree.tree_leaves(got), optree.tree_leaves(want), strict=True)
    for a, b in leaves:
        if b is not None:
            np.testing.assert_allclose(a.numpy(), b.numpy(), rtol=1e-4, atol=1e-5)


# ---------------------------------------------------------------- inputs that are written


def test_a_written_input_gets_its_new_value_at_once(rng, options):
    def step(p, g):
        p.sub_(g, alpha=0.1)

    x, g = rng.standard_normal((2, 33, 7)).astype(np.float32)
    x[3, 3] = np.nan
    compiled, got, want = both(step, lambda: (plait.tensor(x), plait.tensor(g)), options)
    check_equal(got, want)
    assert plan_of(compiled).outputs == () and in_place(compiled) == {0}
    assert [text.split()[0] for text in compiled.donations().values()] == ["holds"]
    assert got[0][0]._version == want[0][0]._version == 1


def test_momentum_in_place_is_one_kernel_without_outputs(rng, options):
    def step(params, grads, velocities):
        for p, g, v in zip(params, grads, velocities, strict=True):
            v.mul_(0.9).add_(g)
            p.sub_(v, alpha=0.1)

    arrays = [[rng.standard_normal(n + 2).astype(np.float32) for n in range(5)] for _ in range(3)]
    compiled, got, want = both(
        step, lambda: [[plait.tensor(a) for a in group] for group in arrays], options
    )
    check_equal(got, want)
    (kernel,) = compiled.kernels()
    assert kernel.segments == 5 and plan_of(compiled).outputs == ()


def test_the_old_value_is_read_before(rng, options):
    def fn(x):
        old = x.clone()
        turned = x.t() @ x
        x.mul_(2)
        return old, turned

    x = rng.standard_normal((6, 6)).astype(np.float32)
    compiled, got, want = both(fn, lambda: (plait.tensor(x),), options)
    check_equal(got, want)
    assert in_place_inputs(compiled) == {0}


def in_place_inputs(compiled):
    return set(compiled._latest().forward_compiled.reused)


def test_a_crosswise_read_keeps_the_copy(rng, options):
    def fn(x):
        x.copy_(x + x.t())

    x = rng.standard_normal((5, 5)).astype(np.float32)
    compiled, got, want = both(fn, lambda: (plait.tensor(x),), options)
    check_equal(got, want)
    (reason,) = compiled.donations().values()
    assert "reads other elements in the same kernel" in reason


def test_rows_may_be_normalised_in_place(rng, options):
    def fn(x):
        x.copy_(plait.softmax(x, -1))

    x = rng.standard_normal((40, 300)).astype(np.float32)
    compiled, got, want = both(fn, lambda: (plait.tensor(x),), options)
    check_equal(got, want)
    assert in_place(compiled) == {0} and len(compiled.kernels()) == 1


def test_columns_are_not_normalised_in_place_before_they_are_read(rng, options):
    def fn(x):
        x.sub_(x.mean(0))

    x = rng.standard_normal((64, 48)).astype(np.float32)
    compiled, got, want = both(fn, lambda: (plait.tensor(x),), options)
    check_equal(got, want)
    assert in_place(compiled) == {0}  # two kernels: the second overwrites
    assert len(compiled.kernels()) == 2


def test_two_inputs_that_trade_places(rng, options):
    def fn(x, y):
        a, b = x + 1, y * 2
        x.copy_(b)
        y.copy_(a)

    x, y = rng.standard_normal((2, 50)).astype(np.float32)
    _, got, want = both(fn, lambda: (plait.tensor(x), plait.tensor(y)), options)
    check_equal(got, want)


def test_swapped_transposed(rng, options):
    def fn(x, y):
        a, b = plait.exp(x), plait.exp(y)
        x.copy_(a + b.t())
        y.copy_(b + a.t())

    x, y = rng.standard_normal((2, 9, 9)).astype(np.float32)
    _, got, want = both(fn, lambda: (plait.tensor(x), plait.tensor(y)), options)
    check_equal(got, want)


def test_one_value_for_an_input_and_an_output(rng, options):
    def fn(x, y):
        z = x + y
        x.copy_(z)
        return z

    x, y = rng.standard_normal((2, 8)).astype(np.float32)
    _, got, want = both(fn, lambda: (plait.tensor(x), plait.tensor(y)), options)
    check_equal(got, want)
    x_after, z = got[0][0], got[1]
    x_after.zero_()
    assert z.abs().sum().item() > 0


def test_overlapping_and_strided_inputs(rng, options):
    def fn(x, y):
        total = y.sum()
        x.add_(total)
        return x * y[: x.shape[0]]

    base = rng.standard_normal((8, 8)).astype(np.float32)

    def overlapping():
        b = plait.tensor(base)
        return b[1:], b

    def strided():
        return plait.tensor(base)[:, ::2], plait.tensor(base)[:, 1::2]

    for make in (overlapping, strided):
        _, got, want = both(fn, make, options)
        check_equal(got, want)


def test_read_only_memory_is_refused_before_it_is_written(options):
    array = np.ones(4, np.float32)
    compiled = plait.compile(lambda x: x.add_(1) * 1, options=options)
    compiled(plait.from_numpy(array.copy()))
    array.flags.writeable = False
    with pytest.raises(InplaceError, match="read-only"):
        compiled(plait.from_numpy(array))
    assert (array == 1).all()


def test_symbolic_and_empty_sizes(rng, options):
    def fn(x, g):
        x.sub_(g * 0.5)
        return x.sum()

    compiled = plait.compile(fn, options=options, dynamic=True)
    for n in (4, 7, 0):
        a, g = f(rng, n, 3), f(rng, n, 3)
        b = plait.tensor(a.numpy().copy())
        np.testing.assert_allclose(compiled(a, g).numpy(), fn(b, g).numpy(), rtol=1e-5, atol=1e-6)
        check_equal(a, b)


def test_what_a_backward_needs_is_noticed_as_in_eager(rng, options):
    def fn(w, count):
        count.add_(1)
        return (w * w).sum() * count

    def make():
        w = f(np.random.default_rng(3), 5)
        w.requires_grad = True
        return w, plait.ones(())

    _, got, want = both(fn, make, options)
    for result in (got[1], want[1]):
        result.backward()
    check_equal(got[0][0].grad, want[0][0].grad)
    check_equal(got[0][1], want[0][1])


# ---------------------------------------------------------------- donated arguments


def test_adamw_with_donated_state_allocates_nothing_large(rng, options):
    opt = AdamW(lr=1e-2)
    shapes = [(64,), (12, 7), (3, 5), (300,), (2, 0)]
    params, grads = [f(rng, *s) for s in shapes], [f(rng, *s) for s in shapes]
    state = opt.init(params)
    eager = params, state
    mine = optree.tree_map(lambda t: plait.tensor(t.numpy().copy()), (params, state))
    update = plait.compile(opt.update, options=options, donate=("params", "state"))
    for _ in range(3):
        before = optree.tree_leaves(mine)
        addresses = {t.data_ptr() for t in before if t.numel()}
        mine = update(mine[0], grads, mine[1])
        eager = opt.update(eager[0], grads, eager[1])
        check_equal(mine, eager)
        assert {t.data_ptr() for t in optree.tree_leaves(mine) if t.numel()} == addresses
        for old in before:
            with pytest.raises(DonatedError, match="donated"):
                old + 1
    assert all("0" in map(str, output.shape) for output in plan_of(update).outputs)
    kept = [text for text in update.donations().values() if not text.startswith("holds ")]
    assert len(kept) <= 3  # of the empty tensor


def test_tensors_of_one_shape_stay_one_batch_when_donated(rng, options):
    """A result takes the memory of an input that its own kernel reads, so nobody waits."""
    opt = AdamW(lr=1e-2)
    params, grads = [f(rng, 8, 3) for _ in range(6)], [f(rng, 8, 3) for _ in range(6)]
    state = opt.init(params)
    want = opt.update(params, grads, state)
    update = plait.compile(opt.update, options=options, donate=("params", "state"))
    before = [p.data_ptr() for p in params]
    got = update(params, grads, state)
    check_equal(got, want)
    assert [kernel.segments for kernel in update.kernels()] == [1, 6]
    assert [p.data_ptr() for p in got[0]] == before


def test_donated_tensors_refuse_every_use(rng, options):
    fn = plait.compile(lambda x: x * 2, donate="x", options=options)
    x = f(rng, 3)
    y = fn(x)
    assert x.shape == (3,) and x.dtype is plait.float32 and "donated" in repr(x)
    for use in (lambda: x.numpy(), lambda: x.sum(), lambda: x.tolist(), lambda: fn(x)):
        with pytest.raises(DonatedError, match="leave the argument out of 'donate'"):
            use()
    with pytest.raises(DonatedError):
        y.add_(x)


def test_memory_that_others_show_is_copied(rng, options):
    fn = plait.compile(lambda x: x + 1, donate="x", options=options)
    x = f(rng, 4, 4)
    view, array = x[1], None
    kept = view.numpy().copy()
    fn(x)
    np.testing.assert_array_equal(view.numpy(), kept)
    x = f(rng, 4, 4)
    array = x.numpy()
    kept = array.copy()
    fn(x)
    np.testing.assert_array_equal(array, kept)
    source = np.ones((4, 4), np.float32)
    fn(plait.from_numpy(source))
    assert (source == 1).all()


def test_what_is_not_donated_has_a_reason(rng, options):
    def fn(x, y, z):
        return x.t(), y.sum(), z + z.t()

    x, y, z = f(rng, 4, 4), f(rng, 3, 3), f(rng, 5, 5)
    compiled = plait.compile(fn, donate=("x", "y", "z"), options=options)
    compiled(x, y, z)
    reasons = list(compiled.donations().values())
    assert "an output is this input, or a view of it" in reasons[0]
    assert "no output is left that has its type and layout" in reasons[1]
    assert "reads other elements in the same kernel" in reasons[2]
    x + 1  # not donated after all


def test_a_differentiable_call_donates_nothing(rng, options):
    w = f(rng, 4)
    w.requires_grad = True
    compiled = plait.compile(lambda w, x: w * x, donate="x", options=options)
    x = f(rng, 4)
    compiled(w, x).sum().backward()
    check_equal(w.grad, x)
    (reason,) = compiled.donations().values()
    assert "its backward may read it" in reason


def test_a_training_step_reuses_parameters_and_state(rng, options):
    opt = SGD(lr=0.1, momentum=0.9)

    def loss(params, x):
        return plait.tanh(plait.tanh(x @ params["a"]) @ params["b"]).square().sum()

    def step(params, state, x):
        value, grads = plait.func.value_and_grad(loss)(params, x)
        params, state = opt.update(params, grads, state)
        return value, params, state

    params = {"a": f(rng, 6, 8), "b": f(rng, 8, 3)}
    state = opt.init(params)
    copy = optree.tree_map(lambda t: plait.tensor(t.numpy().copy()), (params, state))
    compiled = plait.compile(step, donate=("params", "state"), options=options)
    x = f(rng, 5, 6)
    for _ in range(3):
        value, params, state = compiled(params, state, x)
        expected, *copy = step(*copy, x)
        check_equal((value, params, state), (expected, *copy))
    assert len(plan_of(compiled).outputs) == 1
    assert all(text.startswith("holds") for text in compiled.donations().values())


def test_a_name_that_is_no_parameter_is_refused():
    with pytest.raises(InvalidArgument, match="'donate' names 'q'"):
        plait.compile(lambda p: p, donate="q")
