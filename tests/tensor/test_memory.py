"""Storages, views and fakes: who shares memory with whom, offsets and versions."""

from __future__ import annotations

import gc
import weakref
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from plait.base.errors import DataDependentError, InvalidArgument
from plait.tensor import dtype as dt
from plait.tensor import layout as lay
from plait.tensor.layout import Layout, TensorMeta
from plait.tensor.storage import Storage, empty_storage, fake_storage
from plait.tensor.tensor import (
    Tensor,
    from_numpy,
    make_fake,
    shallow_copy,
    tensor,
    wrap,
    wrap_alias,
    wrap_view,
)
from plait.tensor.view import ViewInfo

# ---------------------------------------------------------------- storage


@pytest.mark.parametrize("nbytes", [1, 64, 1000])
def test_empty_storage_is_aligned(nbytes: int) -> None:
    storage = empty_storage(nbytes)
    owner = storage.owner
    assert owner is not None and owner.nbytes == nbytes == storage.nbytes
    assert (owner.dtype, owner.ndim) == (np.uint8, 1)
    assert storage.address % 64 == 0 and storage.version == 0 and not storage.readonly


@pytest.mark.parametrize(
    "array",
    [
        np.arange(6.0).reshape(2, 3),
        np.arange(6.0).reshape(2, 3).T,
        np.arange(24.0).reshape(4, 6)[1::2, 1:4],
        np.zeros((0, 3)),
        np.array(3, np.float32),
        np.ones(3, ml_dtypes.bfloat16),
    ],
    ids=["contiguous", "transposed", "sliced", "empty", "0-d", "bfloat16"],
)
def test_owner_is_the_arrays_memory(array: Any) -> None:
    storage = Storage(array)
    owner = storage.owner
    assert owner is not None and owner is storage.owner and owner.dtype == np.uint8
    if array.size:
        assert owner.ctypes.data == array.ctypes.data == storage.address
        assert owner[: array.itemsize].tobytes() == array.reshape(-1)[:1].tobytes()
        last = array[tuple(size - 1 for size in array.shape)]
        assert owner[-array.itemsize :].tobytes() == np.asarray(last, array.dtype).tobytes()
    else:
        assert storage.nbytes == 0


def test_memory_lives_as_long_as_a_view_of_it() -> None:
    class Special(np.ndarray[Any, Any]):
        pass

    array = np.arange(12.0).reshape(3, 4)[:, ::2].view(Special)
    alive = weakref.ref(array)
    view = wrap_view(wrap(array), Layout((3,), (4,), 2))
    del array
    gc.collect()
    assert alive() is not None and view.tolist() == [2, 6, 10]
    del view
    gc.collect()
    assert alive() is None


def test_fake_storage() -> None:
    storage = fake_storage(12)
    assert storage.is_fake and storage.owner is None and storage.nbytes == 12
    assert storage.address == 0 and "fake" in repr(storage)


# ---------------------------------------------------------------- versions and views


def test_versions_are_shared_with_views() -> None:
    base = tensor([1.0, 2.0])
    assert base._version == 0 and base._storage is None
    view, alias, copied = (
        wrap_view(base, base.layout),
        wrap_alias(base, base.numpy()),
        shallow_copy(base),
    )
    base.storage.version += 1
    assert [t._version for t in (base, view, alias, copied)] == [1, 1, 1, 1]
    assert tensor(base)._version == 0


@given(st.data())
def test_views_are_numpys_views(data: Any) -> None:
    shape = tuple(data.draw(st.lists(st.integers(0, 4), min_size=1, max_size=3)))
    array = np.arange(int(np.prod(shape)), dtype=np.float32).reshape(shape)
    base = wrap(array)
    order = data.draw(st.permutations(range(len(shape))))
    dim = data.draw(st.integers(0, len(shape) - 1))
    start, step = data.draw(st.integers(0, 4)), data.draw(st.integers(1, 3))
    moved = lay.slice_(lay.permute(base.layout, order), dim, start, None, step)
    expected = array.transpose(order)[(slice(None),) * dim + (slice(start, None, step),)]
    view = wrap_view(base, moved)
    np.testing.assert_array_equal(view.numpy(), expected)
    assert view.layout == moved and view.storage is base.storage
    assert view.meta == TensorMeta(moved.shape, dt.float32, strides=moved.strides)
    if expected.size:
        assert np.shares_memory(view.numpy(), array)
        assert view.data_ptr() == expected.ctypes.data
        alias = wrap_alias(base, expected)
        assert alias.storage_offset() == moved.offset
        again = wrap_view(view, Layout((1,), (1,), moved.offset))
        assert again.item() == expected.reshape(-1)[0]


