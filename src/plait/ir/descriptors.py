"""Descriptors: what every graph input and output means.

Example: in the joint graph of ``loss = mse(linear(x), y)`` the inputs read

    Param(target='weight'), Plain(idx=0), Tangent(output=PlainOutput(idx=0))

and the outputs ``PlainOutput(idx=0)`` and ``Grad(grad_of=Param(target='weight'))``.

An *input* descriptor reads as a function from the user's arguments to this graph input; it is built
while wrappers go down. An *output* descriptor describes an inner output from which the outer result
is made on the way up.

**The law of nesting**, enforced by type at construction: plain/param/buffer -> view base/synthetic
base/mutation -> tangent/grad -> subclass piece -> token/random. ``Tangent(SubclassGetAttr(..))`` is
refused, ``SubclassGetAttr(Tangent(..))`` is not.

| stage | adds |
|---|---|
| capture | Plain, Param, Buffer, Captured, Size |
| dedupe, synthetic bases | ViewBase, SyntheticBase; MetadataMutation |
| metadata run | PlainOutput, InputMutation, IntermediateBase |
| joint | Tangent; Grad |
| random state | PhiloxSeed, PhiloxBaseCall |
| partition | Saved (inputs of backward), SavedForBackwards (outputs of forward) |

Names follow PyTorch's AOT descriptors, whose ``...AOTInput`` / ``...AOTOutput`` suffixes are kept.
"""

from __future__ import annotations

import re

from plait.base.record import record

__all__ = [
    "AOTInput",
    "AOTOutput",
    "BackwardTokenAOTInput",
    "BackwardTokenAOTOutput",
    "BufferAOTInput",
    "CapturedAOTInput",
    "DifferentiableAOTInput",
    "DifferentiableAOTOutput",
    "DummyAOTInput",
    "DummyAOTOutput",
    "ForwardTokenAOTInput",
    "ForwardTokenAOTOutput",
    "GradAOTOutput",
    "InputMutationAOTOutput",
    "IntermediateBaseAOTOutput",
    "MetadataMutationAOTOutput",
    "ParamAOTInput",
    "PhiloxBackwardBaseOffsetAOTInput",
    "PhiloxBackwardSeedAOTInput",
    "PhiloxForwardBaseOffsetAOTInput",
    "PhiloxForwardSeedAOTInput",
    "PhiloxUpdatedBackwardOffsetAOTOutput",
    "PhiloxUpdatedForwardOffsetAOTOutput",
    "PlainAOTInput",
    "PlainAOTOutput",
    "SavedAOTInput",
    "SavedForBackwardsAOTOutput",
    "SavedForBackwardsNoVcCheckAOTOutput",
    "SizeAOTInput",
    "SubclassGetAttrAOTInput",
    "SubclassGetAttrAOTOutput",
    "SubclassSizeAOTInput",
    "SubclassSizeAOTOutput",
    "SubclassStrideAOTInput",
    "SubclassStrideAOTOutput",
    "SyntheticBaseAOTInput",
    "TangentAOTInput",
    "ViewBaseAOTInput",
]


_NO_NAME = re.compile(r"\W+")


def _require(value: object, kind: type | tuple[type, ...], owner: object, field: str) -> None:
    """The law of nesting: ``value`` must be a ``kind``."""
    if not isinstance(value, kind):
        kinds = kind if isinstance(kind, tuple) else (kind,)
        raise TypeError(
            f"{type(owner).__name__}: field {field!r} breaks the law of nesting; got {value!r}; "
            f"expected one of {', '.join(k.__name__ for k in kinds)}"
        )


class _Descriptor:
    """Common behaviour: derived names and a short text."""

    def _parts(self) -> list[str]:
        parts: list[str] = []
        for value in vars(self).values():
            parts += value._parts() if isinstance(value, _Descriptor) else [str(value)]
        return parts

    def name(self) -> str:
        """A name for the value, before it is made unique: ``grad_weight``, ``x``, ``saved_3``."""
        parts = ([self.prefix] if self.prefix else []) + self._parts()
        return _NO_NAME.sub("_", "_".join(parts)).strip("_") or type(self).__name__

    prefix = ""


