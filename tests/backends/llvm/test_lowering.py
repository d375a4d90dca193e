"""Every lowered operator, interpreted and native, against its eager kernel."""

# ruff: noqa: E501   (a table reads best with one kind of call a line)

import numpy as np
import pytest

from plait.ops import aten
from plait.tensor.tensor import Tensor, from_numpy

R = np.random.default_rng(1)


def f(*shape):
    return R.standard_normal(shape).astype(np.float32)


def d(*shape):
    return R.standard_normal(shape)


def i(*shape, low=-5, high=6, dtype=np.int64):
    return R.integers(low, high, shape).astype(dtype)


def p(*shape):
    return R.uniform(0.1, 2, shape).astype(np.float32)


def bools(*shape):
    return R.integers(0, 2, shape).astype(bool)


SPECIAL = np.array([0.0, -0.0, np.nan, np.inf, -np.inf, 1.5, -2.5], np.float32)

UNARY = [
    "neg",
    "abs",
    "sign",
    "exp",
    "expm1",
    "sqrt",
    "rsqrt",
    "reciprocal",
    "erf",
    "sin",
    "cos",
    "tanh",
    "sigmoid",
    "relu",
    "silu",
    "square",
    "isnan",
    "isinf",
    "isfinite",
    "logical_not",
    "log",
    "log1p",
    "gelu",
    "clone",
    "floor",
    "ceil",
    "round",
    "trunc",
]
BINARY = [
    "mul",
    "maximum",
    "minimum",
    "eq",
    "ne",
    "lt",
    "le",
    "gt",
    "ge",
    "logical_and",
    "logical_or",
    "add",
    "sub",
    "div",
]

