"""The call path of a custom operator is built once per operator and signature, never per call."""

from __future__ import annotations

import sys
from collections import Counter
from typing import Any

import pytest

import plait
from plait import Tensor
from plait.dispatch import operator
from plait.library import CustomOpDef, custom_op, gradient


@pytest.fixture
def builds(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """How often each part of a call path is built."""
    counts: Counter[str] = Counter()
    module = sys.modules["plait.library.custom_op"]

    def counted(owner: Any, name: str) -> None:
        built = getattr(owner, name)

        def build(*args: Any, **kwargs: Any) -> Any:
            if "tests::doubled" in str(args[0]):
                counts[name] += 1
            return built(*args, **kwargs)

        monkeypatch.setattr(owner, name, build)

    counted(operator, "build_call")
    counted(operator, "compute")
    counted(module, "checked_kernel")
    counted(gradient, "generated_layer")
    return counts


def doubled() -> CustomOpDef:
    @custom_op("tests::doubled", mutates_args=())
    def doubled(x: Tensor, by: float = 2.0) -> Tensor:
        return plait.from_numpy(x.numpy() * x.numpy().dtype.type(by))

    doubled.register_autograd(lambda ctx, g: (g * 2, None))
    definition: CustomOpDef = doubled
    return definition


@pytest.mark.spec("A15")
def test_the_path_is_built_once_per_operator_and_signature(builds: Counter[str]) -> None:
    op = doubled()
    assert (builds["build_call"], builds["checked_kernel"]) == (1, 1)
    x, followed = plait.ones(3), plait.ones(3, requires_grad=True)
    op(x)
    op(followed).sum().backward()
    op(x, 3.0)
    first = Counter(builds)
    assert first["generated_layer"] == 1
    for _ in range(20):
        op(x)
        op(x, 4.0)
        op(x, by=5.0)
        op(plait.ones(2, 2))
        op(followed).sum().backward()
    assert builds == first


@pytest.mark.spec("A15")
def test_another_keyset_builds_once_more_and_a_registration_builds_again(
    builds: Counter[str],
) -> None:
    op = doubled()
    x = plait.ones(3)
    op(x)
    before = builds["compute"]
    with plait.no_grad():
        op(x)
    op.register_fake(lambda x, by: plait.empty_like(x))
    for _ in range(3):
        assert op(plait.ones(3, device="meta")).shape == (3,)
    meta = builds["compute"]
    assert meta > before
    for _ in range(3):
        op(plait.ones(3, device="meta"))
    assert builds["compute"] == meta
    op.register_kernel("cpu", lambda x, by: x.clone())
    assert op(x).tolist() == [1.0, 1.0, 1.0]
    assert builds["compute"] > meta
    assert builds["build_call"] == 1


@pytest.mark.spec("A15")
def test_a_call_adds_no_frame_of_the_definition() -> None:
    op = doubled()
    assert type(op).__dict__["__call__"].__func__ is op.call
    assert isinstance(op, CustomOpDef)
    assert type(op).__name__ == "CustomOpDef"
