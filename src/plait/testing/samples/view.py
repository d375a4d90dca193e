"""Sample calls of views, their scatters, and of cat, stack and flip."""

from __future__ import annotations

from collections.abc import Iterator

from plait.tensor import dtype as dt
from plait.testing.samples import SampleInput, make, sampler
from plait.testing.samples.inputs import layouts

_SHAPE = (3, 2, 4)
_DTYPES = (dt.float32, dt.float64, dt.bool_, dt.int64)


@sampler("aten::view", "aten::reshape")
def _views() -> Iterator[SampleInput]:
    x = make(*_SHAPE)
    for size in ((6, 4), (24,), (-1, 2), (3, 1, 2, 4, 1), (3, 2, 2, 2)):
        yield SampleInput(x, size, name=str(size))
    for name, y in layouts(_SHAPE):
        yield SampleInput(y, (3, 2, 4), name=f"{name} same")
        yield SampleInput(y, (3, 2, 1, 2, 2), name=f"{name} split last")
    yield SampleInput(make(), (1, 1), name="0-d")
    yield SampleInput(make(1), (), name="to 0-d")
    yield SampleInput(make(0, 3), (5, 0), name="empty")
    yield SampleInput(make(0, 3), (-1,), name="empty inferred")


@sampler("aten::flatten.using_ints")
def _flattens() -> Iterator[SampleInput]:
    for name, y in layouts(_SHAPE):
        yield SampleInput(y, name=name)
        yield SampleInput(y, 1, name=f"{name} from 1")
    yield SampleInput(make(), name="0-d")
    yield SampleInput(make(*_SHAPE), 0, -2, name="up to -2")


@sampler("aten::unflatten.int")
def _unflattens() -> Iterator[SampleInput]:
    yield SampleInput(make(*_SHAPE), 2, (2, 2), name="two")
    yield SampleInput(make(*_SHAPE), -1, (-1, 1, 2), name="inferred")


@sampler("aten::expand")
def _expands() -> Iterator[SampleInput]:
    yield SampleInput(make(3, 1), (3, 4), name="stretch")
    yield SampleInput(make(3, 1), (2, -1, 4), name="lead and keep")
    yield SampleInput(make(1), (2, 3), name="vector")
    yield SampleInput(make(), (2, 2), name="0-d")
    yield SampleInput(make(3, 1), (3, 0), name="to empty")
    for name, y in layouts(_SHAPE):
        yield SampleInput(y, (2, *_SHAPE), name=name)


@sampler("aten::expand_as", "aten::view_as")
def _like_others() -> Iterator[SampleInput]:
    yield SampleInput(make(3, 4), make(3, 4, seed=1), name="same")


@sampler("aten::permute")
def _permutes() -> Iterator[SampleInput]:
    for name, y in layouts(_SHAPE):
        yield SampleInput(y, (2, 0, 1), name=name)
        yield SampleInput(y, (-1, -3, -2), name=f"{name} negative")
    yield SampleInput(make(), (), name="0-d")


@sampler("aten::transpose.int", "aten::movedim.int")
def _transposes() -> Iterator[SampleInput]:
    for name, y in layouts(_SHAPE):
        yield SampleInput(y, 0, -1, name=name)
        yield SampleInput(y, 1, 1, name=f"{name} same")
    yield SampleInput(make(), 0, -1, name="0-d")


@sampler("aten::t")
def _matrix_transposes() -> Iterator[SampleInput]:
    for name, y in layouts((3, 4)):
        yield SampleInput(y, name=name)
    yield SampleInput(make(3), name="vector")
    yield SampleInput(make(), name="0-d")


@sampler("aten::unsqueeze")
def _unsqueezes() -> Iterator[SampleInput]:
    for name, y in layouts(_SHAPE):
        for dim in (0, 1, 3, -1, -4):
            yield SampleInput(y, dim, name=f"{name} {dim}")
    yield SampleInput(make(), 0, name="0-d")
    yield SampleInput(make(), -1, name="0-d last")


