"""Descriptors: every kind has an expression, equality and hash; the law of nesting is enforced."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from plait.ir import descriptors as d

X = d.PlainAOTInput(0, "x")
W = d.ParamAOTInput("layer.weight")
OUT = d.PlainAOTOutput(0)

INPUTS: list[d.AOTInput] = [
    X, W, d.BufferAOTInput("running_mean"), d.CapturedAOTInput("scale"), d.SizeAOTInput("s0"),
    d.ViewBaseAOTInput(X), d.SyntheticBaseAOTInput(X), d.TangentAOTInput(OUT), d.DummyAOTInput(1),
    d.SubclassGetAttrAOTInput(W, "values"), d.SubclassSizeAOTInput(X, 0),
    d.SubclassStrideAOTInput(X, 1), d.PhiloxForwardSeedAOTInput(),
    d.PhiloxForwardBaseOffsetAOTInput(), d.PhiloxBackwardSeedAOTInput(),
    d.PhiloxBackwardBaseOffsetAOTInput(), d.ForwardTokenAOTInput(0), d.BackwardTokenAOTInput(0),
    d.SavedAOTInput(2, "mul"), d.SubclassGetAttrAOTInput(d.TangentAOTInput(OUT), "values"),
]  # fmt: skip
OUTPUTS: list[d.AOTOutput] = [
    OUT, d.InputMutationAOTOutput(X), d.IntermediateBaseAOTOutput(OUT),
    d.MetadataMutationAOTOutput(0), d.GradAOTOutput(W), d.PhiloxUpdatedForwardOffsetAOTOutput(),
    d.PhiloxUpdatedBackwardOffsetAOTOutput(), d.ForwardTokenAOTOutput(0),
    d.BackwardTokenAOTOutput(0), d.SubclassGetAttrAOTOutput(d.GradAOTOutput(W), "values"),
    d.SubclassSizeAOTOutput(OUT, 0), d.SubclassStrideAOTOutput(OUT, 0),
    d.SavedForBackwardsAOTOutput(0), d.SavedForBackwardsNoVcCheckAOTOutput(0), d.DummyAOTOutput(0),
]  # fmt: skip


@pytest.mark.spec("D1")
def test_every_kind_has_an_expression_and_they_differ() -> None:
    assert all(x.expr() for x in INPUTS) and all(x.expr() for x in OUTPUTS)
    assert len({*INPUTS, *OUTPUTS}) == len(INPUTS) + len(OUTPUTS)


@pytest.mark.spec("D1")
def test_bases_have_no_expression() -> None:
    for base in (
        d.AOTInput(),
        d.DifferentiableAOTInput(),
        d.AOTOutput(),
        d.DifferentiableAOTOutput(),
    ):
        with pytest.raises(NotImplementedError):
            base.expr()


def test_equality_and_names() -> None:
    pair: list[d.AOTInput] = [d.ParamAOTInput("w"), d.BufferAOTInput("w")]
    assert pair[0] == d.ParamAOTInput("w") and pair[0] != pair[1]
    assert d.GradAOTOutput(W).name() == "grad_layer_weight"
    assert X.name() == "x" and W.name() == "layer_weight"


def test_predicates_delegate_through_subclass_pieces() -> None:
    assert d.SubclassGetAttrAOTInput(W, "values").is_param()
    assert d.TangentAOTInput(OUT).is_tangent() and d.GradAOTOutput(W).is_grad()


@pytest.mark.spec("D2")
@pytest.mark.parametrize(
    "illegal",
    [
        lambda: d.TangentAOTInput(d.SubclassGetAttrAOTOutput(OUT, "a")),  # type: ignore[arg-type]
        lambda: d.GradAOTOutput(d.SubclassGetAttrAOTInput(X, "a")),  # type: ignore[arg-type]
        lambda: d.TangentAOTInput(d.SavedForBackwardsAOTOutput(0)),  # type: ignore[arg-type]
        lambda: d.ViewBaseAOTInput(d.TangentAOTInput(OUT)),
        lambda: d.SyntheticBaseAOTInput(d.DummyAOTInput(0)),  # type: ignore[arg-type]
        lambda: d.InputMutationAOTOutput(d.ForwardTokenAOTInput(0)),
        lambda: d.GradAOTOutput(d.SizeAOTInput("s0")),  # type: ignore[arg-type]
        lambda: d.IntermediateBaseAOTOutput(d.GradAOTOutput(X)),
    ],
)
def test_illegal_nestings_raise_at_construction(illegal: Callable[[], object]) -> None:
    with pytest.raises(TypeError, match="law of nesting"):
        illegal()
