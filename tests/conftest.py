"""What every test shares: PyTorch as the oracle where it is installed, and reproducible inputs."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from types import ModuleType

import numpy as np
import pytest
from hypothesis import HealthCheck, settings

from plait.base.config import config
from plait.dispatch.state import ThreadState, tls

settings.register_profile(
    "plait", deadline=None, print_blob=True, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("plait")


@pytest.fixture(autouse=True, scope="session")
def a_cache_of_their_own(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Tests and what they start keep compiled code in a folder that goes away with them."""
    folder = str(tmp_path_factory.mktemp("compiled"))
    with pytest.MonkeyPatch.context() as patch, config.override(cache=True, cache_dir=folder):
        patch.setitem(os.environ, "PLAIT_CACHE_DIR", folder)
        patch.delitem(os.environ, "PLAIT_CACHE", raising=False)
        yield


@pytest.fixture(scope="session")
def torch() -> ModuleType:
    """PyTorch on one thread; tests that ask for it are skipped by name where it is missing."""
    module = pytest.importorskip("torch", reason="PyTorch, the oracle, is not installed")
    module.set_num_threads(1)
    return module


@pytest.fixture(autouse=True, scope="session")
def every_graph_is_verified() -> Iterator[None]:
    """Tests compile with the verifiers between passes on."""
    with config.override(verify=True):
        yield


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)


THREAD_STATE = [n for n in vars(ThreadState) if not n.startswith("_")] + ["modes", "handling"]


def thread_state() -> dict[str, object]:
    values = {name: getattr(tls, name) for name in THREAD_STATE}
    return {n: v.copy() if isinstance(v, list | dict) else v for n, v in values.items()}


@pytest.fixture
def state_of_thread() -> Callable[[], dict[str, object]]:
    """Reads everything that the calling thread holds, to compare before and after."""
    return thread_state


@pytest.fixture(autouse=True)
def thread_state_is_left_alone() -> Iterator[None]:
    """Whatever a test does, errors included, modes and keys must be as before afterwards."""
    before = thread_state()
    yield
    assert thread_state() == before
