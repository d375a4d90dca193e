"""Python's standard library as text: its files, split once and for all, as numbers of characters.

Owns which files are read, the alphabet, the split and the windows; must not know the model.
"""

from __future__ import annotations

import sysconfig
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from plait.base.errors import InvalidArgument, check
from plait.tensor.tensor import Tensor, from_numpy

__all__ = ["ALPHABET", "Corpus", "batch", "held_out_windows", "load_corpus", "read", "spell"]

ALPHABET = "\n" + "".join(map(chr, range(32, 127))) + "\N{REPLACEMENT CHARACTER}"
"""What is told apart: the printable characters and the end of a line; the last is all others."""

LEAST = 50_000
"""Characters that each part must have."""

_EVERY = 10  # of that many files, in the order of their names, the last is held out
_NOT_READ = {"site-packages", "dist-packages", "__pycache__", "test", "tests", "idlelib"}
_NOT_READ |= {"turtledemo", "lib2to3", "ensurepip"}

Array = np.ndarray[Any, Any]


@dataclass(frozen=True, slots=True)
class Corpus:
    """Characters as uint8 positions in the alphabet, the files one after the other."""

    train: Array
    held_out: Array
    files: int


def load_corpus(source: Path | None = None) -> Corpus:
    """The text of the `*.py` files under `source`, of the standard library unless told otherwise.

    Raises InvalidArgument where there is too little of it, as where the library is kept zipped or
    without its sources.
    """
    root = Path(sysconfig.get_path("stdlib")) if source is None else source
    paths = _files(root)
    texts = [read(path.read_bytes()) for path in paths]
    held_out = _joined(text for i, text in enumerate(texts) if i % _EVERY == _EVERY - 1)
    train = _joined(text for i, text in enumerate(texts) if i % _EVERY != _EVERY - 1)
    check(
        min(len(train), len(held_out)) >= LEAST,
        InvalidArgument,
        lambda: (
            f"demo: argument 'source' holds too little Python text; got {len(train)} characters "
            f"to learn from and {len(held_out)} held out, in {len(paths)} files under {root}; "
            f"expected at least {LEAST} of each. "
            + (
                "This Python keeps its library zipped or without its sources: name any large "
                "folder of Python files with --source."
                if source is None
                else "Name a larger folder of *.py files."
            )
        ),
    )
    return Corpus(train, held_out, len(paths))


def _files(root: Path) -> list[Path]:
    if not root.is_dir():
        return []
    found = [path.relative_to(root) for path in root.rglob("*.py")]
    return [root / path for path in sorted(found) if not _NOT_READ & set(path.parts[:-1])]


def _joined(texts: Iterable[Array]) -> Array:
    return np.concatenate([np.empty(0, np.uint8), *texts])


def _positions() -> Array:
    table = np.full(256, len(ALPHABET) - 1, np.uint8)
    table[[ord(c) for c in ALPHABET[:-1]]] = np.arange(len(ALPHABET) - 1)
    return table


_POSITIONS = _positions()


def read(text: str | bytes) -> Array:
    """Text as positions in the alphabet.

    >>> read("\\n ~\\t").tolist()
    [0, 1, 95, 96]
    """
    data = text.encode() if isinstance(text, str) else text
    found: Array = _POSITIONS[np.frombuffer(data.replace(b"\r\n", b"\n"), np.uint8)]
    return found


def spell(positions: Iterable[int]) -> str:
    """Positions in the alphabet as text."""
    return "".join(ALPHABET[p] for p in positions)


def batch(corpus: Corpus, size: int, length: int, seed: int, step: int) -> tuple[Tensor, Tensor]:
    """`size` windows of the training text that seed and step choose, and what follows each place.

    Two tensors (size, length) int64, the second one character on.
    """
    draws = np.random.default_rng((seed, step))
    starts = draws.integers(0, len(corpus.train) - length, size)
    return _windows(corpus.train, starts, length)


def held_out_windows(corpus: Corpus, count: int, length: int) -> tuple[Tensor, Tensor]:
    """`count` windows at equal distances over the held-out text, as `batch` gives them."""
    starts = np.linspace(0, len(corpus.held_out) - length - 1, count).astype(np.int64)
    return _windows(corpus.held_out, starts, length)


def _windows(text: Array, starts: Array, length: int) -> tuple[Tensor, Tensor]:
    places = starts[:, None] + np.arange(length)
    return tuple(from_numpy(text[at].astype(np.int64)) for at in (places, places + 1))  # type: ignore[return-value]
