"""Keysets: sets of dispatch keys as integer bit masks.

Hot code works on the plain ``int``; :class:`KeySet` is the same mask dressed for people.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from plait.dispatch.keys import ALIAS_KEYS, AliasKey, DispatchKey

__all__ = [
    "ABOVE_PYTHON",
    "AUTOGRAD_KEYS",
    "BACKEND_KEYS",
    "BELOW_AUTOGRAD",
    "CPU_TENSOR_KEYS",
    "FULL",
    "META_TENSOR_KEYS",
    "KeySet",
    "below",
    "highest",
    "mask_of",
]


def mask_of(keys: Iterable[DispatchKey]) -> int:
    """The mask holding ``keys``."""
    mask = 0
    for key in keys:
        mask |= 1 << key
    return mask


FULL = mask_of(DispatchKey)
AUTOGRAD_KEYS = mask_of(ALIAS_KEYS[AliasKey.AUTOGRAD])
BACKEND_KEYS = mask_of(ALIAS_KEYS[AliasKey.COMPOSITE_EXPLICIT_AUTOGRAD])
CPU_TENSOR_KEYS = mask_of(
    (DispatchKey.CPU, DispatchKey.ADINPLACE_OR_VIEW, DispatchKey.AUTOGRAD_CPU)
)
META_TENSOR_KEYS = mask_of(
    (DispatchKey.META, DispatchKey.ADINPLACE_OR_VIEW, DispatchKey.AUTOGRAD_META)
)


def below(key: DispatchKey) -> int:
    """Every key of lower priority than ``key``."""
    return ((1 << key) - 1) & FULL


def highest(mask: int) -> DispatchKey | None:
    """The key of highest priority in ``mask``; None if it is empty."""
    return DispatchKey(mask.bit_length() - 1) if mask else None


BELOW_AUTOGRAD = below(DispatchKey.ADINPLACE_OR_VIEW)
# What a handler at the Python key shuts out, so that the operators it issues are post-autograd.
# The Python dispatcher stays: it interposes on every layer.
ABOVE_PYTHON = (
    FULL
    & ~below(DispatchKey.PYTHON)
    & ~DispatchKey.PYTHON.mask
    & ~DispatchKey.PYTHON_DISPATCHER.mask
)


class KeySet:
    """An immutable set of dispatch keys.

    >>> from plait.dispatch.keys import DispatchKey
    >>> KeySet(CPU_TENSOR_KEYS).highest()
    <DispatchKey.AUTOGRAD_CPU: 20>
    """

    __slots__ = ("mask",)

    def __init__(self, keys: int | Iterable[DispatchKey] = 0) -> None:
        self.mask = keys if isinstance(keys, int) else mask_of(keys)

    def __iter__(self) -> Iterator[DispatchKey]:
        return (key for key in sorted(DispatchKey, reverse=True) if self.mask >> key & 1)

    def __contains__(self, key: DispatchKey) -> bool:
        return bool(self.mask >> key & 1)

    def __or__(self, other: KeySet) -> KeySet:
        return KeySet(self.mask | other.mask)

    def __and__(self, other: KeySet) -> KeySet:
        return KeySet(self.mask & other.mask)

    def __sub__(self, other: KeySet) -> KeySet:
        return KeySet(self.mask & ~other.mask)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, KeySet) and self.mask == other.mask

    def __hash__(self) -> int:
        return hash(self.mask)

    def __repr__(self) -> str:
        return f"KeySet({', '.join(key.name for key in self)})"

    def highest(self) -> DispatchKey | None:
        """The key that is asked first; None for the empty set."""
        return highest(self.mask)
