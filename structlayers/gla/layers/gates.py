"""How a head forgets, by name, and the constant rates of retention."""

import jax
import jax.numpy as jnp

GATES = ("channel", "scalar", "constant", "none")


def constant_log_gate(num_heads: int, ndim: int) -> jax.Array:
    """`log(1 - 2^(-5 - h))` for every head h: float32 `(1, ..., num_heads, 1)` of `ndim` axes.

    Example:
        >>> jnp.exp(constant_log_gate(2, 4))[0, 0, :, 0].tolist()
        [0.96875, 0.984375]

    References:
        Sun et al., "Retentive Network", 2023, arXiv:2307.08621, equation 8.
    """
    heads = jnp.arange(num_heads, dtype=jnp.float32)
    return jnp.log1p(-(2.0 ** (-5 - heads))).reshape((1,) * (ndim - 2) + (-1, 1))
