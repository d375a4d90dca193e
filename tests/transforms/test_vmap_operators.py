"""Every operator under vmap: the same as a Python loop over the samples, gradients too."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

import plait
from plait.base import log
from plait.base.errors import AutogradError, TransformError
from plait.dispatch.dispatcher import all_overloads, lookup
from plait.dispatch.tags import Tag
from plait.tensor.tensor import Tensor, from_numpy
from plait.testing.compare import assert_close
from plait.testing.samples import SampleInput, sampled, samples
from plait.transforms.batching.layer import LOOPED, way_of

SIZE = 2
READ_STRIDES = ("as_strided", "as_strided_scatter", "view_as_complex")


def _is_random(qualname: str) -> bool:
    return Tag.NONDETERMINISTIC_SEEDED in lookup(qualname).tags


def _takes_tensors(qualname: str) -> bool:
    return any(a.type.is_tensor_like for a in lookup(qualname).schema.arguments)


OPERATORS = [
    q
    for q in sampled()
    if _takes_tensors(q) and not _is_random(q) and not q.startswith("plait::")
    and lookup(q).name not in ("empty_like", "new_empty", "new_empty_strided")
]  # fmt: skip


def test_every_operator_is_batched_by_a_rule_or_a_body() -> None:
    """A loop over the samples is a choice that is written down, never an oversight."""
    looped = {
        op.qualname
        for op in all_overloads()
        if op.qualname.startswith("aten::") and way_of(op) == "loop"
    }
    assert looped == set(LOOPED)


def _variant(t: Tensor) -> Tensor:
    """Another sample like ``t``: its values in reverse, which keeps indices in range."""
    array = np.asarray(t._array)
    return from_numpy(np.array(np.flip(array)))


def _choices(sample: SampleInput, strided: bool) -> Iterator[tuple[set[int], int]]:
    """(which tensors are batched, along the first or the last dim).

    Operators that read strides see those of the batch, so there its samples are made contiguous.
    """
    count = len(list(sample.tensors()))
    yield set(range(count)), 0
    if not strided:
        yield set(range(count)), -1
    if count > 1:
        for i in range(count):
            yield {i}, 0
            yield set(range(count)) - {i}, 0


def _batched_call(sample: SampleInput, chosen: set[int], dim: int) -> tuple[Any, list[Any]]:
    """(a function of the batched tensors alone that makes the call, those tensors)."""
    batches: list[Any] = []
    places: dict[int, int] = {}
    counter = iter(range(1000))

    def note(value: Any) -> Any:
        if isinstance(value, Tensor):
            number = next(counter)
            if number in chosen:
                places[number] = len(batches)
                both = [np.asarray(value._array), np.asarray(_variant(value)._array)]
                batches.append(from_numpy(np.stack(both, axis=dim)))
        return value

    sample.replaced(note)

    def call(op: Any, given: list[Any]) -> Any:
        numbers = iter(range(1000))

        def put(value: Any) -> Any:
            if not isinstance(value, Tensor):
                return value
            number = next(numbers)
            return given[places[number]] if number in places else value

        made = sample.replaced(put)
        return op(*made.args, **made.kwargs)

    return call, batches


def _flat(out: Any) -> list[Any]:
    return list(out) if isinstance(out, tuple | list) else [out]


def _in_a_loop(call: Any, op: Any, batches: list[Any], dim: int) -> list[Any] | Exception:
    rows = []
    for k in range(SIZE):
        try:
            rows.append(_flat(call(op, [b.select(dim, k).clone() for b in batches])))
        except Exception as error:  # the same kind must come from vmap
            return error
    return [plait.stack(list(column), 0) for column in zip(*rows, strict=True)]


def _same(found: Any, wanted: Any, op: Any) -> None:
    assert found.dtype is wanted.dtype, (found.dtype, wanted.dtype)
    assert tuple(found.shape) == tuple(wanted.shape)
    assert_close(found, wanted, family="elementwise" if op.kind == "elementwise" else "matmul")


@pytest.mark.parametrize("qualname", OPERATORS)
def test_vmap_is_a_loop(qualname: str) -> None:
    op = lookup(qualname)
    writes = op.schema.is_mutable
    log.clear()
    for sample in samples(qualname):
        if "dropout" in sample.name:
            continue
        for chosen, dim in _choices(sample, op.name in READ_STRIDES):
            if writes and 0 not in chosen:
                continue
            call, batches = _batched_call(sample, chosen, dim)
            expected = _in_a_loop(call, op, batches, dim)
            mapped = plait.vmap(
                lambda *t, call=call: tuple(_flat(call(op, list(t)))),
                in_dims=dim,
                randomness="different",
            )
            given = [b.clone() for b in batches]
            if isinstance(expected, Exception):
                with pytest.raises(type(expected)):
                    mapped(*given)
                continue
            found = mapped(*given)
            assert len(found) == len(expected)
            for mine, wanted in zip(found, expected, strict=True):
                _same(mine, wanted, op)
    assert not log.events("fallback")


def _is_smooth(qualname: str) -> bool:
    op = lookup(qualname)
    return not op.schema.is_mutable and (op.vjp is not None or op.is_composite)


def _in_double(value: Any) -> Any:
    single = isinstance(value, Tensor) and value.dtype is plait.float32
    return value.to(plait.float64) if single else value


def _loss(out: Any) -> Any:
    """A number that weighs the elements of floating results differently; None without any."""
    total: Any = None
    for t in _flat(out):
        if isinstance(t, Tensor) and t.dtype.is_floating and t.numel():
            weights = plait.arange(1, t.numel() + 1, dtype=t.dtype).reshape(t.shape)
            part = (t * weights).sum()
            total = part if total is None else total + part
    return total


@pytest.mark.parametrize("qualname", [q for q in OPERATORS if _is_smooth(q)])
def test_gradients_of_samples_are_those_of_a_loop(qualname: str) -> None:
    op = lookup(qualname)
    log.clear()
    for given in samples(qualname):
        sample = given.replaced(_in_double)
        count = len(list(sample.tensors()))
        if "dropout" in sample.name or not count:
            continue
        if any(np.isnan(t.numpy()).any() for t in sample.tensors() if t.dtype.is_floating):
            continue  # whether 0 * NaN is dropped is the derivative's choice
        call, batches = _batched_call(sample, set(range(count)), 0)
        smooth = tuple(i for i, b in enumerate(batches) if b.dtype is plait.float64)
        if not smooth or len(smooth) < len([b for b in batches if b.dtype.is_floating]):
            continue

        def loss(*t: Any, call: Any = call) -> Any:
            return _loss(call(op, list(t)))

        try:
            if loss(*[b.select(0, 0).clone() for b in batches]) is None:
                continue
        except plait.PlaitError:
            continue  # a sample of bad input
        gradients = plait.func.grad(loss, argnums=smooth)
        try:
            rows = [gradients(*[b.select(0, k).clone() for b in batches]) for k in range(SIZE)]
            found = plait.vmap(gradients)(*batches)
        except AutogradError:  # no derivative for one of the arguments
            continue
        except TransformError:  # random
            continue
        for mine, column in zip(found, zip(*rows, strict=True), strict=True):
            assert_close(mine, plait.stack(list(column), 0), family="matmul")
    assert not log.events("fallback")
