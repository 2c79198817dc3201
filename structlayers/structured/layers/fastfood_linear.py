"""A linear layer made of learned diagonals and Hadamard products."""

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from flax.nnx.nn import dtypes
from flax.typing import Dtype, Initializer
from jax.typing import ArrayLike

from structlayers._core.checks import next_power_of_two
from structlayers._core.layers import PromoteDtype, StaticIndices
from structlayers._core.precision import PrecisionLike
from structlayers.structured.layers._base import StructuredLinear
from structlayers.structured.ops import fastfood_multiply, fastfood_to_dense
from structlayers.structured.ops.fastfood import check_permutation


class FastfoodLinear(StructuredLinear):
    """`y = (S H G P H B x)[:out] + b` with learned diagonals S, G, B: 3 N parameters.

    The arguments of `flax.nnx.Linear`, at any sizes: inputs are padded with zeros to
    `N = 2**ceil(log2 in_features)`, `ceil(out_features / N)` matrices stand one below the other and
    their outputs are cut. H is the normalised Hadamard matrix. There is no `from_linear`: no closed
    form finds the diagonals for a given matrix.

    Args:
        in_features: size of the last axis of the inputs.
        out_features: size of the last axis of the outputs.
        use_bias: whether to add a bias.
        dtype: the dtype of the computation; None is inferred from inputs and parameters.
        param_dtype: real dtype of the parameters.
        precision: of the products; None is the highest (see `structlayers`' precision rules).
        kernel_init: initializer of the diagonals S, G and B, called for each with `(S, N)`; None is
            that of Le et al.: B random signs, G normal, S chi-distributed with N degrees of freedom
            over `|G|`, so that rows have the lengths of normal vectors of variance 1/N and
            `E|y|^2 / out = E|x|^2 / N`.
        bias_init: initializer of the bias.
        promote_dtype: casts the tuple of inputs and parameters to `dtype`.
        permutation: P, fixed and part of the layer's definition rather than of its state: indices
            `(N,)` or `(S, N)`, or the integer that seeds random ones.
        implementation: of `fastfood_multiply`; None chooses.
        rngs: random keys; `params` is used.
        kernel_metadata: metadata of the diagonals, such as `out_sharding`.
        bias_metadata: metadata of the bias.

    Raises:
        ValueError: a size below 1, or a permutation that does not fit.
        TypeError: `param_dtype` is not real floating point, or a permutation is not of integers.

    Example:
        >>> layer = FastfoodLinear(10, 6, rngs=nnx.Rngs(0))
        >>> layer(jnp.ones((5, 10))).shape, layer.gauss.shape
        ((5, 6), (1, 16))

    References:
        Le, Sarlós, Smola, "Fastfood: approximate kernel expansions in loglinear time", 2013,
        arXiv:1408.3060; Yang, Moczulski, Denil, de Freitas, Smola, Song, Wang, "Deep
        fried convnets", 2015, arXiv:1412.7149 (learned diagonals).
    """

    WEIGHTS = ("scale", "gauss", "sign")

    def __init__(
        self,
        in_features: int,
        out_features: int,
        *,
        use_bias: bool = True,
        dtype: Dtype | None = None,
        param_dtype: Dtype = jnp.float32,
        precision: PrecisionLike = None,
        kernel_init: Initializer | None = None,
        bias_init: Initializer = nnx.initializers.zeros,
        promote_dtype: PromoteDtype = dtypes.promote_dtype,
        permutation: ArrayLike | Sequence[int] | int = 0,
        implementation: str | None = None,
        rngs: nnx.Rngs,
        kernel_metadata: Mapping[str, Any] = MappingProxyType({}),
        bias_metadata: Mapping[str, Any] = MappingProxyType({}),
    ):
        super().__init__(
            in_features,
            out_features,
            use_bias=use_bias,
            dtype=dtype,
            param_dtype=param_dtype,
            precision=precision,
            bias_init=bias_init,
            promote_dtype=promote_dtype,
            implementation=implementation,
            rngs=rngs,
            bias_metadata=bias_metadata,
        )
        self.size = next_power_of_two(in_features)
        stacks = -(-out_features // self.size)
        self.permutation = _static_permutation(permutation, stacks, self.size)
        shape = (stacks, self.size)
        if kernel_init is None:
            diagonals = _random_fastfood(rngs.params(), shape, param_dtype)
        else:
            diagonals = [kernel_init(rngs.params(), shape, param_dtype) for _ in self.WEIGHTS]
        self.scale, self.gauss, self.sign = (
            nnx.Param(diagonal, **kernel_metadata) for diagonal in diagonals
        )

    def _multiply(self, x: jax.Array, *weights: ArrayLike) -> jax.Array:
        scale, gauss, sign = weights
        return fastfood_multiply(
            x,
            scale,
            gauss,
            sign,
            self.permutation.values,
            out_features=self.out_features,
            precision=self.precision,
            implementation=self.implementation,
        )

    def _to_dense(self, *weights: ArrayLike) -> jax.Array:
        scale, gauss, sign = weights
        return fastfood_to_dense(
            scale,
            gauss,
            sign,
            self.permutation.values,
            out_features=self.out_features,
            precision=self.precision,
        )


def _static_permutation(
    permutation: ArrayLike | Sequence[int] | int, stacks: int, size: int
) -> StaticIndices:
    if isinstance(permutation, int):
        rng = np.random.default_rng(permutation)
        return StaticIndices(np.stack([rng.permutation(size) for _ in range(stacks)]))
    return StaticIndices(np.asarray(check_permutation(np.asarray(permutation), stacks, size)))


def _random_fastfood(key: jax.Array, shape: tuple[int, int], dtype: Dtype) -> list[jax.Array]:
    """S, G and B of the random matrix of Le et al. for a normalised H."""
    scale_key, gauss_key, sign_key = jax.random.split(key, 3)
    sign = jax.random.rademacher(sign_key, shape, dtype)
    gauss = jax.random.normal(gauss_key, shape, dtype)
    # chi^2 with N degrees of freedom is twice a gamma variable of shape N / 2
    chi = jnp.sqrt(2 * jax.random.gamma(scale_key, shape[-1] / 2, shape, dtype))
    return [chi / jnp.linalg.norm(gauss, axis=-1, keepdims=True), gauss, sign]
