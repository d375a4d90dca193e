"""Optimisers: pure updates over trees of tensors, and the eager `step` around them.

Owns the update rules. Knows operators and the tape; must not know modules, graphs or backends.
"""

from plait.optim.adamw import AdamW
from plait.optim.optimizer import Optimizer
from plait.optim.sgd import SGD

__all__ = ["SGD", "AdamW", "Optimizer"]
