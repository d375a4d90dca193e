"""Compiled small matrix products of the process: one function for each set of numbers.

Owns the table from product to machine code.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Sequence
from typing import Any, NamedTuple

from plait.backends.llvm.native.jit import new_module
from plait.backends.llvm.native.objects import Unit, load_units
from plait.backends.llvm.native.small import SmallProduct
from plait.backends.llvm.native.target import host
from plait.backends.llvm.structure import digest
from plait.base.config import config

__all__ = ["CompiledProduct", "compile_products", "emit_product"]


class CompiledProduct(NamedTuple):
    """Machine code of a small product."""

    name: str
    address: int
    product: SmallProduct

    @property
    def addresses(self) -> dict[str, int]:
        """The address by name, for who links against it."""
        return {self.name: self.address}


_lock = threading.RLock()
_compiled: dict[object, CompiledProduct] = {}


def compile_products(products: Sequence[SmallProduct]) -> list[CompiledProduct]:
    """Machine code of every product; that of those not seen before is loaded together."""
    with _lock:
        keys = [(product, host(), config.opt_level) for product in products]
        fresh = {key: key[0] for key in keys if key not in _compiled}
        if fresh:
            units = {key: _unit(product) for key, product in fresh.items()}
            addresses = load_units(list(units.values()), {})
            for key, unit in units.items():
                (name,) = unit.exports
                _compiled[key] = CompiledProduct(name, addresses[name], fresh[key])
        return [_compiled[key] for key in keys]


def _unit(product: SmallProduct) -> Unit:
    name = f"plait_product_{digest(product.text)}"
    label = f"product {product.m}x{product.n}x{product.k}"
    emit = functools.partial(emit_product, product, name)
    return Unit(label, product.text, (name,), emit, config.opt_level)


def emit_product(product: SmallProduct, name: str) -> Any:
    """The module of a product."""
    from plait.backends.llvm.native.emit_small import emit_small  # not loaded if found

    module = new_module(name)
    emit_small(module, product, name)
    return module
