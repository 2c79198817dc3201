"""The battery of every layer: each row of eight features is a sequence of two tokens of four."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import pytest
from flax import nnx

from structlayers.models import Retention, SoftmaxAttention, SwiGLU
from tests.layers_battery import *  # noqa: F403


class Rows(nnx.Module):
    """A layer of sequences as a map of rows."""

    def __init__(self, make: Callable[..., Any], *, rngs: nnx.Rngs):
        self.layer = make(rngs=rngs)

    def __call__(self, inputs: jax.Array) -> jax.Array:
        tokens = inputs.reshape(*inputs.shape[:-1], 2, 4)
        return self.layer(tokens).reshape(inputs.shape)


LAYERS = {
    "softmax": partial(SoftmaxAttention, 4, num_heads=2, num_kv_heads=1),
    "retention": partial(Retention, 4, num_heads=2),
    "swiglu": partial(SwiGLU, 4, 6),
}


@pytest.fixture(params=LAYERS.values(), ids=list(LAYERS))
def make(request: pytest.FixtureRequest) -> Callable[[nnx.Rngs], nnx.Module]:
    return lambda rngs: Rows(request.param, rngs=rngs)
