"""Normalisation that commutes with rotations: by the length of irreps, never by their entries."""

import e3nn_jax as e3nn
import jax
import jax.numpy as jnp
from flax import nnx
from flax.typing import Dtype

from structlayers._core.layers import require_real_dtype
from structlayers._core.precision import accumulation_dtype
from structlayers.equivariant.layers._base import IrrepsLike, require_irreps


class IrrepsRMSNorm(nnx.Module):
    r"""Divides every irrep by the root mean square over its channels and orders.

    .. math:: y^{(l)}_{c m} = \gamma^{(l)}_c x^{(l)}_{c m} \Big/
        \sqrt{\frac{1}{C (2 l + 1)} \sum_{c m} (x^{(l)}_{c m})^2 + \epsilon}

    No mean is subtracted and nothing is mixed between irreps, so zero stays zero. Sums in float32.

    Args:
        irreps: of inputs and outputs; equal irreps are gathered.
        epsilon: added to the mean square.
        use_scale: whether there is a gamma.
        param_dtype: real dtype of gamma.
        rngs: not used, for the signature of Flax.

    Raises:
        TypeError: `param_dtype` is not real floating point.
        ValueError: `epsilon` is not positive: a zero vector would have no gradient.

    Example:
        >>> norm = IrrepsRMSNorm("2x0e + 1x1o", rngs=nnx.Rngs(0))
        >>> y = norm(e3nn.IrrepsArray("2x0e + 1x1o", jnp.array([3.0, 3.0, 0.0, 2.0, 0.0])))
        >>> print(y.array.round(4))
        [1.     1.     0.     1.7321 0.    ]

    References:
        Zhang, Sennrich, "Root Mean Square Layer Normalization", 2019, arXiv:1910.07467; for
        irreps: Liao, Wood, Das, Smidt, "EquiformerV2", 2023, arXiv:2306.12059, section 4.3.
    """

    def __init__(
        self,
        irreps: IrrepsLike,
        *,
        epsilon: float = 1e-6,
        use_scale: bool = True,
        param_dtype: Dtype = jnp.float32,
        rngs: nnx.Rngs,
    ):
        del rngs
        require_real_dtype("param_dtype", param_dtype)
        if not epsilon > 0:
            raise ValueError(f"epsilon must be positive, got {epsilon}")
        self.irreps = e3nn.Irreps(irreps).regroup()
        self.epsilon = epsilon
        self.scale: nnx.Param[jax.Array] | None = nnx.data(None)
        if use_scale:
            self.scale = nnx.Param(jnp.ones((self.irreps.num_irreps,), param_dtype))

    def __call__(self, inputs: e3nn.IrrepsArray) -> e3nn.IrrepsArray:
        """Normalises every row.

        Args:
            inputs: `(*B, irreps)`.

        Returns:
            The same irreps and dtype.

        Raises:
            ValueError: other irreps.
        """
        inputs = require_irreps("inputs", inputs, self.irreps)
        with jax.named_scope("structlayers.IrrepsRMSNorm"):
            dtype, wide = inputs.array.dtype, accumulation_dtype(inputs.array.dtype)
            outputs: list[jax.Array | None] = []
            start = 0
            for (mul, ir), at in zip(inputs.irreps, inputs.irreps.slices(), strict=True):
                x = inputs.array[..., at].reshape(*inputs.shape[:-1], mul, ir.dim).astype(wide)
                mean = jnp.mean(x**2, axis=(-2, -1), keepdims=True)
                y = x * jax.lax.rsqrt(mean + self.epsilon)
                if self.scale is not None:
                    scale = jnp.asarray(self.scale[...], wide)[start : start + mul, None]
                    y = y * scale.reshape((1,) * (y.ndim - 2) + scale.shape)
                outputs.append(y.astype(dtype))
                start += mul
            return e3nn.from_chunks(inputs.irreps, outputs, inputs.shape[:-1], dtype)
