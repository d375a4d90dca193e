"""Operator tags: properties that a schema cannot say."""

from __future__ import annotations

from enum import Enum, unique

__all__ = ["Tag"]


@unique
class Tag(Enum):
    """A property of an operator, named as PyTorch's ``torch.Tag``."""

    POINTWISE = "pointwise"
    CORE = "core"
    REDUCTION = "reduction"
    VIEW_COPY = "view_copy"
    INPLACE_VIEW = "inplace_view"  # changes metadata of its first argument in place
    NONDETERMINISTIC_SEEDED = "nondeterministic_seeded"
    DATA_DEPENDENT_OUTPUT = "data_dependent_output"
    DYNAMIC_OUTPUT_SHAPE = "dynamic_output_shape"
    MULTI_OUTPUT_VIEW = "multi_output_view"
    EFFECTFUL = "effectful"
    NEEDS_EXACT_STRIDES = "needs_exact_strides"
    NEEDS_CONTIGUOUS_STRIDES = "needs_contiguous_strides"
    NEEDS_FIXED_STRIDE_ORDER = "needs_fixed_stride_order"
    FLEXIBLE_LAYOUT = "flexible_layout"
    INPLACE = "inplace"
    OUT = "out"
    PT2_COMPLIANT = "pt2_compliant_tag"
    CUDAGRAPH_UNSAFE = "cudagraph_unsafe"
    MAYBE_ALIASING_OR_MUTATING = "maybe_aliasing_or_mutating"
