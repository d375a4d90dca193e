"""The language model: a small pre-norm transformer, and its step of training and of writing.

Owns what is computed; must not know the text or how anything is shown.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from plait.autograd.grad_mode import no_grad
from plait.nn import (
    Embedding,
    KeyValue,
    Linear,
    Module,
    ModuleList,
    RMSNorm,
    RotaryEmbedding,
    TransformerBlock,
    functional_call,
)
from plait.nn.functional import cross_entropy, softmax
from plait.ops import aten
from plait.optim import AdamW
from plait.tensor.tensor import Tensor
from plait.transforms.func import value_and_grad

__all__ = [
    "FULL",
    "QUICK",
    "CharacterModel",
    "Settings",
    "make_loss",
    "make_optimizer",
    "make_step",
    "make_write",
]

Params = dict[str, Tensor]
Caches = list[KeyValue]
TrainingStep = Callable[..., tuple[Tensor, Params, dict[str, Any]]]


@dataclass(frozen=True, slots=True)
class Settings:
    """Sizes of the model and of its training."""

    width: int = 128
    layers: int = 2
    heads: int = 4
    length: int = 128  # of a window, and of the position table
    batch: int = 8
    steps: int = 300
    report_every: int = 25
    held_out: int = 64  # windows
    rate: float = 1e-3
    temperature: float = 0.7

    @property
    def tokens(self) -> int:
        """Characters that one step learns from."""
        return self.batch * self.length


FULL = Settings()
QUICK = Settings(width=32, layers=1, heads=2, length=32, steps=40, report_every=10, held_out=16)


def make_optimizer(settings: Settings) -> AdamW:
    """AdamW whose steps are small where a gradient is rounding noise.

    With the usual eps of 1e-8 it makes full steps of such noise, and two runs that round otherwise
    drift apart.
    """
    return AdamW(lr=settings.rate, eps=1e-6)


class CharacterModel(Module):
    """Characters (batch, length) int64 -> logits (batch, length, alphabet) of each next one.

    The table of characters is also what reads the logits out: one parameter, two uses. With
    `caches`, one KeyValue for each block (or `use_cache`, to begin them), the result is (logits,
    new caches), and positions count on from the caches'. Raises InvalidArgument for more positions
    than the table has.
    """

    def __init__(self, alphabet: int, settings: Settings) -> None:
        super().__init__()
        width, heads = settings.width, settings.heads
        rotary = RotaryEmbedding(width // heads, settings.length)
        self.embedding = Embedding(alphabet, width)
        self.blocks = ModuleList(
            TransformerBlock(width, heads, norm="rms", activation="silu", bias=False, rotary=rotary)
            for _ in range(settings.layers)
        )
        self.norm = RMSNorm(width)
        self.head = Linear(width, alphabet, bias=False)
        self.head.weight = self.embedding.weight
        with no_grad():
            self.embedding.weight.copy_(self.embedding.weight * 0.02)

    def forward(
        self, characters: Tensor, caches: Caches | None = None, *, use_cache: bool = False
    ) -> Any:
        """See the class."""
        keeps = use_cache or caches is not None
        x = self.embedding(characters)
        grown = []
        for i, block in enumerate(self.blocks):
            cache = None if caches is None else caches[i]
            found = block(x, is_causal=True, cache=cache, use_cache=keeps)
            x, cache = found if keeps else (found, None)
            grown.append(cache)
        logits = self.head(self.norm(x))
        return (logits, grown) if keeps else logits


def make_loss(model: Module) -> Callable[[Params, Tensor, Tensor], Tensor]:
    """The mean cross-entropy of the next characters, in nats, as a function of parameters."""

    def loss_of(params: Params, characters: Tensor, following: Tensor) -> Tensor:
        logits = functional_call(model, params, (characters,))
        return cross_entropy(logits.flatten(0, 1), following.flatten())

    return loss_of


def make_step(model: Module, optimizer: AdamW) -> TrainingStep:
    """A training step as a pure function of parameters, optimiser state and a batch."""
    loss_of = make_loss(model)

    def step(
        params: Params, state: dict[str, Any], characters: Tensor, following: Tensor
    ) -> tuple[Tensor, Params, dict[str, Any]]:
        loss, grads = value_and_grad(loss_of)(params, characters, following)
        params, state = optimizer.update(params, grads, state)
        return loss, params, state

    return step


def make_write(
    model: Module, temperature: float
) -> Callable[[Params, Tensor, Caches], tuple[Tensor, Caches]]:
    """From one character (1, 1) and the caches before it: the next one, drawn, and new caches."""

    def write(params: Params, character: Tensor, caches: Caches) -> tuple[Tensor, Caches]:
        with no_grad():
            logits, caches = functional_call(model, params, (character, caches))
            return draw(logits, temperature), caches

    return write


def draw(logits: Tensor, temperature: float) -> Tensor:
    """One character (1, 1) by the logits (1, length, alphabet) of the last place."""
    last = aten.select.int(logits, 1, -1)
    drawn: Tensor = aten.multinomial.default(softmax(last / temperature, -1), 1)
    return drawn
