"""Products over packed operands: every layout and edge, threads, what does not spread."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

import plait
from plait.backends.llvm.compiler import compile_graph
from plait.backends.llvm.native import pool
from plait.backends.llvm.native.packed import PackedForm, cut, packed_form
from plait.backends.llvm.native.target import host
from plait.backends.llvm.plan import Gemm, InputRef, Operand, OutputRef
from plait.base.config import config
from plait.ops import aten
from plait.symbolic.expr import const

MM = aten.mm.default
needs_vectors = pytest.mark.skipif(host().vector_bits < 256, reason="vectors of 256 bits or more")
SHAPES = [
    (256, 64, 2200),
    (131, 77, 3401),
    (129, 65, 4099),
    (700, 150, 320),
    (1000, 64, 527),
    (128, 8192, 33),
]
"""Each enough work to be packed; most end inside a panel, a stretch of the sums or a block."""


def draw(rng, *shape, dtype=np.float32):
    return rng.standard_normal(shape).astype(dtype)


def product(m, n, k, *, turned=(False, False), dtype="f32", alpha=1.0):
    """A plan's step over dense operands."""
    (m, n, k), one = map(const, (m, n, k)), const(1)
    a = (one, m) if turned[0] else (k, one)
    b = (one, k) if turned[1] else (n, one)
    left, right = (Operand(InputRef(i, const(0)), *x) for i, x in enumerate((a, b)))
    result = Operand(OutputRef(0, const(0)), n, one)
    return Gemm(dtype, (), m, n, k, left, right, result, alpha=alpha)


@needs_vectors
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_layouts_and_edges(rng, shape, dtype):
    m, n, k = shape
    a, b = draw(rng, m, k, dtype=dtype), draw(rng, k, n, dtype=dtype)
    want = a.astype(np.float64) @ b.astype(np.float64)
    name = "f32" if dtype is np.float32 else "f64"
    for turned in itertools.product((False, True), repeat=2):
        form = packed_form(product(m, n, k, turned=turned, dtype=name))
        assert form == PackedForm(name, *turned)
        left, right = (x.T.copy() if t else x for x, t in zip((a, b), turned))
        body = lambda x, y, t=turned: (x.t() if t[0] else x) @ (y.t() if t[1] else y)
        compiled = plait.compile(body, fullgraph=True)
        got = compiled(plait.from_numpy(left), plait.from_numpy(right)).numpy()
        scale = np.sqrt(k) * (1e-5 if dtype is np.float32 else 1e-14)
        np.testing.assert_allclose(got, want, rtol=0, atol=3 * scale, err_msg=str(turned))


@needs_vectors
def test_operands_inside_wider_matrices(rng):
    """Strides between rows are larger than rows, and nothing beside the result is written."""
    wide = draw(rng, 600, 700)

    def fn(x):
        return x[:450, 40:390] @ x[:350, 60:310]

    compiled = plait.compile(fn, fullgraph=True)
    got = compiled(plait.from_numpy(wide)).numpy()
    want = wide[:450, 40:390].astype(np.float64) @ wide[:350, 60:310]
    np.testing.assert_allclose(got, want, atol=3e-4)


@needs_vectors
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_nan_and_infinity_stay_in_row_and_column(rng, bad):
    """Stretches are filled up with zeros on both sides, so nothing is multiplied by them."""
    a, b = draw(rng, 131, 2051), draw(rng, 2051, 129)
    a[130, 2050], b[2050, 128] = bad, bad
    got = plait.compile(plait.matmul, fullgraph=True)(plait.from_numpy(a), plait.from_numpy(b))
    touched = ~np.isfinite(got.numpy())
    assert touched[130].all() and touched[:, 128].all()
    assert touched.sum() == 131 + 129 - 1


@needs_vectors
def test_the_number_of_threads_changes_no_bit(rng):
    x, w = plait.from_numpy(draw(rng, 1000, 300)), plait.from_numpy(draw(rng, 500, 300))
    compiled = plait.compile(plait.nn.functional.linear, fullgraph=True)
    before = pool.num_threads()
    results = []
    try:
        for count in (1, 2, 3):
            pool.set_num_threads(count)
            results.append(compiled(x, w).numpy())
    finally:
        pool.set_num_threads(before)
    np.testing.assert_array_equal(results[0], results[1])
    np.testing.assert_array_equal(results[0], results[2])


