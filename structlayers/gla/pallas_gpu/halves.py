"""Keys too large for the kernel of gradients, as twice as many heads of half the size.

Every channel of keys has its row of the state, so the recurrence of K channels is that of the first
half of them and that of the second with the same values: outputs add up, states stand one over the
other. All first halves come before all second ones, so that query heads share keys as they did.
"""

import jax
import jax.numpy as jnp


def split_keys(x: jax.Array) -> jax.Array:
    """`(B, T, heads, K)` to `(B, T, 2 heads, K/2)`."""
    *lead, heads, key = x.shape
    return x.reshape(*lead, heads, 2, key // 2).swapaxes(-2, -3).reshape(*lead, 2 * heads, -1)


def join_keys(x: jax.Array) -> jax.Array:
    """The inverse of `split_keys`."""
    *lead, heads, half = x.shape
    return x.reshape(*lead, 2, heads // 2, half).swapaxes(-2, -3).reshape(*lead, heads // 2, -1)


def split_states(x: jax.Array) -> jax.Array:
    """`(B, heads, K, V)` to `(B, 2 heads, K/2, V)`."""
    batch, heads, key, value = x.shape
    return (
        x.reshape(batch, heads, 2, key // 2, value)
        .swapaxes(1, 2)
        .reshape(batch, 2 * heads, key // 2, value)
    )


def join_states(x: jax.Array) -> jax.Array:
    """The inverse of `split_states`."""
    batch, heads, half, value = x.shape
    x = x.reshape(batch, 2, heads // 2, half, value).swapaxes(1, 2)
    return x.reshape(batch, heads // 2, 2 * half, value)


def for_both(x: jax.Array) -> jax.Array:
    """`(B, T, heads, V)` for the heads of both halves."""
    return jnp.concatenate([x, x], axis=2)


def sum_both(x: jax.Array) -> jax.Array:
    """`(B, T, 2 heads, V)` summed over halves in float32."""
    first, second = jnp.split(x.astype(jnp.float32), 2, axis=2)
    return (first + second).astype(x.dtype)
