"""The operators, one module per family, and the packets of each namespace (`plait.ops.aten.add`).

Importing `plait.ops.methods` defines every operator and attaches the methods of `Tensor`.
"""
