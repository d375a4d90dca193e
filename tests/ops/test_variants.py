"""Derived in-place and out= overloads, Python's operators, subscripts."""

from __future__ import annotations

import numpy as np
import pytest

import plait
from plait.base.errors import DtypeMismatch, IndexOutOfRange, InplaceError, ShapeMismatch
from plait.dispatch.dispatcher import lookup
from plait.dispatch.schema import FunctionSchema
from plait.ops import aten
from plait.ops.variants import inplace_schema, out_schema
from plait.testing.samples import make, offset, sampled


def test_schemas_are_those_of_pytorch():
    schema = FunctionSchema.parse(
        "aten::add.Scalar(Tensor self, Scalar other, Scalar alpha=1) -> Tensor"
    )
    assert str(inplace_schema(schema)) == (
        "aten::add_.Scalar(Tensor(a!) self, Scalar other, Scalar alpha=1) -> Tensor(a!)"
    )
    assert str(out_schema(schema)) == (
        "aten::add.Scalar_out(Tensor self, Scalar other, Scalar alpha=1, *, Tensor(a!) out)"
        " -> Tensor(a!)"
    )


def test_links_between_the_forms():
    op = lookup("aten::add.Tensor")
    assert op.inplace is lookup("aten::add_.Tensor") and op.inplace.functional is op
    assert op.out is lookup("aten::add.out") and op.out.functional is op


def test_derived_schemas_exist_in_pytorch():
    torch = pytest.importorskip("torch")
    derived = [v for q in sampled("pointwise") for v in (lookup(q).inplace, lookup(q).out) if v]
    for op in derived:
        packet = getattr(torch.ops.aten, op.name)
        theirs = getattr(packet, op.schema.overload or "default")._schema
        assert [a.name for a in theirs.arguments] == [a.name for a in op.schema.arguments]


def test_a_result_larger_than_the_tensor_is_refused():
    with pytest.raises(ShapeMismatch, match="doesn't match the broadcast shape"):
        make(2).add_(make(3, 2))


def test_a_result_of_a_greater_category_is_refused():
    with pytest.raises(DtypeMismatch, match="can't be cast"):
        plait.tensor([1]).add_(1.5)
    assert plait.tensor([1.0]).add_(1).tolist() == [2.0]


def test_expanded_and_read_only_memory_is_not_written():
    with pytest.raises(InplaceError, match="single memory location"):
        plait.zeros(1).expand(3).add_(1)
    array = np.zeros(3, np.float32)
    array.flags.writeable = False
    with pytest.raises(InplaceError, match="read-only"):
        plait.from_numpy(array).add_(plait.ones(3))
    with pytest.raises(InplaceError, match="read-only"):
        plait.from_numpy(array).zero_()


def test_partial_overlap_is_refused_and_full_overlap_allowed():
    x = plait.arange(6.0)
    with pytest.raises(InplaceError, match="single memory location"):
        x[1:].add_(x[:-1])
    x.add_(x)
    assert x.tolist() == [0.0, 2.0, 4.0, 6.0, 8.0, 10.0]


def test_in_place_writes_reach_the_base():
    base = plait.zeros(3, 4)
    base[1:, ::2].add_(1)
    assert base.numpy().sum() == 4


def test_out_is_resized_only_without_elements():
    out = plait.empty(0)
    assert plait.add(make(3), make(3), out=out) is out
    assert out.shape == (3,)
    with pytest.raises(ShapeMismatch, match="'out' has the wrong shape"):
        plait.add(make(3), make(3), out=plait.zeros(2))
    with pytest.raises(DtypeMismatch, match="can't be cast"):
        plait.exp(make(3), out=plait.zeros(3, dtype=plait.int64))


# ---------------------------------------------------------------- Python's operators

BINARY = ["+", "-", "*", "/", "**", "<", "<=", ">", ">=", "==", "!="]


@pytest.mark.parametrize("symbol", BINARY)
@pytest.mark.parametrize(("left", "right"), [("x", "y"), ("x", "2"), ("2", "x"), ("x", "1.5")])
def test_operators(symbol, left, right):
    x, y = make(4, low=0.5), make(4, low=0.5, seed=1)
    expression = f"{left} {symbol} {right}"
    wanted = eval(expression, {"x": x.numpy(), "y": y.numpy()})
    got = eval(expression, {"x": x, "y": y})
    np.testing.assert_allclose(got.numpy(), wanted, rtol=1e-6)


@pytest.mark.parametrize("symbol", ["&", "|", "^"])
def test_bit_operators(symbol):
    x, y = make(4, dtype=plait.int32), make(4, dtype=plait.int32, seed=1)
    for expression in (f"x {symbol} y", f"x {symbol} 3", f"3 {symbol} x"):
        wanted = eval(expression, {"x": x.numpy(), "y": y.numpy()})
        assert eval(expression, {"x": x, "y": y}).tolist() == wanted.tolist()
    assert (~x).tolist() == (~x.numpy()).tolist()


