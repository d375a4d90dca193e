"""`plait.func`: transforms of functions, which compose with each other and with `plait.compile`."""

from __future__ import annotations

from plait.transforms.gradients import grad, value_and_grad, vjp
from plait.transforms.jacobians import hessian, jacfwd, jacrev, jvp, linearize
from plait.transforms.vmap import vmap

__all__ = [
    "grad",
    "hessian",
    "jacfwd",
    "jacrev",
    "jvp",
    "linearize",
    "value_and_grad",
    "vjp",
    "vmap",
]
