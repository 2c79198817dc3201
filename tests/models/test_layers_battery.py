"""The battery of every layer: each row of eight features is a sequence of two tokens of four."""

from collections.abc import Callable
from functools import partial

import jax
import pytest
from flax import nnx

from structlayers import models
from tests.layers_battery import *  # noqa: F403


class Rows:
    """A layer of sequences as a map of rows."""

    def __call__(self, inputs: jax.Array) -> jax.Array:
        tokens = inputs.reshape(*inputs.shape[:-1], 2, 4)
        outputs = super().__call__(tokens)  # pyrefly: ignore[missing-attribute]
        return outputs.reshape(inputs.shape)


class SoftmaxAttention(Rows, models.SoftmaxAttention):
    pass


class Retention(Rows, models.Retention):
    pass


class SwiGLU(Rows, models.SwiGLU):
    pass


LAYERS = {
    "softmax": partial(SoftmaxAttention, 4, num_heads=2, num_kv_heads=1),
    "retention": partial(Retention, 4, num_heads=2),
    "swiglu": partial(SwiGLU, 4, 6),
}


@pytest.fixture(params=LAYERS.values(), ids=list(LAYERS))
def make(request: pytest.FixtureRequest) -> Callable[[nnx.Rngs], nnx.Module]:
    return lambda rngs: request.param(rngs=rngs)