@pytest.mark.parametrize("symbol", ["+=", "-=", "*=", "/=", "**="])
def test_in_place_operators_keep_the_object(symbol):
    for other in (make(3, low=0.5, seed=1), 2.0):
        x = make(3, low=0.5)
        scope = {"x": x, "y": other, "n": x.numpy().copy(), "m": np.asarray(other, np.float32)}
        exec(f"x {symbol} y; n {symbol} m", scope)
        assert scope["x"] is x
        np.testing.assert_allclose(x.numpy(), scope["n"], rtol=1e-6)


def test_numpy_leaves_the_work_to_the_tensor():
    x = plait.tensor([1.0, 2.0])
    assert isinstance(np.float32(2) * x, plait.Tensor)
    assert isinstance(x * np.float64(2), plait.Tensor) and (x * np.float64(2)).dtype is x.dtype
    assert isinstance(2 - x, plait.Tensor)


def test_foreign_operands():
    x = plait.tensor([1.0])
    with pytest.raises(TypeError):
        x + "a"
    assert (x == None) is False  # noqa: E711
    assert {x: 1}[x] == 1


# ---------------------------------------------------------------- subscripts

INDICES = [
    "0",
    "-1",
    "1:3",
    "::2",
    "1:, 0",
    "..., 1",
    "None",
    "0, ..., None",
    ":, None, 1:2",
    "...",
    ":",
    "2:1",
    "1, 2, 3",
]


@pytest.mark.parametrize("index", INDICES)
def test_basic_indexing_gives_views(index):
    x = offset(4, 3, 5)
    item = eval(f"numpy.s_[{index}]", {"numpy": np})
    got, wanted = x[item], x.numpy()[item]
    assert got.shape == np.shape(wanted)
    np.testing.assert_array_equal(got.numpy(), wanted)
    assert got is not x
    x[item] = 0
    assert not got.numpy().any()


@pytest.mark.parametrize("index", [[1, 0, -1], [[1, 2], [0, -2]]])
def test_one_integer_tensor_selects(index):
    x = make(4, 3)
    np.testing.assert_array_equal(x[plait.tensor(index)].numpy(), x.numpy()[np.array(index)])
    x = make(4, 3)
    np.testing.assert_array_equal(
        x[:, plait.tensor([2, 0])].numpy(), x.numpy()[:, np.array([2, 0])]
    )


def test_assignment():
    x = plait.zeros(3, 4)
    x[1] = plait.ones(4)
    x[:, 0] = 5
    x[2, 1:3] = [7, 8]
    x[x == 0] = -1
    assert x.tolist() == [[5.0, -1, -1, -1], [5, 1, 1, 1], [5, 7, 8, -1]]
    x[0] = plait.ones(1, 1, 4)
    assert x[0].tolist() == [1.0] * 4


def test_wrong_indices():
    x = make(2, 3)
    for index in (2, -3, (0, 0, 0), "a", (..., 0, ...)):
        with pytest.raises(IndexError):
            x[index]
    with pytest.raises(IndexOutOfRange):
        plait.tensor(1.0)[0]
    with pytest.raises(TypeError):
        iter(plait.tensor(1.0))
    assert [row.shape for row in x] == [(3,), (3,)]


def test_gradients_flow_through_subscripts():
    x = make(3, 4).requires_grad_()
    (x[1:, ::2] * 2).sum().backward()
    wanted = np.zeros((3, 4), np.float32)
    wanted[1:, ::2] = 2
    np.testing.assert_array_equal(x.grad.numpy(), wanted)


def test_conversions():
    x = make(3)
    assert x.to(plait.float64).dtype is plait.float64 and x.double().dtype is plait.float64
    assert x.to("cpu") is x and x.float() is x and x.to(x) is x
    assert x.to("cpu", plait.int32).dtype is plait.int32
    assert x.to(plait.float32, copy=True) is not x
    assert x.long().dtype is plait.int64 and x.bool().dtype is plait.bool_
    assert x.type_as(plait.tensor([1])).dtype is plait.int64


def test_methods_and_functions_are_the_same_operators():
    x = make(3, 4)
    assert x.sum(1).shape == (3,) and plait.sum(x, (0, 1), keepdim=True).shape == (1, 1)
    assert x.max().shape == () and x.max(1).indices.shape == (3,)
    assert x.view(2, 6).shape == x.view((2, -1)).shape == (2, 6)
    assert x.permute(1, 0).shape == x.permute((1, 0)).shape == x.T.shape == x.mT.shape == (4, 3)
    assert x.reshape(-1).shape == (12,) and x[0].expand(2, -1).shape == (2, 4)
    assert [part.shape[0] for part in x.split(2)] == [2, 1]
    assert x.clamp(0).min().item() >= 0 and x.clamp(max=x[0]).shape == (3, 4)
    assert plait.where(x > 0, x, 0).min().item() == 0
    assert x.pow(2).tolist() == (x * x).tolist() == aten.square.default(x).tolist()
