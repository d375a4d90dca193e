"""Philox 4x32-10: random words as a pure function of (seed, call number, element number).

Element i of call c under seed s is word i % 4 of the block whose key is s and whose counter is
(i // 4, c); these are 64-bit numbers, low half first. So draws depend on no order of evaluation, no
thread count and no size. See Salmon, Moraes, Dror, Shaw, "Parallel random numbers: as easy as 1,
2, 3" (SC 2011). Owns the words and their way to floats; knows no tensors and no generator.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from plait.ops.normal_draw import ARRAYS, normal_from_word

__all__ = ["normals", "philox_blocks", "uniforms", "words"]

Array = np.ndarray[Any, Any]

_MASK = np.uint64(0xFFFFFFFF)
_HALF = np.uint64(32)
_FACTORS = np.uint64(0xD2511F53), np.uint64(0xCD9E8D57)
_WEYL = 0x9E3779B9, 0xBB67AE85  # added to the key halves between rounds
_ROUNDS = 10
_CHUNK = 4096  # blocks worked on at once: a few arrays of them stay in the cache


def philox_blocks(counter: Sequence[Array], key: Sequence[int]) -> list[Array]:
    """The four words of each counter under ``key``; words are below 2**32 in uint64 arrays."""
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for _ in range(_ROUNDS):
        p0, p1 = c0 * _FACTORS[0], c2 * _FACTORS[1]
        c0, c2 = p1 >> _HALF, p0 >> _HALF
        c0 ^= c1
        c0 ^= np.uint64(k0)
        c2 ^= c3
        c2 ^= np.uint64(k1)
        p0 &= _MASK
        p1 &= _MASK
        c1, c3 = p1, p0
        k0, k1 = (k0 + _WEYL[0]) & 0xFFFFFFFF, (k1 + _WEYL[1]) & 0xFFFFFFFF
    return [c0, c1, c2, c3]


def words(seed: int, call: int, count: int, first: int = 0) -> Array:
    """Words of the elements ``first`` (a multiple of 4) to ``first + count``, as uint32."""
    blocks = np.arange(first // 4, (first + count + 3) // 4, dtype=np.uint64)
    number = np.full(blocks.shape, call & 0xFFFFFFFFFFFFFFFF, np.uint64)
    counter = [blocks & _MASK, blocks >> _HALF, number & _MASK, number >> _HALF]
    out = np.empty((*blocks.shape, 4), np.uint32)
    for i, word in enumerate(philox_blocks(counter, (seed & 0xFFFFFFFF, seed >> 32 & 0xFFFFFFFF))):
        out[:, i] = word
    return out.reshape(-1)[:count]


def uniforms(seed: int, call: int, count: int, dtype: Any) -> Array:
    """``count`` numbers in [0, 1): multiples of 2**-24 in float32, of 2**-32 in float64."""
    return _draws(_uniform, seed, call, count, np.dtype(dtype))


def normals(seed: int, call: int, count: int, dtype: Any) -> Array:
    """``count`` numbers of the standard normal distribution, in float32 or float64."""
    return _draws(_normal, seed, call, count, np.dtype(dtype))


def _draws(
    convert: Callable[[Array, np.dtype[Any]], Array],
    seed: int,
    call: int,
    count: int,
    dtype: np.dtype[Any],
) -> Array:
    out = np.empty(count, dtype)
    step = 4 * _CHUNK
    for first in range(0, count, step):
        part = out[first : first + step]
        part[:] = convert(words(seed, call, part.size, first), dtype)
    return out


def _uniform(word: Array, dtype: np.dtype[Any]) -> Array:
    if dtype == np.float64:
        return word * np.float64(2.0**-32)
    return (word >> np.uint32(8)).astype(np.float32) * np.float32(2.0**-24)


def _normal(word: Array, dtype: np.dtype[Any]) -> Array:
    drawn: Array = normal_from_word(ARRAYS, word, "f64" if dtype == np.float64 else "f32")
    return drawn
