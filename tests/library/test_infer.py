"""Schemas from annotations: the whole table of types, beside PyTorch's."""

from __future__ import annotations

# ruff: noqa: UP045  # every spelling of a type is meant
import itertools
import typing
from collections.abc import Callable, Sequence
from numbers import Number
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import plait
from plait.base.errors import InvalidArgument, SchemaError
from plait.dispatch import FunctionSchema
from plait.library import Tag, infer_schema, register_opaque_type

BASES = ["Tensor", "int", "float", "bool", "str", "Number", "dtype", "device", "complex", "object"]
SHAPES = {
    "plain": lambda t: t,
    "optional": lambda t: typing.Optional[t],
    "or none": lambda t: t | None if isinstance(t, type) else typing.Optional[t],
    "List": lambda t: typing.List[t],  # noqa: UP006
    "list": lambda t: list[t],
    "Sequence": lambda t: Sequence[t],
    "list of optional": lambda t: list[t | None],
    "optional list": lambda t: typing.Optional[list[t]],
    "optional list of optional": lambda t: typing.Optional[list[t | None]],
    "tuple": lambda t: tuple[t, ...],
    "list of list": lambda t: list[list[t]],
}
COMMON = {"int": int, "float": float, "bool": bool, "str": str, "Number": Number,
          "complex": complex, "object": object}  # fmt: skip
OURS = {**COMMON, "Tensor": plait.Tensor, "dtype": plait.DType, "device": plait.Device}


def theirs() -> dict[str, Any]:
    torch = pytest.importorskip("torch")
    number = torch.types.Number
    kinds = {"Tensor": torch.Tensor, "dtype": torch.dtype, "device": torch.device}
    return {**COMMON, **kinds, "Number": number}


def function(
    parameters: dict[str, Any], returns: Any, defaults: dict[str, Any] | None = None
) -> Any:
    """A function with these annotations."""
    names = ", ".join(n + (f"=_{n}" if n in (defaults or {}) else "") for n in parameters)
    scope: dict[str, Any] = {f"_{n}": v for n, v in (defaults or {}).items()}
    exec(f"def made({names}): ...", scope)
    scope["made"].__annotations__ = {**parameters, "return": returns}
    return scope["made"]


def answer(infer: Callable[..., str], fn: Any, **options: Any) -> str:
    try:
        return infer(fn, mutates_args=(), **options)
    except ValueError:
        return "ValueError"


@pytest.mark.spec("A2")
@pytest.mark.parametrize("base", BASES)
@pytest.mark.parametrize("shape", SHAPES)
def test_parameter_types_are_pytorchs(base: str, shape: str) -> None:
    torch = pytest.importorskip("torch")
    make = SHAPES[shape]
    try:
        mine, other = make(OURS[base]), make(theirs()[base])
    except TypeError:
        pytest.skip("not a type")
    ours = answer(infer_schema, function({"x": mine}, plait.Tensor))
    assert ours == answer(torch.library.infer_schema, function({"x": other}, torch.Tensor))
    if ours != "ValueError":
        FunctionSchema.parse("t::f" + ours)


@pytest.mark.spec("A2")
@pytest.mark.parametrize("base", BASES)
@pytest.mark.parametrize("shape", ["plain", "list", "List", "optional", "pair", "mixed"])
def test_return_types_are_pytorchs(base: str, shape: str) -> None:
    torch = pytest.importorskip("torch")
    makes: dict[str, Any] = {
        **SHAPES,
        "pair": lambda t: tuple[t, t],
        "mixed": lambda t: tuple[t, int, bool],
    }
    mine, other = makes[shape](OURS[base]), makes[shape](theirs()[base])
    ours = answer(infer_schema, function({"x": plait.Tensor}, mine))
    assert ours == answer(torch.library.infer_schema, function({"x": torch.Tensor}, other))


@pytest.mark.spec("A2")
def test_defaults_and_names_are_pytorchs() -> None:
    torch = pytest.importorskip("torch")
    parameters = {"a": int, "b": float, "c": bool, "d": str, "e": int | None, "f": float}
    defaults = {"a": -3, "b": 1.5, "c": True, "d": "mean", "e": None, "f": 1e-05}
    fn = function(parameters, None, defaults)
    assert infer_schema(fn, mutates_args=(), op_name="made") == torch.library.infer_schema(
        fn, mutates_args=(), op_name="made"
    )
    # PyTorch writes ((Tensor)) here, which its own parser refuses.
    single = function({"x": plait.Tensor}, tuple[plait.Tensor])
    assert infer_schema(single, mutates_args=()) == "(Tensor x) -> (Tensor)"
    dtype = function({"d": plait.DType}, None, {"d": plait.float32})
    assert infer_schema(dtype, mutates_args=()) == "(ScalarType d=float32) -> ()"


