"""Operators that users define, and everything that may be registered for an operator."""

from plait.dispatch.tags import Tag
from plait.library.by_name import (
    register_autocast,
    register_autograd,
    register_effect,
    register_fake,
    register_kernel,
    register_plait_dispatch,
    register_vmap,
)
from plait.library.custom_op import CustomOpDef, custom_op, definition_of
from plait.library.fakes import get_ctx
from plait.library.infer import infer_schema
from plait.library.libraries import Library, get_kernel, scoped_library
from plait.library.out_variants import out_variant
from plait.library.pointwise_op import PointwiseOpDef, pointwise_op
from plait.tensor.opaque import register_opaque_type

__all__ = [
    "CustomOpDef",
    "Library",
    "PointwiseOpDef",
    "Tag",
    "custom_op",
    "definition_of",
    "get_ctx",
    "get_kernel",
    "infer_schema",
    "out_variant",
    "pointwise_op",
    "register_autocast",
    "register_autograd",
    "register_effect",
    "register_fake",
    "register_kernel",
    "register_opaque_type",
    "register_plait_dispatch",
    "register_vmap",
    "scoped_library",
]
