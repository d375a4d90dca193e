"""Attention as one native step: values and gradients, tiles, masks, threads, and what it holds."""

import numpy as np
import pytest

import plait
from plait.backends.llvm.compiler import Program, compile_graph
from plait.backends.llvm.decompose import lower_graph
from plait.backends.llvm.native.pool import num_threads, set_num_threads
from plait.backends.llvm.plan import Attention
from plait.base import log
from plait.base.config import config
from plait.ops import aten
from plait.tensor.tensor import from_numpy

FLASH = aten._scaled_dot_product_flash_attention_for_cpu.default
BACKWARD = aten._scaled_dot_product_flash_attention_for_cpu_backward.default
TOLERANCE = {np.float32: 4e-6, np.float64: 2e-14}


def heads(rng, b, h, length, width, dtype=np.float32):
    """[b, h, length, width] as it comes from a projection: a transposed view."""
    return rng.standard_normal((b, length, h, width)).astype(dtype).transpose(0, 2, 1, 3)


def reference(q, k, v, mask=None, causal=False, scale=None, grad=None):
    """In double precision: (out, logsumexp, grad_query, grad_key, grad_value)."""
    q, k, v = (x.astype(np.float64) for x in (q, k, v))
    scale = 1 / np.sqrt(q.shape[-1]) if scale is None else scale
    scores = q @ k.swapaxes(-1, -2) * scale
    if mask is not None:
        scores = scores + mask
    if causal:
        scores = np.where(np.tri(*scores.shape[-2:], dtype=bool), scores, -np.inf)
    top = scores.max(-1, keepdims=True, initial=-np.inf)
    top = np.where(np.isneginf(top), 0, top)
    p = np.exp(scores - top)
    total = p.sum(-1, keepdims=True)
    total = np.where(total == 0, 1, total)
    p = p / total
    out, logs = p @ v, (top + np.log(total))[..., 0]
    if grad is None:
        return out, logs
    grad = grad.astype(np.float64)
    slope = p * (grad @ v.swapaxes(-1, -2) - (grad * out).sum(-1, keepdims=True))
    turned = slope.swapaxes(-1, -2)
    return out, logs, slope @ k * scale, turned @ q * scale, p.swapaxes(-1, -2) @ grad


def run_both(maker, q, k, v, mask=None, causal=False, scale=None, grad=None, execute="native"):
    """Results of the forward step, and with `grad` of the backward step, from one graph."""
    inputs = [maker.input(x) for x in (q, k, v)]
    options = {"attn_mask": None if mask is None else maker.input(mask), "scale": scale}
    out, logs = maker(FLASH, *inputs, 0.0, causal, **options)
    results = [out, logs]
    if grad is not None:
        g = maker.input(grad)
        results += maker(BACKWARD, g, *inputs, out, logs, 0.0, causal, **options)
    compiled, arrays = maker.run(*results, execute=execute)
    assert "attention" in {step.kind for step in compiled.kernels}
    return compiled, arrays


def check(got, want, dtype):
    for mine, theirs in zip(got, want, strict=True):
        np.testing.assert_allclose(mine, theirs, rtol=0, atol=TOLERANCE[dtype] * 4)


SIZES = [
    (2, 3, 1, 130, 64), (1, 2, 2, 5, 7), (2, 1, 4, 97, 80),
    (1, 1, 1, 1, 4), (2, 3, 5, 7, 8), (1, 2, 37, 300, 20), (2, 2, 130, 97, 33),
    (1, 1, 16, 96, 64), (1, 2, 257, 49, 64), (3, 1, 4, 200, 3), (1, 1, 129, 1, 16),
    (1, 1, 70, 70, 160),
]  # fmt: skip


@pytest.mark.parametrize("execute", ["native", "interpret"])
@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("sizes", SIZES)
def test_values_and_gradients(maker, rng, sizes, causal, execute):
    b, h, length, keys, width = sizes
    q, k, v = (heads(rng, b, h, n, width) for n in (length, keys, keys))
    grad = heads(rng, b, h, length, width)
    _, got = run_both(maker, q, k, v, causal=causal, grad=grad, execute=execute)
    check(got, reference(q, k, v, causal=causal, grad=grad), np.float32)


def test_results_have_the_order_of_the_operator(maker, rng):
    q, k, v = (heads(rng, 2, 3, 5, 4) for _ in range(3))
    compiled, got = run_both(maker, q, k, v, grad=heads(rng, 2, 3, 5, 4))
    assert [step.kind for step in compiled.kernels] == ["attention"] * 2
    assert all(x.strides == q.strides for x in (got[0], *got[2:]))
    assert got[1].strides == (60, 4, 12)


def test_double_precision_and_scale(maker, rng):
    q, k, v = (heads(rng, 2, 2, n, 12, np.float64) for n in (45, 101, 101))
    grad = heads(rng, 2, 2, 45, 12, np.float64)
    _, got = run_both(maker, q, k, v, scale=0.7, grad=grad)
    check(got, reference(q, k, v, scale=0.7, grad=grad), np.float64)


