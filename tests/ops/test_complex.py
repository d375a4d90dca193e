"""Operators on complex numbers: against PyTorch, as views, in the tape, and their refusals."""

from __future__ import annotations

import numpy as np
import pytest

import plait
from plait.base.errors import DtypeMismatch, MissingKernel, ShapeMismatch
from plait.dispatch.dispatcher import lookup
from plait.testing import compare
from plait.testing.samples import SampleInput, make, sampled, samples

OWN = sampled("complex")
PRIMITIVE = [q for q in OWN if not lookup(q).is_composite]


@pytest.mark.parametrize("qualname", OWN)
def test_values_dtypes_and_strides_are_those_of_pytorch(torch, qualname):
    # A conjugate of PyTorch's is a view that remembers to conjugate; ours is computed, dense. Its
    # angle of complex numbers forgets their memory order.
    strides = qualname not in ("aten::conj", "aten::adjoint", "aten::angle")
    for sample in samples(qualname):
        compare.check_against_torch(torch, qualname, sample, strides=strides)


@pytest.mark.parametrize("qualname", [q for q in OWN if q != "aten::isreal"])
def test_gradients_are_those_of_pytorch(torch, qualname):
    for sample in samples(qualname):
        compare.check_gradients_against_torch(torch, qualname, sample)
        if sample.name not in ("special", "zeros"):
            compare.check_second_gradients_against_torch(torch, qualname, sample)


@pytest.mark.parametrize("qualname", PRIMITIVE)
def test_own_rules(qualname):
    op = lookup(qualname)
    for sample in samples(qualname):
        compare.check_shape_rule(qualname, sample)
        if op.decomposition is not None:
            compare.check_decomposition(qualname, sample)
        if op.inplace is not None:
            compare.check_inplace(qualname, sample)
        if op.out is not None:
            compare.check_out(qualname, sample)


# ---------------------------------------------------------------- views


def test_parts_are_views():
    z = plait.tensor([1 + 2j, 3 - 4j])
    assert z.real.tolist() == [1.0, 3.0] and z.imag.tolist() == [2.0, -4.0]
    z.real[0] = 7
    z.imag.mul_(2)
    assert z.tolist() == [7 + 4j, 3 - 8j] and z._version == 2
    z.real = plait.zeros(2)
    z.imag = 1
    assert z.tolist() == [1j, 1j]
    x = plait.ones(2)
    assert x.real is x and x.conj() is x and x.resolve_conj() is x
    pairs = plait.view_as_real(z)
    pairs[0, 0] = 5
    again = plait.view_as_complex(pairs)
    assert again.tolist() == [5 + 1j, 1j] == z.tolist()
    assert again.data_ptr() == z.data_ptr() == pairs.data_ptr()


def test_views_of_views_keep_their_place():
    z = make(4, 3, dtype=plait.complex64)
    part = z[1::2, 1:].imag
    np.testing.assert_array_equal(part.numpy(), z.numpy()[1::2, 1:].imag)
    assert part.storage_offset() == 2 * 4 + 1 and part.strides == (12, 2)
    part.zero_()
    assert not z.numpy()[1::2, 1:].imag.any() and z.numpy()[0].imag.any()


def test_the_tape_follows_writes_through_parts():
    z = make(3, dtype=plait.complex64).requires_grad_()
    w = z * 1
    w.real.mul_(3)
    (w.real.sum() + 2 * w.imag.sum()).backward()
    assert z.grad.tolist() == [3 + 2j] * 3


def test_matrices_and_vectors():
    z = make(2, 3, dtype=plait.complex64)
    for turned in (z.H, z.mH, z.adjoint()):
        np.testing.assert_array_equal(turned.numpy(), z.numpy().conj().T)
    x, y = make(3, dtype=plait.complex64), make(3, dtype=plait.complex64, seed=1)
    np.testing.assert_allclose(plait.vdot(x, y).numpy(), np.vdot(x.numpy(), y.numpy()), rtol=1e-6)
    assert plait.is_complex(z) and not plait.is_complex(z.abs())