@pytest.mark.spec("A2")
@pytest.mark.parametrize("mutated", [(), ("x",), ("y",), ("x", "y"), ("ys",), "unknown"])
def test_written_arguments_are_marked_as_pytorch_does(mutated: Any) -> None:
    torch = pytest.importorskip("torch")

    def made(tensor: Any) -> Any:
        return function({"x": tensor, "n": int, "y": tensor, "ys": list[tensor]}, None)

    ours = infer_schema(made(plait.Tensor), mutates_args=mutated)
    assert ours == torch.library.infer_schema(made(torch.Tensor), mutates_args=mutated)
    names = FunctionSchema.parse("t::f" + ours).mutated_names
    assert names == (("x", "y", "ys") if mutated == "unknown" else tuple(mutated))


def positional_only(x: plait.Tensor, /) -> plait.Tensor: ...
def variable(*xs: plait.Tensor) -> plait.Tensor: ...
def keywords(**xs: plait.Tensor) -> plait.Tensor: ...
def unannotated(x, y: plait.Tensor) -> plait.Tensor: ...  # type: ignore[no-untyped-def]
def without_return(x: plait.Tensor): ...  # type: ignore[no-untyped-def]


unresolved = function({"x": "Nowhere"}, plait.Tensor)


def a_tuple(x: tuple[plait.Tensor, plait.Tensor]) -> plait.Tensor: ...
def bad_default(x: int = []) -> plait.Tensor: ...  # type: ignore[assignment]
def bad_return(x: plait.Tensor) -> dict[str, plait.Tensor]: ...
def plain(x: plait.Tensor, n: int) -> plait.Tensor: ...


