"""A layer that multiplies two signals as vector fields: the couplings that Gaunt's lacks."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from flax.typing import Dtype, Initializer

from structlayers._core.precision import PrecisionLike
from structlayers.equivariant.layers._signals import RankProduct, default_weight_init
from structlayers.equivariant.ops.operands import coupled_parity
from structlayers.equivariant.ops.vector_signal import (
    vector_signal_table,
    vector_signal_tensor_product,
)
from structlayers.equivariant.signals import pack
from structlayers.equivariant.vector_harmonics import Offsets


class VectorSignalTensorProduct(RankProduct):
    r"""`z = sum_r w3_r (w1_r x cross w2_r y) / s`: cross products with R sets of weights.

    The counterpart of `GauntTensorProduct` for couplings of odd sum: both together have every path.
    `(L1 + L2 + L3 + 3) R C` parameters. With independent standard normal inputs and weights, every
    coefficient of the result that the product reaches has variance 1.

    Args:
        channels: C, of x and of the result. y has as many, or one.
        lmax1: degree of x.
        lmax2: degree of y.
        lmax3: degree of the result; None is `lmax1`.
        rank: R.
        offsets: see `vector_signal_tensor_product`.
        dtype: of the computation; None is that of x.
        param_dtype: real dtype of the parameters.
        precision: see `vector_signal_tensor_product`.
        weight_init: initializer of the three arrays of weights.
        implementation: of `vector_signal_tensor_product`; None chooses.
        rngs: random keys; `params` is used.

    Raises:
        ValueError: sizes or degrees that do not fit.
        TypeError: `param_dtype` or `dtype` is not real floating point.

    Example:
        >>> import e3nn_jax as e3nn
        >>> layer = VectorSignalTensorProduct(8, 1, 1, rngs=nnx.Rngs(0))
        >>> x = e3nn.IrrepsArray("8x0e + 8x1o", jnp.ones((5, 32)))
        >>> layer(x, x).irreps
        8x0o+8x1e

    References:
        Xie, Daigavane, Kotak, Smidt, "The Price of Freedom: Exploring Expressivity and Runtime
        Tradeoffs in Equivariant Tensor Products", 2025, arXiv:2506.13523.
    """

    def __init__(
        self,
        channels: int,
        lmax1: int,
        lmax2: int,
        lmax3: int | None = None,
        *,
        rank: int = 1,
        offsets: Offsets = (-1, -1, -1),
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
        self.offsets = offsets

    def _scales(self) -> np.ndarray:
        """One over the deviation of every degree for normal inputs; 1 for those out of reach."""
        degrees = self.lmax1, self.lmax2, self.lmax3
        table = vector_signal_table(degrees, self.offsets)
        variance = np.zeros(self.lmax3 + 1)
        for path, scale in zip(table.paths, table.scales, strict=True):
            variance[path[2]] += scale**2 / (2 * path[2] + 1)
        return 1 / np.sqrt(self.rank * np.where(variance > 0, variance, 1))

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
        with jax.named_scope("structlayers.VectorSignalTensorProduct"):
            x, y, parity = self._signals(x, y)
            w3 = self.w3[...]
            z = vector_signal_tensor_product(
                x,
                y,
                lmax=self.lmax3,
                weights=(
                    self.w1[...],
                    self.w2[...],
                    w3 * jnp.asarray(self._scales(), w3.dtype).reshape(1, 1, -1),
                ),
                offsets=self.offsets,
                precision=self.precision,
                implementation=self.implementation,
            )
            if parity is not None:
                parity = coupled_parity(parity, "odd" if sum(self.offsets) % 2 else "even")
            return pack(jnp.sum(z, axis=-3), parity)
