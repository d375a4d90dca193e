"""Function transforms built on operators and the tape."""

from plait.transforms import func

__all__ = ["func"]
