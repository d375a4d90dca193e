"""Attention over heads, positions, and the block that transformers repeat.

Owns how queries, keys and values are made of one projection, how a key-value cache grows, and the
order of a pre-norm block. What attention computes is `functional.scaled_dot_product_attention`.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

from plait.autograd.grad_mode import no_grad
from plait.base.errors import DtypeMismatch, InvalidArgument, ShapeMismatch, check
from plait.nn import functional
from plait.nn.layers import GELU, Dropout, LayerNorm, Linear, RMSNorm, SiLU
from plait.nn.module import Module, Parameter
from plait.ops import aten
from plait.tensor.dtype import DType, bool_
from plait.tensor.tensor import Tensor

__all__ = [
    "KeyValue",
    "MultiheadAttention",
    "PositionEmbedding",
    "RotaryEmbedding",
    "TransformerBlock",
]


class KeyValue(NamedTuple):
    """Keys and values of the positions so far, each (batch, heads, length, head_dim)."""

    key: Tensor
    value: Tensor


def _check_positions(name: str, first: Any, length: Any, known: int, setting: str) -> None:
    """Positions first .. first + length - 1 must be in a table of `known` rows."""
    check(
        first + length <= known,
        InvalidArgument,
        lambda: (
            f"{name}: the sequence is longer than the position table; got positions up to "
            f"{int(first + length) - 1}; expected less than {known}. Cut the sequence, or make the "
            f"module with a larger {setting!r}."
        ),
    )


class PositionEmbedding(Module):
    """Learned positions: adds row p of weight (num_positions, embed_dim) at position p.

    First values are drawn from N(0, 0.02²). Raises InvalidArgument for a position that is not in
    the table.

    >>> import plait
    >>> plait.nn.PositionEmbedding(16, 4)(plait.zeros(2, 3, 4), first=10).shape
    (2, 3, 4)
    """

    weight: Tensor

    def __init__(self, num_positions: int, embed_dim: int, *, dtype: DType | None = None) -> None:
        super().__init__()
        self.num_positions = num_positions
        self.weight = Parameter(aten.empty.memory_format((num_positions, embed_dim), dtype=dtype))
        with no_grad():
            draw = aten.randn.default(self.weight.shape, dtype=self.weight.dtype)
            self.weight.copy_(draw * 0.02)

    def forward(self, x: Tensor, first: int = 0) -> Tensor:
        """x (..., length, embed_dim), whose first row is at position `first` -> the same shape."""
        length = x.shape[-2]
        _check_positions("PositionEmbedding", first, length, self.num_positions, "num_positions")
        return x + aten.slice.Tensor(self.weight, 0, first, first + length, 1)  # type: ignore[no-any-return]

    def extra_repr(self) -> str:
        return f"{self.num_positions}, {self.weight.shape[1]}"


class RotaryEmbedding(Module):
    """Turns pairs of features by angles that grow with the position; see `functional.rotary`.

    The table, (max_length, head_dim / 2) each of cos and sin, is made once and not saved in
    `state_dict()`. One module may serve all blocks. Raises InvalidArgument for a position that is
    not in the table.
    """

    cos: Tensor
    sin: Tensor

    def __init__(
        self,
        head_dim: int,
        max_length: int = 2048,
        base: float = 10000.0,
        *,
        interleaved: bool = False,
    ) -> None:
        super().__init__()
        self.max_length = max_length
        self.interleaved = interleaved
        cos, sin = functional.rotary_table(max_length, head_dim, base)
        self.register_buffer("cos", cos, persistent=False)
        self.register_buffer("sin", sin, persistent=False)

    def forward(self, x: Tensor, first: int = 0, dim: int = -2) -> Tensor:
        """x with positions first, first + 1, ... along `dim` -> the same shape, new memory."""
        length = x.shape[dim]
        _check_positions("RotaryEmbedding", first, length, self.max_length, "max_length")
        cos, sin = (aten.slice.Tensor(t, 0, first, first + length, 1) for t in (self.cos, self.sin))
        return functional.rotary(x, cos, sin, dim=dim, interleaved=self.interleaved)

    def extra_repr(self) -> str:
        return f"max_length={self.max_length}, interleaved={self.interleaved}"


class MultiheadAttention(Module):
    """Attention of `num_heads` heads between projections; parameters are named as PyTorch's.

    in_proj_weight (3 * embed_dim, embed_dim) and in_proj_bias make queries, keys and values;
    out_proj joins the heads. `batch_first` is True unless told otherwise (PyTorch: False): tensors
    are (batch, length, embed_dim); else (length, batch, embed_dim). `rotary` turns queries and keys
    by their positions. `dropout` drops attention weights in training. First values are PyTorch's:
    in_proj_weight uniform by Xavier, biases 0.

    Only the output is returned, never the weights.

    >>> import plait
    >>> attention = plait.nn.MultiheadAttention(8, 2)
    >>> x = plait.randn(1, 5, 8)
    >>> y, cache = attention(x[:, :4], is_causal=True, use_cache=True)
    >>> last, cache = attention(x[:, 4:], is_causal=True, cache=cache)
    >>> bool((last - attention(x, is_causal=True)[:, 4:]).abs().max() < 1e-5)
    True
    """

    in_proj_weight: Tensor
    in_proj_bias: Tensor | None

    def __init__(
        self,
        embed_dim: int,
        num_heads: int,
        dropout: float = 0.0,
        bias: bool = True,
        *,
        batch_first: bool = True,
        rotary: RotaryEmbedding | None = None,
        dtype: DType | None = None,
    ) -> None:
        super().__init__()
        check(
            num_heads > 0 and embed_dim % num_heads == 0,
            InvalidArgument,
            lambda: (
                f"MultiheadAttention: argument 'embed_dim' must be divisible by num_heads; got "
                f"{embed_dim} and {num_heads}."
            ),
        )
        self.embed_dim, self.num_heads, self.dropout = embed_dim, num_heads, dropout
        self.batch_first = batch_first
        self.rotary = rotary
        self.in_proj_weight = Parameter(
            aten.empty.memory_format((3 * embed_dim, embed_dim), dtype=dtype)
        )
        in_bias = Parameter(aten.zeros.default((3 * embed_dim,), dtype=dtype)) if bias else None
        self.register_parameter("in_proj_bias", in_bias)
        self.out_proj = Linear(embed_dim, embed_dim, bias=bias, dtype=dtype)
        self._reset()

    def _reset(self) -> None:
        bound = math.sqrt(6 / (4 * self.embed_dim)) if self.embed_dim else 0.0
        weight = self.in_proj_weight
        with no_grad():
            draw = aten.rand.default(weight.shape, dtype=weight.dtype)
            weight.copy_((draw * 2 - 1) * bound)
            if self.out_proj.bias is not None:
                self.out_proj.bias.zero_()

    def forward(
        self,
        query: Tensor,
        key: Tensor | None = None,
        value: Tensor | None = None,
        *,
        key_padding_mask: Tensor | None = None,
        attn_mask: Tensor | None = None,
        is_causal: bool = False,
        cache: KeyValue | None = None,
        use_cache: bool = False,
    ) -> Any:
        """query (batch, rows, embed_dim), key and value (batch, columns, embed_dim) -> as query.

        Without key and value the query attends to itself. `attn_mask` (rows, columns), (batch *
        heads, rows, columns) or anything that broadcasts to (batch, heads, rows, columns), and
        `key_padding_mask` (batch, columns) follow PyTorch's module: True hides (in
        `scaled_dot_product_attention` it lets through); a floating mask is added. `is_causal` hides
        later positions. With a `cache` (or `use_cache`, to begin one) the result is (output, new
        cache): keys and values are put after those of the cache, columns of masks count from its
        beginning, and positions count on from its end. Raises ShapeMismatch for tensors and masks
        that do not fit, DtypeMismatch for masks of integers.
        """
        if not self.batch_first:
            query = query.transpose(0, 1)
            key = None if key is None else key.transpose(0, 1)
            value = None if value is None else value.transpose(0, 1)
        self._check_inputs(query, key, value)
        first = 0 if cache is None else cache.key.shape[2]
        q, k, v = (self._heads(t) for t in self._projected(query, key, value))
        if self.rotary is not None:
            q, k = self.rotary(q, first, dim=1), self.rotary(k, first, dim=1)
        q, k, v = (t.transpose(1, 2) for t in (q, k, v))
        if cache is not None:
            k = aten.cat.default([cache.key, k], 2)
            v = aten.cat.default([cache.value, v], 2)
        mask, is_causal = _mask(attn_mask, key_padding_mask, is_causal, q, k, first)
        dropout = self.dropout if self.training else 0.0
        seen = functional.scaled_dot_product_attention(q, k, v, mask, dropout, is_causal)
        joined = seen.transpose(1, 2).reshape(query.shape)
        out = self.out_proj(joined if self.batch_first else joined.transpose(0, 1))
        # What a cache holds lies in one piece, so that its strides follow from its sizes.
        return (
            (out, KeyValue(k.contiguous(), v.contiguous()))
            if use_cache or cache is not None
            else out
        )

    def _check_inputs(self, query: Tensor, key: Tensor | None, value: Tensor | None) -> None:
        for name, tensor in (("query", query), ("key", key), ("value", value)):
            if tensor is not None and (tensor.ndim != 3 or tensor.shape[-1] != self.embed_dim):
                raise ShapeMismatch(
                    f"MultiheadAttention: argument {name!r} does not fit; got shape "
                    f"{tuple(tensor.shape)}; expected 3 dimensions, of which the last is "
                    f"embed_dim = {self.embed_dim}."
                )
        check(
            value is None or key is not None,
            InvalidArgument,
            lambda: "MultiheadAttention: argument 'value' is given without 'key'. Give both.",
        )

    def _projected(self, query: Tensor, key: Tensor | None, value: Tensor | None) -> Any:
        """Queries, keys and values before they are cut into heads."""
        weight, bias = self.in_proj_weight, self.in_proj_bias
        if key is None:
            return functional.linear(query, weight, bias).chunk(3, -1)
        weights = weight.chunk(3, 0)
        biases = (None, None, None) if bias is None else bias.chunk(3, 0)
        inputs = (query, key, key if value is None else value)
        return [functional.linear(x, w, b) for x, w, b in zip(inputs, weights, biases, strict=True)]

    def _heads(self, x: Tensor) -> Tensor:
        """(batch, length, embed_dim) as (batch, length, heads, head_dim)."""
        return x.unflatten(-1, (self.num_heads, self.embed_dim // self.num_heads))

    def extra_repr(self) -> str:
        return f"{self.embed_dim}, {self.num_heads}, batch_first={self.batch_first}"


def _mask(
    attn_mask: Tensor | None,
    key_padding_mask: Tensor | None,
    is_causal: bool,
    query: Tensor,
    key: Tensor,
    first: Any,
) -> tuple[Tensor | None, bool]:
    """(the mask for `scaled_dot_product_attention`, whether it shall be causal by itself)."""
    batch, heads, rows = query.shape[:3]
    columns = key.shape[2]
    _check_padding(key_padding_mask, batch, columns)
    attn_mask = _fitting(attn_mask, (batch, heads, rows, columns))
    if attn_mask is None and key_padding_mask is None:
        if not is_causal or (rows == 1 and columns == first + 1):
            return None, False
        if isinstance(first, int) and first == 0:
            return None, True
    hidden: list[Any] = []
    if is_causal:
        positions = aten.unsqueeze.default(aten.arange.default(rows) + first, 1)
        hidden.append(aten.gt.Tensor(aten.arange.default(columns), positions))
    if key_padding_mask is not None:
        hidden.append(aten.unsqueeze.default(aten.unsqueeze.default(key_padding_mask, 1), 1))
    if attn_mask is not None:
        hidden.append(attn_mask)
    return _joined(hidden, query.dtype), False


def _check_padding(mask: Tensor | None, batch: Any, columns: Any) -> None:
    if mask is None:
        return
    _check_mask_dtype("key_padding_mask", mask)
    check(
        tuple(mask.shape) == (batch, columns),
        ShapeMismatch,
        lambda: (
            f"MultiheadAttention: argument 'key_padding_mask' does not fit; got shape "
            f"{tuple(mask.shape)}; expected ({batch}, {columns}), (batch, length of the key, "
            "that of a cache included)."
        ),
    )


def _fitting(mask: Tensor | None, scores: tuple[Any, ...]) -> Tensor | None:
    """A mask that broadcasts to `scores`, (batch, heads, rows, columns)."""
    if mask is None:
        return None
    _check_mask_dtype("attn_mask", mask)
    batch, heads, rows, columns = scores
    if mask.ndim == 3 and batch != 1 and mask.shape[0] == batch * heads:
        mask = mask.unflatten(0, (batch, heads))
    given = tuple(mask.shape)
    check(
        len(given) <= 4 and all(a == 1 or a == b for a, b in zip(given[::-1], scores[::-1])),
        ShapeMismatch,
        lambda: (
            f"MultiheadAttention: argument 'attn_mask' does not fit; got shape {given}; expected "
            f"({rows}, {columns}), (length of the query, length of the key, that of a cache "
            f"included), with ({batch}, {heads}) or ({batch * heads}) before them where batches "
            "and heads differ."
        ),
    )
    return mask


def _check_mask_dtype(name: str, mask: Tensor) -> None:
    check(
        mask.dtype is bool_ or mask.dtype.is_floating_point,
        DtypeMismatch,
        lambda: (
            f"MultiheadAttention: argument {name!r} has the wrong dtype; got {mask.dtype}; "
            "expected bool (True hides) or a floating one (added to the scores). Convert it with "
            "mask.bool()."
        ),
    )


def _joined(hidden: list[Any], dtype: DType) -> Any:
    """One mask of several: True hides in bool ones, floating ones are added."""
    bools = [m for m in hidden if m.dtype is bool_]
    added = [m for m in hidden if m.dtype is not bool_]
    mask: Any = None
    for m in bools:
        mask = m if mask is None else mask | m
    if not added:
        return aten.logical_not.default(mask)
    total: Any = added[0]
    for m in added[1:]:
        total = total + m
    if mask is None:
        return total
    zeros = aten.zeros_like.default(mask, dtype=dtype)
    return total + aten.masked_fill.Scalar(zeros, mask, -math.inf)


_ACTIVATIONS: dict[str, type[Module]] = {"gelu": GELU, "silu": SiLU}
_NORMS: dict[str, type[Module]] = {"layer": LayerNorm, "rms": RMSNorm}


class TransformerBlock(Module):
    """x + attention(norm1(x)), then x + linear2(activation(linear1(norm2(x)))): pre-norm.

    Names of parameters are those of PyTorch's `TransformerEncoderLayer(norm_first=True)`.
    `norm` is "layer" or "rms", `activation` "gelu" or "silu"; `hidden_dim` is 4 * embed_dim unless
    given; `dropout` is applied to attention weights and to both branches. Tensors are (batch,
    length, embed_dim).

    >>> import plait
    >>> block = plait.nn.TransformerBlock(8, 2, norm="rms", activation="silu")
    >>> block(plait.randn(2, 5, 8), is_causal=True).shape
    (2, 5, 8)
    """

    def __init__(
        self,
        embed_dim: int,
        num_heads: int,
        hidden_dim: int | None = None,
        dropout: float = 0.0,
        *,
        norm: str = "layer",
        activation: str = "gelu",
        bias: bool = True,
        rotary: RotaryEmbedding | None = None,
        dtype: DType | None = None,
    ) -> None:
        super().__init__()
        _check_choice("norm", norm, _NORMS)
        _check_choice("activation", activation, _ACTIVATIONS)
        hidden = 4 * embed_dim if hidden_dim is None else hidden_dim
        make_norm: Any = _NORMS[norm]
        self.norm1 = make_norm(embed_dim, dtype=dtype)
        self.self_attn = MultiheadAttention(
            embed_dim, num_heads, dropout, bias, rotary=rotary, dtype=dtype
        )
        self.norm2 = make_norm(embed_dim, dtype=dtype)
        self.linear1 = Linear(embed_dim, hidden, bias=bias, dtype=dtype)
        self.activation = _ACTIVATIONS[activation]()
        self.linear2 = Linear(hidden, embed_dim, bias=bias, dtype=dtype)
        self.dropout = Dropout(dropout)

    def forward(
        self,
        x: Tensor,
        *,
        attn_mask: Tensor | None = None,
        is_causal: bool = False,
        cache: KeyValue | None = None,
        use_cache: bool = False,
    ) -> Any:
        """x (batch, length, embed_dim) -> the same shape; with a cache (output, new cache)."""
        keeps = use_cache or cache is not None
        found = self.self_attn(
            self.norm1(x), attn_mask=attn_mask, is_causal=is_causal, cache=cache, use_cache=keeps
        )
        seen, cache = found if keeps else (found, None)
        x = x + self.dropout(seen)
        x = x + self.dropout(self.linear2(self.activation(self.linear1(self.norm2(x)))))
        return (x, cache) if keeps else x


def _check_choice(name: str, value: str, choices: dict[str, type[Module]]) -> None:
    check(
        value in choices,
        InvalidArgument,
        lambda: (
            f"TransformerBlock: argument {name!r} is not known; got {value!r}; expected one of "
            f"{list(choices)}."
        ),
    )