MASKS = {
    "everything": (2, 2, 40, 105), "one head": (2, 1, 40, 105), "rows": (40, 105),
    "keys": (2, 1, 1, 105), "queries": (40, 1), "one number": (1, 1),
}  # fmt: skip


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("shape", MASKS.values(), ids=MASKS)
def test_masks(maker, rng, shape, causal):
    q, k, v = (heads(rng, 2, 2, n, 16) for n in (40, 105, 105))
    grad = heads(rng, 2, 2, 40, 16)
    mask = rng.standard_normal(shape).astype(np.float32)
    if mask.size > 1:
        mask[rng.random(shape) > 0.7] = -np.inf
    _, got = run_both(maker, q, k, v, mask, causal, grad=grad)
    check(got, reference(q, k, v, mask, causal, grad=grad), np.float32)


def test_transposed_mask(maker, rng):
    q, k, v = (heads(rng, 1, 2, n, 8) for n in (40, 55, 55))
    mask = rng.standard_normal((55, 40)).astype(np.float32).T
    _, got = run_both(maker, q, k, v, mask)
    check(got, reference(q, k, v, mask), np.float32)


@pytest.mark.parametrize("length", [1, 40])
def test_rows_without_keys_are_zero(maker, rng, length):
    q, k, v = (heads(rng, 1, 2, n, 8) for n in (length, 30, 30))
    grad = heads(rng, 1, 2, length, 8)
    mask = np.zeros((length, 30), np.float32)
    mask[0] = -np.inf
    _, got = run_both(maker, q, k, v, mask, grad=grad)
    assert not got[0][:, :, 0].any() and not got[1][:, :, 0].any() and not got[2][:, :, 0].any()
    check(got, reference(q, k, v, mask, grad=grad), np.float32)


@pytest.mark.parametrize("length", [1, 20])
def test_nan_and_infinity_stay_in_their_rows(maker, rng, length):
    q, k, v = (heads(rng, 1, 1, n, 8) for n in (length, 150, 150))
    q[0, 0, 0, 3] = np.nan
    v[0, 0, 140, 5] = np.inf
    _, (out, logs) = run_both(maker, q, k, v)
    assert np.isnan(out[0, 0, 0]).all() and np.isnan(logs[0, 0, 0])
    assert np.isposinf(out[0, 0, 1:, 5]).all()
    rest = np.delete(out[0, 0, 1:], 5, axis=1)
    assert np.isfinite(rest).all()


def test_large_scores_do_not_overflow(maker, rng):
    q, k, v = (heads(rng, 1, 1, n, 8) * np.float32(200) for n in (20, 150, 150))
    _, got = run_both(maker, q, k, v)
    np.testing.assert_allclose(got[0], reference(q, k, v)[0], rtol=2e-3, atol=2e-3)
    assert np.isfinite(got[1]).all()


@pytest.mark.parametrize("sizes", [(1, 2, 0, 5, 4), (1, 2, 5, 0, 4), (0, 2, 5, 5, 4)])
def test_nothing(maker, rng, sizes):
    b, h, length, keys, width = sizes
    q, k, v = (heads(rng, b, h, n, width) for n in (length, keys, keys))
    _, got = run_both(maker, q, k, v, grad=heads(rng, b, h, length, width))
    assert all(not x.any() for x in got)


def test_operands_that_are_not_rows_are_copied(maker, rng):
    """Numbers of a row must lie side by side; an expanded gradient, for one, is copied."""
    q, k, v = (rng.standard_normal((1, 2, 8, n)).astype(np.float32).swapaxes(2, 3)
               for n in (20, 30, 30))  # fmt: skip
    x = [maker.input(a) for a in (q, k, v)]
    out, logs = maker(FLASH, *x)
    grad = maker(
        aten.expand.default, maker.input(np.ones((1, 1, 1, 1), np.float32)), out.type.shape
    )
    grads = maker(BACKWARD, grad, *x, out, logs, 0.0, False)
    compiled, got = maker.run(out, logs, *grads, execute="native")
    assert [step.kind for step in compiled.kernels].count("attention") == 2
    check(got, reference(q, k, v, grad=np.ones_like(q)), np.float32)


def test_threads_do_not_change_a_bit(maker, rng):
    q, k, v = (heads(rng, 2, 3, n, 32) for n in (300, 310, 310))
    before, results = num_threads(), []
    compiled, _ = run_both(maker, q, k, v, causal=True, grad=heads(rng, 2, 3, 300, 32))
    try:
        for threads in (1, 2):
            set_num_threads(threads)
            results.append([x.numpy() for x in compiled(*map(from_numpy, maker.arrays))])
    finally:
        set_num_threads(before)
    for one, two in zip(*results, strict=True):
        assert one.tobytes() == two.tobytes()


