"""Which values share a kernel: counts of kernels, and results against eager."""

import numpy as np
import pytest

from plait.ops import aten
from plait.tensor.tensor import Tensor


def f(rng, *shape):
    return rng.standard_normal(shape).astype(np.float32)


def steps(compiled):
    return [k.kind for k in compiled.kernels]


def softmax(x):
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def test_pointwise_chain_is_one_kernel(maker, rng):
    x, y = maker.input(f(rng, 4, 8)), maker.input(f(rng, 8))
    z = maker(aten.tanh.default, maker(aten.add.Tensor, x, y))
    compiled, (out,) = maker.run(maker(aten.mul.Tensor, maker(aten.exp.default, z), z))
    assert steps(compiled) == ["kernel"]
    t = np.tanh(maker.arrays[0] + maker.arrays[1])
    np.testing.assert_allclose(out, np.exp(t) * t, rtol=1e-5)


def test_long_chain_is_one_kernel(maker, rng):
    x = maker.input(f(rng, 64))
    y = x
    for _ in range(300):
        y = maker(aten.add.Tensor, y, x)
    compiled, (out,) = maker.run(y)
    assert steps(compiled) == ["kernel"]
    np.testing.assert_allclose(out, maker.arrays[0] * 301, rtol=1e-4)


@pytest.mark.parametrize("op", ["_softmax", "_log_softmax"])
def test_softmax_is_one_kernel(maker, rng, op):
    x = maker.input(f(rng, 64, 1000))
    compiled, (out,) = maker.run(maker(getattr(aten, op).default, x, -1, False))
    assert steps(compiled) == ["kernel"]
    want = softmax(maker.arrays[0])
    np.testing.assert_allclose(out, want if op == "_softmax" else np.log(want), rtol=1e-4)


def test_softmax_from_its_parts_is_one_kernel(maker, rng):
    x = maker.input(f(rng, 3, 4, 50))
    top = maker(aten.amax.default, x, [-1], True)
    e = maker(aten.exp.default, maker(aten.sub.Tensor, x, top))
    out = maker(aten.div.Tensor, e, maker(aten.sum.dim_IntList, e, [-1], True))
    compiled, (got,) = maker.run(out)
    assert steps(compiled) == ["kernel"]
    np.testing.assert_allclose(got, softmax(maker.arrays[0]), rtol=1e-5)


def layer_norm(maker, x, width):
    w, b = (
        maker.input(f(np.random.default_rng(1), width)),
        maker.input(f(np.random.default_rng(2), width)),
    )
    return maker(aten.native_layer_norm.default, x, [width], w, b, 1e-5)


def test_layer_norm_with_what_surrounds_it_is_one_kernel(maker, rng):
    x, y = maker.input(f(rng, 32, 128)), maker.input(f(rng, 32, 128))
    out, mean, rstd = layer_norm(maker, maker(aten.add.Tensor, x, y), 128)
    compiled, results = maker.run(maker(aten.gelu.default, out), mean, rstd)
    assert steps(compiled) == ["kernel"]
    s = maker.arrays[0] + maker.arrays[1]
    np.testing.assert_allclose(results[1], s.mean(-1, keepdims=True), atol=1e-5)
    np.testing.assert_allclose(results[2], 1 / np.sqrt(s.var(-1, keepdims=True) + 1e-5), rtol=1e-4)


def test_linear_relu_sum_is_a_product_and_a_kernel(maker, rng):
    x, w, b = maker.input(f(rng, 16, 32)), maker.input(f(rng, 32, 8)), maker.input(f(rng, 8))
    h = maker(aten.relu.default, maker(aten.addmm.default, b, x, w))
    compiled, (out,) = maker.run(maker(aten.sum.default, h))
    assert steps(compiled) == ["gemm", "kernel"]
    a = maker.arrays
    np.testing.assert_allclose(out, np.maximum(a[0] @ a[1] + a[2], 0).sum(), rtol=1e-4)


def test_large_sum_is_split_by_shape(maker, rng):
    x = maker.input(f(rng, 512, 300))
    compiled, (out,) = maker.run(maker(aten.sum.default, maker(aten.square.default, x)))
    assert steps(compiled) == ["kernel", "kernel"]
    np.testing.assert_allclose(out, np.square(maker.arrays[0]).sum(), rtol=1e-4)


def test_gradients_of_layer_norm_are_rows_and_columns(maker, rng):
    g, x, w = maker.input(f(rng, 64, 128)), maker.input(f(rng, 64, 128)), maker.input(f(rng, 128))
    mean, rstd = maker.input(f(rng, 64, 1)), maker.input(f(rng, 64, 1))
    xhat = maker(aten.mul.Tensor, maker(aten.sub.Tensor, x, mean), rstd)
    gw = maker(aten.mul.Tensor, g, w)
    s1 = maker(aten.mean.dim, gw, [1], True)
    s2 = maker(aten.mean.dim, maker(aten.mul.Tensor, gw, xhat), [1], True)
    inner = maker(aten.sub.Tensor, maker(aten.sub.Tensor, gw, s1), maker(aten.mul.Tensor, xhat, s2))
    gx = maker(aten.mul.Tensor, inner, rstd)
    g_weight = maker(aten.sum.dim_IntList, maker(aten.mul.Tensor, g, xhat), [0])
    g_bias = maker(aten.sum.dim_IntList, g, [0])
    compiled, got = maker.run(gx, g_weight, g_bias)
    assert len(steps(compiled)) <= 4
    a = maker.arrays
    xh = (a[1] - a[3]) * a[4]
    np.testing.assert_allclose(got[1], (a[0] * xh).sum(0), rtol=1e-3, atol=1e-3)
    np.testing.assert_allclose(got[2], a[0].sum(0), rtol=1e-3, atol=1e-4)
    gwn = a[0] * a[2]
    want = (gwn - gwn.mean(1, keepdims=True) - xh * (gwn * xh).mean(1, keepdims=True)) * a[4]
    np.testing.assert_allclose(got[0], want, rtol=1e-3, atol=1e-3)


