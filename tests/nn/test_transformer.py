"""Attention, positions and blocks: against PyTorch, with caches, and compiled."""

from __future__ import annotations

import numpy as np
import pytest

import plait
from plait import nn
from plait.base.errors import DtypeMismatch, IndexOutOfRange, InvalidArgument, ShapeMismatch
from plait.nn import functional as F
from plait.testing import compare


def tensor(rng, *shape):
    return plait.from_numpy(rng.standard_normal(shape).astype(np.float32))


def close(ours, theirs):
    ours = ours.detach() if isinstance(ours, plait.Tensor) else ours
    np.testing.assert_allclose(ours.numpy(), theirs.detach().numpy(), rtol=3e-5, atol=3e-5)


def copied(torch, ours, theirs):
    """The oracle with our parameters, which have its names."""
    state = {n: torch.from_numpy(t.numpy().copy()) for n, t in ours.state_dict().items()}
    theirs.load_state_dict(state)
    return theirs


def check_alike(ours, theirs, out, their_out):
    close(out, their_out)
    (out * out).sum().backward()
    (their_out * their_out).sum().backward()
    gradients = {n: p.grad for n, p in theirs.named_parameters()}
    for name, parameter in ours.named_parameters():
        close(parameter.grad, gradients[name])


# ---------------------------------------------------------------- attention


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("batch_first", [True, False])
def test_self_attention_is_torchs(torch, rng, bias, batch_first):
    ours = nn.MultiheadAttention(12, 3, bias=bias, batch_first=batch_first)
    theirs = torch.nn.MultiheadAttention(12, 3, bias=bias, batch_first=batch_first)
    copied(torch, ours, theirs)
    x = tensor(rng, 2, 5, 12)
    y = compare.to_torch(torch, x)
    check_alike(ours, theirs, ours(x), theirs(y, y, y, need_weights=False)[0])


def test_cross_attention_is_torchs(torch, rng):
    ours = nn.MultiheadAttention(8, 2)
    theirs = copied(torch, ours, torch.nn.MultiheadAttention(8, 2, batch_first=True))
    q, k, v = tensor(rng, 2, 3, 8), tensor(rng, 2, 5, 8), tensor(rng, 2, 5, 8)
    given = [compare.to_torch(torch, t) for t in (q, k, v)]
    check_alike(ours, theirs, ours(q, k, v), theirs(*given, need_weights=False)[0])
    close(ours(q, k), theirs(given[0], given[1], given[1], need_weights=False)[0])


@pytest.mark.parametrize(
    "kind", ["bool", "float", "heads", "padding", "padding and bool", "padding and float"]
)
def test_masks_mean_what_they_mean_in_torchs_module(torch, rng, kind):
    ours = nn.MultiheadAttention(8, 2)
    theirs = copied(torch, ours, torch.nn.MultiheadAttention(8, 2, batch_first=True))
    x = tensor(rng, 2, 4, 8)
    options, given = {}, {}
    if "padding" in kind:
        options["key_padding_mask"] = plait.tensor([[False] * 4, [False, False, True, True]])
    if "bool" in kind:
        options["attn_mask"] = plait.ones(4, 4, dtype=plait.bool_).triu(1)
    if "float" in kind:
        options["attn_mask"] = tensor(rng, 4, 4)
    if "heads" in kind:  # a mask for each head of each batch
        options["attn_mask"] = plait.from_numpy(rng.standard_normal((4, 4, 4)) > 0.3)
        options["attn_mask"][:, :, 0] = False  # a row that sees nothing is nan in PyTorch
    given = {n: compare.to_torch(torch, t) for n, t in options.items()}
    if kind == "padding and float":
        given["key_padding_mask"] = torch.zeros(2, 4).masked_fill(
            given["key_padding_mask"], float("-inf")
        )
    y = compare.to_torch(torch, x)
    check_alike(ours, theirs, ours(x, **options), theirs(y, y, y, need_weights=False, **given)[0])


def test_causal_attention_sees_no_later_position(rng):
    attention = nn.MultiheadAttention(8, 2).eval()
    x = tensor(rng, 1, 6, 8)
    whole = attention(x, is_causal=True)
    for length in (1, 3):
        close(attention(x[:, :length], is_causal=True), whole[:, :length])


