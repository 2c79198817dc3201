"""A butterfly that stays orthogonal, or unitary, whatever the optimiser does."""

import math
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
from structlayers._core.checks import require_choice, require_positive, require_power_of_two
from structlayers._core.precision import (
    PrecisionLike,
    accumulation_dtype,
    canonicalize_precision,
)
from structlayers.butterfly import initializers
from structlayers.butterfly.factors import twiddle_shape
from structlayers.butterfly.layers import _shared
from structlayers.butterfly.operator import ButterflyOperator
from structlayers.butterfly.parametrizations import (
    rotation_twiddle,
    unitary_angles,
    unitary_twiddle,
)


def haar_angles(key: jax.Array, shape: tuple[int, ...], dtype: Dtype) -> jax.Array:
    """Angles of rotations (or reflections) that are Haar distributed: uniform in `[0, 2 pi)`."""
    draw = accumulation_dtype(dtype)
    return jax.random.uniform(key, shape, draw, maxval=2 * math.pi).astype(dtype)


def haar_unitary_angles(key: jax.Array, shape: tuple[int, ...], dtype: Dtype) -> jax.Array:
    """Angles `(..., 4)` of Haar distributed elements of U(2), in `unitary_twiddle`'s order."""
    blocks = initializers.orthogonal(key, (*shape[:-1], 2, 2), _shared.complex_dtype(dtype))
    return unitary_angles(blocks).astype(dtype)