# fmt: off
CALLS = [
    *[(f"{n}.default", (f(3, 5),)) for n in UNARY],
    *[(f"{n}.default", (SPECIAL,)) for n in UNARY],
    *[(f"{n}.default", (d(4).reshape(2, 2).T,)) for n in UNARY],
    *[(f"{n}.default", (i(7),)) for n in ["neg", "abs", "sign", "exp", "sqrt", "logical_not", "bitwise_not", "square", "relu"]],
    *[(f"{n}.Tensor" if n not in ("maximum", "minimum", "logical_and", "logical_or") else f"{n}.default", (x, y))
      for n in BINARY for x, y in [(f(3, 5), f(5)), (f(3, 1), f(1, 4)), (i(3), f(3)), (i(4), i(4)), (SPECIAL, SPECIAL[::-1].copy()), (f(2, 3).T, f(3, 2))]],
    *[(f"{n}.Scalar", (x, s)) for n in ["add", "sub", "mul", "div", "eq", "ne", "lt", "le", "gt", "ge"] for x in (f(3), i(3)) for s in (2, 1.5)],
    ("add.Tensor", (f(3), f(3)), {"alpha": 2.5}), ("sub.Tensor", (i(3), i(3)), {"alpha": 3}),
    ("rsub.Scalar", (f(3), 2)), ("add.Tensor", (bools(4), bools(4))), ("mul.Tensor", (bools(4), bools(4))),
    ("pow.Tensor_Scalar", (p(4), 2)), ("pow.Tensor_Scalar", (p(4), 2.5)), ("pow.Tensor_Scalar", (p(4), -0.5)),
    ("pow.Tensor_Scalar", (i(4), 3)), ("pow.Tensor_Tensor", (p(4), f(4))), ("pow.Scalar", (2.0, f(4))),
    ("gelu.default", (f(9),), {"approximate": "tanh"}), ("clamp.default", (SPECIAL, -1.0, 1.0)),
    ("clamp.default", (i(9), -1, None)), ("clamp_min.default", (SPECIAL, 0.5)), ("clamp_max.default", (SPECIAL, 0.5)),
    ("where.self", (bools(3, 4), f(4), f(3, 1))), ("masked_fill.Scalar", (f(3, 4), bools(4), -1.0)),
    ("bitwise_and.Tensor", (i(5), i(5))), ("bitwise_or.Tensor", (bools(5), bools(5))),
    ("addcmul.default", (f(3), f(3), f(3)), {"value": 0.5}), ("addcdiv.default", (f(3), f(3), p(3)), {"value": 2}),
    # reductions
    *[(n, (x, *rest)) for x in (f(4, 5, 6), f(6, 5, 4).T, i(4, 5, 6)) for n, rest in [
        ("sum.default", ()), ("sum.dim_IntList", ([1],)), ("sum.dim_IntList", ([0, 2], True)), ("sum.dim_IntList", ([0],)),
        ("amax.default", ([2],)), ("amin.default", ([0, 1], True)), ("max.default", ()), ("min.default", ()),
        ("argmax.default", (1,)), ("argmin.default", (2, True)), ("argmax.default", ()), ("prod.default", ()),
        ("any.default", ()), ("all.dim", (1,)), ]],
    *[(n, (f(4, 5), *rest)) for n, rest in [("mean.default", ()), ("mean.dim", ([1],)), ("mean.dim", ([0], True)),
        ("var.correction", ([1],)), ("logsumexp.default", ([1],)), ("logsumexp.default", ([0, 1], True))]],
    ("sum.default", (f(300, 200),)), ("sum.dim_IntList", (f(2000, 40), [0])), ("sum.default", (f(100000),)),
    ("amax.default", (SPECIAL, [0])), ("amax.default", (f(70, 900), [0])), ("sum.default", (f(3, 40000),)),
    ("sum.default", (f(),)), ("max.default", (SPECIAL,)), ("argmax.default", (SPECIAL,)), ("mean.default", (d(3, 2),)),
    ("sum.dim_IntList", (f(3, 0), [1])), ("sum.default", (bools(7),)), ("argmax.default", (f(5, 4).T,)),
    # products
    ("mm.default", (f(3, 4), f(4, 5))), ("mm.default", (f(4, 3).T, f(5, 4).T)), ("bmm.default", (f(2, 3, 4), f(2, 4, 5))),
    ("addmm.default", (f(5), f(3, 4), f(4, 5))), ("addmm.default", (f(3, 5), f(3, 4), f(4, 5)), {"beta": 0.5, "alpha": 2}),
    ("dot.default", (f(7), f(7))), ("mv.default", (f(3, 4), f(4))), ("mm.default", (i(3, 4), i(4, 2))),
    ("mm.default", (f(8, 8)[::2, ::2], f(4, 3))), ("mm.default", (d(3, 4), d(4, 2))), ("mm.default", (f(3, 0), f(0, 2))),
    # views
    ("permute.default", (f(2, 3, 4), [2, 0, 1])), ("transpose.int", (f(2, 3), 0, -1)), ("t.default", (f(2, 3),)),
    ("unsqueeze.default", (f(2, 3), -1)), ("squeeze.default", (f(2, 1, 3),)), ("squeeze.dim", (f(2, 1, 3), 1)),
    ("expand.default", (f(3, 1), [2, 3, 4])), ("view.default", (f(4, 6), [2, 2, -1])), ("select.int", (f(4, 6), 1, -2)),
    ("slice.Tensor", (f(8, 6), 0, 1, -1, 2)), ("slice.Tensor", (f(8, 6), 1, -3)), ("diagonal.default", (f(4, 5), 1)),
    ("split.Tensor", (f(7, 2), 3)), ("unbind.int", (f(3, 2), 1)),
    ("cat.default", ([f(2, 3), f(4, 3)],)), ("cat.default", ([f(3, 2), f(3, 1), f(3, 4)], 1)), ("stack.default", ([f(3), f(3)], 1)),
    ("slice_scatter.default", (f(8, 3), f(3, 3), 0, 1, 7, 2)), ("select_scatter.default", (f(4, 3), f(4), 1, -1)),
    # indexing
    ("index_select.default", (f(5, 3), 0, i(4, low=0, high=5))), ("index_select.default", (f(5, 3), 1, i(4, low=0, high=3))),
    ("gather.default", (f(5, 3), 1, i(5, 2, low=0, high=3))), ("embedding.default", (f(10, 4), i(2, 3, low=0, high=10))),
    ("scatter_add.default", (f(5, 3), 0, i(6, 3, low=0, high=5), f(6, 3))), ("index_add.default", (f(5, 3), 0, i(4, low=0, high=5), f(4, 3))),
    # creation
    ("full_like.default", (f(2, 3), 2.5)), ("zeros_like.default", (i(3),)), ("ones_like.default", (f(3),)),
    # normalisation
    ("_softmax.default", (f(4, 50), 1, False)), ("_softmax.default", (f(4, 5, 6), 1, False)), ("_log_softmax.default", (f(4, 50), -1, False)),
    ("native_layer_norm.default", (f(4, 5, 8), [8], f(8), f(8), 1e-5)), ("native_layer_norm.default", (f(4, 5, 8), [5, 8], None, None, 1e-5)),
    ("nll_loss_forward.default", (f(4, 5), i(4, low=0, high=5), None, 1, -100)), ("nll_loss_forward.default", (f(4, 5), np.array([1, -100, 2, 4]), p(5), 2, -100)),
    ("mse_loss.default", (f(4, 5), f(4, 5))),
]
# fmt: on


def named(name):
    packet, overload = name.split(".")
    try:
        found = getattr(aten, packet)
        return getattr(found, overload)
    except AttributeError:
        return None


@pytest.mark.parametrize(
    "call", CALLS, ids=lambda c: c[0] + str([getattr(a, "shape", a) for a in c[1]])
)
@pytest.mark.parametrize("execute", ["interpret", pytest.param("native", marks=pytest.mark.slow)])
def test_compiled_equals_eager(one_call, call, execute):
    name, args, *rest = call
    kwargs = rest[0] if rest else {}
    op = named(name)
    if op is None or op.is_composite:
        pytest.skip(f"{name} is not defined")
    maker, results = one_call(op, args, kwargs)
    compiled, got = maker.run(*results, execute=execute)
    assert not compiled.graph.outputs or len(compiled.programs) == 1

    def tensor(item):
        if isinstance(item, list | tuple):
            return [tensor(part) for part in item]
        return from_numpy(item) if isinstance(item, np.ndarray) else item

    wanted = op(*map(tensor, args), **kwargs)
    wanted = [wanted] if isinstance(wanted, Tensor) else wanted
    for have, want in zip(got, wanted, strict=True):
        want = want.numpy()
        assert have.dtype == want.dtype and have.shape == want.shape
        assert [s for s, n in zip(have.strides, have.shape) if n > 1] == [
            s for s, n in zip(want.strides, want.shape) if n > 1
        ] or not have.size
        np.testing.assert_allclose(
            have, want, rtol=2e-4 if have.dtype == np.float32 else 1e-9, atol=1e-5
        )
