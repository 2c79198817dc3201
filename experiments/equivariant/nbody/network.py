"""Steerable messages between all pairs of particles, by Clebsch-Gordan or by Gaunt products."""

from collections.abc import Callable
from typing import Any

import e3nn_jax as e3nn
import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from experiments.equivariant.nbody.systems import Systems
from structlayers.equivariant import (
    ClebschGordanTensorProduct,
    Gate,
    GauntTensorProduct,
    IrrepsLinear,
)

_ONES = nnx.initializers.ones
# a third of what keeps the variance, as in SEGNN: 18 products and gates one after another grow
_KERNELS = nnx.initializers.variance_scaling(1 / 3, "fan_in", "normal")


def _clebsch_gordan(channels: int, lmax: int, attribute_lmax: int, **options: Any) -> Any:
    features = channels * e3nn.s2_irreps(lmax)
    attributes = e3nn.s2_irreps(attribute_lmax)
    return ClebschGordanTensorProduct(features, attributes, features, weights_init=_ONES, **options)


def _gaunt(channels: int, lmax: int, attribute_lmax: int, **options: Any) -> Any:
    return GauntTensorProduct(channels, lmax, attribute_lmax, weight_init=_ONES, **options)


PRODUCTS: dict[str, Callable[..., Any]] = {"clebsch_gordan": _clebsch_gordan, "gaunt": _gaunt}
"""Products of features with attributes, channel by channel. All weights start at 1: channels differ
by the random linear layers around."""


class Sizes:
    """What all parts of a network share: irreps, and the options of their layers."""

    def __init__(self, product: str, channels: int, lmax: int, attribute_lmax: int, precision: str):
        self.features = channels * e3nn.s2_irreps(lmax)
        self.degrees = (channels, lmax, attribute_lmax)
        self.product, self.precision = PRODUCTS[product], precision

    def linear(self, irreps_in: Any, irreps_out: Any, rngs: nnx.Rngs, **options: Any) -> Any:
        """A linear layer."""
        options |= {"precision": self.precision, "kernel_init": _KERNELS, "rngs": rngs}
        return IrrepsLinear(irreps_in, irreps_out, **options)


class Steer(nnx.Module):
    """The product of features with attributes, a linear layer, and where wanted a gate."""

    def __init__(self, sizes: Sizes, irreps_out: Any, *, gated: bool, rngs: nnx.Rngs):
        out = e3nn.Irreps(irreps_out)
        self.gate = Gate(out) if gated else None
        wanted = Gate(out).irreps_in if gated else out
        self.product = sizes.product(*sizes.degrees, precision=sizes.precision, rngs=rngs)
        self.mix = sizes.linear(sizes.features, wanted, rngs, use_bias=True)

    def __call__(self, x: e3nn.IrrepsArray, attributes: e3nn.IrrepsArray) -> e3nn.IrrepsArray:
        """`(*B, features)` to `(*B, irreps_out)`."""
        mixed = self.mix(self.product(x, attributes))
        return mixed if self.gate is None else self.gate(mixed)


class Layer(nnx.Module):
    """A message of two products along every edge, and an update of two products at every node."""

    def __init__(self, sizes: Sizes, *, rngs: nnx.Rngs):
        features = sizes.features
        scalars = f"{sizes.degrees[0]}x0e"
        self.receive, self.send, self.keep, self.take = (
            sizes.linear(features, features, rngs) for _ in range(4)
        )
        self.pairs = sizes.linear("2x0e", scalars, rngs)
        self.message, self.update = (
            nnx.List(Steer(sizes, features, gated=gated, rngs=rngs) for gated in gates)
            for gates in ((True, True), (True, False))
        )

    def __call__(
        self,
        x: e3nn.IrrepsArray,
        pairs: e3nn.IrrepsArray,
        edges: e3nn.IrrepsArray,
        nodes: e3nn.IrrepsArray,
    ) -> e3nn.IrrepsArray:
        """`(B, N, features)` to the same."""
        half = 0.5**0.5  # of two terms, of variance 1 each
        sent = self.receive(x).array[:, :, None] + self.send(x).array[:, None]
        message = e3nn.IrrepsArray(x.irreps, half * sent)
        message = message + self.pairs(pairs).extend_with_zeros(x.irreps)
        for steer in self.message:
            message = steer(message, edges)
        particles = x.shape[1]
        others = (1 - np.eye(particles)) / np.sqrt(particles - 1)
        others = jnp.asarray(others, message.array.dtype)[None, :, :, None]
        total = (message.array * others).sum(axis=2)
        kept = self.keep(x).array + self.take(e3nn.IrrepsArray(x.irreps, total)).array
        update = e3nn.IrrepsArray(x.irreps, half * kept)
        for steer in self.update:
            update = steer(update, nodes)
        return x + update


class ParticleNetwork(nnx.Module):
    """Displacements of all particles: equivariant under rotations, inversion and permutations.

    Positions come relative to their mean, charges as products of two: translations and the sign of
    all charges change nothing.

    Args:
        product: a name in `PRODUCTS`.
        channels: of every degree.
        lmax: largest degree of the features.
        attribute_lmax: largest degree of the harmonics.
        layers: of messages.
        precision: of float32 products.
        rngs: random keys; `params` is used.

    References:
        Brandstetter, Hesselink, van der Pol, Bekkers, Welling, "Geometric and Physical Quantities
        improve E(3) Equivariant Message Passing", 2022, arXiv:2110.02905, section 3 (SEGNN).
    """

    def __init__(
        self,
        product: str,
        channels: int,
        lmax: int,
        attribute_lmax: int,
        layers: int,
        *,
        precision: str,
        rngs: nnx.Rngs,
    ):
        sizes = Sizes(product, channels, lmax, attribute_lmax, precision)
        self.features, self.attributes = sizes.features, e3nn.s2_irreps(attribute_lmax)
        self.embed = sizes.linear("1x0e + 2x1o", channels * e3nn.s2_irreps(1), rngs)
        self.start = Steer(sizes, self.features, gated=False, rngs=rngs)
        self.layers = nnx.List(Layer(sizes, rngs=rngs) for _ in range(layers))
        self.before = Steer(sizes, self.features, gated=True, rngs=rngs)
        self.read = Steer(sizes, "1x1o", gated=False, rngs=rngs)

    def __call__(self, systems: Systems) -> jax.Array:
        """Displacements `(B, N, 3)`."""
        vectors = jnp.reshape(systems.vectors, (*systems.vectors.shape[:-2], 6))
        inputs = jnp.concatenate([jnp.asarray(systems.speed), vectors], axis=-1)
        edges, nodes = (
            e3nn.IrrepsArray(self.attributes, jnp.asarray(array))
            for array in (systems.edges, systems.nodes)
        )
        pairs = e3nn.IrrepsArray("2x0e", jnp.asarray(systems.pairs))
        x = self.embed(e3nn.IrrepsArray("1x0e + 2x1o", inputs)).extend_with_zeros(self.features)
        x = self.start(x, nodes)
        for layer in self.layers:
            x = layer(x, pairs, edges, nodes)
        return self.read(self.before(x, nodes), nodes).array
