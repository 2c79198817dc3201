"""How a head forgets, by name, the constant rates of retention, and the gate of logits."""

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


@jax.custom_jvp
def log_sigmoid(logits: jax.Array) -> jax.Array:
    """`log sigmoid(x)`, with the derivative `sigmoid(-x)` by x alone.

    JAX's rule takes it from the result, which XLA then keeps for the backward pass in float32,
    where it has the logits in bfloat16 already.

    Example:
        >>> jax.grad(log_sigmoid)(jnp.zeros(())).item()
        0.5
    """
    return jax.nn.log_sigmoid(logits)


log_sigmoid.defjvps(lambda tangent, _, logits: tangent * jax.nn.sigmoid(-logits))
