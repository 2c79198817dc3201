"""What the layers of the family share: complex numbers as pairs, permutations, small checks."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from flax.typing import Dtype, Initializer
from jax.typing import ArrayLike

from structlayers._core import layers as _core
from structlayers.butterfly.permutations import bit_reversal_permutation, require_permutation

PAIRS_HINT = "complex values are stored as pairs of reals, with complex=True"

type PermutationLike = ArrayLike | Sequence[int] | str | None


def static_permutation(
    name: str, permutation: PermutationLike, size: int, blocks: int | None = None
) -> _core.StaticIndices | None:
    """The indices behind a layer's argument, checked: `(N,)`, or `(K, N)` where there are K blocks.

    Raises:
        TypeError: no integers.
        ValueError: an unknown name, another shape, or no permutation.
    """
    if permutation is None:
        return None
    if isinstance(permutation, str):
        if permutation != "bit_reversal":
            raise ValueError(f"{name} must be None, 'bit_reversal' or indices, got {permutation!r}")
        return _core.StaticIndices(bit_reversal_permutation(size))
    values = np.asarray(permutation)
    shapes = [(size,)] if blocks is None else [(size,), (blocks, size)]
    if values.shape not in shapes:
        wanted = " or ".join(map(str, shapes))
        raise ValueError(f"{name} must have shape {wanted}, got {values.shape}")
    require_permutation(name, values, size)
    return _core.StaticIndices(values)


def indices(permutation: _core.StaticIndices | None) -> np.ndarray | None:
    """The array of a static permutation; NumPy, so that an op knows its values."""
    return None if permutation is None else permutation.values


def complex_dtype(real_dtype: Dtype) -> Dtype:
    """complex128 for float64, complex64 for every narrower real dtype."""
    return jnp.complex128 if jnp.dtype(real_dtype) == jnp.float64 else jnp.complex64


def to_pairs(values: jax.Array, real_dtype: Dtype) -> jax.Array:
    """Complex `(...)` as real `(..., 2)`: real and imaginary parts."""
    return jnp.stack([values.real, values.imag], axis=-1).astype(real_dtype)


def from_pairs(pairs: ArrayLike) -> jax.Array:
    """Real `(..., 2)` as complex `(...)`; the inverse of `to_pairs`."""
    pairs = jnp.asarray(pairs)
    wide = pairs.astype(jnp.finfo(complex_dtype(pairs.dtype)).dtype)
    return jax.lax.complex(wide[..., 0], wide[..., 1])


def initial_pairs(init: Initializer) -> Callable[..., Any]:
    """An initializer of complex values as one of pairs: `(key, shape, real) -> (*shape, 2)`."""

    def pairs_init(key: jax.Array, shape: Sequence[int], dtype: Dtype) -> Any:
        values = init(key, tuple(shape), complex_dtype(dtype))
        if isinstance(values, nnx.VariableMetadata):  # from nnx.with_partitioning
            values.raw_value = to_pairs(values.raw_value, dtype)
            return values
        return to_pairs(jnp.asarray(values), dtype)

    return pairs_init


def promote_as_reals(
    promote_dtype: _core.PromoteDtype,
    inputs: ArrayLike,
    params: tuple[ArrayLike | None, ...],
    dtype: Dtype | None,
) -> tuple[jax.Array, list[Any]]:
    """Promotes inputs with real parameters, complex inputs taking part as two reals.

    So `dtype` and the parameters stay real, and the dtype to compute in is that of the parameters
    returned. Complex inputs come back complex64 at least, there being none of half precision.
    """
    if jnp.iscomplexobj(inputs):
        parts = (jnp.real(inputs), jnp.imag(inputs))
        real, imag, *params_ = promote_dtype((*parts, *params), dtype=dtype)
        return from_pairs(jnp.stack([real, imag], axis=-1)), params_
    inputs, *params_ = promote_dtype((inputs, *params), dtype=dtype)
    return inputs, params_