@needs_vectors
def test_a_row_is_the_same_in_every_block(rng):
    """Sums run in the order of k, in the middle of a block as at its edge."""
    x, w = draw(rng, 400, 500), plait.from_numpy(draw(rng, 300, 500))
    compiled = plait.compile(plait.nn.functional.linear, fullgraph=True, dynamic=False)
    whole = compiled(plait.from_numpy(x), w).numpy()
    part = compiled(plait.from_numpy(x[:257].copy()), w).numpy()
    np.testing.assert_array_equal(whole[:257], part)


@needs_vectors
def test_gradients_of_a_layer(rng):
    """All four layouts in one graph, with an epilogue."""
    arrays = [draw(rng, 512, 600), draw(rng, 150, 600) / 16, draw(rng, 150)]

    def loss(x, w, b):
        functional = plait.nn.functional
        return (functional.gelu(functional.linear(x, w, b)) ** 2).mean()

    step = plait.func.value_and_grad(loss, argnums=(0, 1, 2))
    given = [plait.from_numpy(a) for a in arrays]
    got, grads = plait.compile(step, fullgraph=True)(*given)
    want, expected = step(*(plait.from_numpy(a.astype(np.float64)) for a in arrays))
    np.testing.assert_allclose(got.numpy(), want.numpy(), rtol=1e-5)
    for g, e in zip(grads, expected, strict=True):
        np.testing.assert_allclose(g.numpy(), e.numpy(), rtol=1e-3, atol=1e-5)


@needs_vectors
@pytest.mark.parametrize("threads", [1, 2])
def test_what_follows_runs_on_each_block(rng, threads):
    """Linear, residual and layer norm in one step, with edges of blocks inside the rows."""
    x, w, b, r = (draw(rng, *s) for s in ((777, 300), (150, 300), (150,), (777, 150)))

    def fn(x, w, b, r):
        functional = plait.nn.functional
        return functional.layer_norm(functional.linear(x, w, b) + r, (150,))

    compiled = plait.compile(fn, fullgraph=True)
    before = pool.num_threads()
    try:
        pool.set_num_threads(threads)
        got = compiled(*map(plait.from_numpy, (x, w, b, r))).numpy()
    finally:
        pool.set_num_threads(before)
    want = fn(*(plait.from_numpy(a.astype(np.float64)) for a in (x, w, b, r))).numpy()
    np.testing.assert_allclose(got, want, atol=1e-4)
    (step,) = compiled.kernels()
    assert step.kind == "gemm" and "native_layer_norm" in step.ops


@needs_vectors
def test_what_is_left_to_others(monkeypatch):
    assert packed_form(product(64, 512, 512)) is None  # too few rows to share out
    assert packed_form(product(512, 32, 512)) is None
    assert packed_form(product(128, 512, 128)) is None  # too little work
    assert packed_form(product(512, 4096, 4096)) is None  # too much to pack at once
    assert packed_form(product(512, 512, 512, alpha=2.0)) is None
    assert packed_form(product(512, 512, 512)) is not None
    monkeypatch.setattr(config, "vector_bits", 128)
    assert packed_form(product(512, 512, 512)) is None


@needs_vectors
def test_blocks_cover_all_rows_and_come_in_twos_at_least():
    for m in (128, 129, 192, 193, 384, 1000, 4096):
        found = cut(product(m, 100, 300), 4)
        assert (
            found.blocks >= 2 and (found.blocks - 1) * found.rows < m <= found.blocks * found.rows
        )


@needs_vectors
def test_the_listing_has_the_code_once(maker, rng):
    x, w = maker.input(draw(rng, 1024, 200)), maker.input(draw(rng, 200, 200))
    compiled = compile_graph(maker.graph(maker(MM, maker(MM, x, w), w)))
    text = compiled.listing("llvm")
    assert text.count('define void @"plait_rows_f32"') == 1
    assert "plait_gemm_f32" not in text


@pytest.mark.parametrize("bits", [128, 256, 512])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_every_width_of_vectors(maker, rng, monkeypatch, bits, dtype):
    """Wider ones than the machine's are split by LLVM; narrow ones leave it to the library."""
    monkeypatch.setattr(config, "vector_bits", bits)
    x, w = draw(rng, 601, 599, dtype=dtype), draw(rng, 99, 599, dtype=dtype).T
    _, (got,) = maker.run(maker(MM, maker.input(x), maker.input(w)), execute="native")
    np.testing.assert_allclose(got, x.astype(np.float64) @ w.astype(np.float64), atol=2e-4)
