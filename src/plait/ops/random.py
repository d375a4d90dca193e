"""Random numbers: the generator of (seed, call number) pairs, and the operators that draw.

Every random operator has an explicit form ``plait::<name>_explicit`` that also takes the seed and
the call number, and is written in operators on top of ``philox_uniform`` and ``philox_normal``. The
operator itself takes the next call number of the default generator and runs its explicit form, so
that both give the same bits; compiled graphs reserve their call numbers at each run.
"""

from __future__ import annotations

import math
import os
import threading
from dataclasses import replace
from typing import Any, NamedTuple

from plait.base.errors import CaptureError, InvalidArgument, MissingKernel, check
from plait.dispatch.keys import DispatchKey
from plait.dispatch.operator import Overload
from plait.dispatch.schema import NO_DEFAULT, Argument, FunctionSchema, Type
from plait.dispatch.tags import Tag
from plait.ops import aten, philox, variants
from plait.ops.checks import require_floating, require_rank
from plait.ops.creation import factory_meta, like_meta
from plait.ops.define import Array, Rule, define
from plait.ops.elementwise import zero_grad
from plait.tensor import dtype as dt
from plait.tensor.device import Device
from plait.tensor.dtype import DType, get_default_dtype
from plait.tensor.layout import TensorMeta, is_contiguous
from plait.tensor.tensor import Tensor

__all__ = [
    "Generator",
    "GeneratorState",
    "default_generator",
    "explicit_schema",
    "get_rng_state",
    "initial_seed",
    "manual_seed",
    "philox_normal",
    "philox_uniform",
    "random_operator",
    "set_rng_state",
]

# ---------------------------------------------------------------- generators


class GeneratorState(NamedTuple):
    """What a generator needs to go on from where it is."""

    seed: int
    next_call: int


class Generator:
    """Gives each random call its number, under one seed. Safe to use from several threads.

    >>> Generator(7).reserve(2)
    (7, 0)
    """

    __slots__ = ("_lock", "_next", "_seed")

    def __init__(self, seed: int = 0) -> None:
        self._lock = threading.Lock()
        self.manual_seed(seed)

    def manual_seed(self, seed: int) -> Generator:
        """Start again from call 0 under ``seed``, which may be any number of 64 bits.

        Raises InvalidArgument if it has more bits.
        """
        check(
            -(2**63) <= seed < 2**64,
            InvalidArgument,
            lambda: f"manual_seed: argument 'seed' does not fit into 64 bits; got {seed}.",
        )
        with self._lock:
            # As a signed number, which is what graphs and native code hold.
            self._seed, self._next = (seed + 2**63) % 2**64 - 2**63, 0
        return self

    def initial_seed(self) -> int:
        """The seed, as a number without sign."""
        return self._seed % 2**64

    def next_call(self) -> int:
        """The number of the next random call, which is then taken."""
        return self.reserve(1)[1]

    def reserve(self, count: int) -> tuple[int, int]:
        """Take ``count`` call numbers; returns the seed and the first of them."""
        with self._lock:
            first = self._next
            self._next += count
            return self._seed, first

    def get_state(self) -> GeneratorState:
        """The state, for `set_state`."""
        with self._lock:
            return GeneratorState(self._seed, self._next)

    def set_state(self, state: GeneratorState) -> None:
        """Go on from ``state``."""
        with self._lock:
            self._seed, self._next = state

    def __repr__(self) -> str:
        return f"Generator(seed={self.initial_seed()}, next_call={self._next})"


_default = Generator(int.from_bytes(os.urandom(7), "little"))


def default_generator() -> Generator:
    """The generator that random operators draw from; its first seed is arbitrary."""
    return _default


def manual_seed(seed: int) -> Generator:
    """Seed the default generator and return it. Raises InvalidArgument beyond 64 bits."""
    return _default.manual_seed(seed)


def initial_seed() -> int:
    """The seed of the default generator."""
    return _default.initial_seed()


def get_rng_state() -> GeneratorState:
    """The state of the default generator."""
    return _default.get_state()


def set_rng_state(state: GeneratorState) -> None:
    """Let the default generator go on from ``state``."""
    _default.set_state(state)


# ---------------------------------------------------------------- the two sources


def _philox_meta(
    size: tuple[Any, ...], seed: Any, call: Any, *, dtype: DType | None = None
) -> TensorMeta:
    meta = factory_meta("philox", size, dtype or get_default_dtype())
    check(
        meta.dtype in (dt.float32, dt.float64),
        MissingKernel,
        lambda: f"philox: not implemented for {meta.dtype}; expected float32 or float64.",
    )
    return meta


def _philox_uniform(size: Any, seed: int, call: int, *, dtype: Any, meta: TensorMeta) -> Array:
    drawn = philox.uniforms(seed, call, int(meta.numel()), meta.dtype.numpy)
    return drawn.reshape(meta.shape)


