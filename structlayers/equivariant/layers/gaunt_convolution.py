"""A layer of message passing: signals of senders times harmonics of edges, summed at receivers."""

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
from structlayers.equivariant.layers._signals import take_channels
from structlayers.equivariant.normalization import product_variance
from structlayers.equivariant.ops import gaunt_message_passing
from structlayers.equivariant.ops.arguments import check_lmax
from structlayers.equivariant.ops.edges import blank_edges, check_mask
from structlayers.equivariant.signals import pack, product_parity
from structlayers.equivariant.wigner import require_degree

default_kernel_init = nnx.initializers.lecun_normal()


class GauntConvolution(nnx.Module):
    r"""`z_n = sum_e w3(e) (w1(e) x_s(e) . y_e) / s`, with weights linear in features of the edge.

    `C (L1 + L3 + 2)` weights an edge, against `C` times the number of paths of a Clebsch-Gordan
    convolution. y has one channel: the harmonics of the edge's direction.

    Args:
        channels: C, of x and of the result.
        lmax1: degree of x.
        lmax2: degree of y.
        edge_features: F, scalars of an edge, such as radial functions after their network.
        lmax3: degree of the result; None is `lmax1`.
        num_neighbors: sums are divided by its root: the mean number of edges that arrive.
        grid: see `gaunt_tensor_product`.
        dtype: of the computation; None is that of x.
        param_dtype: real dtype of the parameters.
        precision: see `gaunt_tensor_product`.
        kernel_init: initializer of the `(F, C (L1 + L3 + 2))` kernel.
        implementation: of `gaunt_tensor_product`; None chooses.
        rngs: random keys; `params` is used.

    Raises:
        ValueError: sizes or degrees that do not fit.
        TypeError: `param_dtype` or `dtype` is not real floating point.

    Example:
        >>> layer = GauntConvolution(8, 1, 2, 16, rngs=nnx.Rngs(0))
        >>> graph = jnp.array([0, 1, 1]), jnp.array([1, 0, 1])
        >>> layer(jnp.ones((2, 8, 4)), jnp.ones((3, 1, 9)), jnp.ones((3, 16)), *graph).shape
        (2, 8, 4)

    References:
        Luo, Chen, Krishnapriyan, 2024, arXiv:2401.10216, on equivariant convolutions.
    """

    def __init__(
        self,
        channels: int,
        lmax1: int,
        lmax2: int,
        edge_features: int,
        lmax3: int | None = None,
        *,
        num_neighbors: int | float = 1,
        grid: GridLike = None,
        dtype: Dtype | None = None,
        param_dtype: Dtype = jnp.float32,
        precision: PrecisionLike = None,
        kernel_init: Initializer = default_kernel_init,
        implementation: str | None = None,
        rngs: nnx.Rngs,
    ):
        self.channels = require_positive("channels", channels)
        self.lmax1 = require_degree("lmax1", lmax1)
        self.lmax2 = require_degree("lmax2", lmax2)
        self.lmax3 = check_lmax(self.lmax1 if lmax3 is None else lmax3, lmax1 + lmax2)
        self.edge_features = require_positive("edge_features", edge_features)
        if not num_neighbors > 0:
            raise ValueError(f"num_neighbors must be above 0, got {num_neighbors}")
        require_real_dtype("dtype", dtype)
        require_real_dtype("param_dtype", param_dtype)
        self.num_neighbors = num_neighbors
        self.grid = grid
        self.dtype = dtype
        self.precision = precision
        self.implementation = implementation
        shape = (self.edge_features, self.channels * (self.lmax1 + self.lmax3 + 2))
        self.kernel = nnx.Param(kernel_init(rngs.params(), shape, param_dtype))

    def __call__(
        self,
        x: Any,
        y: Any,
        edge_features: ArrayLike,
        senders: ArrayLike,
        receivers: ArrayLike,
        *,
        mask: ArrayLike | None = None,
        indices_are_sorted: bool = False,
    ) -> Any:
        """The messages' sums.

        Args:
            x: signals of nodes, `(N, C, (L1 + 1)^2)`, or an IrrepsArray of multiplicity C.
            y: signals of edges, `(E, 1, (L2 + 1)^2)`, or an IrrepsArray of multiplicity 1.
            edge_features: `(E, F)`.
            senders: integers `(E,)`.
            receivers: integers `(E,)`. Under `jax.jit` indices out of range cannot be refused, and
                give NaN, as in `gaunt_message_passing`.
            mask: bool `(E,)`, False for edges that only fill up; their y and features may be
                anything.
            indices_are_sorted: whether receivers do not decrease.

        Returns:
            `(N, C, (L3 + 1)^2)` in the dtype of the computation, or an IrrepsArray.

        Raises:
            ValueError: shapes, degrees or indices that do not fit.
        """
        with jax.named_scope(f"structlayers.{type(self).__name__}"):
            x, x_parity = take_channels("x", x, self.channels, self.lmax1)
            y, y_parity = take_channels("y", y, 1, self.lmax2)
            dtype = x.dtype if self.dtype is None else self.dtype
            features = jnp.asarray(edge_features)
            if features.shape != (y.shape[0], self.edge_features):
                raise ValueError(
                    f"edge_features must have shape (E, F) = {(y.shape[0], self.edge_features)}, "
                    f"got {features.shape}"
                )
            keep = None if mask is None else check_mask(mask, y.shape[0])
            w1, w3 = self._weights(blank_edges(features, keep), dtype)
            z = gaunt_message_passing(
                x.astype(dtype),
                y.astype(dtype),
                senders,
                receivers,
                lmax=self.lmax3,
                weights=(w1, None, w3),
                mask=keep,
                indices_are_sorted=indices_are_sorted,
                grid=self.grid,
                precision=self.precision,
                implementation=self.implementation,
            )
            return pack(z, product_parity(x_parity, y_parity))

    def _weights(self, features: jax.Array, dtype: Dtype) -> tuple[jax.Array, jax.Array]:
        """Weights of the degrees of x and of the result, `(E, C, L + 1)`."""
        kernel = jnp.asarray(self.kernel[...], dtype)
        precision = jax.lax.Precision.HIGHEST
        weights = jnp.matmul(features.astype(dtype), kernel, precision=precision)
        weights = weights.reshape(features.shape[0], self.channels, self.lmax1 + self.lmax3 + 2)
        variance = product_variance(self.lmax1, self.lmax2, self.lmax3) * self.num_neighbors
        scale = jnp.asarray(1 / np.sqrt(variance), dtype)
        w1, w3 = jnp.split(weights, [self.lmax1 + 1], axis=-1)
        return w1, w3 * scale.reshape(1, 1, -1)