# --- inputs ---------------------------------------------------------------------------------------


@record
class AOTInput(_Descriptor):
    """What a graph input is, as a function of the user's arguments."""

    def expr(self) -> str:
        """The input as a Python-like expression of the user's arguments."""
        raise NotImplementedError(f"{type(self).__name__} has no expression")

    def is_param(self) -> bool:
        return False

    def is_buffer(self) -> bool:
        return False

    def is_tangent(self) -> bool:
        return False


@record
class DifferentiableAOTInput(AOTInput):
    """An input that may have a gradient."""


@record
class ParamAOTInput(DifferentiableAOTInput):
    """A parameter of a module, by its qualified name."""

    target: str

    def expr(self) -> str:
        return f"self.get_parameter({self.target!r})"

    def is_param(self) -> bool:
        return True


@record
class BufferAOTInput(DifferentiableAOTInput):
    """A buffer of a module, by its qualified name."""

    target: str

    def expr(self) -> str:
        return f"self.get_buffer({self.target!r})"

    def is_buffer(self) -> bool:
        return True


@record
class PlainAOTInput(DifferentiableAOTInput):
    """The ``idx``-th flat user input; ``label`` is its source (an argument's name and path)."""

    idx: int
    label: str = ""

    def expr(self) -> str:
        return self.label or f"args[{self.idx}]"

    def _parts(self) -> list[str]:
        return [self.label] if self.label else ["arg", str(self.idx)]


@record
class CapturedAOTInput(DifferentiableAOTInput):
    """A tensor that the traced function read from outside (a closure, a global, an attribute)."""

    source: str

    def expr(self) -> str:
        return self.source


@record
class SizeAOTInput(AOTInput):
    """A symbolic size passed as an integer."""

    symbol: str

    def expr(self) -> str:
        return self.symbol


@record
class ViewBaseAOTInput(DifferentiableAOTInput):
    """The base of an input, which took its place."""

    base_of: DifferentiableAOTInput
    prefix = "base"

    def __post_init__(self) -> None:
        _require(self.base_of, _PRIMAL_INPUTS, self, "base_of")

    def expr(self) -> str:
        return f"{self.base_of.expr()}._base"


@record
class SyntheticBaseAOTInput(DifferentiableAOTInput):
    """A base made from the storage that several inputs share; ``base_of`` represents them."""

    base_of: DifferentiableAOTInput
    prefix = "synthetic_base"

    def __post_init__(self) -> None:
        _require(self.base_of, _PRIMAL_INPUTS, self, "base_of")

    def expr(self) -> str:
        return f"make_synthetic_base({self.base_of.expr()})"


@record
class TangentAOTInput(DifferentiableAOTInput):
    """The cotangent that the caller of backward gives for an output."""

    output: DifferentiableAOTOutput
    prefix = "tangent"

    def __post_init__(self) -> None:
        _require(self.output, _TANGENT_OUTPUTS, self, "output")

    def expr(self) -> str:
        return f"output_tangent({self.output.expr()})"

    def is_tangent(self) -> bool:
        return True


@record
class DummyAOTInput(AOTInput):
    """Filler, for tests and internals."""

    idx: int
    prefix = "dummy"

    def expr(self) -> str:
        return f"dummy({self.idx})"


@record
class SubclassGetAttrAOTInput(AOTInput):
    """An inner tensor of a wrapper subclass."""

    base: AOTInput
    attr: str

    def __post_init__(self) -> None:
        _require(self.base, (DifferentiableAOTInput, SubclassGetAttrAOTInput), self, "base")

    def _parts(self) -> list[str]:
        return [self.base.name(), self.attr]

    def expr(self) -> str:
        return f"{self.base.expr()}.{self.attr}"

    def is_param(self) -> bool:
        return self.base.is_param()

    def is_buffer(self) -> bool:
        return self.base.is_buffer()

    def is_tangent(self) -> bool:
        return self.base.is_tangent()


