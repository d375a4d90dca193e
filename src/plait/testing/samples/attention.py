"""Sample calls of attention and its derivative."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from plait.ops import aten
from plait.tensor import dtype as dt
from plait.tensor.tensor import Tensor
from plait.testing.samples import SampleInput, make, sampler
from plait.testing.samples.inputs import laid_out, of

_HIDDEN = float("-inf")
_HALF = (dt.float16, dt.bfloat16)


def _operands(rows: int = 4, columns: int = 5, **options: Any) -> list[Tensor]:
    """Query, key and value of two batches, three heads and four features."""
    sizes = (rows, columns, columns)
    return [make(2, 3, size, 4, seed=i, **options) for i, size in enumerate(sizes)]


def _windowed() -> Tensor:
    """An additive mask of (4, 5): the second row sees nothing, the others some columns."""
    o, x = 0.0, _HIDDEN
    return of([[o, o, x, x, x], [x, x, x, x, x], [x, o, -1.5, x, x], [0.5, o, o, o, x]])


def _masks() -> Iterator[tuple[str, Tensor]]:
    yield "mask", make(4, 5, seed=7)
    yield "mask with a hidden row", _windowed()
    yield "mask of one row", make(1, 5, seed=7)
    yield "mask of heads", make(1, 3, 4, 5, seed=7)
    yield "mask of columns", make(2, 1, 1, 5, seed=7)
    yield "mask of everything", make(2, 3, 4, 5, seed=7)
    yield "mask transposed", laid_out("transposed", (4, 5), seed=7)


def _calls() -> Iterator[SampleInput]:
    yield SampleInput(*_operands(), name="plain")
    yield SampleInput(*_operands(), 0.0, True, name="causal")
    yield SampleInput(*_operands(5, 3), 0.0, True, name="causal, more rows than columns")
    yield SampleInput(*_operands(1, 6), name="one row")
    yield SampleInput(*_operands(3, 1), name="one column")
    yield SampleInput(*_operands(), scale=0.3, name="scale")
    for name, mask in _masks():
        yield SampleInput(*_operands(), attn_mask=mask, name=name)
    yield SampleInput(*_operands(), 0.0, True, attn_mask=_windowed(), name="causal mask")
    for layout in ("transposed", "sliced", "expanded"):
        turned = [laid_out(layout, (2, 3, n, 4), seed=i) for i, n in enumerate((4, 5, 5))]
        yield SampleInput(*turned, name=layout)
    heads = [make(2, 4, 3, 4, seed=i) for i in range(3)]
    yield SampleInput(*[t.transpose(1, 2) for t in heads], 0.0, True, name="heads inside")
    yield SampleInput(*_operands(dtype=dt.float64), name="float64")
    for dtype in _HALF:
        yield SampleInput(*_operands(dtype=dtype, low=-1, high=1), name=dtype.name)


@sampler("aten::_scaled_dot_product_flash_attention_for_cpu")
def _fused() -> Iterator[SampleInput]:
    yield from _calls()


@sampler("aten::_scaled_dot_product_flash_attention_for_cpu_backward")
def _fused_backward() -> Iterator[SampleInput]:
    """Consistent results and logarithms; PyTorch's own would differ in their last bits."""
    for sample in _calls():
        query, key, value, *rest = sample.args
        out, logs = aten._scaled_dot_product_flash_attention_for_cpu.default(
            *sample.args, **sample.kwargs
        )
        grad = make(*query.shape, seed=9, dtype=query.dtype, low=-1, high=1)
        _, causal = rest or (0.0, False)
        args = (grad, query, key, value, out, logs, 0.0, causal)
        yield SampleInput(*args, name=sample.name, **sample.kwargs)


@sampler("aten::scaled_dot_product_attention")
def _composite() -> Iterator[SampleInput]:
    plain = _operands()
    yield SampleInput(*plain, name="plain")
    yield SampleInput(*plain, None, 0.0, True, name="causal")
    yield SampleInput(*plain, scale=0.5, name="scale")
    yield SampleInput(*plain, None, 1.0, name="everything dropped")
    for name, mask in _masks():
        yield SampleInput(*plain, mask, name=name)
        yield SampleInput(*plain, mask > 0, name=f"bool {name}")
    yield SampleInput(*[t[0] for t in plain], None, 0.0, True, name="3-d")
    yield SampleInput(*[t[0, 0] for t in plain], None, 0.0, True, name="2-d")
    yield SampleInput(*[t[0] for t in plain], make(3, 4, 5, seed=7), name="3-d mask of heads")
    deep = [make(2, 1, 3, n, 4, seed=i) for i, n in enumerate((4, 5, 5))]
    yield SampleInput(*deep, make(4, 5, seed=7), name="5-d")
    yield SampleInput(*deep, make(3, 1, 5, seed=7), name="5-d, mask of heads")
    query, key, value = plain
    yield SampleInput(query, key[:1], value[:, :1], name="broadcast")
    yield SampleInput(query, key, value[..., :3], None, 0.0, True, name="narrow values")
    yield SampleInput(query, key, value[..., :3], _windowed(), name="narrow values, hidden row")
    yield SampleInput(query, key[:, :, :0], value[:, :, :0], name="nothing to see")
    many = make(2, 6, 4, 4)
    yield SampleInput(many, key, value, None, 0.0, True, enable_gqa=True, name="grouped heads")
    for layout in ("transposed", "sliced", "expanded"):
        turned = [laid_out(layout, (2, 3, n, 4), seed=i) for i, n in enumerate((4, 5, 5))]
        yield SampleInput(*turned, name=layout)
    yield SampleInput(*_operands(dtype=dt.float64), make(4, 5, seed=7), name="float64")
    for dtype in _HALF:
        yield SampleInput(*_operands(dtype=dtype, low=-1, high=1), name=dtype.name)
