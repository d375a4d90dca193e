"""The tensor that a traced function sees, which refuses what cannot be captured.

Owns the wording of those refusals. Knows nothing of recording.
"""

from __future__ import annotations

from typing import Any

from plait.base.errors import CaptureError, DataDependentError
from plait.capture.fake import FakeTensor
from plait.capture.source import at_user_line

__all__ = ["TracedTensor"]


def _unsupported(what: str, instead: str) -> CaptureError:
    return CaptureError(f"compile: {what} cannot be captured{at_user_line()}; {instead}.")


class TracedTensor(FakeTensor):
    """The fake that a traced function sees: it refuses, at the user's line, what has no graph."""

    def _read_data(self, what: str) -> Any:
        raise DataDependentError(
            f"compile: {what} reads the value of a tensor of shape {tuple(self.shape)} while the "
            f"function is traced{at_user_line()}; expected no decision on data. Keep the "
            "decision in operators (where, masks), or move the read out of the compiled function."
        )

    def backward(self, *args: Any, **kwargs: Any) -> None:
        raise _unsupported(
            "Tensor.backward()", "use plait.autograd.grad, or plait.func.value_and_grad"
        )

    def register_hook(self, *args: Any, **kwargs: Any) -> Any:
        raise _unsupported(
            "Tensor.register_hook()", "register hooks on the results of the compiled function"
        )

    def retain_grad(self) -> None:
        raise _unsupported("Tensor.retain_grad()", "return the tensor, and ask outside")

    @property
    def grad(self) -> Any:
        raise _unsupported("Tensor.grad", "use plait.autograd.grad, or plait.func.value_and_grad")

    @grad.setter
    def grad(self, value: Any) -> None:
        raise _unsupported("assignment to Tensor.grad", "return the gradient")

    @property
    def data(self) -> Any:
        raise _unsupported("Tensor.data", "use detach()")

    @data.setter
    def data(self, value: Any) -> None:
        raise _unsupported("assignment to Tensor.data", "use copy_() under no_grad")
