"""What the layers of the family share: signals with channels."""

from typing import Any

import jax
from flax import nnx
from flax.typing import Dtype, Initializer

from structlayers._core.checks import require_positive
from structlayers._core.layers import require_real_dtype
from structlayers._core.precision import PrecisionLike
from structlayers.equivariant.ops.arguments import check_lmax
from structlayers.equivariant.signals import Parity, lmax_of, product_parity, unpack
from structlayers.equivariant.wigner import require_degree

default_weight_init = nnx.initializers.normal(1.0)


def take_channels(name: str, x: Any, channels: int, lmax: int) -> tuple[jax.Array, Parity | None]:
    """Coefficients `(*B, C, (L + 1)^2)` of exactly these sizes, and their parity.

    Raises:
        ValueError: other channels (1 passes where C may broadcast: 0 means any), another degree.
    """
    x, parity = unpack(name, x)
    found = lmax_of(name, x)
    if found != lmax:
        raise ValueError(f"{name} must be a signal of degree {lmax}, got degree {found}: {x.shape}")
    if x.ndim < 2 or channels not in (0, x.shape[-2]):
        raise ValueError(
            f"{name} must have shape (*B, {channels or 'C'}, {(lmax + 1) ** 2}), got {x.shape}"
        )
    return x, parity


class RankProduct(nnx.Module):
    """Sizes, weights and inputs of a product of two signals with R sets of weights.

    Args:
        channels: C.
        lmax1: degree of x.
        lmax2: degree of y.
        lmax3: degree of the result; None is `lmax1`.
        rank: R.
        dtype: of the computation; None is that of x.
        param_dtype: real dtype of the parameters.
        precision: of the op.
        weight_init: initializer of the three arrays of weights `(R, C, L + 1)`.
        implementation: of the op.
        rngs: random keys; `params` is used.

    Raises:
        ValueError: sizes or degrees that do not fit.
        TypeError: `param_dtype` or `dtype` is not real floating point.
    """

    def __init__(
        self,
        channels: int,
        lmax1: int,
        lmax2: int,
        lmax3: int | None,
        *,
        rank: int,
        dtype: Dtype | None,
        param_dtype: Dtype,
        precision: PrecisionLike,
        weight_init: Initializer,
        implementation: str | None,
        rngs: nnx.Rngs,
    ):
        self.channels = require_positive("channels", channels)
        self.lmax1 = require_degree("lmax1", lmax1)
        self.lmax2 = require_degree("lmax2", lmax2)
        self.lmax3 = check_lmax(self.lmax1 if lmax3 is None else lmax3, lmax1 + lmax2)
        self.rank = require_positive("rank", rank)
        require_real_dtype("dtype", dtype)
        require_real_dtype("param_dtype", param_dtype)
        self.dtype = dtype
        self.precision = precision
        self.implementation = implementation

        def weights(degree: int) -> nnx.Param:
            shape = (self.rank, self.channels, degree + 1)
            return nnx.Param(weight_init(rngs.params(), shape, param_dtype))

        self.w1, self.w2, self.w3 = map(weights, (self.lmax1, self.lmax2, self.lmax3))

    def _signals(self, x: Any, y: Any) -> tuple[jax.Array, jax.Array, Parity | None]:
        """Both inputs `(*B, 1, C, (L + 1)^2)` in the dtype of the computation; parity of both."""
        x, x_parity = take_channels("x", x, self.channels, self.lmax1)
        y, y_parity = take_channels("y", y, 0, self.lmax2)
        if y.shape[-2] not in (1, self.channels):
            raise ValueError(f"y must have {self.channels} channels or 1, got {y.shape}")
        dtype = x.dtype if self.dtype is None else self.dtype
        x, y = (signal[..., None, :, :].astype(dtype) for signal in (x, y))
        return x, y, product_parity(x_parity, y_parity)