@sampler("aten::squeeze", "aten::alias", "aten::detach", "aten::contiguous")
def _no_arguments() -> Iterator[SampleInput]:
    for name, y in layouts(_SHAPE):
        yield SampleInput(y, name=name)
    for name, y in layouts((1, 3, 1, 2)):
        yield SampleInput(y, name=f"{name} ones")
    yield SampleInput(make(), name="0-d")
    yield SampleInput(make(0, 1), name="empty")
    for dtype in _DTYPES:
        yield SampleInput(make(2, 3, dtype=dtype), name=dtype.name)


@sampler("aten::squeeze.dim")
def _squeezes() -> Iterator[SampleInput]:
    for dim in (0, 1, -2):
        yield SampleInput(make(1, 3, 1, 2), dim, name=f"dim {dim}")
    yield SampleInput(make(), 0, name="0-d")


@sampler("aten::squeeze.dims")
def _squeezes_of_several() -> Iterator[SampleInput]:
    yield SampleInput(make(1, 3, 1, 2), (0, 2, 3), name="three")
    yield SampleInput(make(1, 3, 1, 2), (), name="none")


@sampler("aten::slice.Tensor")
def _slices() -> Iterator[SampleInput]:
    for name, y in layouts((4, 5)):
        yield SampleInput(y, 0, 1, None, 2, name=name)
        yield SampleInput(y, -1, -3, 100, name=f"{name} negative")
    for start, end in ((3, 1), (-100, -1), (7, 9), (0, 0), (None, None)):
        yield SampleInput(make(4, 5), 1, start, end, name=f"{start}:{end}")
    yield SampleInput(make(4, 5), name="defaults")


@sampler("aten::select.int")
def _selects() -> Iterator[SampleInput]:
    for name, y in layouts(_SHAPE):
        yield SampleInput(y, 0, 1, name=name)
        yield SampleInput(y, -1, -2, name=f"{name} negative")
    yield SampleInput(make(3), 0, 2, name="vector")


@sampler("aten::narrow")
def _narrows() -> Iterator[SampleInput]:
    yield SampleInput(make(4, 5), 1, 1, 3, name="inner")
    yield SampleInput(make(4, 5), 0, -2, 2, name="negative")


@sampler("aten::diagonal")
def _diagonals() -> Iterator[SampleInput]:
    for name, y in layouts(_SHAPE):
        yield SampleInput(y, 0, 0, 2, name=name)
        yield SampleInput(y, -1, 2, 0, name=f"{name} below")
    yield SampleInput(make(3, 4), 5, name="outside")
    yield SampleInput(make(3, 4), name="defaults")


@sampler("aten::unbind.int")
def _unbinds() -> Iterator[SampleInput]:
    for name, y in layouts(_SHAPE):
        yield SampleInput(y, 1, name=name)
    yield SampleInput(make(3), name="vector")


@sampler("aten::split.Tensor")
def _splits() -> Iterator[SampleInput]:
    for name, y in layouts((5, 4)):
        yield SampleInput(y, 2, name=name)
        yield SampleInput(y, 3, -1, name=f"{name} last")
    yield SampleInput(make(0, 2), 0, name="empty")


@sampler("aten::split_with_sizes")
def _sized_splits() -> Iterator[SampleInput]:
    for name, y in layouts((5, 4)):
        yield SampleInput(y, (1, 0, 3), 1, name=name)


@sampler("aten::chunk")
def _chunks() -> Iterator[SampleInput]:
    yield SampleInput(make(5, 4), 3, name="uneven")
    yield SampleInput(make(5, 4), 9, 1, name="many")
    yield SampleInput(make(0, 2), 3, name="empty")


