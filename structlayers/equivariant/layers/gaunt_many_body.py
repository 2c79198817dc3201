"""A layer that sums weighted powers of a signal: the symmetric contraction on one grid."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from flax.typing import Dtype, Initializer
from jax.typing import ArrayLike

from structlayers._core.checks import require_positive
from structlayers._core.layers import require_real_dtype
from structlayers._core.precision import PrecisionLike
from structlayers.equivariant.grids import GridLike
from structlayers.equivariant.layers._signals import default_weight_init, take_channels
from structlayers.equivariant.normalization import power_variance
from structlayers.equivariant.ops import many_body_product
from structlayers.equivariant.ops.arguments import (
    check_indices,
    check_lmax,
    scale_degrees,
    take_rows,
)
from structlayers.equivariant.signals import pack
from structlayers.equivariant.wigner import require_degree


class GauntManyBody(nnx.Module):
    r"""`z = sum_r sum_p w_r(p, l) / s_(p l) P_l (a_r x)^p`, powers 1 to nu, weights by species.

    MACE's symmetric contraction with Gaunt coefficients. `S R C (nu (L3 + 1))` weights, and for a
    rank R above 1 `R C (L + 1)` more that scale the degrees of the input for each term of the sum.
    With standard normal inputs and weights every coefficient of the result has mean square 1, but
    for those that no power reaches.

    Args:
        channels: C.
        lmax: degree of the input, L.
        lmax_out: degree of the result, L3; None is L.
        order: nu.
        rank: R; with 1 the input is taken as it is.
        num_species: S; with 1 there are no species.
        grid: see `gaunt_tensor_product`.
        dtype: of the computation; None is that of x.
        param_dtype: real dtype of the parameters.
        precision: see `gaunt_tensor_product`.
        weight_init: initializer of the weights.
        implementation: of `many_body_product`; None chooses.
        rngs: random keys; `params` is used.

    Raises:
        ValueError: sizes or degrees that do not fit.
        TypeError: `param_dtype` or `dtype` is not real floating point.

    Example:
        >>> layer = GauntManyBody(8, 2, 1, order=3, num_species=2, rngs=nnx.Rngs(0))
        >>> layer(jnp.ones((5, 8, 9)), jnp.array([0, 0, 1, 0, 1])).shape
        (5, 8, 4)

    References:
        Luo, Chen, Krishnapriyan, 2024, arXiv:2401.10216, on equivariant many-body
        interactions.
        Batatia, Kovacs, Simm, Ortner, Csanyi, 2022, arXiv:2206.07697, equation 10.
    """

    def __init__(
        self,
        channels: int,
        lmax: int,
        lmax_out: int | None = None,
        *,
        order: int = 3,
        rank: int = 1,
        num_species: int = 1,
        grid: GridLike = None,
        dtype: Dtype | None = None,
        param_dtype: Dtype = jnp.float32,
        precision: PrecisionLike = None,
        weight_init: Initializer = default_weight_init,
        implementation: str | None = None,
        rngs: nnx.Rngs,
    ):
        self.channels = require_positive("channels", channels)
        self.lmax = require_degree("lmax", lmax)
        self.order = require_positive("order", order)
        self.lmax_out = check_lmax(self.lmax if lmax_out is None else lmax_out, order * self.lmax)
        self.rank = require_positive("rank", rank)
        self.num_species = require_positive("num_species", num_species)
        require_real_dtype("dtype", dtype)
        require_real_dtype("param_dtype", param_dtype)
        self.grid = grid
        self.dtype = dtype
        self.precision = precision
        self.implementation = implementation
        shape = (self.num_species, self.rank, self.channels, self.order, self.lmax_out + 1)
        self.weights = nnx.Param(weight_init(rngs.params(), shape, param_dtype))
        if self.rank > 1:
            shape = (self.rank, self.channels, self.lmax + 1)
            self.input_weights = nnx.Param(weight_init(rngs.params(), shape, param_dtype))

    def __call__(self, x: Any, species: ArrayLike | None = None) -> Any:
        """The sum of powers.

        Args:
            x: `(*B, C, (L + 1)^2)`, or an IrrepsArray of multiplicity C, of even values.
            species: integers `*B` from 0 to S - 1; with one species None. Under `jax.jit` an index
                out of range cannot be refused: its row is NaN.

        Returns:
            `(*B, C, (L3 + 1)^2)` in the dtype of the computation, or an IrrepsArray.

        Raises:
            TypeError: species that are no integers.
            ValueError: shapes, degrees or known species that do not fit.
        """
        with jax.named_scope(f"structlayers.{type(self).__name__}"):
            x, parity = take_channels("x", x, self.channels, self.lmax)
            if parity is not None and parity.value == -1 and self.order > 1:
                raise ValueError("x must have values of even parity, such as 8x0e+8x1o+8x2e")
            dtype = x.dtype if self.dtype is None else self.dtype
            x = x.astype(dtype)[..., None, :, :]
            if self.rank > 1:
                x = scale_degrees(x, jnp.asarray(self.input_weights[...], dtype))
            z = many_body_product(
                x,
                lmax=self.lmax_out,
                weights=self._of_species(species, x.shape[:-3]),
                grid=self.grid,
                precision=self.precision,
                implementation=self.implementation,
            )
            return pack(jnp.sum(z, axis=-3), parity)

    def _of_species(self, species: ArrayLike | None, lead: tuple[int, ...]) -> jax.Array:
        """Scaled weights `(*B, R, C, nu, L3 + 1)`, or without species `(R, C, nu, L3 + 1)`."""
        weights = jnp.asarray(self.weights[...])
        squares = np.stack(
            [power_variance(self.lmax, p + 1, self.lmax_out) for p in range(self.order)]
        )
        reached = squares > 1e-12
        terms = self.rank * reached.sum(axis=0).clip(1)
        scale = np.where(reached, 1 / np.sqrt(np.where(reached, squares, 1) * terms), 0)
        weights = weights * jnp.asarray(scale, weights.dtype).reshape(1, 1, 1, *scale.shape)
        if species is None:
            if self.num_species > 1:
                raise ValueError(f"species must be given: there are {self.num_species}")
            return weights[0]
        return take_rows(weights, check_indices("species", species, self.num_species, lead))