@pytest.mark.spec("A2")
@pytest.mark.parametrize(
    ("fn", "mutates", "message"),
    [
        (positional_only, (), "parameter 'x' of positional_only is positional-only"),
        (variable, (), "parameter 'xs' of variable is variadic positional"),
        (keywords, (), "parameter 'xs' of keywords is variadic keyword"),
        (unannotated, (), "parameter 'x' of unannotated has no annotation"),
        (without_return, (), "without_return has no return annotation"),
        (unresolved, (), r"infer_schema\(made\): an annotation cannot be resolved.*Nowhere"),
        (a_tuple, (), "parameter 'x' of a_tuple .* Use list instead of tuple"),
        (bad_default, (), "parameter 'x' of bad_default has a default of type list"),
        (bad_return, (), "the result of bad_return has type dict"),
        (plain, ("z",), r"'mutates_args' names \['z'\]"),
        (plain, ("n",), "parameter 'n' of plain is named by mutates_args; expected a Tensor"),
        (plain, "all", "'mutates_args' is 'all'; expected 'unknown'"),
        (3, (), "got a int; expected a function"),
    ],
    ids=lambda v: getattr(v, "__name__", None) or str(v)[:20],
)
def test_each_fault_names_parameter_and_function(fn: Any, mutates: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        infer_schema(fn, mutates_args=mutates)
    assert isinstance(caught.value, SchemaError)


def inplace(x: plait.Tensor, n: int) -> plait.Tensor: ...
def out_two(
    x: plait.Tensor, *, a: plait.Tensor, b: plait.Tensor
) -> tuple[plait.Tensor, plait.Tensor]: ...


@pytest.mark.spec("A2")
def test_tags_for_operators_that_return_what_they_write() -> None:
    text = infer_schema(inplace, mutates_args=("x",), tags=Tag.INPLACE)
    assert text == "(Tensor(a0!) x, SymInt n) -> Tensor(a0!)"
    text = infer_schema(out_two, mutates_args=("a", "b"), tags=[Tag.OUT])
    assert text == ("(Tensor x, *, Tensor(a1!) a, Tensor(a2!) b) -> (Tensor(a1!), Tensor(a2!))")
    with pytest.raises(ValueError, match="INPLACE and OUT exclude each other"):
        infer_schema(inplace, mutates_args=("x",), tags=[Tag.INPLACE, Tag.OUT])
    with pytest.raises(ValueError, match=r"got mutates_args \[\]; expected \['x'\]"):
        infer_schema(inplace, mutates_args=(), tags=Tag.INPLACE)
    with pytest.raises(ValueError, match="it must return what it writes"):
        infer_schema(out_two, mutates_args=("a", "b"), tags=Tag.OUT) and infer_schema(
            function({"x": plait.Tensor}, None), mutates_args=("x",), tags=Tag.INPLACE
        )


# ---------------------------------------------------------------- A16: opaque types


class Handle:
    pass


@pytest.mark.spec("A16")
def test_opaque_types_are_checked_at_registration() -> None:
    for cls in (int, str, list, dict, plait.Tensor, object):
        with pytest.raises(InvalidArgument, match="register_opaque_type"):
            register_opaque_type(cls, typ="value")
    with pytest.raises(InvalidArgument, match="expected __eq__ and __hash__"):
        register_opaque_type(Handle, typ="value")
    with pytest.raises(InvalidArgument, match="'typ' is 'copy'"):
        register_opaque_type(Handle, typ="copy")  # type: ignore[arg-type]


# ---------------------------------------------------------------- A1: the parser

_names = st.sampled_from(["x", "y", "self", "other", "dim", "eps", "out", "ns", "n0"])
_types = st.sampled_from(
    ["Tensor", "Tensor?", "Tensor[]", "Tensor?[]", "int", "SymInt", "SymInt[]", "SymInt[2]",
     "float", "float?", "bool", "bool[3]", "str", "str?", "Scalar", "ScalarType?", "Device?"]
)  # fmt: skip


@st.composite
def schemas(draw: Any) -> str:
    names = draw(st.lists(_names, unique=True, max_size=6))
    star = draw(st.integers(0, len(names)))
    parts: list[str] = []
    for k, name in enumerate(names):
        if k == star and k < len(names):
            parts.append("*")
        kind = draw(_types)
        if kind.startswith("Tensor") and draw(st.booleans()):
            kind = "Tensor" + draw(st.sampled_from(["(a)", "(a!)", "(b!)"])) + kind[6:]
        default = ""
        if draw(st.booleans()):
            default = "=" + {
                "float": repr(draw(st.floats(-5, 5, allow_nan=False, width=16))),
                "int": str(draw(st.integers(-9, 9))),
                "bool": draw(st.sampled_from(["True", "False"])),
                "str": '"mean"',
            }.get(kind, "None" if kind.endswith("?") else "")
        parts.append(f"{kind} {name}{default if default != '=' else ''}")
    returns = draw(st.sampled_from(
        ["Tensor", "Tensor(a!)", "()", "(Tensor, Tensor)", "Tensor[]", "(Tensor y, SymInt n)"]
    ))  # fmt: skip
    overload = draw(st.sampled_from(["", ".Tensor", ".out", ".dim_int"]))
    return f"ns::op{overload}({', '.join(parts)}) -> {returns}"


@pytest.mark.spec("A1")
@settings(max_examples=200, deadline=None)
@given(schemas())
def test_generated_schemas_round_trip(text: str) -> None:
    parsed = FunctionSchema.parse(text)
    assert str(parsed) == text
    assert FunctionSchema.parse(str(parsed)) == parsed


@pytest.mark.spec("A1")
@pytest.mark.parametrize(
    ("text", "position"),
    [
        ("op(Tensor x) -> Tensor", "position 2"),
        ("ns::op(Tensr x) -> Tensor", "position 7"),
        ("ns::op(Tensor x -> Tensor", "position 16"),
        ("ns::op(Tensor x) Tensor", "position 17"),
        ("ns::op(Tensor x, Tensor x) -> Tensor", "'x' is declared twice"),
        ("ns::op(Tensor x) -> ", "the end"),
        ("ns::op(Tensor x=) -> Tensor", "position 16"),
        ("ns::op(Tensor x) -> Tensor; drop", "26"),
        ("ns::op(*, *, Tensor x) -> Tensor", "only one"),
    ],
)
def test_malformed_schemas_give_the_position(text: str, position: str) -> None:
    with pytest.raises(SchemaError, match=position):
        FunctionSchema.parse(text)


def test_table_is_wide_enough() -> None:
    assert len(list(itertools.product(BASES, SHAPES))) >= 100
