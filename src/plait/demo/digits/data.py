"""scikit-learn's handwritten digits: 1,797 real images of 8 x 8 pixels, split once and for all.

Owns the split and the order of the batches; must not know the model.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from plait.base.errors import MissingKernel
from plait.tensor.tensor import Tensor, from_numpy

__all__ = ["Digits", "batches", "load_digits"]

HELD_OUT = 360


@dataclass(frozen=True, slots=True)
class Digits:
    """Images (n, 64) float32 about zero; labels (n,) int64."""

    train_images: np.ndarray[Any, Any]
    train_labels: np.ndarray[Any, Any]
    test_images: np.ndarray[Any, Any]
    test_labels: np.ndarray[Any, Any]


def load_digits() -> Digits:
    """The data, with 360 images held out, in the same proportion of every digit."""
    try:
        from sklearn.datasets import load_digits as load
        from sklearn.model_selection import train_test_split
    except ImportError as error:
        raise MissingKernel(
            "demo: the digits come with scikit-learn, which is not installed. "
            "Install plait[demo], or say make demo."
        ) from error
    images, labels = load(return_X_y=True)
    images = ((images - 8) / 8).astype(np.float32)
    train, test, train_labels, test_labels = train_test_split(
        images, labels.astype(np.int64), test_size=HELD_OUT, random_state=0, stratify=labels
    )
    return Digits(train, train_labels, test, test_labels)


def batches(data: Digits, size: int, epoch: int, seed: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Full batches of one epoch, in an order that seed and epoch decide."""
    order = np.random.default_rng((seed, epoch)).permutation(len(data.train_labels))
    for start in range(0, len(order) - size + 1, size):
        chosen = order[start : start + size]
        yield from_numpy(data.train_images[chosen]), from_numpy(data.train_labels[chosen])
