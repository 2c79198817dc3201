"""What the layers of the family share: complex numbers as pairs, permutations, small checks."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from flax.typing import Dtype, Initializer
from jax.typing import ArrayLike

from structlayers.butterfly.permutations import bit_reversal_permutation, require_permutation

PAIRS_HINT = "complex values are stored as pairs of reals, with complex=True"

# Flax's own PromoteDtypeFn is a protocol that cannot be checked at run time.
type PromoteDtype = Callable[..., Any]
type PermutationLike = ArrayLike | Sequence[int] | str | None


class StaticIndices:
    """An integer array as a static attribute: hashable, compared by value, no part of the state."""

    def __init__(self, values: np.ndarray):
        self.values = np.array(values, np.int32)
        self.values.setflags(write=False)
        self._hash = hash((self.values.shape, self.values.tobytes()))

    def __hash__(self) -> int:
        return self._hash

    def __eq__(self, other: object) -> bool:
        return self is other or (
            isinstance(other, StaticIndices) and np.array_equal(self.values, other.values)
        )

    def __repr__(self) -> str:
        return f"StaticIndices({np.array2string(self.values, threshold=8)})"


def static_permutation(
    name: str, permutation: PermutationLike, size: int, blocks: int | None = None
) -> StaticIndices | None:
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
        return StaticIndices(bit_reversal_permutation(size))
    values = np.asarray(permutation)
    shapes = [(size,)] if blocks is None else [(size,), (blocks, size)]
    if values.shape not in shapes:
        wanted = " or ".join(map(str, shapes))
        raise ValueError(f"{name} must have shape {wanted}, got {values.shape}")
    require_permutation(name, values, size)
    return StaticIndices(values)


def indices(permutation: StaticIndices | None) -> np.ndarray | None:
    """The array of a static permutation; NumPy, so that an op knows its values."""
    return None if permutation is None else permutation.values


def linear_options(linear: nnx.Linear) -> dict[str, Any]:
    """The arguments that a layer takes over from the `nnx.Linear` it stands in for."""
    bias = None if linear.bias is None else linear.bias[...]

    def bias_init(key: jax.Array, shape: Sequence[int], dtype: Dtype) -> jax.Array:
        del key, shape
        assert bias is not None
        return bias.astype(dtype)

    is_complex = jnp.issubdtype(linear.param_dtype, jnp.complexfloating)
    options = {
        "use_bias": bias is not None,
        "dtype": None if is_complex else linear.dtype,
        "param_dtype": jnp.finfo(linear.param_dtype).dtype,
        "precision": linear.precision,
        "promote_dtype": linear.promote_dtype,
    }
    return options if bias is None else options | {"bias_init": bias_init}


def require_real_dtype(name: str, dtype: Dtype | None, hint: str = "") -> None:
    """Checks that a dtype is real floating point; None passes.

    Raises:
        TypeError: any other dtype; the message ends in `hint` where there is one.
    """
    if dtype is not None and not jnp.issubdtype(dtype, jnp.floating):
        ending = f"; {hint}" if hint else ""
        raise TypeError(f"{name} must be real floating point, got {jnp.dtype(dtype)}{ending}")


def require_features(name: str, inputs: ArrayLike, features: int) -> None:
    """Checks the last axis of a layer's inputs, which an op would pad with zeros.

    Raises:
        ValueError: another size, or no axis at all.
    """
    shape = np.shape(inputs)
    if not shape or shape[-1] != features:
        raise ValueError(f"{name} must have shape (*B, {features}), got {shape}")


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
    promote_dtype: PromoteDtype,
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


def add_bias(outputs: jax.Array, bias: jax.Array | None) -> jax.Array:
    """Adds `(features,)` to `(*B, features)`, in the dtype of the outputs."""
    if bias is None:
        return outputs
    return outputs + bias.astype(outputs.dtype).reshape((1,) * (outputs.ndim - 1) + (-1,))


def reshard(outputs: jax.Array, out_sharding: Any) -> jax.Array:
    """Gives the result the sharding that was asked for (a mesh of explicit axes), if any."""
    return outputs if out_sharding is None else jax.sharding.reshard(outputs, out_sharding)
