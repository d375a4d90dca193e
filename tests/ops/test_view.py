"""Views, their inverses and scatters, against PyTorch and against their own rules."""

from __future__ import annotations

from types import ModuleType

import numpy as np
import pytest

import plait
from plait.base.errors import InvalidArgument, PlaitError, ShapeMismatch
from plait.dispatch.dispatcher import lookup
from plait.ops import aten
from plait.tensor.tensor import Tensor
from plait.testing import compare
from plait.testing.samples import SampleInput, make, samples
from plait.testing.samples.inputs import laid_out

VIEWS = [
    "aten::view", "aten::expand", "aten::permute", "aten::transpose.int", "aten::t",
    "aten::unsqueeze", "aten::squeeze", "aten::squeeze.dim", "aten::squeeze.dims", "aten::alias",
    "aten::detach", "aten::slice.Tensor", "aten::select.int", "aten::diagonal",
    "aten::as_strided", "aten::unbind.int", "aten::split.Tensor", "aten::split_with_sizes",
]  # fmt: skip
COMPOSITES = [
    "aten::reshape", "aten::flatten.using_ints", "aten::unflatten.int", "aten::expand_as",
    "aten::view_as", "aten::contiguous", "aten::narrow", "aten::chunk", "aten::movedim.int",
    "aten::stack",
]  # fmt: skip
SCATTERS = [
    "aten::slice_scatter", "aten::select_scatter", "aten::diagonal_scatter",
    "aten::as_strided_scatter", "aten::cat", "aten::flip",
]  # fmt: skip


def _fits(name: str, sample: SampleInput) -> bool:
    """`view` shares its samples with `reshape`, which may copy."""
    if name != "aten::view":
        return True
    try:
        lookup(name)(*sample.args)
    except ShapeMismatch:
        return False
    return True


def calls(*names: str) -> list[object]:
    return [
        pytest.param(name, sample, id=f"{name[6:]}-{sample.name}")
        for name in names
        for sample in samples(name)
        if _fits(name, sample)
    ]


def _keeps_gaps(name: str, sample: SampleInput) -> bool:
    """PyTorch's scatters into a tensor with gaps keep the gaps; ours are dense there."""
    return name in SCATTERS[:4] and "sliced" in sample.name


@pytest.mark.parametrize(("name", "sample"), calls(*VIEWS, *COMPOSITES, *SCATTERS))
def test_forward(torch: ModuleType, name: str, sample: SampleInput) -> None:
    compare.check_against_torch(torch, name, sample, strides=not _keeps_gaps(name, sample))


@pytest.mark.parametrize(("name", "sample"), calls(*VIEWS, *SCATTERS))
def test_shape_rule(name: str, sample: SampleInput) -> None:
    if "as_strided" not in name:  # its fakes lack the storage behind a view
        compare.check_shape_rule(name, sample)


# PyTorch 2.13 gives as_strided_scatter's self the gradient of the replaced part: not our oracle.
TAUGHT = [name for name in SCATTERS if name != "aten::as_strided_scatter"]


@pytest.mark.parametrize(("name", "sample"), calls(*VIEWS, *COMPOSITES, *TAUGHT))
def test_gradients(torch: ModuleType, name: str, sample: SampleInput) -> None:
    compare.check_gradients_against_torch(torch, name, sample)


@pytest.mark.parametrize(
    ("name", "sample"), [c for c in calls(*VIEWS, *TAUGHT) if "contiguous" in c.id]
)
def test_second_gradients(torch: ModuleType, name: str, sample: SampleInput) -> None:
    compare.check_second_gradients_against_torch(torch, name, sample)


@pytest.mark.parametrize(
    ("name", "sample"),
    [c for c in calls(*SCATTERS) if lookup(c.values[0]).decomposition is not None],
)
def test_decomposition(name: str, sample: SampleInput) -> None:
    compare.check_decomposition(name, sample)


@pytest.mark.parametrize(("name", "sample"), calls(*VIEWS))
def test_views_share_memory(name: str, sample: SampleInput) -> None:
    base = sample.args[0]
    out = lookup(name)(*sample.args)
    for view in out if isinstance(out, tuple) else (out,):
        assert view.storage is base.storage