def test_real_and_complex_operands_meet():
    x = plait.tensor([1.0, 2.0], requires_grad=True)
    z = plait.tensor([1j, 2 + 1j])
    (x * z).imag.sum().backward()
    assert x.grad.dtype is plait.float32 and x.grad.tolist() == [1.0, 1.0]
    assert (x.detach() + 1j).dtype is plait.complex64
    assert (x.detach().double() * 1j).dtype is plait.complex128


def test_a_descent_on_a_complex_number():
    z = plait.tensor(3 + 4j, requires_grad=True)
    for _ in range(60):
        (g,) = plait.autograd.grad((z - (1 - 2j)).abs().square(), [z])
        z = (z - 0.2 * g).detach().requires_grad_()
    assert abs(z.item() - (1 - 2j)) < 1e-4


@pytest.mark.parametrize("backend", ["aot_eager", "llvm"])
def test_compiled(backend):
    def f(z, x):
        w = plait.view_as_real(z * x.exp())
        return plait.polar(w[..., 0].abs(), w[..., 1]), z.real.sin()

    z, x = make(4, dtype=plait.complex64).requires_grad_(), make(4, seed=1).requires_grad_()
    wanted, got = f(z, x), plait.compile(f, backend=backend)(z, x)
    compare.assert_close(got, wanted, family="compiled")
    seeds = [plait.tensor([1 + 1j] * 4), plait.ones(4)]
    compare.assert_close(
        plait.autograd.grad(got, [z, x], seeds),
        plait.autograd.grad(wanted, [z, x], seeds),
        family="gradient",
    )


# ---------------------------------------------------------------- random, refusals


def test_draws():
    plait.manual_seed(0)
    z = plait.randn(20000, dtype=plait.complex64)
    assert z.dtype is plait.complex64 and abs(z.abs().square().mean().item() - 1) < 0.03
    u = plait.rand(1000, dtype=plait.complex128)
    assert u.real.min().item() >= 0 and u.imag.max().item() < 1
    assert plait.randn_like(z).dtype is plait.complex64


REAL, COMPLEX = make(3, 2), make(3, 2, dtype=plait.complex64)


@pytest.mark.parametrize(
    ("qualname", "sample"),
    [
        ("aten::imag", SampleInput(REAL)),
        ("aten::view_as_real", SampleInput(REAL)),
        ("aten::view_as_complex", SampleInput(COMPLEX)),
        ("aten::view_as_complex", SampleInput(make(3))),
        ("aten::view_as_complex", SampleInput(make(2, 2).T)),
        ("aten::complex", SampleInput(REAL, REAL.double())),
        ("aten::complex", SampleInput(REAL.long(), REAL.long())),
        ("aten::polar", SampleInput(COMPLEX, COMPLEX)),
        ("aten::lt.Tensor", SampleInput(COMPLEX, COMPLEX)),
        ("aten::relu", SampleInput(COMPLEX)),
        ("aten::sign", SampleInput(COMPLEX)),
        ("aten::amax", SampleInput(COMPLEX)),
        ("aten::_softmax", SampleInput(COMPLEX, 0, False)),
        ("aten::add_.Tensor", SampleInput(REAL.clone(), COMPLEX)),
        ("aten::abs_", SampleInput(COMPLEX.clone())),
        ("aten::fill_.Scalar", SampleInput(REAL.clone(), 1j)),
        ("aten::mm", SampleInput(REAL, COMPLEX.t())),
        ("aten::linear", SampleInput(REAL, COMPLEX)),
        ("aten::adjoint", SampleInput(make(3))),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_errors_are_of_pytorch_classes(torch, qualname, sample):
    compare.check_error_like_torch(torch, qualname, sample)


def test_errors_say_what_to_do():
    with pytest.raises(DtypeMismatch, match="must be complex"):
        plait.imag(REAL)
    with pytest.raises(ShapeMismatch, match="contiguous"):
        plait.view_as_complex(make(2, 2).T)
    with pytest.raises(MissingKernel, match="lt: not implemented for plait.complex64"):
        COMPLEX < COMPLEX  # noqa: B015