@pytest.mark.parametrize("rotary", [False, True])
def test_a_cache_gives_what_the_whole_gives(rng, rotary):
    positions = nn.RotaryEmbedding(4, 16) if rotary else None
    attention = nn.MultiheadAttention(8, 2, rotary=positions)
    x = tensor(rng, 2, 9, 8)
    whole = attention(x, is_causal=True)
    out, cache = attention(x[:, :4], is_causal=True, use_cache=True)
    parts = [out]
    for start, end in ((4, 5), (5, 8), (8, 9)):
        out, cache = attention(x[:, start:end], is_causal=True, cache=cache)
        assert cache.key.shape == cache.value.shape == (2, 2, end, 4)
        parts.append(out)
    close(plait.cat(parts, 1), whole)


def test_a_cache_works_with_a_padding_mask(rng):
    attention = nn.MultiheadAttention(8, 2)
    x = tensor(rng, 2, 5, 8)
    padding = plait.tensor([[False] * 5, [True, False, False, False, False]])
    whole = attention(x, is_causal=True, key_padding_mask=padding)
    _, cache = attention(x[:, :3], is_causal=True, use_cache=True)
    out, _ = attention(x[:, 3:], is_causal=True, key_padding_mask=padding, cache=cache)
    close(out, whole[:, 3:])


def test_dropout_of_weights_is_for_training(rng):
    plait.manual_seed(0)
    attention = nn.MultiheadAttention(8, 2, dropout=0.5)
    x = tensor(rng, 2, 5, 8)
    assert np.abs((attention(x) - attention(x)).detach().numpy()).max() > 1e-3
    attention.eval()
    close(attention(x), attention(x))


def test_wrong_attention_is_refused(rng):
    attention = nn.MultiheadAttention(8, 2)
    x = tensor(rng, 2, 3, 8)
    with pytest.raises(InvalidArgument, match="MultiheadAttention: argument 'embed_dim'"):
        nn.MultiheadAttention(8, 3)
    with pytest.raises(ShapeMismatch, match="MultiheadAttention: argument 'query'"):
        attention(x[0])
    with pytest.raises(ShapeMismatch, match="MultiheadAttention: argument 'key'"):
        attention(x, x[..., :4])
    with pytest.raises(InvalidArgument, match="MultiheadAttention: argument 'value'"):
        attention(x, None, x)


@pytest.mark.parametrize(
    "name, shape, options",
    [
        ("key_padding_mask", (2, 4), {}),
        ("key_padding_mask", (1, 3), {}),
        ("key_padding_mask", (3,), {"is_causal": True}),
        ("key_padding_mask", (2, 3, 1), {}),
        ("attn_mask", (4, 3), {}),
        ("attn_mask", (3, 4), {"is_causal": True}),
        ("attn_mask", (3, 4), {"key_padding_mask": plait.zeros(2, 3, dtype=plait.bool_)}),
        ("attn_mask", (3, 3, 3), {}),
        ("attn_mask", (1, 2, 2, 3, 3), {}),
    ],
)
@pytest.mark.parametrize("is_compiled", [False, True])
def test_masks_of_the_wrong_shape_are_refused(rng, name, shape, options, is_compiled):
    attention = nn.MultiheadAttention(8, 2)
    call = plait.compile(attention, backend="aot_eager") if is_compiled else attention
    mask = plait.zeros(*shape, dtype=plait.bool_)
    with pytest.raises(ShapeMismatch, match=rf"MultiheadAttention: argument '{name}' does not fit"):
        call(tensor(rng, 2, 3, 8), **options, **{name: mask})


def test_a_padding_mask_counts_the_cache(rng):
    attention = nn.MultiheadAttention(8, 2)
    _, cache = attention(tensor(rng, 2, 3, 8), use_cache=True)
    with pytest.raises(ShapeMismatch, match=r"got shape \(2, 2\); expected \(2, 5\)"):
        padding = plait.zeros(2, 2, dtype=plait.bool_)
        attention(tensor(rng, 2, 2, 8), key_padding_mask=padding, cache=cache)


