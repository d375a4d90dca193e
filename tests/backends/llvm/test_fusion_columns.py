"""Column sums beside rows in one pass, and sibling reductions that share one."""

import numpy as np
import pytest

import plait
from plait.backends.llvm.native import pool

ROWS, WIDTH = 1000, 160  # the last chunk of rows is short


def f(rng, *shape):
    return plait.tensor(rng.standard_normal(shape).astype(np.float32))


@pytest.fixture(params=["interpret", "native"])
def options(request):
    return {"execute": request.param}


def check(fn, args, options, **settings):
    compiled = plait.compile(fn, options=options, **settings)
    got, want = compiled(*args), fn(*args)
    for a, b in zip(got, want, strict=True):
        assert a.shape == b.shape and a.dtype is b.dtype
        np.testing.assert_allclose(
            a.numpy().astype(np.float32), b.numpy().astype(np.float32), rtol=2e-3, atol=2e-3
        )
    return compiled


def norm_backward(x, g, w):
    mean = x.mean(-1, keepdim=True)
    rstd = (x.var(-1, keepdim=True, correction=0) + 1e-5).rsqrt()
    normal = (x - mean) * rstd
    scaled = g * w
    second = (scaled * normal).mean(-1, keepdim=True)
    dx = (scaled - scaled.mean(-1, keepdim=True) - normal * second) * rstd
    rows = tuple(range(x.ndim - 1))
    return dx, (g * normal).sum(rows), g.sum(rows)


@pytest.mark.parametrize("shape", [(ROWS, WIDTH), (20, 50, WIDTH)])
def test_layer_norm_backward_reads_its_inputs_once(rng, options, shape):
    compiled = check(norm_backward, (f(rng, *shape), f(rng, *shape), f(rng, WIDTH)), options)
    whole, chunks = compiled.kernels()
    large = [stage for stage in reads(compiled, 1) if stage.numel.evaluate({}) > 32 * WIDTH]
    assert not large and "sum" in whole.ops
    assert len(chunks.values) == 4 and chunks.segments == 1  # two sums and their results


def reads(compiled, kernel):
    return compiled._latest().forward_compiled.programs[0].assembled.built[kernel].buffers


def test_a_gradient_and_its_sum_over_rows(rng, options):
    def fn(x, g):
        d = g * (x > 0)
        return d, d.sum(0)

    compiled = check(fn, (f(rng, ROWS, WIDTH), f(rng, ROWS, WIDTH)), options)
    first, second = compiled.kernels()
    assert first.ops[:2] == ("gt", "mul") and second.ops == ("sum",)
    assert "different spaces" in second.not_fused[0].reason


def test_nan_and_infinity_reach_their_column_only(rng, options):
    def fn(x):
        return plait.relu(x), x.sum(0)

    x = f(rng, ROWS, WIDTH)
    x[3, 5], x[-1, 7] = float("nan"), float("inf")
    _, sums = plait.compile(fn, options=options)(x)
    assert np.isnan(sums.numpy()).nonzero()[0].tolist() == [5]
    assert np.isinf(sums.numpy()).nonzero()[0].tolist() == [7]


def test_strided_rows_and_halves(rng, options):
    def fn(x):
        return plait.tanh(x), x.sum(0)

    check(fn, (f(rng, 2 * ROWS, WIDTH)[::2],), options)
    check(fn, (f(rng, ROWS, WIDTH).to(plait.bfloat16),), options)


def test_sums_that_the_rows_need_are_not_chunked(rng, options):
    def fn(x):
        return (x - x.mean(0), x.sum(0))

    compiled = check(fn, (f(rng, ROWS, WIDTH),), options)
    assert [info.segments for info in compiled.kernels()] == [1, 1]
    (boundary,) = compiled.kernels()[1].not_fused
    assert boundary.reason.startswith("different spaces")


def test_small_symbolic_and_lone_sums_stay_columns(rng, options):
    def both(x):
        return plait.exp(x), x.sum(0)

    def lone(x, y):
        return x.sum(0), (x * y).sum(0), y.mean(0)

    def fused(compiled):
        return [info.values for info in compiled.kernels()]

    assert len(fused(check(both, (f(rng, 8, 40),), options))) == 2
    check(both, (f(rng, ROWS, WIDTH),), options, dynamic=True)
    (values,) = fused(check(lone, (f(rng, ROWS, WIDTH), f(rng, ROWS, WIDTH)), options))
    assert not any("chunks" in value or "terms" in value for value in values)


def test_mean_and_variance_share_a_kernel(rng, options):
    for dim in (0, 1, (0, 1)):
        compiled = check(
            lambda x, dim=dim: (x.mean(dim), x.var(dim, correction=0)), (f(rng, 60, 70),), options
        )
        assert len(compiled.kernels()) == 1


def test_the_number_of_threads_changes_no_bit(rng):
    compiled = plait.compile(norm_backward)
    args = f(rng, 4096, 512), f(rng, 4096, 512), f(rng, 512)
    before, found = pool.num_threads(), []
    try:
        for threads in (1, 2, 3):
            pool.set_num_threads(threads)
            found.append([t.numpy().copy() for t in compiled(*args)])
    finally:
        pool.set_num_threads(before)
    for other in found[1:]:
        for a, b in zip(found[0], other, strict=True):
            np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("rows", [16, 17, 18, 19, 63])
@pytest.mark.parametrize("name", ["sum", "amax", "argmax", "prod"])
def test_columns_of_one_tensor_whose_rows_are_no_multiple_of_four(rng, rows, name):
    """Rows are added some at a time, in their order, and the rest one by one."""
    x = f(rng, rows, 70)
    x[rows // 2, 3] = float("nan")
    got = plait.compile(lambda x: getattr(plait, name)(x, 0))(x)
    want = getattr(plait, name)(x, 0)
    np.testing.assert_allclose(got.numpy(), want.numpy(), rtol=1e-5, atol=1e-6)
