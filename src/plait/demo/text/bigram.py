"""The model to beat: how likely a character is after the one before it.

Counts over the training text, each pair counted as if it had been seen `SMOOTHING` times more. Two
figures come of it, in nats for each character: its *cross-entropy*, the mean of -log p(next | last)
over text it has not seen, which is what the transformer's loss is; and its *own entropy*, the mean
over the pairs as the model itself expects them, which no model of pairs of that text gets below.
"""

from __future__ import annotations

from typing import Any

import numpy as np

__all__ = ["SMOOTHING", "Bigram"]

SMOOTHING = 0.1

Array = np.ndarray[Any, Any]


class Bigram:
    """Probabilities of each character after each other; `smoothing` is above 0.

    >>> model = Bigram(np.array([0, 1, 0, 1, 0]), 2)
    >>> round(float(np.exp(model.log_probabilities[0, 1])), 3)
    0.955
    """

    def __init__(self, text: Array, alphabet: int, smoothing: float = SMOOTHING) -> None:
        pairs = text[:-1].astype(np.int64) * alphabet + text[1:]
        counts = np.bincount(pairs, minlength=alphabet * alphabet).reshape(alphabet, alphabet)
        total = counts + smoothing
        rows = total.sum(1, keepdims=True)
        self.log_probabilities: Array = np.log(total / rows)
        self._shares: Array = rows[:, 0] / rows.sum()  # how often each character is the last one

    @property
    def entropy(self) -> float:
        """The model's own: the mean over last characters of the entropy of the next."""
        logs = self.log_probabilities
        return float(-(self._shares * (np.exp(logs) * logs).sum(1)).sum())

    def cross_entropy(self, last: Array, following: Array) -> float:
        """The mean of -log p(following | last) over two arrays of positions of one shape."""
        return float(-self.log_probabilities[last, following].mean())