def _single(out: object) -> Tensor:
    return out[-1] if isinstance(out, tuple) else out


@pytest.mark.parametrize(
    ("name", "sample"),
    [c for c in calls(*VIEWS) if "expanded" not in c.id and "windows" not in c.id],
)
def test_inverse_puts_a_new_value_into_the_base(name: str, sample: SampleInput) -> None:
    """What writing through the view would leave in the base, made without writing."""
    op = lookup(name)
    args, kwargs = op.normalize(sample.args, sample.kwargs)
    base = args[0].clone()
    if name == "aten::as_strided":
        base = args[0].contiguous()
        args = (base, *args[1:3], None)
    view = op(base, *args[1:], **kwargs)
    several = {"index": len(view) - 1} if isinstance(view, tuple) else {}
    part = _single(view)
    value = make(*part.shape, seed=9, dtype=base.dtype)
    if name == "aten::expand":  # all places that show one element get one value
        value = op(make(*base.shape, seed=9, dtype=base.dtype), *args[1:], **kwargs)
    got = op.view_inverse(base, value, *args[1:], **several, **kwargs)
    with plait.no_grad():
        np.copyto(part.detach()._array, value._array)
    np.testing.assert_array_equal(got._array, base._array)


# fmt: off
REFUSED = [
    ("aten::view", SampleInput(laid_out("transposed", (3, 4)), (12,), name="apart in memory")),
    ("aten::view", SampleInput(make(3, 4), (5, -1), name="not a divisor")),
    ("aten::view", SampleInput(make(3, 4), (-1, -1), name="two inferred")),
    ("aten::view", SampleInput(make(3, 4), (2, -2), name="negative")),
    ("aten::view", SampleInput(make(0), (-1, 0), name="ambiguous")),
    ("aten::reshape", SampleInput(make(3, 4), (7,), name="count")),
    ("aten::expand", SampleInput(make(3, 4), (6, 4), name="size")),
    ("aten::expand", SampleInput(make(3, 4), (3,), name="rank")),
    ("aten::expand", SampleInput(make(3, 4), (-1, 3, 4), name="leading")),
    ("aten::permute", SampleInput(make(3, 4), (0, 0), name="twice")),
    ("aten::permute", SampleInput(make(3, 4), (0,), name="too few")),
    ("aten::permute", SampleInput(make(3, 4), (0, 2), name="dim")),
    ("aten::transpose.int", SampleInput(make(3, 4), 0, 2, name="dim")),
    ("aten::t", SampleInput(make(2, 3, 4), name="rank")),
    ("aten::unsqueeze", SampleInput(make(3, 4), 3, name="dim")),
    ("aten::squeeze.dim", SampleInput(make(3, 4), 5, name="dim")),
    ("aten::slice.Tensor", SampleInput(make(3, 4), 2, name="dim")),
    ("aten::slice.Tensor", SampleInput(make(), 0, name="0-d")),
    ("aten::select.int", SampleInput(make(3, 4), 0, 3, name="index")),
    ("aten::select.int", SampleInput(make(3, 4), 0, -4, name="negative index")),
    ("aten::select.int", SampleInput(make(), 0, 0, name="0-d")),
    ("aten::flatten.using_ints", SampleInput(make(2, 3, 4), 2, 1, name="order")),
    ("aten::unflatten.int", SampleInput(make(3, 4), 1, (3, 2), name="product")),
    ("aten::unbind.int", SampleInput(make(), 0, name="0-d")),
    ("aten::split.Tensor", SampleInput(make(3, 4), 0, 1, name="zero")),
    ("aten::split.Tensor", SampleInput(make(3, 4), -1, 1, name="negative")),
    ("aten::split_with_sizes", SampleInput(make(3, 4), (1, 2), 1, name="sum")),
    ("aten::split_with_sizes", SampleInput(make(3, 4), (-1, 5), 1, name="negative")),
    ("aten::chunk", SampleInput(make(3, 4), 0, 1, name="zero")),
    ("aten::narrow", SampleInput(make(3, 4), 0, 1, 3, name="outside")),
    ("aten::slice_scatter", SampleInput(make(3, 4), make(4), 0, 1, 2, name="shape")),
    ("aten::select_scatter", SampleInput(make(3, 4), make(1), 0, 1, name="shape")),
    ("aten::select_scatter", SampleInput(make(3, 4), make(4), 0, 7, name="index")),
    ("aten::as_strided_scatter", SampleInput(make(3, 4), make(1), (4,), (1,), 1, name="shape")),
    ("aten::cat", SampleInput([make(3, 4), make(2, 3)], 0, name="sizes")),
    ("aten::cat", SampleInput([make(3, 4), make(2)], 0, name="ranks")),
    ("aten::cat", SampleInput([make(3, 4)], 2, name="dim")),
    ("aten::cat", SampleInput([make(), make()], 0, name="0-d")),
    ("aten::stack", SampleInput([make(3), make(4)], 0, name="shapes")),
    ("aten::stack", SampleInput([make(3), make(3)], 2, name="dim")),
    ("aten::flip", SampleInput(make(3), (0, 0), name="twice")),
    ("aten::flip", SampleInput(make(3), (1,), name="dim")),
]
# fmt: on