@record
class SubclassSizeAOTInput(AOTInput):
    """A symbolic size of a wrapper subclass."""

    base: AOTInput
    idx: int
    prefix = "size"

    def expr(self) -> str:
        return f"{self.base.expr()}.size({self.idx})"


@record
class SubclassStrideAOTInput(AOTInput):
    """A symbolic stride of a wrapper subclass."""

    base: AOTInput
    idx: int
    prefix = "stride"

    def expr(self) -> str:
        return f"{self.base.expr()}.stride({self.idx})"


@record
class PhiloxForwardSeedAOTInput(AOTInput):
    """The seed of the forward graph's random numbers."""

    prefix = "philox_seed"

    def expr(self) -> str:
        return "philox_forward_seed"


@record
class PhiloxForwardBaseOffsetAOTInput(AOTInput):
    """The number of the forward graph's first random call."""

    prefix = "philox_base_call"

    def expr(self) -> str:
        return "philox_forward_base_call"


@record
class PhiloxBackwardSeedAOTInput(AOTInput):
    """The seed of the backward graph's random numbers."""

    prefix = "philox_backward_seed"

    def expr(self) -> str:
        return "philox_backward_seed"


@record
class PhiloxBackwardBaseOffsetAOTInput(AOTInput):
    """The number of the backward graph's first random call."""

    prefix = "philox_backward_base_call"

    def expr(self) -> str:
        return "philox_backward_base_call"


@record
class ForwardTokenAOTInput(AOTInput):
    """An effect token of the forward graph."""

    idx: int
    prefix = "forward_token"

    def expr(self) -> str:
        return f"forward_token({self.idx})"


@record
class BackwardTokenAOTInput(AOTInput):
    """An effect token of the backward graph."""

    idx: int
    prefix = "backward_token"

    def expr(self) -> str:
        return f"backward_token({self.idx})"


@record
class SavedAOTInput(AOTInput):
    """A value that forward saved for this backward graph; ``label`` is its name in forward."""

    idx: int
    label: str = ""
    prefix = "saved"

    def expr(self) -> str:
        return f"saved({self.idx})" + (f" = {self.label}" if self.label else "")

    def _parts(self) -> list[str]:
        return [self.label or str(self.idx)]


# --- outputs --------------------------------------------------------------------------------------


@record
class AOTOutput(_Descriptor):
    """What a graph output is, on its way to the user's result."""

    def expr(self) -> str:
        """The output as a Python-like expression."""
        raise NotImplementedError(f"{type(self).__name__} has no expression")

    def is_grad(self) -> bool:
        return False


@record
class DifferentiableAOTOutput(AOTOutput):
    """An output that may take a cotangent."""


@record
class PlainAOTOutput(DifferentiableAOTOutput):
    """The ``idx``-th flat user output; ``label`` is its path in the result."""

    idx: int
    label: str = ""

    def expr(self) -> str:
        return self.label or f"output[{self.idx}]"

    def _parts(self) -> list[str]:
        return [self.label] if self.label else ["output", str(self.idx)]


@record
class InputMutationAOTOutput(DifferentiableAOTOutput):
    """The new value of an input that the function mutates."""

    mutated_input: AOTInput
    prefix = "updated"

    def __post_init__(self) -> None:
        _require(self.mutated_input, DifferentiableAOTInput, self, "mutated_input")
        if self.mutated_input.is_tangent():
            _require(self.mutated_input, _PRIMAL_INPUTS, self, "mutated_input")

    def expr(self) -> str:
        return f"mutated({self.mutated_input.expr()})"


@record
class IntermediateBaseAOTOutput(DifferentiableAOTOutput):
    """The base of which an output is a view, appended to the outputs."""

    base_of: AOTOutput
    prefix = "base"

    def __post_init__(self) -> None:
        _require(self.base_of, (PlainAOTOutput, InputMutationAOTOutput), self, "base_of")

    def expr(self) -> str:
        return f"{self.base_of.expr()}._base"


