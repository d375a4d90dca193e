"""The words of the errors: the operator, what was got, what was expected, what to do."""

from __future__ import annotations

import pytest

import plait
from plait.base.errors import AutogradError, InplaceError


@pytest.fixture
def x() -> plait.Tensor:
    return plait.tensor([1.0, 2.0, 3.0], requires_grad=True)


def test_version_error_names_the_saving_operator_and_both_versions(x: plait.Tensor) -> None:
    y = x * 1.0
    z = y * x
    y.add_(1.0)
    y.add_(1.0)
    with pytest.raises(InplaceError) as caught:
        z.sum().backward()
    message = str(caught.value)
    assert "modified by an inplace operation" in message
    assert "which is at version 2; expected version 0, at which MulBackward0 saved it" in message
    assert "AddBackward0" in message  # the operator that made its present value
    assert "out-of-place" in message
    assert "while running the backward of MulBackward0" in caught.value.__notes__


def test_saved_result_is_named(x: plait.Tensor) -> None:
    y = x.exp()
    with plait.no_grad():
        y.add_(1.0)
    with pytest.raises(InplaceError, match="output 0 of ExpBackward0"):
        y.sum().backward()


def test_backward_twice(x: plait.Tensor) -> None:
    loss = (x * x).sum()
    loss.backward()
    with pytest.raises(AutogradError, match=r"MulBackward0.*second time.*retain_graph=True"):
        loss.backward()


def test_leaf_and_view_of_leaf(x: plait.Tensor) -> None:
    with pytest.raises(InplaceError, match=r"add_.*a leaf Variable that requires grad.*no_grad"):
        x.add_(1.0)
    with pytest.raises(InplaceError, match="a view of a leaf Variable that requires grad"):
        x.view(3, 1).add_(1.0)


def test_multi_output_view(x: plait.Tensor) -> None:
    part = (x * x).unbind(0)[1]
    with pytest.raises(InplaceError, match="Output 1 of UnbindBackward0 is a view and is being"):
        part.add_(1.0)


def test_no_grad_view(x: plait.Tensor) -> None:
    y = x * x
    with plait.no_grad():
        view = y.view(3, 1)
    with pytest.raises(InplaceError, match="created in no_grad mode and is being modified"):
        view.add_(1.0)
    y.add_(1.0)
    with pytest.raises(InplaceError, match="its base or another view of its base has been"):
        view.grad_fn


def test_unused_input(x: plait.Tensor) -> None:
    other = plait.tensor([1.0], requires_grad=True)
    with pytest.raises(AutogradError, match="index 1 appears to not have been used"):
        plait.autograd.grad((x * x).sum(), [x, other])


def test_scalar_outputs_only(x: plait.Tensor) -> None:
    with pytest.raises(AutogradError, match=r"only for scalar outputs; got shape \(3,\)"):
        (x * x).backward()


def test_element_does_not_require_grad(x: plait.Tensor) -> None:
    with pytest.raises(AutogradError, match="element 1 of tensors does not require grad"):
        plait.autograd.backward([x.sum(), x.detach().sum()])


def test_readonly_memory_is_not_written() -> None:
    import numpy as np

    array = np.ones(3, np.float32)
    array.flags.writeable = False
    with pytest.raises(InplaceError, match="read-only"):
        plait.from_numpy(array).add_(1.0)