class OrthogonalButterfly(nnx.Module):
    """`y = B_K P_K ... B_1 P_1 x` with orthogonal 2 x 2 blocks given by their angles.

    One angle a block, `N/2 log2 N` a butterfly; four when unitary. Any real value of an angle is
    valid, so every optimiser step keeps `|y| = |x|` exactly, to the rounding of the computation.
    Blocks are made and products summed in float32 at least, whatever the dtype of the result.

    Args:
        features: size N of the last axis, a power of two (padding would break orthogonality).
        complex: unitary blocks; the result is then complex, whatever the inputs.
        reflection: real blocks of determinant -1, `[[c, s], [s, -c]]`, which reach the Hadamard
            transform, instead of rotations `[[c, -s], [s, c]]`, which reach the identity.
        use_bias: whether to add a bias; off by default, as it breaks orthogonality.
        dtype: real dtype of the computation; None is inferred from inputs and parameters.
        param_dtype: real dtype of the angles.
        precision: of the products; None is the highest.
        init: "haar" (each block uniform over its group), "identity", or an initializer of angles
            `(key, shape, dtype)`, the last axis being 4 when `complex`.
        bias_init: initializer of the bias.
        promote_dtype: casts the tuple of inputs and bias to `dtype`.
        tied: all blocks of a factor at the same offset share their angle.
        num_blocks: number of butterflies in a row, K.
        increasing_stride: whether the first butterfly multiplies strides 1, 2, ..., N/2.
        alternating: whether the direction alternates from one butterfly to the next.
        permutation: before each butterfly: None, "bit_reversal", or indices `(N,)` or `(K, N)`.
        implementation: of `butterfly_multiply`; None chooses.
        rngs: random keys; `params` is used.
        kernel_metadata: metadata of the angles, such as `out_sharding`.
        bias_metadata: metadata of the bias.

    Raises:
        ValueError: `features` is no power of two, `init` is unknown or "identity" with
            `reflection`, `reflection` is set with `complex`, or a permutation does not fit.
        TypeError: `dtype` or `param_dtype` is not real floating point.

    Example:
        >>> import jax.numpy as jnp
        >>> from flax import nnx
        >>> layer = OrthogonalButterfly(8, rngs=nnx.Rngs(0))
        >>> x = jnp.arange(8.0)
        >>> bool(jnp.allclose(jnp.linalg.norm(layer(x)), jnp.linalg.norm(x), rtol=1e-6))
        True

    References:
        Dao, Gu, Eichhorn, Rudra, Ré, "Learning Fast Algorithms for Linear Transforms Using
        Butterfly Factorizations", 2019, arXiv:1903.05895; github.com/HazyResearch/butterfly
        (parametrization "ortho", class ButterflyUnitary).
    """

    def __init__(
        self,
        features: int,
        *,
        complex: bool = False,
        reflection: bool = False,
        use_bias: bool = False,
        dtype: Dtype | None = None,
        param_dtype: Dtype = jnp.float32,
        precision: PrecisionLike = None,
        init: Initializer | str = "haar",
        bias_init: Initializer = nnx.initializers.zeros,
        promote_dtype: _core.PromoteDtype = dtypes.promote_dtype,
        tied: bool = False,
        num_blocks: int = 1,
        increasing_stride: bool = True,
        alternating: bool = True,
        permutation: _shared.PermutationLike = None,
        implementation: str | None = None,
        rngs: nnx.Rngs,
        kernel_metadata: Mapping[str, Any] = MappingProxyType({}),
        bias_metadata: Mapping[str, Any] = MappingProxyType({}),
    ):
        self.features = require_power_of_two("features", features)
        self.num_blocks = require_positive("num_blocks", num_blocks)
        _core.require_real_dtype("param_dtype", param_dtype, _shared.PAIRS_HINT)
        _core.require_real_dtype("dtype", dtype, _shared.PAIRS_HINT)
        canonicalize_precision(precision)
        if complex and reflection:
            raise ValueError(
                "reflection must be False when complex is True: U(2) has one component"
            )
        self.permutation = _shared.static_permutation(
            "permutation", permutation, features, num_blocks
        )

        shape = twiddle_shape(features, blocks=num_blocks, tied=tied)[:-2]
        angles_init = _angles_init(init, complex=complex, reflection=reflection)
        angles = angles_init(rngs.params(), (*shape, 4) if complex else shape, param_dtype)
        self.angles = nnx.Param(angles, **kernel_metadata)
        self.bias: nnx.Param[jax.Array] | None
        if use_bias:
            make_bias = _shared.initial_pairs(bias_init) if complex else bias_init
            bias = make_bias(rngs.params(), (features,), param_dtype)
            self.bias = nnx.Param(bias, **bias_metadata)
        else:
            self.bias = nnx.data(None)

        self.complex = complex
        self.reflection = reflection
        self.use_bias = use_bias
        self.dtype = dtype
        self.param_dtype = param_dtype
        self.precision = precision
        self.promote_dtype = promote_dtype
        self.tied = tied
        self.increasing_stride = increasing_stride
        self.alternating = alternating
        self.implementation = implementation

    def __call__(self, inputs: ArrayLike, out_sharding: Any = None) -> jax.Array:
        """Applies the layer along the last axis.

        Args:
            inputs: `(*B, features)`, real or complex.
            out_sharding: sharding of the result, on a mesh of explicit axes.

        Returns:
            `(*B, features)`; complex if the inputs are or `complex` is set.

        Raises:
            ValueError: the last axis is not `features` long.
        """
        _core.require_features("inputs", inputs, self.features)
        with jax.named_scope("structlayers.OrthogonalButterfly"):
            bias = None if self.bias is None else self.bias[...]
            x, (angles, bias) = _shared.promote_as_reals(
                self.promote_dtype, inputs, (self.angles[...], bias), self.dtype
            )
            # blocks from the parameter itself: rounded angles would be other angles
            real = accumulation_dtype(jnp.finfo(x.dtype).dtype)
            twiddle = self.twiddle().astype(_shared.complex_dtype(real) if self.complex else real)
            operator = self._operator(twiddle)
            outputs = operator(x, precision=self.precision, implementation=self.implementation)
            if not jnp.iscomplexobj(outputs):
                outputs = outputs.astype(angles.dtype)
            elif self.complex and bias is not None:
                bias = _shared.from_pairs(bias)
            return _core.reshard(_core.add_bias(outputs, bias), out_sharding)

    def _operator(self, twiddle: jax.Array) -> ButterflyOperator:
        return ButterflyOperator(
            twiddle,
            permutation=_shared.indices(self.permutation),
            increasing_stride=self.increasing_stride,
            alternating=self.alternating,
        )

    def twiddle(self) -> jax.Array:
        """The orthogonal or unitary blocks, `(1, K, M, N/2, 2, 2)` or tied `(1, K, N-1, 2, 2)`."""
        angles = jnp.asarray(self.angles[...])
        angles = angles.astype(accumulation_dtype(angles.dtype))
        if self.complex:
            return unitary_twiddle(angles)
        return rotation_twiddle(angles, jnp.full(angles.shape, self.reflection))

    def operator(self) -> ButterflyOperator:
        """The layer without its bias, as an operator."""
        return self._operator(self.twiddle())

    def dense_kernel(self) -> jax.Array:
        """The kernel `(features, features)` of the `nnx.Linear` that computes the same."""
        return self.operator().to_dense().T


def _angles_init(init: Initializer | str, *, complex: bool, reflection: bool) -> Initializer:
    if callable(init):
        return init
    require_choice("init", init, ("haar", "identity"))
    if init == "identity":
        if reflection:
            raise ValueError("init='identity' needs reflection=False: a reflection is no identity")
        return nnx.initializers.zeros
    return haar_unitary_angles if complex else haar_angles
