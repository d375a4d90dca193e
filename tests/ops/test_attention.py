"""Attention against PyTorch, against its decomposition, and its derivatives."""

from __future__ import annotations

from types import ModuleType

import numpy as np
import pytest

import plait
from plait.base.errors import PlaitError
from plait.dispatch.dispatcher import lookup
from plait.testing import compare
from plait.testing.samples import SampleInput, make, samples

FLASH = "aten::_scaled_dot_product_flash_attention_for_cpu"
BACKWARD = f"{FLASH}_backward"
ATTENTION = "aten::scaled_dot_product_attention"


def calls(*names: str, without: tuple[str, ...] = ()) -> list[object]:
    return [
        pytest.param(name, sample, id=f"{name.rpartition('_')[2]}-{sample.name}")
        for name in names
        for sample in samples(name)
        if sample.name not in without
    ]


# PyTorch's fused operator reads features that do not lie side by side wrongly.
@pytest.mark.parametrize(
    ("name", "sample"), calls(FLASH, BACKWARD, without=("transposed", "sliced"))
)
def test_forward(torch: ModuleType, name: str, sample: SampleInput) -> None:
    # A dimension of size 1 may have any stride.
    strides = all(1 not in t.shape[:4] for t in sample.args[:3])
    compare.check_against_torch(torch, name, sample, family="attention", strides=strides)


@pytest.mark.parametrize(("name", "sample"), calls(FLASH, BACKWARD))
def test_shape_rule(name: str, sample: SampleInput) -> None:
    compare.check_shape_rule(name, sample)


@pytest.mark.parametrize(("name", "sample"), calls(FLASH, BACKWARD))
def test_decomposition(name: str, sample: SampleInput) -> None:
    compare.check_decomposition(name, sample)


def test_blocks_cover_all_rows_and_batches(torch: ModuleType) -> None:
    """Sizes at which the kernels go through the batch, and through the rows, in several blocks."""
    for shape, length in (((12, 4, 90, 8), 90), ((1, 2, 700, 8), 650)):
        b, h, _, e = shape
        args = (make(*shape), make(b, h, length, e, seed=1), make(b, h, length, e, seed=2))
        for causal in (False, True):
            sample = SampleInput(*args, 0.0, causal, name=f"{shape} {causal}")
            compare.check_against_torch(torch, FLASH, sample, family="attention")
            out, logs = lookup(FLASH)(*args, 0.0, causal)
            grad = make(*shape, seed=3)
            sample = SampleInput(grad, *args, out, logs, 0.0, causal, name=f"{shape} {causal}")
            compare.check_against_torch(torch, BACKWARD, sample, family="attention")


def test_gradients_come_from_one_call_of_the_backward_operator() -> None:
    q, k, v = (make(1, 2, 3, 4, seed=i).requires_grad_() for i in range(3))
    out, _ = lookup(FLASH)(q, k, v)
    seen: list[str] = []

    class Count(plait.dispatch.modes.DispatchMode):
        def __plait_dispatch__(self, op, types, args, kwargs):  # type: ignore[no-untyped-def]
            seen.append(op.qualname)
            return op(*args, **kwargs)

    with Count():
        out.sum().backward()
    assert seen.count(BACKWARD) == 1
    assert all(t.grad is not None for t in (q, k, v))


def test_rows_that_see_nothing_are_zero_and_have_no_gradient() -> None:
    q, k, v = (make(1, 1, 2, 4, seed=i).requires_grad_() for i in range(3))
    mask = plait.tensor([[0.0, 0.0], [float("-inf"), float("-inf")]])
    out, logs = lookup(FLASH)(q, k, v, attn_mask=mask)
    assert out[0, 0, 1].tolist() == [0.0] * 4
    assert logs[0, 0, 1].item() == 0.0
    out.sum().backward()
    assert q.grad is not None
    assert q.grad[0, 0, 1].tolist() == [0.0] * 4


def test_nothing_to_see_gives_zeros() -> None:
    q, k = make(2, 3, 4, 5), make(2, 3, 0, 5)
    out, logs = lookup(FLASH)(q, k, k)
    assert not np.any(out.numpy())
    assert not np.any(logs.numpy())
    grads = lookup(BACKWARD)(q, q, k, k, out, logs, 0.0, False)
    assert [g.shape for g in grads] == [q.shape, k.shape, k.shape]


# ---------------------------------------------------------------- the composite


@pytest.mark.parametrize(("name", "sample"), calls(ATTENTION))
def test_attention(torch: ModuleType, name: str, sample: SampleInput) -> None:
    # PyTorch chooses another way for some calls, which stores the result otherwise.
    compare.check_against_torch(torch, name, sample, family="attention", strides=False)


# PyTorch's gradients of a row that sees nothing are NaN where it works by parts.
UNFOLLOWED = ("nothing to see", "everything dropped", "narrow values, hidden row")


@pytest.mark.parametrize(
    ("name", "sample"), calls(ATTENTION, without=("float16", "bfloat16", *UNFOLLOWED))
)
def test_gradients(torch: ModuleType, name: str, sample: SampleInput) -> None:
    compare.check_gradients_against_torch(torch, name, sample)


