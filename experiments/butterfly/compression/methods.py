"""The hidden layers of Table 1, and how far each compresses the network."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
from flax import nnx

from structlayers.butterfly import ButterflyLinear, MonarchLinear
from structlayers.structured import (
    CirculantLinear,
    FastfoodLinear,
    LDRLinear,
    LowRankLinear,
    ToeplitzLikeLinear,
)

CLASSES = 10


@dataclass(frozen=True)
class Method:
    """One kind of hidden layer.

    Attributes:
        label: name in pictures.
        make: `make(n, n, **options)` gives the layer, options being those of `nnx.Linear`.
        parameters: parameters of its matrix at size n, the bias left out.
    """

    label: str
    make: Callable[..., nnx.Module]
    parameters: Callable[[int], int]


def _bpbp(*, is_complex: bool) -> Callable[..., nnx.Module]:
    return partial(
        ButterflyLinear,
        tied=True,
        num_blocks=2,
        alternating=False,
        permutation="bit_reversal",
        complex=is_complex,
        # several runs side by side under vmap, each with a twiddle of its own: one einsum a merged
        # group serves them all
        implementation="xla",
    )


def _monarch(n: int, _: int, **options: Any) -> nnx.Module:
    return MonarchLinear(n, n, num_blocks=math.isqrt(n), **options)


METHODS: Mapping[str, Method] = {
    "unconstrained": Method("unconstrained", nnx.Linear, lambda n: n**2),
    "bpbp_complex": Method("BPBP, complex", _bpbp(is_complex=True), lambda n: 16 * (n - 1)),
    "bpbp_real": Method("BPBP, real", _bpbp(is_complex=False), lambda n: 8 * (n - 1)),
    "ldr_td": Method("LDR-TD", partial(LDRLinear, rank=1), lambda n: 8 * n),
    "toeplitz_like": Method("Toeplitz-like", partial(ToeplitzLikeLinear, rank=4), lambda n: 8 * n),
    "fastfood": Method("Fastfood", FastfoodLinear, lambda n: 3 * n),
    "circulant": Method("circulant", CirculantLinear, lambda n: n),
    "low_rank": Method("low rank", partial(LowRankLinear, rank=4), lambda n: 8 * n),
    "monarch": Method("Monarch", _monarch, lambda n: 2 * n * math.isqrt(n)),
}
"""Every method by name; those of the paper have its parameter counts."""


class SingleHiddenLayer(nnx.Module):
    """Structured layer `N x N`, ReLU, dense layer to the classes.

    Args:
        method: key of `METHODS`.
        n: N, the size of input and hidden layer.
        use_bias: whether the hidden layer has a bias.
        precision: of all products.
        rngs: random keys.
    """

    def __init__(self, method: str, n: int, *, use_bias: bool, precision: str, rngs: nnx.Rngs):
        options: dict[str, Any] = {"use_bias": use_bias, "precision": precision, "rngs": rngs}
        self.hidden = METHODS[method].make(n, n, **options)
        self.head = nnx.Linear(n, CLASSES, precision=precision, rngs=rngs)

    def __call__(self, inputs: jax.Array) -> jax.Array:
        """Logits `(*B, 10)` of inputs `(*B, N)`."""
        return self.head(nnx.relu(self.hidden(inputs)))


def compression(method: str, n: int) -> float:
    """Compression of the network as the paper counts it: `N^2 / (structured + 10 N + 10)`.

    The dense layer's own head is not in the numerator, nor a bias of the hidden layer in the
    denominator; the paper states 1 for the unconstrained layer.

    Example:
        >>> round(compression("bpbp_complex", 1024), 1), round(compression("bpbp_real", 1024), 1)
        (39.4, 56.9)
    """
    return n**2 / (METHODS[method].parameters(n) + CLASSES * n + CLASSES)
