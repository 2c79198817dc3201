"""A linear layer whose matrix is a product of butterflies."""

import dataclasses
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from flax.nnx.nn import dtypes
from flax.typing import Dtype, Initializer
from jax.typing import ArrayLike

from structlayers._core import layers as _core
from structlayers._core.checks import (
    next_power_of_two,
    require_positive,
    require_power_of_two,
)
from structlayers._core.precision import PrecisionLike, canonicalize_precision
from structlayers.butterfly import initializers
from structlayers.butterfly.factorize import factorize_butterfly
from structlayers.butterfly.factors import twiddle_shape
from structlayers.butterfly.layers import _shared
from structlayers.butterfly.operator import ButterflyOperator


class ButterflyLinear(nnx.Module):
    """`y = (B_K P_K ... B_1 P_1 x)[:out] + b`: a linear layer with `O(N log N)` parameters.

    The arguments of `flax.nnx.Linear` and more, at any sizes: inputs are padded with zeros to
    `N = 2**ceil(log2 in_features)` (at least 2), `ceil(out_features / N)` butterflies stand side by
    side, and their outputs are cut. `2 N log2 N` parameters a butterfly, or `4 (N - 1)` when tied.

    Args:
        in_features: size of the last axis of the inputs.
        out_features: size of the last axis of the outputs.
        use_bias: whether to add a bias.
        dtype: the dtype of the computation; None is inferred from inputs and parameters. Real
            when `complex` is set: it then names the precision of both parts.
        param_dtype: real dtype of the parameters.
        precision: of the products; None is the highest (see `structlayers`' precision rules).
        kernel_init: initializer of the twiddle, `(key, shape, dtype)` with a shape that ends in
            `(2, 2)`; complex values are asked for when `complex` is set. The default draws Haar
            orthogonal (unitary) 2 x 2 blocks: the layer starts as an isometry, cut to size.
        bias_init: initializer of the bias; zeros as in `nnx.Linear` (the paper's layers draw it
            from `U(-1/sqrt(in_features), 1/sqrt(in_features))`).
        promote_dtype: casts the tuple of inputs and parameters to `dtype`.
        tied: all 2 x 2 blocks of a factor at the same offset share their values.
        size: transform size N, a power of two that holds the inputs; None is the smallest (at least
            2). A larger one widens the class: `N = 2 * in_features` reaches Toeplitz matrices.
        num_blocks: number of butterflies in a row, K.
        increasing_stride: whether the first butterfly multiplies strides 1, 2, ..., N/2.
        alternating: whether the direction alternates from one butterfly to the next.
        permutation: before each butterfly: None, "bit_reversal", or indices `(N,)` or `(K, N)`,
            fixed and part of the layer's definition rather than of its state.
        output_permutation: order in which the result of each stack is read: None, "bit_reversal"
            or indices `(N,)`.
        complex: complex twiddles (and, without `real_part`, a complex bias), stored as pairs of
            reals on a last axis of 2.
        real_part: for `complex`: give the real part of the product, for real inputs.
        implementation: of `butterfly_multiply`; None chooses.
        rngs: random keys; `params` is used.
        kernel_metadata: metadata of the twiddle parameter, such as `out_sharding`.
        bias_metadata: metadata of the bias parameter.

    Raises:
        ValueError: a size below 1, or a permutation of another size or unknown name.
        TypeError: a dtype that is not real where `complex` is set, or a complex `param_dtype`.

    Example:
        >>> import jax.numpy as jnp
        >>> from flax import nnx
        >>> layer = ButterflyLinear(10, 3, rngs=nnx.Rngs(0))
        >>> layer(jnp.ones((5, 10))).shape, layer.twiddle.shape
        ((5, 3), (1, 1, 4, 8, 2, 2))

    References:
        Dao, Gu, Eichhorn, Rudra, Ré, "Learning Fast Algorithms for Linear Transforms Using
        Butterfly Factorizations", 2019, arXiv:1903.05895, sections 3.2 and 4.2.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        *,
        use_bias: bool = True,
        dtype: Dtype | None = None,
        param_dtype: Dtype = jnp.float32,
        precision: PrecisionLike = None,
        kernel_init: Initializer = initializers.orthogonal,
        bias_init: Initializer = nnx.initializers.zeros,
        promote_dtype: _core.PromoteDtype = dtypes.promote_dtype,
        tied: bool = False,
        size: int | None = None,
        num_blocks: int = 1,
        increasing_stride: bool = True,
        alternating: bool = True,
        permutation: _shared.PermutationLike = None,
        output_permutation: _shared.PermutationLike = None,
        complex: bool = False,
        real_part: bool = True,
        implementation: str | None = None,
        rngs: nnx.Rngs,
        kernel_metadata: Mapping[str, Any] = MappingProxyType({}),
        bias_metadata: Mapping[str, Any] = MappingProxyType({}),
    ):
        self.in_features = require_positive("in_features", in_features)
        self.out_features = require_positive("out_features", out_features)
        self.num_blocks = require_positive("num_blocks", num_blocks)
        _core.require_real_dtype("param_dtype", param_dtype, _shared.PAIRS_HINT)
        if complex:
            _core.require_real_dtype("dtype", dtype, _shared.PAIRS_HINT)
        canonicalize_precision(precision)
        self.size = max(2, next_power_of_two(in_features))
        if size is not None:
            self.size = require_power_of_two("size", size)
            if size < in_features:
                raise ValueError(f"size must be at least in_features = {in_features}, got {size}")
        self.num_stacks = -(-out_features // self.size)
        self.permutation = _shared.static_permutation(
            "permutation", permutation, self.size, num_blocks
        )
        self.output_permutation = _shared.static_permutation(
            "output_permutation", output_permutation, self.size
        )

        # Pairs of reals, because jax.grad of a real loss in a complex parameter is the conjugate
        # of the direction of ascent: an optimiser that subtracts it climbs in the imaginary part.
        shape = twiddle_shape(self.size, stacks=self.num_stacks, blocks=num_blocks, tied=tied)
        init = _shared.initial_pairs(kernel_init) if complex else kernel_init
        self.twiddle = nnx.Param(init(rngs.params(), shape, param_dtype), **kernel_metadata)
        self.bias: nnx.Param[jax.Array] | None
        if use_bias:
            init = _shared.initial_pairs(bias_init) if complex and not real_part else bias_init
            bias = init(rngs.params(), (out_features,), param_dtype)
            self.bias = nnx.Param(bias, **bias_metadata)
        else:
            self.bias = nnx.data(None)

        self.use_bias = use_bias
        self.dtype = dtype
        self.param_dtype = param_dtype
        self.precision = precision
        self.promote_dtype = promote_dtype
        self.tied = tied
        self.increasing_stride = increasing_stride
        self.alternating = alternating
        self.complex = complex
        self.real_part = real_part
        self.implementation = implementation

    def __call__(self, inputs: ArrayLike, out_sharding: Any = None) -> jax.Array:
        """Applies the layer along the last axis.

        Args:
            inputs: `(*B, in_features)`, real or complex.
            out_sharding: sharding of the result, on a mesh of explicit axes.

        Returns:
            `(*B, out_features)` in the promoted dtype; complex if the inputs are, or if `complex`
            is set and `real_part` is not.

        Raises:
            ValueError: the last axis is not `in_features` long, or complex inputs meet `real_part`.
        """
        _core.require_features("inputs", inputs, self.in_features)
        with jax.named_scope("structlayers.ButterflyLinear"):
            product = self._complex_product if self.complex else self._real_product
            return _core.reshard(product(inputs), out_sharding)

    def _real_product(self, inputs: ArrayLike) -> jax.Array:
        bias = None if self.bias is None else self.bias[...]
        parts = (inputs, self.twiddle[...], bias)
        inputs, twiddle, bias = self.promote_dtype(parts, dtype=self.dtype)
        return _core.add_bias(self._multiply(inputs, twiddle), bias)

    def _complex_product(self, inputs: ArrayLike) -> jax.Array:
        if self.real_part and jnp.iscomplexobj(inputs):
            raise ValueError(
                f"inputs are {jnp.result_type(inputs)}, and the layer gives the real part of its "
                "product, which is linear in real inputs only: make it with real_part=False"
            )
        params = (self.twiddle[...], None if self.bias is None else self.bias[...])
        inputs, (twiddle, bias) = _shared.promote_as_reals(
            self.promote_dtype, inputs, params, self.dtype
        )
        outputs = self._multiply(inputs, _shared.from_pairs(twiddle))
        if self.real_part:
            return _core.add_bias(outputs.real.astype(twiddle.dtype), bias)
        return _core.add_bias(outputs, None if bias is None else _shared.from_pairs(bias))

    def _multiply(self, inputs: jax.Array, twiddle: jax.Array) -> jax.Array:
        operator = self._operator(twiddle)
        return operator(inputs, precision=self.precision, implementation=self.implementation)

    def _operator(self, twiddle: jax.Array) -> ButterflyOperator:
        return ButterflyOperator(
            twiddle,
            permutation=_shared.indices(self.permutation),
            output_permutation=_shared.indices(self.output_permutation),
            increasing_stride=self.increasing_stride,
            alternating=self.alternating,
            in_features=self.in_features,
            out_features=self.out_features,
        )

    def operator(self) -> ButterflyOperator:
        """The layer without its bias, as the operator that `from_operator` takes."""
        twiddle = self.twiddle[...]
        if not self.complex:
            return self._operator(twiddle)
        operator = self._operator(_shared.from_pairs(twiddle))
        return dataclasses.replace(operator, real_part=self.real_part)

    def dense_kernel(self) -> jax.Array:
        """The kernel `(in_features, out_features)` of the `nnx.Linear` that computes the same.

        Returns:
            Array, complex if `complex` is set and `real_part` is not.
        """
        return self.operator().to_dense().T

    @classmethod
    def from_operator(
        cls, operator: ButterflyOperator, *, rngs: nnx.Rngs | None = None, **options: Any
    ) -> "ButterflyLinear":
        """A layer that starts as an operator, such as an exact transform, and can be trained on.

        Args:
            operator: its twiddle is copied; permutations, sizes and order are taken over.
            rngs: random keys, needed where `bias_init` draws.
            **options: further arguments of the class, such as `use_bias=False` and `param_dtype`
                (the twiddle's own precision if it is not given).

        Returns:
            The layer.

        Example:
            >>> import jax.numpy as jnp
            >>> from structlayers.butterfly import hadamard
            >>> layer = ButterflyLinear.from_operator(hadamard(4))
            >>> layer(jnp.array([1.0, 0.0, 0.0, 0.0])).tolist()
            [1.0, 1.0, 1.0, 1.0]
        """
        stored = operator.twiddle
        rows, columns = operator.shape

        def kernel_init(key: jax.Array, shape: tuple[int, ...], dtype: Dtype) -> jax.Array:
            del key
            return stored.reshape(shape).astype(dtype)

        settings: dict[str, Any] = {
            "param_dtype": jnp.finfo(stored.dtype).dtype,
            "tied": operator.sizes.tied,
            "size": operator.sizes.size,
            "num_blocks": operator.sizes.blocks,
            "increasing_stride": operator.increasing_stride,
            "alternating": operator.alternating,
            "permutation": operator.permutation,
            "output_permutation": operator.output_permutation,
            "complex": jnp.iscomplexobj(stored),
            "real_part": operator.real_part,
        }
        return cls(
            columns,
            rows,
            kernel_init=kernel_init,
            rngs=nnx.Rngs(0) if rngs is None else rngs,
            **settings | options,
        )

    @classmethod
    def from_linear(
        cls,
        linear: nnx.Linear,
        *,
        tied: bool = False,
        increasing_stride: bool = True,
        permutation: _shared.PermutationLike = None,
        **options: Any,
    ) -> "ButterflyLinear":
        """The butterfly nearest to a dense layer, by hierarchical rank-one projections.

        Exact where the kernel is one butterfly after the permutation, an approximation elsewhere:
        compare `dense_kernel()` with the kernel. Runs on the host, outside `jit`.

        Args:
            linear: its kernel, padded with zeros to `(N, S N)`, is factorized stack by stack; its
                bias, dtypes and precision are taken over.
            tied: as in the class.
            increasing_stride: as in the class.
            permutation: None, "bit_reversal" or indices `(N,)`.
            **options: further arguments of the class, such as `dtype`.

        Returns:
            The layer.

        Example:
            >>> from flax import nnx
            >>> linear = nnx.Linear(6, 3, rngs=nnx.Rngs(0))
            >>> ButterflyLinear.from_linear(linear).twiddle.shape
            (1, 1, 3, 4, 2, 2)
        """
        kernel = np.asarray(linear.kernel[...])
        columns, rows = kernel.shape
        size = max(2, next_power_of_two(columns))
        order = _shared.indices(_shared.static_permutation("permutation", permutation, size, 1))
        stacks = -(-rows // size)
        dense = np.zeros((stacks * size, size), kernel.dtype)
        dense[:rows, :columns] = kernel.T
        factored = [
            factorize_butterfly(
                block, permutation=order, tied=tied, increasing_stride=increasing_stride
            )[0]
            for block in dense.reshape(stacks, size, size)
        ]
        operator = dataclasses.replace(
            factored[0],
            twiddle=jnp.concatenate([part.twiddle for part in factored]),
            in_features=columns,
            out_features=rows,
        )
        return cls.from_operator(operator, **_core.linear_options(linear) | options)
