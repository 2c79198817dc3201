"""Strict numerics, eight virtual CPU devices, and the fixtures every test may use."""

import os
from pathlib import Path

# Before JAX initialises. Tests run on the CPU unless JAX_PLATFORMS names another platform.
os.environ.setdefault("JAX_PLATFORMS", "cpu")
if "xla_force_host_platform_device_count" not in os.environ.get("XLA_FLAGS", ""):
    flags = os.environ.get("XLA_FLAGS", "")
    os.environ["XLA_FLAGS"] = f"{flags} --xla_force_host_platform_device_count=8".strip()

import jax
import numpy as np
import pytest

jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")


def _has_platform(platform: str) -> bool:
    try:
        return bool(jax.devices(platform))
    except RuntimeError:
        return False


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skips device tests where the device is missing."""
    for platform in ("gpu", "tpu"):
        if item.get_closest_marker(platform) and not _has_platform(platform):
            pytest.skip(f"needs a {platform.upper()}; JAX sees {jax.default_backend()}")


@pytest.fixture
def rng(request: pytest.FixtureRequest) -> np.random.Generator:
    """A generator seeded by the test's own name, so that tests do not depend on their order."""
    return np.random.default_rng(list(request.node.name.encode()))


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """The folder of data sets, $STRUCTLAYERS_DATA."""
    folder = os.environ.get("STRUCTLAYERS_DATA", "")
    if not folder or not Path(folder).is_dir():
        pytest.skip(f"data sets not found: STRUCTLAYERS_DATA={folder!r} is not a folder")
    return Path(folder)
