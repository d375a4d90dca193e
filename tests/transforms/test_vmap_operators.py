"""Every operator under vmap: the same as a Python loop over the samples, gradients too."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

import plait
from plait.base import log
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
