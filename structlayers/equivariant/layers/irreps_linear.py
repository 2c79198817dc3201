"""The equivariant linear layer: channels of one irrep mix, orders do not."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import e3nn_jax as e3nn
import jax
import jax.numpy as jnp
from flax import nnx
from flax.nnx.nn import dtypes
from flax.typing import Dtype, Initializer
from jax.typing import ArrayLike

from structlayers._core.checks import require_positive
from structlayers._core.layers import PromoteDtype, require_real_dtype
from structlayers._core.precision import PrecisionLike, canonicalize_precision
from structlayers.equivariant.layers._base import IrrepsLike, require_irreps, take_species

default_kernel_init = nnx.initializers.variance_scaling(1.0, "fan_in", "normal")


class IrrepsLinear(nnx.Module):
    r"""`y^{(l)}_{c' m} = sum_c W^{(l)}_{c c'} x^{(l)}_{c m} + b_{c'}`, one matrix for each irrep.

    Equivariant under rotations and inversion; the bias is for even scalars, `0e`, alone. Kernels of
    variance `1 / C_in`.

    Args:
        irreps_in: of the inputs; equal irreps are gathered.
        irreps_out: of the outputs, each of which is among those of the inputs.
        num_species: with a number, a kernel and bias for each species, chosen by an index.
        use_bias: whether `0e` outputs have a bias.
        dtype: the dtype of the computation; None is inferred from inputs and parameters.
        param_dtype: real dtype of the parameters.
        precision: of the products; None is the highest (see `structlayers`' precision rules).
        kernel_init: initializer of each kernel, called with `(C_in, C_out)`.
        bias_init: initializer of the bias.
        promote_dtype: casts the tuple of inputs and parameters to `dtype`.
        rngs: random keys; `params` is used.
        kernel_metadata: metadata of the kernels, such as `out_sharding`.
        bias_metadata: metadata of the bias.

    Raises:
        ValueError: an irrep of the outputs that the inputs lack; no species.
        TypeError: `param_dtype` is not real floating point.

    Example:
        >>> layer = IrrepsLinear("8x0e + 8x1o", "4x0e + 2x1o", rngs=nnx.Rngs(0))
        >>> layer(e3nn.IrrepsArray("8x0e + 8x1o", jnp.ones((5, 32)))).irreps
        4x0e+2x1o

    References:
        Geiger, Smidt, "e3nn: Euclidean Neural Networks", 2022, arXiv:2207.09453, section 4.
    """

    def __init__(
        self,
        irreps_in: IrrepsLike,
        irreps_out: IrrepsLike,
        *,
        num_species: int | None = None,
        use_bias: bool = False,
        dtype: Dtype | None = None,
        param_dtype: Dtype = jnp.float32,
        precision: PrecisionLike = None,
        kernel_init: Initializer = default_kernel_init,
        bias_init: Initializer = nnx.initializers.zeros,
        promote_dtype: PromoteDtype = dtypes.promote_dtype,
        rngs: nnx.Rngs,
        kernel_metadata: Mapping[str, Any] = MappingProxyType({}),
        bias_metadata: Mapping[str, Any] = MappingProxyType({}),
    ):
        self.irreps_in = e3nn.Irreps(irreps_in).regroup()
        self.irreps_out = e3nn.Irreps(irreps_out).regroup()
        available = {ir: mul for mul, ir in self.irreps_in}
        for _, ir in self.irreps_out:
            if ir not in available:
                raise ValueError(f"irreps_out has {ir}, which irreps_in, {irreps_in}, lacks")
        require_real_dtype("param_dtype", param_dtype)
        self.num_species = (
            None if num_species is None else require_positive("num_species", num_species)
        )
        self.dtype = dtype
        self.precision = canonicalize_precision(precision)
        self.promote_dtype = promote_dtype
        copies = self.num_species or 1

        def kernel(shape: tuple[int, int]) -> jax.Array:
            made = [kernel_init(rngs.params(), shape, param_dtype) for _ in range(copies)]
            return made[0] if self.num_species is None else jnp.stack(made)

        self.kernels = nnx.Dict(
            {
                str(ir): nnx.Param(kernel((available[ir], mul)), **kernel_metadata)
                for mul, ir in self.irreps_out
            }
        )
        scalars = sum(mul for mul, ir in self.irreps_out if str(ir) == "0e")
        self.bias: nnx.Param[jax.Array] | None = nnx.data(None)
        if use_bias and scalars:
            shape = (scalars,) if self.num_species is None else (copies, scalars)
            self.bias = nnx.Param(bias_init(rngs.params(), shape, param_dtype), **bias_metadata)

    def __call__(
        self, inputs: e3nn.IrrepsArray, species: ArrayLike | None = None
    ) -> e3nn.IrrepsArray:
        """Mixes the channels of every irrep.

        Args:
            inputs: `(*B, irreps_in)`.
            species: int `(*B,)`, in `[0, num_species)`, where there are species. Under `jax.jit`
                an index out of range cannot be refused: its row is NaN.

        Returns:
            `(*B, irreps_out)` in the promoted dtype, equal irreps together.

        Raises:
            ValueError: other irreps; species missing, given where there are none, or out of range.
        """
        inputs = require_irreps("inputs", inputs, self.irreps_in)
        with jax.named_scope("structlayers.IrrepsLinear"):
            chunks = dict(zip((ir for _, ir in inputs.irreps), inputs.chunks, strict=True))
            outputs: list[jax.Array | None] = []
            dtype = inputs.array.dtype
            for _, ir in self.irreps_out:
                kernel = take_species(self.kernels[str(ir)][...], species, self.num_species)
                x, kernel = self.promote_dtype((chunks[ir], kernel), dtype=self.dtype)
                equation = "...ci,cd->...di" if species is None else "...ci,...cd->...di"
                y = jnp.einsum(equation, x, kernel, precision=self.precision)
                if self.bias is not None and str(ir) == "0e":
                    bias = take_species(self.bias[...], species, self.num_species)
                    bias = bias.astype(y.dtype)[..., None]
                    y = y + bias.reshape((1,) * (y.ndim - bias.ndim) + bias.shape)
                outputs.append(y)
                dtype = y.dtype
            return e3nn.from_chunks(self.irreps_out, outputs, inputs.shape[:-1], dtype)
