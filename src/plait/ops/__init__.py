"""The operators, one module per family, and the packets of each namespace (`plait.ops.aten.add`).

Importing `plait.ops.methods` defines every operator and attaches the methods of `Tensor`.
"""

from plait.dispatch.namespace import OperatorNamespace, namespace


def __getattr__(name: str) -> OperatorNamespace:
    if name.startswith("__"):
        raise AttributeError(f"module 'plait.ops' has no attribute {name!r}")
    return namespace(name)