@pytest.mark.parametrize("name, shape", [("attn_mask", (3, 3)), ("key_padding_mask", (2, 3))])
def test_masks_of_integers_are_refused(rng, name, shape):
    mask = plait.zeros(*shape, dtype=plait.int64)
    with pytest.raises(DtypeMismatch, match=f"MultiheadAttention: argument '{name}'"):
        nn.MultiheadAttention(8, 2)(tensor(rng, 2, 3, 8), **{name: mask})


# ---------------------------------------------------------------- positions


@pytest.mark.parametrize("interleaved", [False, True])
def test_rotary_products_depend_on_distances(rng, interleaved):
    rotary = nn.RotaryEmbedding(6, 32, interleaved=interleaved)
    q, k = tensor(rng, 5, 6), tensor(rng, 5, 6)
    at = lambda first: (rotary(q, first) @ rotary(k, first).T).numpy()
    np.testing.assert_allclose(at(0), at(20), atol=1e-4)
    assert np.abs(at(0) - (q @ k.T).numpy()).max() > 0.1
    np.testing.assert_allclose(
        np.linalg.norm(rotary(q).numpy(), axis=1), np.linalg.norm(q.numpy(), axis=1), rtol=1e-5
    )


@pytest.mark.parametrize("interleaved", [False, True])
def test_rotary_turns_pairs_as_complex_numbers(rng, interleaved):
    x = tensor(rng, 3, 7, 2, 8)
    out = F.rotary(x, *F.rotary_table(7, 8, base=100.0), dim=1, interleaved=interleaved).numpy()
    angles = np.arange(7)[:, None] * 100.0 ** (-np.arange(0, 8, 2) / 8)
    values = x.numpy()
    pairs = (
        (values[..., 0::2], values[..., 1::2])
        if interleaved
        else (values[..., :4], values[..., 4:])
    )
    turned = (pairs[0] + 1j * pairs[1]) * np.exp(1j * angles)[:, None]
    wanted = np.empty_like(values)
    if interleaved:
        wanted[..., 0::2], wanted[..., 1::2] = turned.real, turned.imag
    else:
        wanted[..., :4], wanted[..., 4:] = turned.real, turned.imag
    np.testing.assert_allclose(out, wanted, atol=1e-5)


def test_rotary_gradient(rng):
    x = tensor(rng, 4, 6).requires_grad_()
    cos, sin = F.rotary_table(4, 6)
    g = tensor(rng, 4, 6)
    F.rotary(x, cos, sin).backward(g)
    close(x.grad, F.rotary(g, cos, -sin))


def test_wrong_positions_are_refused(rng):
    x = tensor(rng, 2, 5, 6)
    with pytest.raises(InvalidArgument, match="'features' must be even"):
        F.rotary_table(4, 5)
    with pytest.raises(ShapeMismatch, match="rotary: arguments 'cos' and 'sin'"):
        F.rotary(x, *F.rotary_table(4, 6))
    with pytest.raises(ShapeMismatch, match="'dim' not the last"):
        F.rotary(x, *F.rotary_table(6, 6), dim=-1)
    with pytest.raises(
        InvalidArgument, match="longer than the position table; got positions up to 5"
    ):
        nn.PositionEmbedding(4, 6)(x, 1)
    with pytest.raises(InvalidArgument, match="RotaryEmbedding: the sequence is longer"):
        nn.RotaryEmbedding(6, 4)(x)


def test_learned_positions_are_added(rng):
    positions = nn.PositionEmbedding(8, 6)
    x = tensor(rng, 2, 3, 6)
    close(positions(x, 4), x + positions.weight[4:7])
    assert nn.RotaryEmbedding(4, 8).state_dict() == {}


# ---------------------------------------------------------------- blocks


def test_block_is_torchs_pre_norm_layer(torch, rng):
    ours = nn.TransformerBlock(12, 3, 20)
    theirs = torch.nn.TransformerEncoderLayer(
        12, 3, 20, dropout=0.0, activation="gelu", batch_first=True, norm_first=True
    )
    copied(torch, ours, theirs)
    x = tensor(rng, 2, 5, 12)
    y = compare.to_torch(torch, x)
    mask = torch.nn.Transformer.generate_square_subsequent_mask(5)
    check_alike(ours, theirs, ours(x, is_causal=True), theirs(y, src_mask=mask, is_causal=True))


