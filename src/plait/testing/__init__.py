"""Testing aids: sample calls of operators, comparisons, gradient checks, checks of operators."""

from plait.testing.compare import assert_close
from plait.testing.gradcheck import gradcheck, gradgradcheck
from plait.testing.opcheck import opcheck

__all__ = ["assert_close", "gradcheck", "gradgradcheck", "opcheck"]