def test_hidden_rows_by_parts_have_no_gradient() -> None:
    q, k, v = make(1, 2, 4), make(1, 3, 4, seed=1), make(1, 3, 2, seed=2)
    mask = plait.tensor([[0.0, 0.0, 0.0], [float("-inf")] * 3])
    for t in (q, k, v, mask):
        t.requires_grad_()
    out = lookup(ATTENTION)(q, k, v, mask)
    assert out[0, 1].tolist() == [0.0, 0.0]
    out.sum().backward()
    for t in (q, k, v, mask):
        assert t.grad is not None
        assert np.isfinite(t.grad.numpy()).all()


def test_a_mask_may_require_grad(torch: ModuleType) -> None:
    sample = SampleInput(*samples(ATTENTION)[0].args, make(4, 5, seed=7), name="mask")
    sample.args[3].requires_grad_()
    out = lookup(ATTENTION)(*sample.args)
    out.sum().backward()
    theirs = [compare.to_torch(torch, t) for t in sample.args]
    torch.nn.functional.scaled_dot_product_attention(*theirs).sum().backward()
    compare.assert_close(sample.args[3].grad, theirs[3].grad, family="gradient")


def test_dropout_zeroes_weights_and_keeps_their_mean() -> None:
    plait.manual_seed(0)
    q, k = plait.zeros(8, 4, 16, 4), plait.zeros(8, 4, 32, 4)
    v = plait.ones(8, 4, 32, 4)
    out = lookup(ATTENTION)(q, k, v, None, 0.25).numpy()
    counts = np.unique(np.round(out * 32 * 0.75))
    assert len(counts) > 5 and counts.max() <= 32
    assert abs(out.mean() - 1) < 0.02


def test_fused_calls_do_not_hold_scores() -> None:
    seen: list[str] = []

    class Names(plait.dispatch.modes.DispatchMode):
        def __plait_dispatch__(self, op, types, args, kwargs):  # type: ignore[no-untyped-def]
            seen.append(op.qualname)
            return op(*args, **kwargs)

    q = make(2, 3, 4, 5)
    with Names():
        lookup(ATTENTION)(q, q, q, None, 0.0, True)
    assert seen == [FLASH]


ROWS = make(2, 3, 4, 5)
WRONG = [
    SampleInput(make(5), make(5), make(5), name="rank"),
    SampleInput(ROWS, ROWS.double(), ROWS, name="dtype"),
    SampleInput(ROWS.long(), ROWS.long(), ROWS.long(), name="ints"),
    SampleInput(ROWS, make(2, 3, 4, 6), make(2, 3, 4, 6), name="features"),
    SampleInput(ROWS, ROWS, ROWS, make(3, 4), name="mask shape"),
    SampleInput(ROWS, ROWS, ROWS, make(1, 2, 3, 4, 4), name="mask rank"),
    SampleInput(ROWS, ROWS, ROWS, make(4, 4, dtype=plait.int64), name="mask of ints"),
    SampleInput(ROWS, ROWS, ROWS, make(4, 4, dtype=plait.float64), name="mask dtype"),
    SampleInput(make(2, 6, 4, 5), ROWS, ROWS, name="heads"),
    SampleInput(make(2, 4, 4, 5), ROWS, ROWS, enable_gqa=True, name="groups"),
]


@pytest.mark.parametrize("sample", WRONG, ids=lambda s: s.name)
def test_wrong_calls(torch: ModuleType, sample: SampleInput) -> None:
    compare.check_error_like_torch(torch, ATTENTION, sample)
    with pytest.raises(PlaitError, match=r"^scaled_dot_product_attention: "):
        lookup(ATTENTION)(*sample.args, **sample.kwargs)


def test_a_mask_and_causality_exclude_each_other() -> None:
    with pytest.raises(ValueError, match="together with is_causal"):
        lookup(ATTENTION)(ROWS, ROWS, ROWS, make(4, 4), 0.0, True)
    with pytest.raises(ValueError, match="between 0 and 1"):
        lookup(ATTENTION)(ROWS, ROWS, ROWS, None, 1.5)
    with pytest.raises(RuntimeError, match="keys as long as values"):
        lookup(ATTENTION)(ROWS, ROWS, ROWS[:, :, :3])
    with pytest.raises(RuntimeError, match="at least 2 dimensions"):
        lookup(ATTENTION)(ROWS, ROWS, ROWS, make(4))


Q, K = make(2, 3, 4, 5), make(2, 3, 6, 5)
REFUSED = [
    SampleInput(Q[0], K[0], K[0], name="rank"),
    SampleInput(Q, K.double(), K, name="dtype"),
    SampleInput(Q.long(), K.long(), K.long(), name="ints"),
    SampleInput(Q, make(2, 3, 6, 4), make(2, 3, 6, 4), name="features"),
    SampleInput(Q, K, K[..., :4], name="features of the value"),
    SampleInput(Q, K, K, 0.1, name="dropout"),
    SampleInput(Q, K, K, attn_mask=make(3, 6), name="mask shape"),
    SampleInput(Q, K, K, attn_mask=make(6), name="mask rank"),
    SampleInput(Q, K, K, attn_mask=make(4, 6, dtype=plait.float64), name="mask dtype"),
    SampleInput(Q, K, K, attn_mask=make(4, 6, dtype=plait.bool_), name="bool mask"),
]


@pytest.mark.parametrize("sample", REFUSED, ids=lambda s: s.name)
def test_refused(torch: ModuleType, sample: SampleInput) -> None:
    compare.check_error_like_torch(torch, FLASH, sample)
    with pytest.raises(PlaitError, match=r"^\w+: argument"):
        lookup(FLASH)(*sample.args, **sample.kwargs)
