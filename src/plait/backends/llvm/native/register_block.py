"""The block of registers in which a product is added up: its shape, known without emitting code."""

from __future__ import annotations

__all__ = ["UNROLL", "VECTORS", "register_rows"]

VECTORS = 2
"""Vectors side by side in a block of registers."""
UNROLL = 4
"""Steps of a product written out in its loop."""


def register_rows(vector_bits: int) -> int:
    """Rows of a block of registers: with two vectors each, all registers but four."""
    return 12 if vector_bits == 512 else 6
