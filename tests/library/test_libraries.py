"""Library objects: ownership of namespaces, lifetimes, kernels, fallbacks."""

from __future__ import annotations

import gc
from typing import Any

import pytest

import plait
from plait.base.errors import InvalidArgument, MissingKernel, RegistrationError
from plait.dispatch import DispatchKey, Overload, lookup
from plait.library import (
    Library,
    custom_op,
    get_kernel,
    register_fake,
    register_kernel,
    scoped_library,
)


@pytest.mark.spec("A12")
def test_destroying_a_library_takes_everything_back() -> None:
    lib = Library("tlib", "DEF")
    op = lib.define("f(Tensor x) -> Tensor")
    lib.impl("f", lambda x: x + 1, "CPU")
    assert op(plait.ones(1)).tolist() == [2.0]
    extra = Library("tlib", "FRAGMENT")
    extra.define("g(Tensor x) -> Tensor")
    override = Library("tlib", "IMPL", "CPU")
    override.impl("f", lambda x: x + 10, allow_override=True)
    assert op(plait.ones(1)).tolist() == [11.0]
    override.destroy()
    assert op(plait.ones(1)).tolist() == [2.0]
    extra.destroy()
    lib.destroy()
    for name in ("tlib::f", "tlib::g"):
        with pytest.raises(InvalidArgument, match="no operator is called"):
            lookup(name)
    Library("tlib", "DEF").destroy()


@pytest.mark.spec("A12")
def test_a_collected_library_is_taken_back() -> None:
    lib = Library("tcollect", "DEF")
    lib.define("f(Tensor x) -> Tensor")
    del lib
    gc.collect()
    with pytest.raises(InvalidArgument, match="no operator is called"):
        lookup("tcollect::f")


@pytest.mark.spec("A12")
def test_ownership_and_kinds() -> None:
    with pytest.raises(InvalidArgument, match="'prim' is reserved"):
        Library("prim", "DEF")
    with pytest.raises(InvalidArgument, match="expected one of"):
        Library("tkind", "OTHER")  # type: ignore[arg-type]
    with pytest.raises(RegistrationError, match="'aten'.*owned already.*FRAGMENT"):
        Library("aten", "DEF")
    with scoped_library("town", "DEF") as lib:
        with pytest.raises(
            RegistrationError, match=r"owned already, by the library made at .*test_lib"
        ):
            Library("town", "DEF")
        with pytest.raises(InvalidArgument, match="names another namespace"):
            lib.define("other::f(Tensor x) -> Tensor")
        with pytest.raises(RegistrationError, match="defines no operators"):
            Library("town", "IMPL").define("f(Tensor x) -> Tensor")


@pytest.mark.spec("A12")
def test_a_second_kernel_names_the_place_of_the_first() -> None:
    with scoped_library("tdup", "DEF") as lib:
        lib.define("f(Tensor x) -> Tensor")
        lib.impl("f", lambda x: x.clone(), "CPU")
        with pytest.raises(RegistrationError, match=r"test_libraries\.py:\d+"):
            lib.impl("f", lambda x: x.clone(), "CPU")
        with pytest.raises(InvalidArgument, match="no dispatch key is given"):
            lib.impl("f", lambda x: x.clone())
        assert get_kernel("tdup::f", "CPU")(plait.ones(1)).tolist() == [1.0]
        with pytest.raises(MissingKernel, match="no kernel is registered for CUDA"):
            get_kernel("tdup::f", "CUDA")


@pytest.mark.spec("E2")
def test_fallback_serves_operators_without_a_kernel() -> None:
    seen: list[str] = []
    with scoped_library("_", "IMPL", "Tracer") as lib:

        def traced(keyset: Any, op: Overload, *args: Any, **kwargs: Any) -> Any:
            seen.append(op.name)
            return op.redispatch(keyset.mask & ~DispatchKey.TRACER.mask, *args, **kwargs)

        lib.fallback(traced, with_keyset=True)
        with plait.dispatch.include_keys(DispatchKey.TRACER.mask):
            assert (plait.ones(1) * 2).tolist() == [2.0]
    assert seen[-1] == "mul"
    with plait.dispatch.include_keys(DispatchKey.TRACER.mask):
        assert (plait.ones(1) * 2).tolist() == [2.0]
    with (
        scoped_library("tfall", "DEF") as lib,
        pytest.raises(InvalidArgument, match="namespace '_'"),
    ):
        lib.fallback(traced, "CPU")


@pytest.mark.spec("A12")
def test_a_registration_by_name_lives_as_long_as_its_library() -> None:
    op = custom_op("tname::f", lambda x: x + 1, mutates_args=(), schema="(Tensor x) -> Tensor")
    with scoped_library("tname", "FRAGMENT") as lib:
        register_kernel("tname::f", "cpu", lambda x: x + 100, lib=lib)
        register_fake(op, lambda x: plait.empty_like(x), lib=lib)
        assert op(plait.ones(1)).tolist() == [101.0]
        assert op(plait.ones(3, device="meta")).shape == (3,)
    assert op(plait.ones(1)).tolist() == [2.0]
    with pytest.raises(MissingKernel):
        op(plait.ones(3, device="meta"))
    with pytest.raises(InvalidArgument, match="got a int; expected an operator's name"):
        register_kernel(3, "cpu", lambda x: x)  # type: ignore[arg-type]
    with pytest.raises(InvalidArgument, match="'tname::g' was not made by custom_op"):
        register_fake("tname::g", lambda x: x)
    op.destroy()
