"""The backend as its callers see it: dynamic sizes, fallbacks, random draws, errors, listings."""

import numpy as np
import pytest

import plait
from plait.backends.llvm.compiler import compile_graph
from plait.base import log
from plait.base.errors import IndexOutOfRange, InvalidArgument
from plait.ops import aten
from plait.tensor.tensor import from_numpy

INTERPRET = {"execute": "interpret"}


def tensor(rng, *shape, grad=False):
    made = plait.tensor(rng.standard_normal(shape).astype(np.float32))
    made.requires_grad = grad
    return made


def compare(fn, *args, **options):
    compiled = plait.compile(fn, options=INTERPRET, **options)
    np.testing.assert_allclose(compiled(*args).numpy(), fn(*args).numpy(), rtol=1e-4, atol=1e-5)
    return compiled


def test_dynamic_sizes_use_one_entry(rng):
    def fn(x, w):
        return plait.softmax(plait.layer_norm(x @ w, [6]), -1).sum(0)

    compiled = compare(fn, tensor(rng, 4, 5), tensor(rng, 5, 6), dynamic=True)
    for rows in (3, 9):
        args = tensor(rng, rows, 5), tensor(rng, 5, 6)
        np.testing.assert_allclose(compiled(*args).numpy(), fn(*args).numpy(), rtol=1e-4)
    assert len(compiled.entries) == 1


def test_dynamic_large_reductions_are_ragged(rng):
    compiled = compare(lambda x: (x * x).sum(), tensor(rng, 20000), dynamic=True)
    for count in (5, 8192, 8193):
        x = tensor(rng, count)
        np.testing.assert_allclose(compiled(x).numpy(), (x * x).sum().numpy(), rtol=1e-4)


def test_dynamic_attention(rng):
    def fn(x, w):
        batch, length, width = x.shape
        q = (x @ w).reshape(batch, length, 2, width // 2).transpose(1, 2)
        a = plait.softmax(q @ q.transpose(-1, -2), -1)
        return (a @ q).transpose(1, 2).reshape(batch, length, width)

    compiled = compare(fn, tensor(rng, 2, 5, 6), tensor(rng, 6, 6), dynamic=True)
    args = tensor(rng, 3, 7, 6), tensor(rng, 6, 6)
    np.testing.assert_allclose(compiled(*args).numpy(), fn(*args).numpy(), rtol=1e-4)


def test_what_cannot_be_lowered_runs_eagerly_with_a_reason(maker, rng):
    log.clear()
    x = maker.input(rng.standard_normal((4, 300)).astype(np.float32))
    running = maker(aten.cumsum.default, maker(aten.exp.default, x), 1)
    out = maker(aten.add.Tensor, maker(aten.neg.default, running), x)
    compiled, (got, middle) = maker.run(out, running)
    want = np.cumsum(np.exp(maker.arrays[0]), 1)
    np.testing.assert_allclose(middle, want, rtol=1e-4)
    np.testing.assert_allclose(got, maker.arrays[0] - want, rtol=1e-4)
    assert len(compiled.programs) == 2
    (event,) = log.events("fallback")
    assert event.reason == "cumsum over 300 elements" and event.fields["operator"] == "aten::cumsum"


def test_draws_are_bit_equal_to_eager(rng):
    def fn(x):
        return plait.dropout(x, 0.4, True), plait.randn(33, 3), plait.rand(7)

    x = tensor(rng, 33, 3)
    plait.manual_seed(11)
    expected = fn(x)
    plait.manual_seed(11)
    for got, want in zip(plait.compile(fn, options=INTERPRET)(x), expected, strict=True):
        np.testing.assert_array_equal(got.numpy(), want.numpy())


def test_a_bad_index_is_eagers_error(maker):
    table, picked = maker.input(np.ones((4, 2), np.float32)), maker.input(np.array([0, 9]))
    compiled = maker.compile(maker(aten.embedding.default, table, picked))
    with pytest.raises(IndexOutOfRange, match="embedding"):
        compiled(*map(from_numpy, maker.arrays))


def test_listings(maker, rng):
    x = maker.input(rng.standard_normal((4, 4)).astype(np.float32))
    compiled = maker.compile(maker(aten.mm.default, maker(aten.exp.default, x), x))
    assert "aten.exp" in compiled.listing("graph")
    assert "gemm 4 x 4 x 4 f32" in compiled.listing("loop")
    with pytest.raises(InvalidArgument, match="listing"):
        compiled.listing("poem")
    first, second = compiled.kernels
    assert first.ops == ("exp",) and first.values == ("exp",)
    assert first.reasons == ("read by a matrix product",) and second.kind == "gemm"


def test_unknown_options_are_refused(maker):
    graph = maker.graph(maker.input(np.ones(2, np.float32)))
    with pytest.raises(InvalidArgument, match="options"):
        compile_graph(graph, {"speed": 11})


def test_constants_and_sizes_as_outputs(maker):
    x = maker.input(np.ones((2, 3), np.float32))
    compiled = maker.compile(x, 7, None, maker(aten.zeros_like.default, x))
    base = from_numpy(maker.arrays[0])
    same, seven, nothing, zeros = compiled(base)
    assert same is base and seven == 7 and nothing is None
    np.testing.assert_array_equal(zeros.numpy(), np.zeros((2, 3)))


def test_empty_tensors(maker):
    x = maker.input(np.zeros((0, 3), np.float32))
    s = maker(aten.sum.dim_IntList, maker(aten.exp.default, x), [0])
    _, (out, product) = maker.run(s, maker(aten.mm.default, maker(aten.t.default, x), x))
    np.testing.assert_array_equal(out, np.zeros(3))
    np.testing.assert_array_equal(product, np.zeros((3, 3)))


def test_temporaries_share_the_arena(maker, rng):
    x = maker.input(rng.standard_normal((16, 16)).astype(np.float32))
    y = x
    for _ in range(6):
        y = maker(aten.mm.default, y, x)
    compiled = maker.compile(y)
    assert int(str(compiled.programs[0].plan.arena_bytes)) == 2 * 16 * 16 * 4
