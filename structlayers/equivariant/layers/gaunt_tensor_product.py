"""A layer that multiplies two signals on the sphere, channel by channel."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from flax.typing import Dtype, Initializer

from structlayers._core.precision import PrecisionLike
from structlayers.equivariant.grids import GridLike
from structlayers.equivariant.layers._signals import RankProduct, default_weight_init
from structlayers.equivariant.normalization import product_variance
from structlayers.equivariant.ops import gaunt_tensor_product
from structlayers.equivariant.signals import pack


class GauntTensorProduct(RankProduct):
    r"""`z = sum_r w3_r (w1_r x . w2_r y) / s`: products of two signals with R sets of weights.

    Weights are one for each rank, channel and degree: a tensor of path weights of rank R on the
    paths of even sum. `(L1 + L2 + L3 + 3) R C` parameters. With independent standard normal inputs
    and weights, every coefficient of the result has variance 1.

    Args:
        channels: C, of x and of the result. y has as many, or one.
        lmax1: degree of x.
        lmax2: degree of y.
        lmax3: degree of the result; None is `lmax1`.
        rank: R.
        grid: see `gaunt_tensor_product`.
        dtype: of the computation; None is that of x.
        param_dtype: real dtype of the parameters.
        precision: see `gaunt_tensor_product`.
        weight_init: initializer of the three arrays of weights.
        implementation: of `gaunt_tensor_product`; None chooses.
        rngs: random keys; `params` is used.

    Raises:
        ValueError: sizes or degrees that do not fit.
        TypeError: `param_dtype` or `dtype` is not real floating point.

    Example:
        >>> layer = GauntTensorProduct(8, 2, 1, rngs=nnx.Rngs(0))
        >>> layer(jnp.ones((5, 8, 9)), jnp.ones((5, 1, 4))).shape
        (5, 8, 9)

    References:
        Luo, Chen, Krishnapriyan, 2024, arXiv:2401.10216, section 3.1.
    """

    def __init__(
        self,
        channels: int,
        lmax1: int,
        lmax2: int,
        lmax3: int | None = None,
        *,
        rank: int = 1,
        grid: GridLike = None,
        dtype: Dtype | None = None,
        param_dtype: Dtype = jnp.float32,
        precision: PrecisionLike = None,
        weight_init: Initializer = default_weight_init,
        implementation: str | None = None,
        rngs: nnx.Rngs,
    ):
        super().__init__(
            channels,
            lmax1,
            lmax2,
            lmax3,
            rank=rank,
            dtype=dtype,
            param_dtype=param_dtype,
            precision=precision,
            weight_init=weight_init,
            implementation=implementation,
            rngs=rngs,
        )
        self.grid = grid

    def __call__(self, x: Any, y: Any) -> Any:
        """The product.

        Args:
            x: `(*B, C, (L1 + 1)^2)`, or an IrrepsArray of multiplicity C.
            y: `(*B, C or 1, (L2 + 1)^2)`, or an IrrepsArray.

        Returns:
            `(*B, C, (L3 + 1)^2)` in the dtype of the computation, or an IrrepsArray.

        Raises:
            ValueError: channels or degrees that do not fit.
        """
        with jax.named_scope(f"structlayers.{type(self).__name__}"):
            x, y, parity = self._signals(x, y)
            variance = self.rank * product_variance(self.lmax1, self.lmax2, self.lmax3)
            w3 = jnp.asarray(self.w3[...])
            w3 = w3 * jnp.asarray(1 / np.sqrt(variance), w3.dtype).reshape(1, 1, -1)
            z = gaunt_tensor_product(
                x,
                y,
                lmax=self.lmax3,
                weights=(self.w1[...], self.w2[...], w3),
                grid=self.grid,
                precision=self.precision,
                implementation=self.implementation,
            )
            return pack(jnp.sum(z, axis=-3), parity)
