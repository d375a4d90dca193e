"""Softmax, layer norm and attention on all samples at once; losses go by their decompositions."""

from __future__ import annotations

from typing import Any

from plait.tensor.tensor import Tensor
from plait.transforms.batching.call import Call, Rule, run

__all__ = ["RULES"]


def _softmax(call: Call) -> tuple[Any, Any]:
    _, dim, half_to_float = call.args
    at = call.wrapped(dim)
    if call.rank(0) == 0:
        out = call.op.call(run("unsqueeze", call.front(0), 1), 1, half_to_float)
        return run("squeeze.dim", out, 1), 0
    return call.op.call(call.front(0), at, half_to_float), 0


def _layer_norm(call: Call) -> tuple[Any, Any]:
    _, shape, weight, bias, eps = call.args
    if not (call.is_batched(2) or call.is_batched(3)):
        return run("native_layer_norm", call.front(0), shape, weight, bias, eps), 0
    assert call.op.decomposition is not None
    return call.op.decomposition(*call.outer_args), None


def _attention(call: Call) -> tuple[Any, Any]:
    """Samples folded into the batch of the heads."""
    count = call.args[0].shape[1 if call.in_dims[0] == 0 else 0]
    args = list(call.args)
    for i, a in enumerate(call.op.schema.positional):
        if a.type.is_tensor_like:
            count = call.batched(i).shape[1]
            args[i] = _folded(call.batched(i))
    kwargs = dict(call.kwargs)
    mask = kwargs["attn_mask"]
    if mask is not None:
        kwargs["attn_mask"] = _folded_mask(call, mask, count)
    out = call.op.call(*args, **kwargs)
    return tuple([run("view", t, (call.size, count, *t.shape[1:])) for t in out]), 0


def _folded(t: Tensor) -> Tensor:
    made: Tensor = run("reshape", t, (t.shape[0] * t.shape[1], *t.shape[2:]))
    return made


def _folded_mask(call: Call, mask: Tensor, count: Any) -> Tensor:
    """The mask of one sample has 2 or 4 dims; that of all has 4, or 2 if it is the same for all."""
    dim = call.keyword_dims["attn_mask"]
    rank = mask.ndim - (dim is not None)
    if dim is None and rank == 2:
        return mask
    value = mask if dim is None else run("movedim.int", mask, dim, 0)
    if dim is None:
        value = run("unsqueeze", value, 0)
    while value.ndim < 5:
        value = run("unsqueeze", value, 1)
    shape = (call.size, count, *value.shape[2:])
    return _folded(run("expand", value, shape))


_FLASH = "aten::_scaled_dot_product_flash_attention_for_cpu"
RULES: dict[str, Rule] = {
    "aten::_softmax": _softmax,
    "aten::_log_softmax": _softmax,
    "aten::native_layer_norm": _layer_norm,
    _FLASH: _attention,
    f"{_FLASH}_backward": _attention,
}