def test_scores_are_never_stored(maker, rng):
    """Temporaries of forward and backward together are far smaller than one matrix of scores."""
    length, width = 2048, 16
    x = [maker.input(heads(rng, 1, 2, length, width)) for _ in range(3)]
    doubled = [maker(aten.mul.Scalar, a, 2.0) for a in x]
    out, logs = maker(FLASH, *doubled, 0.0, True)
    grads = maker(BACKWARD, out, *doubled, out, logs, 0.0, True)
    graph = maker.graph(*(maker(aten.add.Tensor, g, g) for g in grads))
    plan = Program(graph, lower_graph(graph), "interpret").plan
    assert sum(isinstance(step, Attention) for step in plan.steps) == 2
    assert plan.arena_bytes.evaluate({}) < 2 * length * length * 4 / 8


def test_results_that_nobody_reads_are_not_computed(maker, rng):
    q, k, v = (heads(rng, 1, 2, 20, 8) for _ in range(3))
    x = [maker.input(a) for a in (q, k, v)]
    grad, out, logs = (maker.input(heads(rng, 1, 2, 20, 8)), *maker(FLASH, *x))
    grads = maker(BACKWARD, grad, *x, out, logs, 0.0, False)
    compiled, (by_key,) = maker.run(grads[1], execute="native")
    forms = [s.form.wanted for p in compiled.programs for s in p.plan.steps]
    assert forms == [(True, True), (False, True, False)]
    np.testing.assert_allclose(by_key, reference(q, k, v, grad=maker.arrays[3])[3], atol=4e-6)


@pytest.mark.parametrize("causal", [False, True])
def test_symbolic_sizes(rng, causal):
    """One entry serves all lengths, short and long."""

    def loss(q, k, v):
        out, _ = FLASH(q, k, v, 0.0, causal)
        return (out * out).sum()

    compiled = plait.compile(loss)
    log.clear()
    for b, length, keys in ((2, 3, 50), (3, 150, 40), (1, 1, 130), (2, 33, 33)):
        arrays = [heads(rng, b, 2, n, 8) for n in (length, keys, keys)]
        mine = [plait.from_numpy(x).requires_grad_() for x in arrays]
        compiled(*mine).backward()
        out = reference(*arrays, causal=causal)[0]
        want = reference(*arrays, causal=causal, grad=2 * out)[2:]
        for tensor, gradient in zip(mine, want, strict=True):
            np.testing.assert_allclose(tensor.grad.numpy(), gradient, atol=2e-5)
    assert not log.events("fallback")


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_types_compute_in_single_precision(rng, dtype):
    q, k, v = (plait.from_numpy(heads(rng, 1, 2, 40, 16)).to(getattr(plait, dtype))
               for _ in range(3))  # fmt: skip
    got = plait.compile(lambda *x: FLASH(*x)[0])(q, k, v)
    want = FLASH(q, k, v)[0]
    assert got.dtype is want.dtype
    np.testing.assert_allclose(
        got.to(plait.float32).numpy(), want.to(plait.float32).numpy(), atol=2e-2
    )


def test_against_pytorch(maker, rng):
    torch = pytest.importorskip("torch")
    q, k, v = (heads(rng, 2, 4, 140, 64) for _ in range(3))
    grad = heads(rng, 2, 4, 140, 64)
    _, got = run_both(maker, q, k, v, causal=True, grad=grad)
    theirs = [torch.from_numpy(x.copy()).requires_grad_() for x in (q, k, v)]
    out = torch.nn.functional.scaled_dot_product_attention(*theirs, is_causal=True)
    out.backward(torch.from_numpy(grad.copy()))
    check([got[0], *got[2:]], [out.detach(), *(x.grad for x in theirs)], np.float32)


@pytest.mark.parametrize("bits", [128, 256, 512])
def test_every_width_of_vectors(maker, rng, monkeypatch, bits):
    """Narrow vectors everywhere; wider ones than the machine's are split by LLVM."""
    monkeypatch.setattr(config, "vector_bits", bits)
    q, k, v = (heads(rng, 1, 2, n, 20) for n in (50, 77, 77))
    grad = heads(rng, 1, 2, 50, 20)
    mask = rng.standard_normal((50, 77)).astype(np.float32)
    _, got = run_both(maker, q, k, v, mask, grad=grad)
    check(got, reference(q, k, v, mask, grad=grad), np.float32)


def test_listing_names_the_tiles(maker, rng):
    q, k, v = (maker.input(heads(rng, 1, 2, 20, 8)) for _ in range(3))
    compiled = compile_graph(maker.graph(*maker(FLASH, q, k, v, 0.0, True)))
    assert "attention 1 x 2 heads, 20 x 20 scores in tiles 128 x 96, width 8 f32, causal" in (
        compiled.listing("loop")
    )
    assert "plait_attention_" in compiled.listing("llvm")
    (info,) = compiled.kernels
    assert info.kind == "attention" and "128 x 96" in info.reasons[0]
