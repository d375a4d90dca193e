"""Stride arithmetic against PyTorch and NumPy, on random layouts."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from plait.base.errors import IndexOutOfRange, InvalidArgument, PlaitError, ShapeMismatch
from plait.tensor import layout as lay
from plait.tensor.layout import Layout, TensorMeta

torch: ModuleType = pytest.importorskip("torch", reason="PyTorch, the oracle, is not installed")

sizes = st.integers(0, 4)
shapes = st.lists(sizes, max_size=4).map(tuple)


@st.composite
def torch_tensors(draw: Any, shape: tuple[int, ...] | None = None) -> Any:
    """A tensor reached by permuting, slicing with steps, expanding and offsetting a dense one."""
    if shape is None:
        shape = draw(shapes)
    order = draw(st.permutations(range(len(shape))))
    steps = [draw(st.sampled_from([1, 1, 1, 2])) for _ in shape]
    extras = [draw(st.sampled_from([0, 0, 0, 1])) for _ in shape]
    stretch = [size > 0 and draw(st.sampled_from([False] * 5 + [True])) for size in shape]
    kept = [1 if s else size for s, size in zip(stretch, shape)]
    whole = [size * step + extra for size, step, extra in zip(kept, steps, extras)]
    base = torch.arange(int(np.prod(whole))).reshape([whole[d] for d in order])
    base = base.permute([order.index(d) for d in range(len(shape))])
    for dim, (size, step, extra) in enumerate(zip(kept, steps, extras)):
        base = base.narrow(dim, extra, size * step)
        base = base[(slice(None),) * dim + (slice(None, None, step),)]
    return base.expand(shape)


def layout_of(tensor: Any) -> Layout:
    return Layout(tuple(tensor.shape), tensor.stride(), tensor.storage_offset())


def same(ours: Layout, theirs: Any) -> None:
    assert ours == layout_of(theirs)


def agree(ours: Any, theirs: Any) -> None:
    """Both give the same layout, or both raise."""
    try:
        expected = theirs()
    except (RuntimeError, IndexError, ValueError) as error:
        with pytest.raises(PlaitError) as raised:
            ours()
        # InvalidArgument is a ValueError, as it would be for Python's own slices.
        assert isinstance(raised.value, (type(error), InvalidArgument))
    else:
        same(ours(), expected)


@given(shapes)
def test_contiguous_strides(shape: tuple[int, ...]) -> None:
    assert lay.contiguous_strides(shape) == torch.empty(shape).stride()


@given(torch_tensors())
def test_contiguity(t: Any) -> None:
    shape, strides = tuple(t.shape), t.stride()
    assert lay.is_contiguous(shape, strides) == t.is_contiguous()
    assert Layout(shape, strides).is_contiguous() == t.is_contiguous()
    assert lay.is_dense(shape, strides) == torch.ops.aten.is_non_overlapping_and_dense(t)
    if t.ndim == 4:
        channels_last = t.is_contiguous(memory_format=torch.channels_last)
        assert lay.is_channels_last(shape, strides) == channels_last


@given(shapes, shapes)
def test_broadcast_shapes(a: tuple[int, ...], b: tuple[int, ...]) -> None:
    try:
        expected = np.broadcast_shapes(a, b)
    except ValueError:
        with pytest.raises(ShapeMismatch, match="expected equal sizes"):
            lay.broadcast_shapes(a, b)
    else:
        assert lay.broadcast_shapes(a, b) == expected
        assert lay.broadcast_shapes(b, (), a) == expected


def test_broadcast_of_nothing_and_of_one() -> None:
    assert lay.broadcast_shapes() == ()
    assert lay.broadcast_shapes((2, 1)) == (2, 1)


@given(torch_tensors(), st.lists(st.integers(-2, 4), max_size=5))
def test_expand(t: Any, target: list[int]) -> None:
    assume(t.ndim or -1 not in target)  # PyTorch overflows there
    assume(all(size >= -1 for size in target))
    agree(lambda: lay.expand(layout_of(t), target), lambda: t.expand(target))


@given(torch_tensors(), st.data())
def test_expand_to_fitting_shapes(t: Any, data: Any) -> None:
    fitting = [
        data.draw(st.sampled_from([size, -1] if size != 1 else [1, -1, 0, 3])) for size in t.shape
    ]
    leading = data.draw(st.lists(st.sampled_from([0, 1, 2]), max_size=2))
    same(lay.expand(layout_of(t), leading + fitting), t.expand(leading + fitting))


@st.composite
def regrouped(draw: Any, shape: tuple[int, ...]) -> list[int]:
    """Another shape of as many elements: factors multiplied together in order, and ones."""
    factors = [f for size in shape for f in ([2, 2] if size == 4 else [size]) if f != 1]
    result: list[int] = []
    for factor in factors:
        if result and draw(st.booleans()):
            result[-1] *= factor
        else:
            result.append(factor)
        if draw(st.integers(0, 4)) == 0:
            result.append(1)
    if result and 0 not in result and draw(st.integers(0, 4)) == 0:
        result[draw(st.integers(0, len(result) - 1))] = -1
    return result


@given(st.data())
def test_view(data: Any) -> None:
    t = data.draw(torch_tensors())
    wanted = data.draw(st.one_of(regrouped(tuple(t.shape)), st.permutations(list(t.shape))))
    ours = lay.view(layout_of(t), lay.infer_size(wanted, t.numel()))
    try:
        expected = t.view(wanted)
    except RuntimeError:
        assert ours is None
    else:
        assert ours is not None
        same(ours, expected)


@given(torch_tensors(), st.lists(st.integers(-2, 5), max_size=4))
def test_infer_size(t: Any, wanted: list[int]) -> None:
    t = t.contiguous()

    def ours() -> Layout:
        found = lay.view(layout_of(t), lay.infer_size(wanted, t.numel()))
        assert found is not None
        return found

    agree(ours, lambda: t.view(wanted))


@given(torch_tensors(), st.data())
def test_moves(t: Any, data: Any) -> None:
    layout, dims = layout_of(t), st.integers(-t.ndim - 1, t.ndim)
    dim, other = data.draw(dims), data.draw(dims)
    order = data.draw(st.permutations(range(t.ndim)))
    same(lay.permute(layout, order), t.permute(order))
    agree(lambda: lay.transpose(layout, dim, other), lambda: t.transpose(dim, other))
    agree(lambda: lay.unsqueeze(layout, dim), lambda: t.unsqueeze(dim))
    agree(lambda: lay.squeeze(layout, [dim]), lambda: t.squeeze(dim))
    same(lay.squeeze(layout), t.squeeze())
    index = data.draw(st.integers(-5, 5))
    agree(lambda: lay.select(layout, dim, index), lambda: t.select(dim, index))


@given(torch_tensors(), st.data())
def test_slice(t: Any, data: Any) -> None:
    bound = st.one_of(st.none(), st.integers(-6, 6))
    dim, start, end = data.draw(st.integers(-4, 4)), data.draw(bound), data.draw(bound)
    step = data.draw(st.integers(0, 3))
    agree(
        lambda: lay.slice_(layout_of(t), dim, start, end, step),
        lambda: torch.ops.aten.slice.Tensor(t, dim, start, end, step),
    )


@given(torch_tensors(), st.data())
def test_diagonal_and_unfold(t: Any, data: Any) -> None:
    layout, dims = layout_of(t), st.integers(-4, 4)
    dim, other, offset = data.draw(dims), data.draw(dims), data.draw(st.integers(-5, 5))
    agree(lambda: lay.diagonal(layout, offset, dim, other), lambda: t.diagonal(offset, dim, other))
    size, step = data.draw(st.integers(0, 4)), data.draw(st.integers(0, 3))
    agree(lambda: lay.unfold(layout, dim, size, step), lambda: t.unfold(dim, size, step))


@given(torch_tensors())
def test_clone_keeps_the_memory_order(t: Any) -> None:
    expected = torch.ops.aten.clone.default(t, memory_format=torch.preserve_format).stride()
    assert lay.preserved_strides(tuple(t.shape), t.stride()) == expected
    assert lay.preserved_strides(tuple(t.shape), t.stride()) == torch.empty_like(t).stride()


@given(torch_tensors())
def test_unary_result_strides(t: Any) -> None:
    found = lay.elementwise_strides(tuple(t.shape), [(tuple(t.shape), t.stride())])
    assert found == torch.neg(t).stride()


@given(st.data())
def test_binary_result_strides(data: Any) -> None:
    a = data.draw(torch_tensors())
    kept = [data.draw(st.sampled_from([size, size, size, 1])) for size in a.shape]
    b = data.draw(torch_tensors(tuple(kept[data.draw(st.integers(0, len(kept))) :])))
    for first, second in ((a, b), (b, a)):
        expected = torch.add(first, second)
        operands = [(tuple(t.shape), t.stride()) for t in (first, second)]
        assert lay.elementwise_strides(tuple(expected.shape), operands) == expected.stride()


@given(st.data())
def test_ternary_result_strides(data: Any) -> None:
    shape = data.draw(shapes)
    tensors = [data.draw(torch_tensors(shape)) for _ in range(3)]
    operands = [(tuple(t.shape), t.stride()) for t in tensors]
    expected = torch.where(tensors[0] > 2, *tensors[1:])
    condition = torch.empty_strided(expected.shape, (tensors[0] > 2).stride())
    operands[0] = (operands[0][0], condition.stride())
    assert lay.elementwise_strides(shape, operands) == expected.stride()


@given(torch_tensors())
def test_extent_is_the_storage_needed(t: Any) -> None:
    if t.numel():
        positions = torch.zeros(t.shape, dtype=torch.int64)
        for dim, (size, stride) in enumerate(zip(t.shape, t.stride())):
            steps = torch.arange(size) * stride
            positions = positions + steps.reshape([-1] + [1] * (t.ndim - dim - 1))
        assert lay.extent(tuple(t.shape), t.stride()) == int(positions.max()) + 1
    else:
        assert lay.extent(tuple(t.shape), t.stride()) == 0


def test_as_strided() -> None:
    base = Layout((4, 4), None, 2)
    assert lay.as_strided(base, (2, 3), (1, 2)) == Layout((2, 3), (1, 2), 2)
    assert lay.as_strided(base, (2,), (1,), 7) == Layout((2,), (1,), 7)
    with pytest.raises(ShapeMismatch, match="one stride for each size"):
        lay.as_strided(base, (2,), (1, 1))
    with pytest.raises(InvalidArgument, match="negative"):
        lay.as_strided(base, (2,), (-1,))


def test_errors_name_operator_argument_and_remedy() -> None:
    layout = Layout((2, 3))
    with pytest.raises(
        IndexOutOfRange, match=r"sum: argument 'dim'.*got 2; expected -2 <= dim < 2"
    ):
        lay.wrap_dim(2, 2, "sum")
    with pytest.raises(ShapeMismatch, match=r"view: .*\(4,\).*product is 6"):
        lay.infer_size((4,), 6)
    with pytest.raises(ShapeMismatch, match="-1 twice"):
        lay.infer_size((-1, -1), 6)
    with pytest.raises(ShapeMismatch, match="names a dimension twice"):
        lay.permute(layout, (0, 0))
    with pytest.raises(ShapeMismatch, match="every dimension once"):
        lay.permute(layout, (0,))
    with pytest.raises(InvalidArgument, match="'step' must be positive"):
        lay.slice_(layout, 0, 0, 1, -1)


def test_layout_and_meta_are_values() -> None:
    from plait.tensor import dtype as dt

    assert Layout((2, 3)) == Layout((2, 3), (3, 1), 0) != Layout((2, 3), (1, 2), 0)
    assert len({Layout((2, 3)), Layout((2, 3), (3, 1))}) == 1
    assert Layout((2, 3)).numel() == 6 and Layout((2, 3)).ndim == 2
    meta = TensorMeta([2, 3], dt.float32)
    assert meta == TensorMeta((2, 3), dt.float32, strides=(3, 1))
    assert meta != TensorMeta((2, 3), dt.float64)
    assert meta != TensorMeta((2, 3), dt.float32, strides=(1, 2))
    assert hash(meta) == hash(TensorMeta((2, 3), dt.float32))
    assert (meta.layout, meta.numel(), meta.ndim) == (Layout((2, 3)), 6, 2)
    assert repr(TensorMeta((2,), dt.int64, strides=(4,))) == (
        "TensorMeta((2,), plait.int64, strides=(4,))"
    )
