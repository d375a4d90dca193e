"""What an attention step means, in NumPy over whole matrices of scores: the oracle of native code.

Arrays come in the order of the step's tensors, with their strides; results are written into theirs.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from plait.backends.llvm.plan import AttentionForm

__all__ = ["attend", "attend_backward"]

Array = np.ndarray[Any, Any]


def attend(form: AttentionForm, arrays: Sequence[Any]) -> None:
    """query, key, value, mask -> out, logsumexp."""
    query, key, value, mask, out, logsumexp = arrays
    with np.errstate(all="ignore"):
        scores = _scores(form, query, key, mask)
        top = scores.max(-1, initial=-np.inf, keepdims=True)
        top = np.where(np.isneginf(top), top.dtype.type(0), top)
        weights = np.exp(scores - top)
        total = weights.sum(-1, keepdims=True)
        total = np.where(total == 0, total.dtype.type(1), total)
        if out is not None:
            out[...] = weights @ value / total
        if logsumexp is not None:
            logsumexp[...] = (top + np.log(total))[..., 0]


def attend_backward(form: AttentionForm, arrays: Sequence[Any]) -> None:
    """query, key, value, mask, grad_out, out, logsumexp -> grad_query, grad_key, grad_value."""
    query, key, value, mask, grad, out, logsumexp, by_query, by_key, by_value = arrays
    with np.errstate(all="ignore"):
        weights = np.exp(_scores(form, query, key, mask) - logsumexp[..., None])
        dots = (grad * out).sum(-1, keepdims=True)
        slopes = weights * (grad @ value.swapaxes(-1, -2) - dots)
        scale = query.dtype.type(form.scale)
        if by_query is not None:
            by_query[...] = slopes @ key * scale
        if by_key is not None:
            by_key[...] = slopes.swapaxes(-1, -2) @ query * scale
        if by_value is not None:
            by_value[...] = weights.swapaxes(-1, -2) @ grad


def _scores(form: AttentionForm, query: Array, key: Array, mask: Array | None) -> Array:
    """Scaled products, masked."""
    scores: Array = query @ key.swapaxes(-1, -2) * query.dtype.type(form.scale)
    if mask is not None:
        scores = np.where(mask, scores, -np.inf) if form.mask == "i1" else scores + mask
    if form.is_causal:
        keys = np.arange(scores.shape[-1])
        later = keys > np.arange(scores.shape[-2])[:, None]
        scores = np.where(later, scores.dtype.type(-np.inf), scores)
    return scores