@pytest.mark.parametrize("is_compiled", [False, True])
@pytest.mark.parametrize("dtype, allowed", [("bfloat16", 0.05), ("float16", 0.01)])
def test_blocks_of_half_types_are_near_torchs_in_float32(torch, rng, dtype, allowed, is_compiled):
    plait.manual_seed(0)
    ours = nn.TransformerBlock(12, 3, 20, dtype=getattr(plait, dtype))
    theirs = torch.nn.TransformerEncoderLayer(
        12, 3, 20, dropout=0.0, activation="gelu", batch_first=True, norm_first=True
    )
    state = {n: compare.to_torch(torch, t).float() for n, t in ours.state_dict().items()}
    theirs.load_state_dict(state)
    x = tensor(rng, 2, 5, 12).to(getattr(plait, dtype))
    call = plait.compile(ours, fullgraph=True) if is_compiled else ours
    out = call(x)
    assert out.dtype is x.dtype
    wanted = theirs(compare.to_torch(torch, x).float())
    np.testing.assert_allclose(
        out.detach().float().numpy(), wanted.detach().numpy(), atol=allowed, rtol=allowed
    )


@pytest.mark.parametrize("norm", ["layer", "rms"])
@pytest.mark.parametrize("activation", ["gelu", "silu"])
def test_blocks_with_a_cache(rng, norm, activation):
    block = nn.TransformerBlock(
        8, 2, norm=norm, activation=activation, bias=False, rotary=nn.RotaryEmbedding(4, 16)
    )
    assert all("bias" not in n or n.startswith("norm") for n, _ in block.named_parameters())
    x = tensor(rng, 2, 5, 8)
    whole = block(x, is_causal=True)
    first, cache = block(x[:, :3], is_causal=True, use_cache=True)
    second, _ = block(x[:, 3:], is_causal=True, cache=cache)
    close(plait.cat([first, second], 1), whole)


def test_unknown_parts_of_a_block_are_refused():
    with pytest.raises(InvalidArgument, match="'norm' is not known"):
        nn.TransformerBlock(8, 2, norm="batch")
    with pytest.raises(InvalidArgument, match="'activation' is not known"):
        nn.TransformerBlock(8, 2, activation="relu7")


# ---------------------------------------------------------------- small layers


def test_embedding_is_torchs(torch, rng):
    ours = nn.Embedding(7, 4, padding_idx=-2)
    theirs = copied(torch, ours, torch.nn.Embedding(7, 4, padding_idx=-2))
    assert ours.weight[5].tolist() == [0.0] * 4
    indices = plait.tensor([[0, 5, 3], [3, 3, 6]])
    check_alike(ours, theirs, ours(indices), theirs(compare.to_torch(torch, indices)))
    assert ours.weight.grad[5].tolist() == [0.0] * 4


def test_wrong_indices_are_refused():
    table = nn.Embedding(4, 2)
    for wrong in (4, -1):
        with pytest.raises(IndexOutOfRange, match=f"out of bounds .* got {wrong}"):
            table(plait.tensor([0, wrong]))
    with pytest.raises(InvalidArgument, match="Embedding: argument 'padding_idx'"):
        nn.Embedding(4, 2, padding_idx=4)
    with pytest.raises(InvalidArgument, match="embedding: argument 'padding_idx'"):
        F.embedding(plait.tensor([0]), table.weight, 9)


def test_rms_norm_and_silu_are_torchs(torch, rng):
    ours = nn.Sequential(nn.RMSNorm(6, eps=1e-5), nn.SiLU())
    theirs = torch.nn.Sequential(torch.nn.RMSNorm(6, eps=1e-5), torch.nn.SiLU())
    copied(torch, ours, theirs)
    x = tensor(rng, 3, 6)
    check_alike(ours, theirs, ours(x), theirs(compare.to_torch(torch, x)))


