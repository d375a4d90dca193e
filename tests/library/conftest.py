"""Every test leaves the users' operators as it found them."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from plait.library import definitions


@pytest.fixture(autouse=True)
def forget_definitions() -> Iterator[None]:
    before = set(definitions.defined_names())
    yield
    for name in set(definitions.defined_names()) - before:
        definition = definitions.find_definition(name)
        assert definition is not None
        definition.destroy()