def _philox_normal(size: Any, seed: int, call: int, *, dtype: Any, meta: TensorMeta) -> Array:
    drawn = philox.normals(seed, call, int(meta.numel()), meta.dtype.numpy)
    return drawn.reshape(meta.shape)


philox_uniform = define(
    "plait::philox_uniform(SymInt[] size, SymInt seed, SymInt call, *, ScalarType? dtype=None)"
    " -> Tensor",
    shape=_philox_meta,
    kernel=_philox_uniform,
    kind="random",
    tags=(Tag.CORE,),
)
philox_normal = define(
    "plait::philox_normal(SymInt[] size, SymInt seed, SymInt call, *, ScalarType? dtype=None)"
    " -> Tensor",
    shape=_philox_meta,
    kernel=_philox_normal,
    kind="random",
    tags=(Tag.CORE,),
)


# ---------------------------------------------------------------- random operators


def explicit_schema(schema: FunctionSchema) -> FunctionSchema:
    """``aten::x.y(a, *, k)`` as ``plait::x_explicit.y(a, SymInt seed, SymInt call, *, k)``."""
    positional = [replace(a, default=NO_DEFAULT) for a in schema.positional]
    added = [Argument(name, Type("SymInt")) for name in ("seed", "call")]
    return replace(
        schema,
        namespace="plait",
        name=f"{schema.name}_explicit",
        arguments=(*positional, *added, *schema.kwonly),
    )


def random_operator(
    schema: str, *, shape: Rule, draw: Rule, vjp: dict[str, Any] | None = None
) -> Overload:
    """Define a random operator and its explicit form.

    shape: the operator's shape rule. draw: the explicit form, written in operators; it takes seed
    and call number after the positional arguments.
    """
    op = define(schema, shape=shape, vjp=vjp, tags=(Tag.NONDETERMINISTIC_SEEDED,), kind="random")
    explicit = define(
        str(explicit_schema(op.schema)),
        shape=lambda *args, **kwargs: shape(*args[:-2], **kwargs),
        decomposition=draw,
        vjp=vjp,
        kind="random",
    )
    op.explicit_random = explicit
    call = explicit.call

    def kernel(*args: Any, **kwargs: Any) -> Any:
        shape(*args, **kwargs)  # before a call number is taken
        generator = kwargs.get("generator")
        if generator is None:
            return call(*args, *_default.reserve(1), **kwargs)
        return call(*args, *generator.reserve(1), **kwargs | {"generator": None})

    op.register(DispatchKey.CPU, kernel, calls_operators=True)
    return op


def _uniform(size: Any, seed: Any, call: Any, dtype: DType) -> Tensor:
    """Uniform draws of any floating dtype, below 1 also in half precision.

    Of complex types real and imaginary part are drawn so, as neighbours.
    """
    if dtype.is_complex:
        return aten.view_as_complex.default(_uniform((*size, 2), seed, call, dt.to_real(dtype)))  # type: ignore[no-any-return]
    if dtype in (dt.float32, dt.float64):
        return philox_uniform(size, seed, call, dtype=dtype)  # type: ignore[no-any-return]
    steps = 2.0**11 if dtype is dt.float16 else 2.0**8
    draws = philox_uniform(size, seed, call, dtype=dt.float32)
    whole = aten._to_copy.default(aten.mul.Scalar(draws, steps), dtype=dt.int32)
    return aten.mul.Scalar(aten._to_copy.default(whole, dtype=dtype), 1 / steps)  # type: ignore[no-any-return]


def _normal(size: Any, seed: Any, call: Any, dtype: DType) -> Tensor:
    """Normal draws of any floating dtype; of complex types with variance 1 in all, 1/2 a part."""
    if dtype.is_complex:
        parts = _normal((*size, 2), seed, call, dt.to_real(dtype))
        return aten.view_as_complex.default(parts * math.sqrt(0.5))  # type: ignore[no-any-return]
    wide = dtype if dtype is dt.float64 else dt.float32
    draws: Tensor = philox_normal(size, seed, call, dtype=wide)
    return draws if wide is dtype else aten._to_copy.default(draws, dtype=dtype)


def _as(self: Any, draws: Tensor) -> Tensor:
    """``draws`` in the memory order of ``self``."""
    if is_contiguous(self.shape, self.strides):
        return draws
    return aten.copy.default(aten.empty_like.default(self, dtype=draws.dtype), draws)  # type: ignore[no-any-return]


def _require_inexact(name: str, argument: str, meta: TensorMeta) -> None:
    if not meta.dtype.is_complex:
        require_floating(name, argument, meta)


