"""Attention over ndarrays: scores are made, used and thrown away a block of rows at a time.

Owns the eager arithmetic of fused attention and its derivative. All arrays are 4-d, (batch, heads,
length, features); the mask is added to the scores. The half types are computed in float32. Knows
nothing of tensors or operators.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

__all__ = ["attend", "attend_backward"]

Array = np.ndarray[Any, Any]

# Scores held at a time: about what stays in a second-level cache.
_BLOCK = 1 << 18


class _Block:
    """A range of the batch and a range of query rows, with the columns that these rows may see."""

    __slots__ = ("batch", "columns", "rows")

    def __init__(self, batch: slice, rows: slice, columns: int) -> None:
        self.batch = batch
        self.rows = rows
        self.columns = columns


def _blocks(query: Array, length: int, is_causal: bool) -> Iterator[_Block]:
    """Blocks that cover all rows; under causality later columns are left out."""
    batch, heads, rows, _ = query.shape
    one = max(1, heads * rows * length)
    together = max(1, _BLOCK // one)
    height = rows if one <= _BLOCK else max(16, _BLOCK // max(1, heads * length))
    for b in range(0, batch, together):
        for r in range(0, rows, height):
            end = min(rows, r + height)
            columns = min(length, end) if is_causal else length
            yield _Block(slice(b, b + together), slice(r, end), columns)


def _wide(array: Array) -> Array:
    return array.astype(np.float32) if array.dtype.itemsize == 2 else array


def _scores(
    query: Array, key: Array, mask: Array | None, is_causal: bool, scale: Any, block: _Block
) -> Array:
    """Scaled products of a block's queries with the keys they may see, masked."""
    seen = key[block.batch, :, : block.columns]
    rows = query[block.batch, :, block.rows] * scale
    scores: Array = np.matmul(rows, seen.swapaxes(2, 3))
    if mask is not None:
        scores += mask[block.batch, :, block.rows, : block.columns]
    first = block.rows.start
    if is_causal and block.columns > first + 1:
        below = np.arange(first, block.rows.stop)[:, None]
        later = np.arange(first, block.columns) > below
        np.copyto(scores[..., first:], scores.dtype.type(-np.inf), where=later)
    return scores


def _stretched(mask: Array | None, query: Array, key: Array) -> Array | None:
    """The mask over all rows and columns, without a copy of it, in the type of the scores."""
    if mask is None:
        return None
    mask = mask.astype(np.float32 if query.dtype.itemsize == 2 else query.dtype, copy=False)
    return np.broadcast_to(mask, (*query.shape[:3], key.shape[2]))


def attend(
    query: Array, key: Array, value: Array, mask: Array | None, is_causal: bool, scale: float,
    out: Array, logs: Array,
) -> None:  # fmt: skip
    """Write softmax(query @ key.T * scale + mask) @ value, and the log of the sum of exponentials.

    A row that may see nothing gives zeros, and 0 as its logarithm.
    """
    mask = _stretched(mask, query, key)
    query, key, value = _wide(query), _wide(key), _wide(value)
    factor = query.dtype.type(scale)
    if not key.shape[2]:
        out[...], logs[...] = 0, 0
        return
    for block in _blocks(query, key.shape[2], is_causal):
        scores = _scores(query, key, mask, is_causal, factor, block)
        top = np.maximum.reduce(scores, axis=3, keepdims=True)
        if mask is not None:
            top[np.isneginf(top)] = 0
        scores -= top
        np.exp(scores, out=scores)
        total = np.add.reduce(scores, axis=3, keepdims=True)
        if mask is not None:
            total[total == 0] = 1
        seen = np.matmul(scores, value[block.batch, :, : block.columns])
        np.divide(seen, total, out=out[block.batch, :, block.rows])
        np.add(top[..., 0], np.log(total[..., 0]), out=logs[block.batch, :, block.rows])


def attend_backward(
    grad: Array, query: Array, key: Array, value: Array, out: Array, logs: Array,
    mask: Array | None, is_causal: bool, scale: float, grads: tuple[Array, ...],
) -> None:  # fmt: skip
    """Write the cotangents of query, key and value; the weights are made again from `logs`."""
    mask = _stretched(mask, query, key)
    grad, query, key, value, out = (_wide(a) for a in (grad, query, key, value, out))
    factor = query.dtype.type(scale)
    grad_query, grad_key, grad_value = grads
    grad_query[...], grad_key[...], grad_value[...] = 0, 0, 0
    delta = np.add.reduce(grad * out, axis=3, keepdims=True)
    for block in _blocks(query, key.shape[2], is_causal):
        b, r, seen = block.batch, block.rows, slice(0, block.columns)
        weights = _scores(query, key, mask, is_causal, factor, block)
        weights -= logs[b, :, r, None]
        np.exp(weights, out=weights)
        g = grad[b, :, r]
        grad_value[b, :, seen] += np.matmul(weights.swapaxes(2, 3), g)
        slope = np.matmul(g, value[b, :, seen].swapaxes(2, 3))
        slope -= delta[b, :, r]
        slope *= weights
        slope *= factor
        np.matmul(slope, key[b, :, seen], out=grad_query[b, :, r])
        grad_key[b, :, seen] += np.matmul(slope.swapaxes(2, 3), query[b, :, r])
