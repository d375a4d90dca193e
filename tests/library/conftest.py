"""Every test leaves the users' operators as it found them; an operator that several files use."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from plait import Tensor
from plait.library import CustomOpDef, custom_op, definitions


@pytest.fixture(autouse=True)
def forget_definitions() -> Iterator[None]:
    before = set(definitions.defined_names())
    yield
    for name in set(definitions.defined_names()) - before:
        definition = definitions.find_definition(name)
        assert definition is not None
        definition.destroy()


@pytest.fixture
def bump(forget_definitions: None) -> CustomOpDef:
    """An operator that writes its argument and returns nothing."""

    @custom_op("tests::bump", mutates_args=("x",))
    def bump(x: Tensor, by: float) -> None:
        x.numpy()[...] += by

    definition: CustomOpDef = bump
    return definition
