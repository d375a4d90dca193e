"""Schema text round-trips and malformed text gives a position."""

from __future__ import annotations

import pytest

from plait.base.errors import SchemaError
from plait.dispatch.schema import FunctionSchema

TEXTS = [
    "aten::add.Tensor(Tensor self, Tensor other, *, Scalar alpha=1) -> Tensor",
    "aten::add_.Tensor(Tensor(a!) self, Tensor other, *, Scalar alpha=1) -> Tensor(a!)",
    "aten::sum.dim_IntList(Tensor self, int[1]? dim, bool keepdim=False, *, "
    "ScalarType? dtype=None) -> Tensor",
    "aten::view(Tensor(a) self, SymInt[] size) -> Tensor(a)",
    "aten::split.Tensor(Tensor(a) self, SymInt split_size, int dim=0) -> Tensor(a)[]",
    "aten::native_layer_norm(Tensor input, SymInt[] normalized_shape, Tensor? weight, "
    "Tensor? bias, float eps) -> (Tensor, Tensor, Tensor)",
    'aten::gelu(Tensor self, *, str approximate="none") -> Tensor',
    "aten::cat(Tensor[] tensors, int dim=0) -> Tensor",
    "aten::index.Tensor(Tensor self, Tensor?[] indices) -> Tensor",
    "aten::max.dim(Tensor self, int dim) -> (Tensor values, Tensor indices)",
    "aten::f(float x=0.5, int[] y=[0, 1], bool z=True) -> ()",
]


@pytest.mark.parametrize("text", TEXTS)
def test_round_trip(text: str) -> None:
    assert str(FunctionSchema.parse(text)) == text


def test_properties() -> None:
    schema = FunctionSchema.parse(TEXTS[1])
    assert schema.is_mutable and schema.mutated_names == ("self",) and not schema.is_view
    assert FunctionSchema.parse(TEXTS[3]).is_view
    assert FunctionSchema.parse(TEXTS[5]).tensor_positions == (0, 2, 3)


@pytest.mark.parametrize(
    ("text", "position"),
    [
        ("aten::f(Tensr x) -> Tensor", 8),
        ("aten::f(Tensor x -> Tensor", 17),
        ("f(Tensor x) -> Tensor", 1),
        ("aten::f(Tensor x) Tensor", 18),
        ("aten::f(Tensor x) -> Tensor $", 27),
    ],
)
def test_malformed_text_gives_the_position(text: str, position: int) -> None:
    with pytest.raises(SchemaError, match=str(position)):
        FunctionSchema.parse(text)


def test_duplicate_argument() -> None:
    with pytest.raises(SchemaError, match="declared twice"):
        FunctionSchema.parse("aten::f(Tensor x, Tensor x) -> Tensor")
