"""What the layers of all families share: settings of `nnx.Linear`, checks, bias, static indices."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from flax.typing import Dtype
from jax.typing import ArrayLike

# Flax's own PromoteDtypeFn is a protocol that cannot be checked at run time.
type PromoteDtype = Callable[..., Any]


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


def add_bias(outputs: jax.Array, bias: jax.Array | None) -> jax.Array:
    """Adds `(features,)` to `(*B, features)`, in the dtype of the outputs."""
    if bias is None:
        return outputs
    return outputs + bias.astype(outputs.dtype).reshape((1,) * (outputs.ndim - 1) + (-1,))


def reshard(outputs: jax.Array, out_sharding: Any) -> jax.Array:
    """Gives the result the sharding that was asked for (a mesh of explicit axes), if any."""
    return outputs if out_sharding is None else jax.sharding.reshard(outputs, out_sharding)
