"""How tensors are shown: PyTorch's `tensor([1., 2.])`.

Knows the fields of a tensor and reads its array; runs no operator.
"""
