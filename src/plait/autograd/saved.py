"""Tensors that a node keeps for its backward, with the version they had.

An argument is kept as the tensor itself. A result is kept as another tensor object for the same
memory: result -> node -> saved -> result would be a reference cycle. History is given back when it
is unpacked. Knows nodes only by name and number.
"""

from __future__ import annotations

import weakref
from typing import TYPE_CHECKING, Any

from plait.base.errors import AutogradError, InplaceError
from plait.dispatch.state import tls
from plait.tensor.tensor import shallow_copy

if TYPE_CHECKING:
    from plait.autograd.graph import Node
    from plait.tensor.tensor import Tensor

__all__ = ["SavedTensor", "freed_error", "modified_error"]


class SavedTensor:
    """One saved tensor; ``unpack`` returns it, or raises if it was written in place since.

    ``output_nr`` is the number of the result, for a result of the saving node; -1 for others.
    """

    __slots__ = ("_history", "output_nr", "place", "tensor", "version")

    tensor: Tensor | None  # None: dropped by a checkpoint, which makes it again
    place: tuple[Any, int]  # (the checkpoint's frame, number there) of a dropped tensor

    def __init__(self, tensor: Tensor, output_nr: int = -1) -> None:
        storage = tensor._storage
        self.version = 0 if storage is None else storage.version
        self._history: weakref.ref[Node] | None = None
        if tls.saving is not None and tls.predispatch is None:
            self.output_nr = output_nr
            if tls.saving.drop(self, tensor):
                self.tensor = None
                return
        if output_nr < 0 or tls.predispatch is not None:
            # Under capture results are kept as they are: the tracer ties the result itself to its
            # value, after us. The cycle lives until the collector comes by, once per capture.
            self.tensor = tensor
            self.output_nr = -1
            return
        self.output_nr = output_nr
        self.tensor = shallow_copy(tensor)
        if tensor._view is not None and tensor._grad_fn is not None:
            # Written in place through a view: the view's own node leads to the base's.
            self._history = weakref.ref(tensor._grad_fn)

    def unpack(self, node: Node) -> Tensor:
        """The tensor with its history; ``node`` is the node that saved it.

        InplaceError if its memory was written since it was saved.
        """
        tensor = self.tensor
        if tensor is None:
            frame, number = self.place
            tensor = frame.restore(number, node)
        elif tensor._version != self.version:
            raise modified_error(node, tensor, self.version, self.output_nr)
        if self.output_nr < 0 or not tls.grad_enabled:
            return tensor
        return self._with_history(node, tensor)

    def _with_history(self, node: Node, saved: Tensor) -> Tensor:
        if node.result(self.output_nr) is None:
            return saved
        tensor = shallow_copy(saved)
        maker = self._history() if self._history is not None else node
        tensor._requires_grad = True
        tensor._grad_fn = maker if maker is not None else node
        tensor._output_nr = self.output_nr if maker is node else 0
        return tensor


def modified_error(node: Node, tensor: Tensor, version: int, output_nr: int) -> InplaceError:
    """The error of a saved tensor that was written in place since ``node`` saved it."""
    if output_nr >= 0:
        origin = f"output {output_nr} of {node.name()}"
    elif tensor._grad_fn is not None:
        origin = f"output {tensor._output_nr} of {tensor._grad_fn.name()}"
    else:
        origin = "a leaf"
    return InplaceError(
        f"{node.name()}: one of the variables needed for gradient computation has been "
        f"modified by an inplace operation; got a tensor of shape {tuple(tensor.shape)}, "
        f"{tensor._dtype} (now {origin}), which is at version {tensor._version}; expected "
        f"version {version}, at which {node.name()} saved it. Use the out-of-place form "
        "of the operator that wrote it, or write into a clone."
    )


def freed_error(node: Node) -> AutogradError:
    """The error of a second backward through ``node`` after its saved tensors were freed."""
    return AutogradError(
        f"{node.name()}: Trying to backward through the graph a second time, or to read saved "
        "tensors after they were freed. They are freed by backward() and autograd.grad(); pass "
        "retain_graph=True to the first call if the graph is needed again."
    )
