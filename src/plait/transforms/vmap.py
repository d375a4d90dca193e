"""`vmap`: a function of one sample as a function of many.

Owns the reading of ``in_dims`` and ``out_dims``; the operators are batched by ``batching/``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import optree

from plait.base.errors import IndexOutOfRange, InvalidArgument, TransformError, check
from plait.dispatch.dispatcher import lookup
from plait.dispatch.state import tls
from plait.tensor.tensor import Tensor
from plait.transforms.batching import layer
from plait.transforms.batching.tensor import (
    Level,
    add_level,
    entered,
    remove_level,
)
from plait.transforms.gradients import named_after

__all__ = ["vmap"]

assert layer.RULES  # importing it put the layer at the BATCHED key


def vmap(
    fn: Callable[..., Any],
    in_dims: Any = 0,
    out_dims: Any = 0,
    randomness: str = "error",
    *,
    chunk_size: int | None = None,
) -> Callable[..., Any]:
    """A function that runs ``fn``, written for one sample, on all samples at once.

    in_dims: the dim of each argument along which its samples lie; an int for all, or a (nested)
        tuple or list that matches the positional arguments, None for what all samples share,
        such as every keyword argument.
    out_dims: the dim of each result along which the samples are laid, likewise; None for results
        that are the same for all, which need not be tensors.
    randomness: "error" refuses random operators, "different" draws for each sample, "same" draws
        once for all.
    chunk_size: run so many samples at a time.

    Results own their memory unless ``fn`` returns an argument or a view of one. In-place operators
    write the caller's tensor where their target is batched.

    Raises InvalidArgument (a ValueError) for ``in_dims`` or ``out_dims`` that do not fit the
    structure and for samples of different number; TransformError for random operators under
    "error"; DataDependentError where ``fn`` reads a value and InplaceError where it writes samples
    into a tensor that has none.

    >>> import plait
    >>> dot = plait.vmap(lambda x, y: (x * y).sum())
    >>> dot(plait.ones(3, 5), plait.ones(3, 5))
    tensor([5., 5., 5.])
    >>> per_sample = plait.vmap(plait.func.grad(lambda w, x: (w * x).sum()), in_dims=(None, 0))
    >>> per_sample(plait.ones(2), plait.tensor([[1.0, 2.0], [3.0, 4.0]]))
    tensor([[1., 2.],
            [3., 4.]])
    """
    check(
        randomness in ("error", "different", "same"),
        TransformError,
        lambda: (
            f"vmap: argument 'randomness' is {randomness!r}; expected 'error', 'different' or "
            "'same'. (Only allowed values for randomness are 'error', 'different', or 'same')"
        ),
    )
    check(
        chunk_size is None or chunk_size > 0,
        InvalidArgument,
        lambda: f"vmap: argument 'chunk_size' is {chunk_size}; expected None or a positive int.",
    )
    name = getattr(fn, "__name__", type(fn).__name__)

    def mapped(*args: Any, **kwargs: Any) -> Any:
        leaves, dims, spec = _read_inputs(name, in_dims, args, kwargs)
        size = _batch_size(name, leaves, dims)
        call = _Call(fn, name, spec, out_dims, randomness)
        if chunk_size is None or not isinstance(size, int) or size <= chunk_size:
            return call.run(leaves, dims, size)
        return call.in_chunks(leaves, dims, size, chunk_size)

    return named_after(fn, mapped)


# ---------------------------------------------------------------- arguments


def _read_inputs(
    name: str, in_dims: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[list[Any], list[int | None], Any]:
    """(leaves of the arguments, the mapped dim of each or None, their structure)."""
    what = f"vmap({name}, in_dims={in_dims})"
    check(
        isinstance(in_dims, int | tuple | list) and not isinstance(in_dims, bool),
        InvalidArgument,
        lambda: (
            f"{what}: argument 'in_dims' is a {type(in_dims).__name__}; expected `in_dims` to be "
            "int or a (potentially nested) tuple matching the structure of inputs."
        ),
    )
    check(
        bool(args) or bool(kwargs),
        InvalidArgument,
        lambda: (
            f"{what}: got no inputs. Maybe you forgot to add inputs, or you are trying to vmap "
            "over a function with no inputs; that is unsupported."
        ),
    )
    given: Any = (args, kwargs)
    leaves, spec = optree.tree_flatten(given, none_is_leaf=True)
    positional = _broadcast(in_dims, args)
    if positional is None:
        raise InvalidArgument(
            f"{what}: in_dims is not compatible with the structure of inputs; got in_dims of "
            f"structure {optree.tree_structure(in_dims, none_is_leaf=True)} for inputs of structure"
            f" {spec.children()[0]}; expected the same, or an int or "
            "None in place of a part."
        )
    rest: list[int | None] = [None] * (len(leaves) - len(positional))
    dims = [
        _checked_dim(what, leaf, dim)
        for leaf, dim in zip(leaves, [*positional, *rest], strict=True)
    ]
    return leaves, dims, spec


def _broadcast(prefix: Any, tree: Any) -> list[Any] | None:
    """``prefix``, whose leaves may stand for whole parts of ``tree``, for each leaf; or None."""
    if prefix is None or isinstance(prefix, int):
        return [prefix] * optree.tree_structure(tree, none_is_leaf=True).num_leaves
    outer, inner = _children(prefix), _children(tree)
    if outer is None and inner is None:
        return [prefix]  # not an int, which the caller says
    if outer is None or inner is None or outer.keys() != inner.keys():
        return None
    found: list[Any] = []
    for key, part in inner.items():
        below = _broadcast(outer[key], part)
        if below is None:
            return None
        found += below
    return found


def _children(tree: Any) -> dict[Any, Any] | None:
    """The parts of one node of a tree; lists and tuples may stand for each other."""
    if optree.tree_is_leaf(tree, none_is_leaf=True):
        return None
    children, _, entries, _ = optree.tree_flatten_one_level(tree, none_is_leaf=True)
    return dict(zip(entries, children, strict=True))


def _checked_dim(what: str, leaf: Any, dim: Any) -> int | None:
    if dim is None:
        return None
    if not isinstance(dim, int) or isinstance(dim, bool):
        raise InvalidArgument(
            f"{what}: Got in_dim={dim!r} for an input; expected in_dim to be either an integer "
            "dimension on the Tensor or None."
        )
    if not isinstance(leaf, Tensor):
        raise InvalidArgument(
            f"{what}: Got in_dim={dim} for an input but the input is of type "
            f"{type(leaf).__name__}; expected a Tensor. We cannot vmap over non-Tensor arguments, "
            "please use None as the respective in_dim."
        )
    if not -leaf.ndim <= dim < leaf.ndim:
        raise InvalidArgument(
            f"{what}: Got in_dim={dim} for some input, but that input is a Tensor of "
            f"dimensionality {leaf.ndim}; expected -{leaf.ndim} <= in_dim < {leaf.ndim}."
        )
    return dim % leaf.ndim


def _batch_size(name: str, leaves: list[Any], dims: list[int | None]) -> Any:
    sizes = [leaf.shape[d] for leaf, d in zip(leaves, dims, strict=True) if d is not None]
    check(
        bool(sizes),
        InvalidArgument,
        lambda: f"vmap({name}): Expected at least one Tensor to vmap over; got none.",
    )
    check(
        all(size == sizes[0] for size in sizes[1:]),
        InvalidArgument,
        lambda: (
            f"vmap({name}): Expected all tensors to have the same size in the mapped dimension; "
            f"got sizes {[int(s) for s in sizes]} for the mapped dimension."
        ),
    )
    return sizes[0]


# ---------------------------------------------------------------- one call


class _Call:
    """One call of a mapped function, on all samples or on parts of them."""

    def __init__(
        self, fn: Callable[..., Any], name: str, spec: Any, out_dims: Any, randomness: str
    ) -> None:
        self.fn, self.name, self.spec = fn, name, spec
        self.out_dims, self.randomness = out_dims, randomness

    def run(self, leaves: list[Any], dims: list[int | None], size: Any) -> Any:
        """The result for all samples."""
        flat, spec, _ = self.flat(leaves, dims, size)
        return optree.tree_unflatten(spec, flat)

    def in_chunks(self, leaves: list[Any], dims: list[int | None], size: int, chunk: int) -> Any:
        """The same, ``chunk`` samples at a time, and the parts joined."""
        parts = []
        for start in range(0, size, chunk):
            stop = min(start + chunk, size)
            cut = [
                leaf if d is None else lookup("aten::slice.Tensor").call(leaf, d, start, stop)
                for leaf, d in zip(leaves, dims, strict=True)
            ]
            parts.append(self.flat(cut, dims, stop - start))
        _, spec, out_dims = parts[0]
        joined = [
            column[0] if d is None else lookup("aten::cat").call(list(column), d)
            for d, column in zip(out_dims, zip(*[p[0] for p in parts], strict=True), strict=True)
        ]
        return optree.tree_unflatten(spec, joined)

    def flat(
        self, leaves: list[Any], dims: list[int | None], size: Any
    ) -> tuple[list[Any], Any, list[int | None]]:
        """(results, their structure, where the samples of each lie)."""
        level = Level(len(tls.vmap_levels) + 1, size, self.randomness)
        with entered(level):
            given = [
                leaf if d is None else add_level(leaf, d, level)
                for leaf, d in zip(leaves, dims, strict=True)
            ]
            call: Any = optree.tree_unflatten(self.spec, given)
            args, kwargs = call
            result = self.fn(*args, **kwargs)
        flat, spec = optree.tree_flatten(result, none_is_leaf=True)
        out_dims = self._out_dims(result, spec, flat)
        unwrapped = [self._unwrapped(t, d, level) for t, d in zip(flat, out_dims, strict=True)]
        return unwrapped, spec, out_dims

    def _out_dims(self, result: Any, spec: Any, flat: Sequence[Any]) -> list[int | None]:
        out_dims = self.out_dims
        found: list[Any] | None
        if isinstance(out_dims, tuple | list) and len(out_dims) == 1 and spec.is_leaf():
            found = list(out_dims)
        else:
            found = _broadcast(out_dims, result)
        if not all(d is None or isinstance(d, int) for d in found or ()):
            raise InvalidArgument(
                f"vmap({self.name}, out_dims={out_dims!r}): `out_dims` must be an int, None or a "
                "python collection of ints representing where in the outputs the vmapped dimension "
                "should appear."
            )
        if found is None:
            raise InvalidArgument(
                f"vmap({self.name}, out_dims={out_dims}): out_dims is not compatible with the "
                f"structure of `outputs`; got outputs of structure {spec}; expected the same, or "
                "an int in place of a part."
            )
        return found

    def _unwrapped(self, t: Any, dim: int | None, level: Level) -> Any:
        has_samples = _is_at(t, level)
        if dim is not None and not isinstance(t, Tensor):
            raise InvalidArgument(
                f"vmap({self.name}): `{self.name}` must only return Tensors, got type "
                f"{type(t).__name__}. Return a tensor, or set its place in out_dims to None."
            )
        if dim is None:
            if has_samples:
                raise InvalidArgument(
                    f"vmap({self.name}): `{self.name}` can not return a BatchedTensor when out_dim "
                    "is None; got a result that differs from sample to sample; expected one that "
                    "does not. Give an int in 'out_dims'."
                )
            return t
        if not -t.ndim - 1 <= dim <= t.ndim:
            raise IndexOutOfRange(
                f"vmap({self.name}): Dimension out of range: out_dim={dim} for a result of "
                f"{t.ndim} dims; expected {-t.ndim - 1} <= out_dim <= {t.ndim}."
            )
        return remove_level(t, level, dim % (t.ndim + 1))


def _is_at(t: Any, level: Level) -> bool:
    return getattr(t, "level", None) is level
