"""vmap's layer of the dispatcher: batched tensors, and how each operator runs on them."""

from plait.transforms.batching import layer
from plait.transforms.batching.tensor import BatchedTensor, Level

__all__ = ["BatchedTensor", "Level", "layer"]
