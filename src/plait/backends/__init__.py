"""Backends: each turns a graph into a callable. The table of them loads no backend."""

from plait.backends.registry import (
    list_backends,
    lookup_backend,
    register_backend,
    register_debug_backend,
)

__all__ = ["list_backends", "lookup_backend", "register_backend", "register_debug_backend"]