def test_module_list():
    layers = nn.ModuleList([nn.Linear(2, 3)]).append(nn.Linear(3, 4))
    assert [type(m) for m in layers] == [nn.Linear, nn.Linear]
    assert layers[1].out_features == 4 and len(layers) == 2
    assert list(layers.state_dict()) == ["0.weight", "0.bias", "1.weight", "1.bias"]


# ---------------------------------------------------------------- tied weights


class Tied(nn.Module):
    """A table that also reads out."""

    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(11, 8)
        self.lm_head = nn.Linear(8, 11, bias=False)
        self.lm_head.weight = self.embedding.weight

    def forward(self, indices):
        return self.lm_head(self.embedding(indices))


class TorchTied:
    """The same in PyTorch."""

    def __init__(self, torch, weight):
        self.weight = torch.from_numpy(weight.detach().numpy().copy()).requires_grad_()
        self.torch = torch

    def __call__(self, indices):
        f = self.torch.nn.functional
        return f.linear(f.embedding(indices, self.weight), self.weight)


def test_tied_weights_are_one_parameter_with_one_gradient(torch):
    model = Tied()
    assert [n for n, _ in model.named_parameters()] == ["embedding.weight"]
    assert list(model.state_dict()) == ["embedding.weight", "lm_head.weight"]
    indices = plait.tensor([1, 2, 2, 9])
    theirs = TorchTied(torch, model.embedding.weight)
    model(indices).square().sum().backward()
    theirs(compare.to_torch(torch, indices)).square().sum().backward()
    close(model.embedding.weight.grad, theirs.weight.grad)
    assert model.lm_head.weight.grad is model.embedding.weight.grad


def test_tied_weights_train_functionally_and_compiled():
    plait.manual_seed(0)
    model, optimizer = Tied(), plait.optim.AdamW(lr=0.05)
    indices = plait.tensor([1, 2, 2, 9])

    def loss_of(params):
        return F.cross_entropy(nn.functional_call(model, params, (indices,)), indices)

    def step(params, state):
        loss, grads = plait.func.value_and_grad(loss_of)(params)
        return loss, *optimizer.update(params, grads, state)

    ends = []
    for run in (step, plait.compile(step, fullgraph=True)):
        params = {n: p.detach() for n, p in model.named_parameters()}
        state = optimizer.init(params)
        for _ in range(5):
            loss, params, state = run(params, state)
        ends.append(loss.item())
    assert ends[0] == pytest.approx(ends[1], rel=1e-4, abs=1e-6)  # a small loss is a difference
    assert loss.item() < loss_of(dict(model.named_parameters())).item()


def test_tied_weights_have_one_gradient_compiled_too(torch):
    model = Tied()
    indices = plait.tensor([1, 2, 2, 9])
    theirs = TorchTied(torch, model.embedding.weight)
    compiled = plait.compile(lambda indices: model(indices).square().sum(), fullgraph=True)
    compiled(indices).backward()
    theirs(compare.to_torch(torch, indices)).square().sum().backward()
    close(model.embedding.weight.grad, theirs.weight.grad)
    assert model.lm_head.weight.grad is model.embedding.weight.grad


def test_tied_weights_cannot_be_given_twice():
    model, indices = Tied(), plait.tensor([1])
    with pytest.raises(InvalidArgument, match="'embedding.weight' and 'lm_head.weight'"):
        nn.functional_call(model, model.state_dict(), (indices,))
    ones = plait.ones(11, 8)
    both = {"embedding.weight": ones, "lm_head.weight": ones}
    for given in (both, {"lm_head.weight": ones}):
        assert nn.functional_call(model, given, (indices,)).tolist() == [[8.0] * 11]


def test_loading_tied_weights_keeps_the_tie():
    model, other = Tied(), Tied()
    model.load_state_dict(other.state_dict())
    assert model.lm_head.weight is model.embedding.weight
    np.testing.assert_array_equal(model.embedding.weight.tolist(), other.embedding.weight.tolist())


# ---------------------------------------------------------------- compiled