def _random_meta(name: str) -> Rule:
    def shape(
        size: tuple[Any, ...],
        *,
        dtype: DType | None = None,
        device: Device | None = None,
        generator: Generator | None = None,
    ) -> TensorMeta:
        meta = factory_meta(name, size, dtype or get_default_dtype(), device)
        _require_inexact(name, "dtype", meta)
        return meta

    return shape


def _random_like_meta(name: str) -> Rule:
    def shape(self: Any, **options: Any) -> TensorMeta:
        meta = like_meta(self, **options)
        _require_inexact(name, "self", meta)
        return meta

    return shape


def _sized_draws(draws: Rule) -> Rule:
    """The explicit form of an operator over sizes."""

    def draw(
        size: Any,
        seed: Any,
        call: Any,
        *,
        dtype: DType | None = None,
        device: Any = None,
        generator: Generator | None = None,
    ) -> Any:
        check(
            generator is None,
            CaptureError,
            lambda: (
                "a compiled function can draw from the default generator only; got argument "
                "'generator'. Draw outside of it and pass the numbers in."
            ),
        )
        return draws(size, seed, call, dtype or get_default_dtype())

    return draw


def _like_draws(draws: Rule) -> Rule:
    """The explicit form of an operator over the sizes of a tensor."""

    def draw(self: Any, seed: Any, call: Any, *, dtype: DType | None = None, **rest: Any) -> Any:
        drawn = draws(self.shape, seed, call, dtype or self.dtype)
        return drawn if rest.get("memory_format") == "contiguous_format" else _as(self, drawn)

    return draw


for _name, _source in {"rand": _uniform, "randn": _normal}.items():
    random_operator(
        f"aten::{_name}(SymInt[] size, *, ScalarType? dtype=None, Device? device=None, "
        "Generator? generator=None) -> Tensor",
        shape=_random_meta(_name),
        draw=_sized_draws(_source),
    )
    random_operator(
        f"aten::{_name}_like(Tensor self, *, ScalarType? dtype=None, Device? device=None, "
        "MemoryFormat? memory_format=None) -> Tensor",
        shape=_random_like_meta(f"{_name}_like"),
        draw=_like_draws(_source),
        vjp={"self": None},
    )


# ---------------------------------------------------------------- in-place draws


def _floating_like(name: str) -> Rule:
    def shape(self: Any, *bounds: float) -> TensorMeta:
        require_floating(name, "self", self)
        return like_meta(self)

    return shape


def _uniform_meta(self: Any, lower: float, upper: float) -> TensorMeta:
    check(
        lower <= upper,
        InvalidArgument,
        lambda: f"uniform: argument 'upper' is below 'lower'; got [{lower}, {upper}).",
    )
    return _floating_like("uniform")(self)  # type: ignore[no-any-return]


def _scaled(draws: Tensor, scale: float, shift: float) -> Any:
    """``draws * scale + shift``; the half types are rounded once, at the end."""
    if scale == 1 and shift == 0:
        return draws
    dtype = draws.dtype
    is_half = dtype in (dt.float16, dt.bfloat16)
    if is_half:
        draws = aten._to_copy.default(draws, dtype=dt.float32)
    if scale != 1:
        draws = aten.mul.Scalar(draws, scale)
    if shift != 0:
        draws = aten.add.Scalar(draws, shift)
    return aten._to_copy.default(draws, dtype=dtype) if is_half else draws


variants.derive(
    random_operator(
        "aten::uniform(Tensor self, float lower=0, float upper=1) -> Tensor",
        shape=_uniform_meta,
        draw=lambda self, lower, upper, seed, call: _as(
            self, _scaled(_uniform(self.shape, seed, call, self.dtype), upper - lower, lower)
        ),
        vjp={"self": zero_grad},
    ),
    out=False,
)
variants.derive(
    random_operator(
        "aten::normal(Tensor self, float mean=0, float std=1) -> Tensor",
        shape=_floating_like("normal"),
        draw=lambda self, mean, std, seed, call: _as(
            self, _scaled(_normal(self.shape, seed, call, self.dtype), std, mean)
        ),
        vjp={"self": zero_grad},
    ),
    out=False,
)

# ---------------------------------------------------------------- bernoulli and dropout


def _require_probability(name: str, p: float) -> None:
    check(
        0 <= p <= 1,
        InvalidArgument,
        lambda: f"{name}: argument 'p' is no probability; got {p}; expected 0 <= p <= 1.",
    )


def _bernoulli_meta(self: Any, p: float = 0.5) -> TensorMeta:
    _require_probability("bernoulli", p)
    return TensorMeta(self.shape, self.dtype, self.device)


def _bernoulli_tensor_meta(self: Any) -> TensorMeta:
    require_floating("bernoulli", "self", self)
    return _bernoulli_meta(self)


def _bernoulli(self: Any, seed: Any, call: Any) -> Any:
    wide = self.dtype if self.dtype is dt.float64 else dt.float32
    return aten._to_copy.default(
        aten.lt.Tensor(philox_uniform(self.shape, seed, call, dtype=wide), self), dtype=self.dtype
    )


