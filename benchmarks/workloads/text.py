"""The first training step of the language model of `plait demo --text`. What the starts compile.

On random characters: reading the text is not the compiler's work. It is plait's own model, so no
other system does it.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from benchmarks.systems import System

__all__ = ["check", "prepare"]

ALPHABET = 97


def prepare(system: System) -> Callable[[], Any]:
    """The loss of the first step; nothing is compiled before the call."""
    from plait.demo.text import model as text

    settings = text.FULL
    system.ns.manual_seed(0)
    model = text.CharacterModel(ALPHABET, settings)
    optimizer = text.make_optimizer(settings)
    params = {name: p.detach() for name, p in model.named_parameters()}
    state = optimizer.init(params)
    size = (settings.batch, settings.length)
    drawn = np.random.default_rng(0).integers(0, ALPHABET, (2, *size))
    characters, following = map(system.tensor, drawn)
    step = system.compile(text.make_step(model, optimizer))
    return lambda: step(params, state, characters, following)[0]


def check(system: System, found: Any) -> float:
    """How far the loss is from that of knowing nothing, which an untrained model begins with."""
    return abs(float(system.array(found)) - math.log(ALPHABET)) / math.log(ALPHABET)