BLOCKS = {
    "layer norm, gelu": {},
    "rms norm, silu, rotary": {
        "norm": "rms",
        "activation": "silu",
        "bias": False,
        "rotary": nn.RotaryEmbedding(4, 16),
    },
    "dropout": {"dropout": 0.2},
}
CALLS = {
    "all": {},
    "causal": {"is_causal": True},
    "masked": {"attn_mask": plait.ones(5, 5, dtype=plait.bool_).triu(2)},
    "biased": {"attn_mask": plait.ones(2, 2, 5, 5).tril()},
}


@pytest.mark.parametrize(
    "kind, call",
    [
        *((kind, "causal") for kind in BLOCKS),
        *(("layer norm, gelu", call) for call in ("all", "masked", "biased")),
    ],
)
def test_block_has_the_gradients_of_eager(rng, kind, call):
    plait.manual_seed(0)
    block = nn.TransformerBlock(8, 2, **BLOCKS[kind])
    x, g = tensor(rng, 2, 5, 8).requires_grad_(), tensor(rng, 2, 5, 8)
    found = []
    for run in (block, plait.compile(block, fullgraph=True)):
        plait.manual_seed(1)
        out = run(x, **CALLS[call])
        found.append([out, *plait.autograd.grad([out], [x, *block.parameters()], [g])])
    for eager, compiled in zip(*found, strict=True):
        close(compiled, eager.detach())


@pytest.mark.parametrize("kind", BLOCKS)
def test_block_trains_as_eager_does(rng, kind):
    plait.manual_seed(0)
    block, optimizer = nn.TransformerBlock(8, 2, **BLOCKS[kind]), plait.optim.AdamW(lr=0.01)
    x, target = tensor(rng, 2, 5, 8), tensor(rng, 2, 5, 8)

    def loss_of(params):
        seen = nn.functional_call(block, params, (x,), {"is_causal": True})
        return F.mse_loss(seen, target)

    def step(params, state):
        loss, grads = plait.func.value_and_grad(loss_of)(params)
        return loss, *optimizer.update(params, grads, state)

    ends = []
    for run in (step, plait.compile(step, fullgraph=True, donate=("params", "state"))):
        plait.manual_seed(1)
        params = {n: p.detach().clone() for n, p in block.named_parameters()}
        state, losses = optimizer.init(params), []
        for _ in range(4):
            loss, params, state = run(params, state)
            losses.append(loss.item())
        ends.append((losses, params))
    assert ends[0][0] == pytest.approx(ends[1][0], rel=1e-5)
    assert ends[1][0][-1] < ends[1][0][0]
    # Attention does not depend on the bias of its keys: AdamW makes steps of that noise.
    for name, value in ((n, v) for n, v in ends[0][1].items() if n != "self_attn.in_proj_bias"):
        np.testing.assert_allclose(ends[1][1][name].numpy(), value.numpy(), atol=2e-4)


def test_one_entry_serves_all_lengths_of_the_cache(rng):
    """Generation: one position at a time against a cache whose length is symbolic."""
    attention = nn.MultiheadAttention(8, 2, rotary=nn.RotaryEmbedding(4, 32)).eval()
    x = tensor(rng, 1, 12, 8)
    whole = attention(x, is_causal=True)

    def step(row, cache):
        with plait.no_grad():
            return attention(row, is_causal=True, cache=cache)

    compiled = plait.compile(step, fullgraph=True)
    _, cache = attention(x[:, :3], is_causal=True, use_cache=True)
    cache = nn.KeyValue(*(plait.mark_dynamic(t.detach(), 2) for t in cache))
    for at in range(3, 12):
        out, cache = compiled(x[:, at : at + 1], cache)
        close(out, whole[:, at : at + 1])
    assert len(compiled.entries) == 1


def test_marked_sizes_are_symbols_from_the_first_entry_on():
    with pytest.raises(InvalidArgument, match="mark_dynamic: argument 'dims'"):
        plait.mark_dynamic(plait.ones(1, 3), 0)
    with pytest.raises(IndexError):
        plait.mark_dynamic(plait.ones(3), 1)
    double = plait.compile(lambda x: x * 2)
    double(plait.mark_dynamic(plait.ones(4, 3), 0))
    assert double(plait.ones(7, 3)).shape == (7, 3)
    assert len(double.entries) == 1
    double(plait.ones(7, 4))
    assert len(double.entries) == 2
