"""What every layer must do, of those that take and give irreps arrays."""

from typing import Any

import e3nn_jax as e3nn
import jax
import pytest
from flax import nnx

from structlayers.equivariant.layers.clebsch_gordan import (
    ClebschGordanTensorProduct,
    SymmetricContraction,
)
from structlayers.equivariant.layers.irreps_linear import IrrepsLinear
from tests.layers_battery import *  # noqa: F403

IRREPS = "2x0e + 2x1o"


def of_arrays(layer: type, *, square: bool = False) -> Any:
    """The layer on arrays of eight features, which stand for irreps; of the same name."""

    def call(self: Any, x: jax.Array) -> jax.Array:
        given = e3nn.IrrepsArray(IRREPS, x)
        return layer.__call__(self, *[given] * (1 + square)).array

    return type(layer.__name__, (layer,), {"__call__": call})


LINEAR = of_arrays(IrrepsLinear)
PRODUCT = of_arrays(ClebschGordanTensorProduct, square=True)
CONTRACTION = of_arrays(SymmetricContraction)

LAYERS = {
    "linear": lambda rngs: LINEAR(IRREPS, IRREPS, use_bias=True, rngs=rngs),
    "product": lambda rngs: PRODUCT(IRREPS, IRREPS, "0e + 1o", rngs=rngs),
    "contraction": lambda rngs: CONTRACTION(IRREPS, "0e + 1o", order=2, rngs=rngs),
}


@pytest.fixture(params=LAYERS.values(), ids=list(LAYERS))
def make(request: pytest.FixtureRequest) -> Any:
    return request.param


def test_the_battery_runs_the_layers_themselves():
    assert LINEAR.__mro__[1] is IrrepsLinear
    assert isinstance(LAYERS["product"](nnx.Rngs(0)), ClebschGordanTensorProduct)