@sampler("aten::as_strided")
def _as_strideds() -> Iterator[SampleInput]:
    yield SampleInput(make(3, 4), (2, 2), (1, 2), 3, name="gaps")
    yield SampleInput(make(3, 4), (3, 2), (2, 1), name="matrix")
    yield SampleInput(make(6), (4, 3), (1, 1), 0, name="windows")
    yield SampleInput(make(3, 4), (), (), 5, name="0-d")
    for name, y in layouts((3, 4)):
        if name != "expanded":
            yield SampleInput(y, (2, 2), (2, 1), name=name)


# ---------------------------------------------------------------- scatters


@sampler("aten::slice_scatter")
def _slice_scatters() -> Iterator[SampleInput]:
    for name, y in layouts((4, 3)):
        yield SampleInput(y, make(2, 3, seed=1), 0, 1, None, 2, name=name)
    yield SampleInput(make(4, 3), make(4, 1, seed=1), 1, -1, None, name="negative")
    yield SampleInput(make(4, 3), make(4, 2, seed=1, dtype=dt.float64), 1, 0, 2, name="other dtype")
    yield SampleInput(make(4, 3), make(0, 3), 0, 3, 1, name="empty")


@sampler("aten::select_scatter")
def _select_scatters() -> Iterator[SampleInput]:
    for name, y in layouts((4, 3)):
        yield SampleInput(y, make(3, seed=1), 0, 2, name=name)
        yield SampleInput(y, make(4, seed=1), -1, -1, name=f"{name} negative")


@sampler("aten::diagonal_scatter")
def _diagonal_scatters() -> Iterator[SampleInput]:
    for name, y in layouts((4, 3)):
        yield SampleInput(y, make(3, seed=1), name=name)
        yield SampleInput(y, make(2, seed=1), 1, name=f"{name} above")


@sampler("aten::as_strided_scatter")
def _as_strided_scatters() -> Iterator[SampleInput]:
    yield SampleInput(make(3, 4), make(2, 2, seed=1), (2, 2), (1, 2), 3, name="gaps")
    for name, y in layouts((3, 4)):
        if name != "expanded":
            yield SampleInput(y, make(2, 2, seed=1), (2, 2), (2, 1), name=name)
    later = make(4, 4)[1:]
    yield SampleInput(later, make(2, 2, seed=1), (2, 2), (4, 1), 5, name="begins later")


# ---------------------------------------------------------------- joining


@sampler("aten::cat")
def _cats() -> Iterator[SampleInput]:
    for name, y in layouts(_SHAPE):
        yield SampleInput([y, make(*_SHAPE, seed=1)], 1, name=name)
        yield SampleInput([make(*_SHAPE, seed=2), y], -1, name=f"{name} last")
    yield SampleInput([make(2, 3), make(4, 3), make(1, 3)], name="three")
    yield SampleInput([make(2, 3), make(2, 3, dtype=dt.float64)], name="promoted")
    yield SampleInput([make(2, 3, dtype=dt.bool_), make(2, 3, dtype=dt.int32)], name="ints")
    yield SampleInput([make(0), make(2, 3)], 1, name="legacy empty")
    yield SampleInput([make(0), make(0)], name="only empty")
    yield SampleInput([make(2, 0), make(2, 3)], 1, name="empty part")
    yield SampleInput([make(3)], name="one")


@sampler("aten::stack")
def _stacks() -> Iterator[SampleInput]:
    for name, y in layouts(_SHAPE):
        yield SampleInput([y, make(*_SHAPE, seed=1)], 1, name=name)
    yield SampleInput([make(), make(seed=1)], name="0-d")
    yield SampleInput([make(2), make(2, dtype=dt.int64)], -1, name="promoted")


@sampler("aten::flip")
def _flips() -> Iterator[SampleInput]:
    for name, y in layouts(_SHAPE):
        yield SampleInput(y, (0, -1), name=name)
    yield SampleInput(make(3), (), name="nothing")
    yield SampleInput(make(), (0,), name="0-d")
    yield SampleInput(make(0, 2), (0,), name="empty")
