"""vmap's layer of the dispatcher: batched tensors, and how each operator runs on them."""

from plait.transforms.batching import functions, layer
from plait.transforms.batching.tensor import BatchedTensor, Level

__all__ = ["BatchedTensor", "Level", "functions", "layer"]