def test_sibling_outputs_share_a_kernel(maker, rng):
    x = maker.input(f(rng, 8, 16))
    e = maker(aten.exp.default, x)
    outs = [e, maker(aten.neg.default, e), maker(aten.sin.default, x)]
    compiled, got = maker.run(*outs)
    assert steps(compiled) == ["kernel"]
    np.testing.assert_allclose(got[1], -np.exp(maker.arrays[0]), rtol=1e-5)


def test_a_transposed_reader_is_another_kernel(maker, rng):
    x = maker.input(f(rng, 8, 8))
    s = maker(aten.sum.dim_IntList, x, [1], True)
    compiled, (out,) = maker.run(maker(aten.add.Tensor, x, maker(aten.t.default, s)))
    assert steps(compiled) == ["kernel", "kernel"]
    a = maker.arrays[0]
    np.testing.assert_allclose(out, a + a.sum(1)[None, :], rtol=1e-5, atol=1e-5)


def test_reshape_between_pointwise_is_fused(maker, rng):
    x, y = maker.input(f(rng, 4, 6, 8)), maker.input(f(rng, 24, 8))
    flat = maker(aten.view.default, maker(aten.exp.default, x), [24, 8])
    out = maker(aten.view.default, maker(aten.mul.Tensor, flat, y), [4, 6, 8])
    compiled, (got,) = maker.run(maker(aten.sigmoid.default, out))
    assert steps(compiled) == ["kernel"]
    assert "//" not in compiled.listing()
    a = maker.arrays
    want = 1 / (1 + np.exp(-np.exp(a[0]) * a[1].reshape(4, 6, 8)))
    np.testing.assert_allclose(got, want, rtol=1e-5)


def test_attention_uses_layouts_instead_of_copies(maker, rng):
    q = maker.input(f(rng, 5, 6, 4))
    flat = maker(aten.permute.default, q, [1, 0, 2])
    scores = maker(aten.bmm.default, flat, maker(aten.transpose.int, flat, 1, 2))
    probabilities = maker(aten._softmax.default, maker(aten.mul.Scalar, scores, 0.5), -1, False)
    compiled, (out,) = maker.run(maker(aten.bmm.default, probabilities, flat))
    assert steps(compiled) == ["gemm", "kernel", "gemm"]
    a = maker.arrays[0].transpose(1, 0, 2)
    np.testing.assert_allclose(out, softmax(a @ a.transpose(0, 2, 1) * 0.5) @ a, rtol=1e-4)


def test_outputs_that_are_inputs_or_views(maker, rng):
    x = maker.input(f(rng, 4, 6))
    e = maker(aten.exp.default, x)
    compiled = maker.compile(x, maker(aten.t.default, x), e, maker(aten.t.default, e), e)
    from plait.tensor.tensor import from_numpy

    base = from_numpy(maker.arrays[0])
    same, turned, fresh, fresh_turned, again = compiled(base)
    assert same is base and fresh is again
    assert turned.data_ptr() == base.data_ptr() and turned.stride() == (1, 6)
    assert isinstance(fresh_turned, Tensor) and fresh_turned.data_ptr() == fresh.data_ptr()
    assert steps(compiled) == ["kernel"]


def test_equal_layers_give_equal_kernels(maker, rng):
    x = maker.input(f(rng, 8, 16))
    for _ in range(3):
        w = maker.input(f(rng, 16, 16))
        b = maker.input(f(rng, 16))
        x = maker(aten.relu.default, maker(aten.addmm.default, b, x, w))
    compiled, _ = maker.run(x)
    kernels = {s.kernel for s in compiled.programs[0].plan.steps if hasattr(s, "kernel")}
    assert len(kernels) == 1


@pytest.mark.parametrize("dynamic", [False, True])
def test_heads_of_attention_are_batch_strides(rng, dynamic):
    import plait

    def attention(*qkv):
        batch, length, _ = qkv[0].shape
        q, k, v = (t.reshape(batch, length, 2, 4).transpose(1, 2) for t in qkv)
        return plait.softmax(q @ k.transpose(-1, -2), -1) @ v

    qkv = [plait.tensor(f(rng, 3, 5, 8)) for _ in range(3)]
    compiled = plait.compile(attention, options={"execute": "interpret"}, dynamic=dynamic)
    np.testing.assert_allclose(compiled(*qkv).numpy(), attention(*qkv).numpy(), rtol=1e-4)
    assert [k.kind for k in compiled.kernels()] == ["gemm", "kernel", "gemm"]
