"""opcheck and PyTorch's opcheck give one verdict on the same operators, good and broken."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import plait
from plait.testing.opcheck import opcheck

torch = pytest.importorskip("torch")

SHARED = (
    "test_schema",
    "test_autograd_registration",
    "test_faketensor",
    "test_aot_dispatch_dynamic",
)


def array(t: Any) -> Any:
    return t.detach().numpy()


def define(ns: Any, name: str, body: Callable[..., Any], writes: tuple[str, ...] = ()) -> Any:
    """The operator in the system ``ns``; the body works on NumPy arrays."""
    body.__annotations__ = {"x": ns.Tensor, "return": ns.Tensor}
    return ns.library.custom_op(f"plait_opcheck::{name}", body, mutates_args=writes)


def good(ns: Any) -> Any:
    op = define(ns, "good", lambda x: ns.from_numpy(np.sin(array(x))))
    op.register_fake(lambda x: ns.empty_like(x))
    op.register_autograd(
        lambda ctx, g: g * ctx.saved_tensors[0].cos(),
        setup_context=lambda ctx, inputs, output: ctx.save_for_backward(inputs[0]),
    )
    return op


def without_formula(ns: Any) -> Any:
    op = define(ns, "without_formula", lambda x: ns.from_numpy(np.sin(array(x))))
    op.register_fake(lambda x: ns.empty_like(x))
    return op


def writes_in_secret(ns: Any) -> Any:
    def body(x):  # type: ignore[no-untyped-def]
        array(x)[...] += 1
        return ns.from_numpy(np.sin(array(x)))

    op = define(ns, "writes_in_secret", body)
    op.register_fake(lambda x: ns.empty_like(x))
    return op


def wrong_shape(ns: Any) -> Any:
    op = define(ns, "wrong_shape", lambda x: ns.from_numpy(array(x).sum(0)))
    op.register_fake(lambda x: ns.empty_like(x))
    return op


def wrong_dtype(ns: Any) -> Any:
    op = define(ns, "wrong_dtype", lambda x: ns.from_numpy(array(x).astype(np.float64)))
    op.register_fake(lambda x: ns.empty_like(x))
    return op


def no_fake(ns: Any) -> Any:
    return define(ns, "no_fake", lambda x: ns.from_numpy(np.sin(array(x))))


def verdicts(ns: Any, make: Callable[[Any], Any], requires_grad: bool) -> dict[str, bool]:
    x = ns.ones(3, 4)
    x.requires_grad_(requires_grad)
    check = opcheck if ns is plait else torch.library.opcheck
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = check(make(ns), (x,), test_utils=SHARED, raise_exception=False)
    return {name: verdict == "SUCCESS" for name, verdict in found.items()}


@pytest.mark.spec("A10")
@pytest.mark.parametrize(
    ("make", "requires_grad"),
    [
        (good, True), (good, False), (without_formula, False), (writes_in_secret, False),
        (wrong_shape, False), (wrong_dtype, False), (no_fake, False),
    ],
)  # fmt: skip
def test_verdicts_are_pytorchs(make: Callable[[Any], Any], requires_grad: bool) -> None:
    assert verdicts(plait, make, requires_grad) == verdicts(torch, make, requires_grad)
