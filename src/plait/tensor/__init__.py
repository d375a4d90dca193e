"""Tensors: element types, devices, stride arithmetic, storage, and the `Tensor` class itself.

Operators are not here; they are attached to `Tensor` by the layers above.
"""