def _bernoulli_p(self: Any, p: float, seed: Any, call: Any) -> Any:
    chosen = aten.lt.Scalar(philox_uniform(self.shape, seed, call, dtype=dt.float32), p)
    return aten._to_copy.default(chosen, dtype=self.dtype)


# Probabilities outside [0, 1] count as the nearest of them: values are not read to check them.
random_operator(
    "aten::bernoulli(Tensor self) -> Tensor",
    shape=_bernoulli_tensor_meta,
    draw=_bernoulli,
    vjp={"self": zero_grad},
)
random_operator(
    "aten::bernoulli.p(Tensor self, float p) -> Tensor",
    shape=_bernoulli_meta,
    draw=_bernoulli_p,
    vjp={"self": zero_grad},
)


def _dropout_meta(self: Any, p: float, train: bool | None) -> tuple[TensorMeta, TensorMeta]:
    require_floating("native_dropout", "input", self)
    _require_probability("native_dropout", p)
    return like_meta(self), like_meta(self, dtype=dt.bool_)


def _dropout_scale(p: float, train: bool | None) -> float:
    if train is not None and not train:
        return 1.0
    return 0.0 if p == 1 else 1 / (1 - p)


def _dropout(input: Any, p: float, train: bool | None, seed: Any, call: Any) -> tuple[Any, Any]:
    if train is not None and not train:
        return aten.clone.default(input), aten.ones_like.default(input, dtype=dt.bool_)
    draws = philox_uniform(input.shape, seed, call, dtype=dt.float32)
    mask = _as(input, aten.ge.Scalar(draws, p))
    return aten.mul.Scalar(aten.mul.Tensor(input, mask), _dropout_scale(p, train)), mask


random_operator(
    "aten::native_dropout(Tensor input, float p, bool? train) -> (Tensor, Tensor)",
    shape=_dropout_meta,
    draw=_dropout,
    vjp={
        "input": lambda g, out1, p, train: aten.mul.Scalar(
            aten.mul.Tensor(g, out1), _dropout_scale(p, train)
        )
    },
)


# ---------------------------------------------------------------- multinomial


def _multinomial_meta(
    self: Any, num_samples: Any, replacement: bool = False, *, generator: Any = None
) -> TensorMeta:
    require_floating("multinomial", "self", self)
    require_rank("multinomial", "self", self, 1, 2)
    check(
        num_samples > 0 and (replacement or num_samples <= self.shape[-1]),
        InvalidArgument,
        lambda: (
            f"multinomial: argument 'num_samples' must be positive, and without replacement at "
            f"most the number of classes; got {num_samples} for shape {tuple(self.shape)}."
        ),
    )
    return TensorMeta((*self.shape[:-1], num_samples), dt.int64, self.device)


def _multinomial(
    self: Any, num_samples: Any, replacement: bool, seed: Any, call: Any, *, generator: Any = None
) -> Any:
    """Without replacement a race: class i arrives after an exponential time of rate p[i]."""
    weights = aten._to_copy.default(self, dtype=dt.float64)
    if replacement and num_samples > 1:
        return _by_inversion(weights, num_samples, seed, call)
    draws = philox_uniform(self.shape, seed, call, dtype=dt.float64)
    times = aten.neg.default(aten.log1p.default(-(draws + 2.0**-33)))  # never 0
    speeds = weights / times
    first = aten.argmax.default(speeds, -1, True)
    found = [first]
    for _ in range(int(num_samples) - 1):
        speeds = aten.scatter.value(speeds, -1, found[-1], -1.0)
        found.append(aten.argmax.default(speeds, -1, True))
    return found[0] if len(found) == 1 else aten.cat.default(found, -1)


def _by_inversion(weights: Any, count: Any, seed: Any, call: Any) -> Any:
    """How many cumulative weights lie at or below a uniform draw of their total."""
    steps = aten.cumsum.default(weights, -1)
    draws = philox_uniform((*weights.shape[:-1], count), seed, call, dtype=dt.float64)
    total = aten.slice.Tensor(steps, -1, weights.shape[-1] - 1, weights.shape[-1])
    below = aten.le.Tensor(
        aten.unsqueeze.default(steps, -2), aten.unsqueeze.default(draws * total, -1)
    )
    return aten.sum.dim_IntList(aten._to_copy.default(below, dtype=dt.int64), (-1,), False)


# Weights are not read to check them; in a row without a positive one any class may be drawn.
random_operator(
    "aten::multinomial(Tensor self, SymInt num_samples, bool replacement=False, *, "
    "Generator? generator=None) -> Tensor",
    shape=_multinomial_meta,
    draw=_multinomial,
    vjp={},
)
