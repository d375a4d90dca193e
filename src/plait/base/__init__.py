"""Layer 0: errors, configuration, registries, names, keys and the event log.

Knows nothing about tensors, operators or graphs, and imports nothing from plait.
"""

__all__: list[str] = []
