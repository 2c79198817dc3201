"""A linear layer whose matrix is a Monarch matrix: two block-diagonal factors."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from flax.nnx.nn import dtypes
from flax.typing import Dtype, Initializer
from jax.typing import ArrayLike

from structlayers._core import layers as _core
from structlayers._core.precision import PrecisionLike, canonicalize_precision
from structlayers.butterfly.monarch import monarch_shapes, monarch_to_dense, project_to_monarch
from structlayers.butterfly.ops.monarch import monarch_multiply

default_kernel_init = nnx.initializers.lecun_normal()


class MonarchLinear(nnx.Module):
    """`y = (P^T L P R x)[:out] + b` with block-diagonal `L`, `R`: two batched dense products.

    The arguments of `flax.nnx.Linear` and `num_blocks`, at any sizes: inputs are padded with zeros
    to `k p`, `p = ceil(in / k)`; `R` has k blocks `(q, p)` and `L` l blocks `(s, r)`,
    `s = ceil(out / l)`, `k q = l r`; outputs are cut. With `k = l` that is `k q (p + s)`
    parameters, `2 / k` of a square dense kernel, and every output sees every input if `q >= k`.

    Args:
        in_features: size of the last axis of the inputs.
        out_features: size of the last axis of the outputs.
        num_blocks: number of blocks of each factor, or k and l; 4 is usual, the square root of the
            size is the cheapest.
        block_rank: rank of the `k l` blocks that the matrix falls into; None is as much as the
            smaller side allows.
        use_bias: whether to add a bias.
        dtype: the dtype of the computation; None is inferred from inputs and parameters.
        param_dtype: real dtype of the parameters.
        precision: of the products; None is the highest (see `structlayers`' precision rules).
        kernel_init: initializer of one block, called with the block's `(inputs, outputs)` and its
            own key as for the kernel of a small `nnx.Linear`.
        bias_init: initializer of the bias.
        promote_dtype: casts the tuple of inputs and parameters to `dtype`.
        implementation: of `monarch_multiply`; None chooses.
        rngs: random keys; `params` is used.
        kernel_metadata: metadata of the two factors, such as `out_sharding` with three names.
        bias_metadata: metadata of the bias.

    Raises:
        ValueError: a size below 1.
        TypeError: `param_dtype` is not real floating point.

    Example:
        >>> import jax.numpy as jnp
        >>> from flax import nnx
        >>> layer = MonarchLinear(10, 6, num_blocks=3, rngs=nnx.Rngs(0))
        >>> layer(jnp.ones((5, 10))).shape, layer.blocks1.shape, layer.blocks2.shape
        ((5, 6), (3, 2, 4), (3, 2, 2))

    References:
        Dao, Chen, Sohoni, Desai, Poli, Grogan, Liu, Rao, Rudra, Ré, "Monarch: Expressive Structured
        Matrices for Efficient and Accurate Training", 2022, arXiv:2204.00595, section 3.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        *,
        num_blocks: int | tuple[int, int] = 4,
        block_rank: int | None = None,
        use_bias: bool = True,
        dtype: Dtype | None = None,
        param_dtype: Dtype = jnp.float32,
        precision: PrecisionLike = None,
        kernel_init: Initializer = default_kernel_init,
        bias_init: Initializer = nnx.initializers.zeros,
        promote_dtype: _core.PromoteDtype = dtypes.promote_dtype,
        implementation: str | None = None,
        rngs: nnx.Rngs,
        kernel_metadata: Mapping[str, Any] = MappingProxyType({}),
        bias_metadata: Mapping[str, Any] = MappingProxyType({}),
    ):
        shapes = monarch_shapes(in_features, out_features, num_blocks, block_rank=block_rank)
        _core.require_real_dtype("param_dtype", param_dtype)
        canonicalize_precision(precision)

        def factor(shape: tuple[int, int, int]) -> nnx.Param[jax.Array]:
            blocks, outputs, inputs = shape

            def block(key: jax.Array) -> jax.Array:
                values = kernel_init(key, (inputs, outputs), param_dtype)
                if isinstance(values, nnx.VariableMetadata):
                    raise TypeError(
                        "kernel_init must return the array of one block, got one with metadata: "
                        "name the three axes of a factor by kernel_metadata instead"
                    )
                return values.T

            keys = jax.random.split(rngs.params(), blocks)
            return nnx.Param(jax.vmap(block)(keys), **kernel_metadata)

        self.blocks1 = factor(shapes[0])  # (k, q, p)
        self.blocks2 = factor(shapes[1])  # (l, s, r)
        self.bias: nnx.Param[jax.Array] | None
        if use_bias:
            bias = bias_init(rngs.params(), (out_features,), param_dtype)
            self.bias = nnx.Param(bias, **bias_metadata)
        else:
            self.bias = nnx.data(None)

        self.in_features = in_features
        self.out_features = out_features
        self.num_blocks = num_blocks
        self.block_rank = block_rank
        self.use_bias = use_bias
        self.dtype = dtype
        self.param_dtype = param_dtype
        self.precision = precision
        self.promote_dtype = promote_dtype
        self.implementation = implementation

    def __call__(self, inputs: ArrayLike, out_sharding: Any = None) -> jax.Array:
        """Applies the layer along the last axis.

        Args:
            inputs: `(*B, in_features)`, real or complex.
            out_sharding: sharding of the result, on a mesh of explicit axes.

        Returns:
            `(*B, out_features)` in the promoted dtype.

        Raises:
            ValueError: the last axis is not `in_features` long.
        """
        _core.require_features("inputs", inputs, self.in_features)
        with jax.named_scope("structlayers.MonarchLinear"):
            bias = None if self.bias is None else self.bias[...]
            parts = (inputs, self.blocks1[...], self.blocks2[...], bias)
            x, blocks1, blocks2, bias = self.promote_dtype(parts, dtype=self.dtype)
            outputs = monarch_multiply(
                x,
                blocks1,
                blocks2,
                out_features=self.out_features,
                precision=self.precision,
                implementation=self.implementation,
            )
            return _core.reshard(_core.add_bias(outputs, bias), out_sharding)

    def dense_kernel(self) -> jax.Array:
        """The kernel `(in_features, out_features)` of the `nnx.Linear` that computes the same."""
        return monarch_to_dense(
            self.blocks1[...],
            self.blocks2[...],
            in_features=self.in_features,
            out_features=self.out_features,
        ).T

    @classmethod
    def from_linear(
        cls,
        linear: nnx.Linear,
        *,
        num_blocks: int | tuple[int, int] = 4,
        block_rank: int | None = None,
        **options: Any,
    ) -> "MonarchLinear":
        """The Monarch layer nearest to a dense one in the Frobenius norm of the kernel.

        Args:
            linear: its kernel is projected; its bias, dtypes and precision are taken over.
            num_blocks: as in the class.
            block_rank: as in the class.
            **options: further arguments of the class, such as `dtype`.

        Returns:
            The layer.

        Raises:
            TypeError: the kernel is complex.

        Example:
            >>> from flax import nnx
            >>> linear = nnx.Linear(8, 16, rngs=nnx.Rngs(0))
            >>> MonarchLinear.from_linear(linear, num_blocks=2).blocks2.shape
            (2, 8, 4)

        References:
            Dao et al., 2022, arXiv:2204.00595, section 3.3.
        """
        _core.require_real_dtype("the kernel of linear", linear.param_dtype)
        blocks = project_to_monarch(linear.kernel[...].T, num_blocks, block_rank=block_rank)
        settings: dict[str, Any] = {
            **_core.linear_options(linear),
            "num_blocks": num_blocks,
            "block_rank": block_rank,
            "kernel_init": nnx.initializers.zeros,
            "rngs": nnx.Rngs(0),
        }
        layer = cls(linear.in_features, linear.out_features, **settings | options)
        for param, values in zip((layer.blocks1, layer.blocks2), blocks, strict=True):
            param[...] = values.astype(param.dtype)
        return layer