@pytest.mark.parametrize(("name", "sample"), REFUSED, ids=lambda v: getattr(v, "name", v))
def test_refused(torch: ModuleType, name: str, sample: SampleInput) -> None:
    compare.check_error_like_torch(torch, name, sample)


@pytest.mark.parametrize(("name", "sample"), REFUSED, ids=lambda v: getattr(v, "name", v))
def test_messages_name_an_argument(name: str, sample: SampleInput) -> None:
    with pytest.raises(PlaitError, match=r"^\w+: .*argument"):
        lookup(name)(*sample.args, **sample.kwargs)


@pytest.mark.parametrize(
    "arguments",
    [((2, 2), (10, 10)), ((2,), (-1,)), ((-2,), (1,)), ((13,), (1,))],
)
def test_as_strided_stays_inside_of_the_storage(arguments: tuple[object, object]) -> None:
    with pytest.raises(InvalidArgument, match="as_strided"):
        aten.as_strided.default(make(3, 4), *arguments)


def test_slice_step_must_be_positive() -> None:
    with pytest.raises(InvalidArgument, match="step"):
        aten.slice.Tensor(make(3), 0, None, None, 0)


def test_contiguous_and_flatten_return_the_tensor_itself_where_nothing_changes() -> None:
    x = make(3, 4)
    assert aten.contiguous.default(x) is x
    assert aten.flatten.using_ints(make(3), 0, 0) is not None
    y = make(3)
    assert aten.flatten.using_ints(y) is y


def test_reshape_copies_only_where_it_must() -> None:
    x = make(3, 4)
    assert aten.reshape.default(x, (12,)).storage is x.storage
    assert aten.reshape.default(aten.t.default(x), (12,)).storage is not x.storage


def test_as_strided_gradient_adds_up_where_windows_overlap() -> None:
    x = make(5).requires_grad_()
    aten.sum.default(aten.as_strided.default(x, (3, 3), (1, 1), 0)).backward()
    assert x.grad.tolist() == [1.0, 2.0, 3.0, 2.0, 1.0]


@pytest.mark.parametrize("layout", ["contiguous", "transposed", "sliced"])
def test_as_strided_scatter_gradients_are_those_of_the_parts(layout: str) -> None:
    """Nothing flows to what was replaced; the replacement gets what its places get."""
    x, src = laid_out(layout, (3, 4)).requires_grad_(), make(2, 2, seed=1).requires_grad_()
    part = ((2, 2), (2, 1), x.storage_offset())
    out = aten.as_strided_scatter.default(x, src, *part)
    g = make(3, 4, seed=2)
    out.backward(g)
    # The same, told where the elements of x lie in its memory.
    places = x.storage_offset() + np.add.outer(
        *[np.arange(n) * s for n, s in zip(x.shape, x.strides)]
    )
    replaced = {x.storage_offset() + 2 * i + j: (i, j) for i in range(2) for j in range(2)}
    for position, place in np.ndenumerate(places):
        taken = 0.0 if place in replaced else g.numpy()[position]
        assert x.grad.numpy()[position] == taken
        if place in replaced:
            assert src.grad.numpy()[replaced[place]] == g.numpy()[position]