def test_view_of_a_strided_array_counts_from_its_first_element() -> None:
    whole = np.arange(12.0).reshape(3, 4)
    t = from_numpy(whole[1:, 1::2])
    assert t.layout == Layout((2, 2), (4, 2), 0)
    row = wrap_view(t, lay.select(t.layout, 0, 1))
    assert row.tolist() == [9, 11] and row.storage_offset() == 4
    row.numpy()[0] = -1
    assert whole[2, 1] == -1


def test_empty_views_may_lie_anywhere() -> None:
    t = tensor([[1.0, 2.0]])
    beyond = wrap_view(t, Layout((0, 2), (2, 1), 9))
    assert (beyond.shape, beyond.tolist(), beyond.storage_offset()) == ((0, 2), [], 9)


def test_views_stay_inside_of_the_storage() -> None:
    t = tensor([1.0, 2.0])
    for layout in (Layout((2,), (1,), 1), Layout((2,), (2,)), Layout((1,), (1,), 5)):
        with pytest.raises(InvalidArgument, match=r"inside of the storage.*8 bytes"):
            wrap_view(t, layout)


def test_views_of_read_only_memory_are_read_only() -> None:
    array = np.zeros(3)
    array.flags.writeable = False
    view = wrap_view(from_numpy(array), Layout((2,), (1,), 1))
    assert view.storage.readonly and not view.numpy().flags.writeable


def test_shallow_copy_has_no_tape() -> None:
    t = tensor([1.0], requires_grad=True)
    t._trace, t._grad_fn = "trace", object()
    again = shallow_copy(t)
    assert again is not t and again.storage is t.storage and again._array is t._array
    assert not again.requires_grad and again.grad_fn is None and again._trace == "trace"


def test_view_records_are_flat() -> None:
    def double(t: Tensor, count: int = 1) -> str:
        return f"{t}x{2 * count}"

    base, view, deeper = tensor([1.0]), tensor([1.0]), tensor([1.0])
    base.storage.version = 3
    view._view = ViewInfo.of(base, double, (1,), {})
    deeper._view = ViewInfo.of(view, double, (), {"count": 4}, grad_enabled=False)
    assert deeper._view.base is base and view._view.base is base
    assert deeper._view.replay("t") == "tx2x8"  # type: ignore[arg-type, comparison-overlap]
    assert view._view.version == 3 and not deeper._view.grad_enabled
    assert repr(view._view).startswith("ViewInfo(base (1,)")


def test_forbidding_creations_pass_on_to_later_views() -> None:
    base, view, deeper = tensor([1.0]), tensor([1.0]), tensor([1.0])
    view._view = ViewInfo.of(base, str, (), {}, creation="multi_output")
    deeper._view = ViewInfo.of(view, str, (), {})
    assert deeper._view.creation == "multi_output"


# ---------------------------------------------------------------- fakes


def test_fakes_know_their_metadata() -> None:
    fake = make_fake(TensorMeta((2, 3), dt.int64, strides=(1, 2)))
    assert (fake.shape, fake.strides, fake.dtype) == ((2, 3), (1, 2), dt.int64)
    assert fake.is_fake and fake.numel() == 6 and not fake.is_contiguous()
    assert fake.storage.owner is None and fake.storage.nbytes == 48 and fake._version == 0
    assert repr(fake) == "tensor(..., size=(2, 3), dtype=plait.int64)"


@pytest.mark.parametrize("read", [Tensor.item, Tensor.tolist, Tensor.numpy, bool, float, int])
def test_reading_a_fake_is_an_error(read: Any) -> None:
    fake = make_fake(TensorMeta((1,), dt.float32))
    with pytest.raises(DataDependentError, match="read where only its metadata exist"):
        read(fake)


def test_a_subclass_answers_reads() -> None:
    class Answering(Tensor):
        def _read_data(self, what: str) -> np.ndarray[Any, Any]:
            seen.append(what)
            return np.ones(self.shape, self.dtype.numpy)  # type: ignore[arg-type]

    seen: list[str] = []
    fake = make_fake(TensorMeta((1,), dt.int64), cls=Answering)
    assert (fake.item(), bool(fake), [5, 6][fake], fake.tolist()) == (1, True, 6, [1])
    assert seen == ["item", "bool", "index", "tolist"]


def test_views_of_fakes_share_their_storage() -> None:
    fake = make_fake(TensorMeta((4, 3), dt.float32))
    fake._keys = 12345
    view = wrap_view(fake, lay.slice_(fake.layout, 0, 1, None, 2))
    assert view.layout == Layout((2, 3), (6, 1), 3) and view.is_fake
    assert view.storage is fake.storage and view._keys == 12345
    copied = shallow_copy(view)
    assert copied.layout == view.layout and copied.storage is view.storage and copied.is_fake
    view.storage.version += 1
    assert fake._version == 1
    other = make_fake(TensorMeta((3,), dt.float32), fake.storage, offset=3)
    assert other.storage is fake.storage and other.storage_offset() == 3
