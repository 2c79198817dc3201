"""Small models and plain NumPy in float64."""

import functools
from typing import Any

import jax
import numpy as np
from flax import nnx

from structlayers.models import LanguageModel, LanguageModelConfig

MIXERS: dict[str, dict[str, Any]] = {
    "gla, grouped, convolution": {"num_layers": 1, "num_kv_heads": 1, "conv_size": 3},
    "retention": {"num_layers": 1, "mixer": "retention"},
    "softmax": {"mixer": "softmax"},
    "hybrid, grouped": {"mixer": ("gla", "softmax"), "num_kv_heads": 1},
}


def small_config(**options: Any) -> LanguageModelConfig:
    """Two layers of 16 features; weights large enough that layers matter."""
    sizes: dict[str, Any] = {
        "vocab_size": 40,
        "features": 16,
        "num_layers": 2,
        "num_heads": 2,
        "hidden_features": 24,
        "init_std": 0.3,
        "chunk_size": 2,
    }
    return LanguageModelConfig(**sizes | options)


@functools.cache
def small_model(**options: Any) -> LanguageModel:
    """Shared by tests, none of which changes it."""
    return LanguageModel(small_config(**options), rngs=nnx.Rngs(0))


def float64(module: nnx.Module) -> dict[str, Any]:
    """The parameters of a module by name."""
    return jax.tree.map(lambda a: np.asarray(a, np.float64), nnx.to_pure_dict(nnx.state(module)))


def swish(x: np.ndarray) -> np.ndarray:
    return x / (1 + np.exp(-x))


def rms_norm(x: np.ndarray, scale: np.ndarray) -> np.ndarray:
    return x / np.sqrt(np.mean(x**2, axis=-1, keepdims=True) + 1e-6) * scale


def rotate(x: np.ndarray) -> np.ndarray:
    """`(T, H, K)`: channels i and i + K/2 as one complex number, turned by its position."""
    half = x.shape[-1] // 2
    angles = np.arange(len(x))[:, None] * 10000.0 ** (-np.arange(half) / half)
    turned = (x[..., :half] + 1j * x[..., half:]) * np.exp(1j * angles)[:, None]
    return np.concatenate([turned.real, turned.imag], axis=-1)