@record
class MetadataMutationAOTOutput(DifferentiableAOTOutput):
    """An argument under a synthetic base whose metadata the function changed."""

    idx: int
    prefix = "metadata_mutation"

    def expr(self) -> str:
        return f"metadata_mutation({self.idx})"


@record
class GradAOTOutput(DifferentiableAOTOutput):
    """The gradient of an input."""

    grad_of: DifferentiableAOTInput
    prefix = "grad"

    def __post_init__(self) -> None:
        _require(self.grad_of, DifferentiableAOTInput, self, "grad_of")

    def expr(self) -> str:
        return f"grad({self.grad_of.expr()})"

    def is_grad(self) -> bool:
        return True


@record
class PhiloxUpdatedForwardOffsetAOTOutput(AOTOutput):
    """The number of the next random call after forward."""

    prefix = "next_call"

    def expr(self) -> str:
        return "philox_next_forward_call"


@record
class PhiloxUpdatedBackwardOffsetAOTOutput(AOTOutput):
    """The number of the next random call after backward."""

    prefix = "next_backward_call"

    def expr(self) -> str:
        return "philox_next_backward_call"


@record
class ForwardTokenAOTOutput(AOTOutput):
    """The effect token after forward."""

    idx: int
    prefix = "forward_token"

    def expr(self) -> str:
        return f"forward_token({self.idx})"


@record
class BackwardTokenAOTOutput(AOTOutput):
    """The effect token after backward."""

    idx: int
    prefix = "backward_token"

    def expr(self) -> str:
        return f"backward_token({self.idx})"


@record
class SubclassGetAttrAOTOutput(AOTOutput):
    """An inner tensor of a returned wrapper subclass."""

    base: AOTOutput
    attr: str

    def __post_init__(self) -> None:
        _require(self.base, (DifferentiableAOTOutput, SubclassGetAttrAOTOutput), self, "base")

    def _parts(self) -> list[str]:
        return [self.base.name(), self.attr]

    def expr(self) -> str:
        return f"{self.base.expr()}.{self.attr}"

    def is_grad(self) -> bool:
        return self.base.is_grad()


@record
class SubclassSizeAOTOutput(AOTOutput):
    """A symbolic size of a returned wrapper subclass."""

    base: AOTOutput
    idx: int
    prefix = "size"

    def expr(self) -> str:
        return f"{self.base.expr()}.size({self.idx})"


@record
class SubclassStrideAOTOutput(AOTOutput):
    """A symbolic stride of a returned wrapper subclass."""

    base: AOTOutput
    idx: int
    prefix = "stride"

    def expr(self) -> str:
        return f"{self.base.expr()}.stride({self.idx})"


@record
class SavedForBackwardsAOTOutput(AOTOutput):
    """A value saved for backward; its version counter is checked when backward runs."""

    idx: int
    prefix = "saved"

    def expr(self) -> str:
        return f"saved_for_backward({self.idx})"


@record
class SavedForBackwardsNoVcCheckAOTOutput(AOTOutput):
    """A value saved for backward whose version counter is not checked."""

    idx: int
    prefix = "saved_unchecked"

    def expr(self) -> str:
        return f"saved_for_backward_unchecked({self.idx})"


@record
class DummyAOTOutput(AOTOutput):
    """Filler, for tests and internals."""

    idx: int
    prefix = "dummy"

    def expr(self) -> str:
        return f"dummy({self.idx})"


_PRIMAL_INPUTS = (
    ParamAOTInput,
    BufferAOTInput,
    PlainAOTInput,
    CapturedAOTInput,
    ViewBaseAOTInput,
    SyntheticBaseAOTInput,
)
_TANGENT_OUTPUTS = (
    PlainAOTOutput,
    InputMutationAOTOutput,
    IntermediateBaseAOTOutput,
    MetadataMutationAOTOutput,
)
