"""What every test shares: PyTorch as the oracle where it is installed, and reproducible inputs."""

from __future__ import annotations

from types import ModuleType

import numpy as np
import pytest
from hypothesis import HealthCheck, settings

settings.register_profile(
    "plait", deadline=None, print_blob=True, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("plait")


@pytest.fixture(scope="session")
def torch() -> ModuleType:
    """PyTorch on one thread; tests that ask for it are skipped by name where it is missing."""
    module = pytest.importorskip("torch", reason="PyTorch, the oracle, is not installed")
    module.set_num_threads(1)
    return module


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)
