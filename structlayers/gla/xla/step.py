"""One token: the state is read once for the output and the next state."""

import jax
import jax.numpy as jnp


def step(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    log_gate: jax.Array | None,
    log_value_gate: jax.Array | None,
    state: jax.Array,
    *,
    scale: float,
    precision: jax.lax.Precision,
) -> tuple[jax.Array, jax.Array]:
    """`o = scale ((q * exp(a)) S * exp(b) + (q . k) v)`, `S' = exp(a) exp(b)^T * S + k v^T`.

    The output is written in the old state, so that it need not wait for the new one. Arguments and
    results as in the reference.
    """
    dtype = state.dtype
    *batch, heads, width = q.shape
    groups = k.shape[-2]
    queries = scale * q.astype(dtype).reshape(*batch, groups, heads // groups, width)
    keys, values = k.astype(dtype), v.astype(dtype)
    new = keys[..., :, None] * values[..., None, :]
    decayed = queries
    decay = None
    if log_gate is not None:
        decayed = queries * jnp.exp(log_gate)[..., None, :]
        decay = jnp.exp(log_gate)[..., :, None]
    out = jnp.einsum("...rk,...kv->...rv", decayed, state, precision=precision)
    if log_value_gate is not None:
        value_decay = jnp.exp(log_value_gate)[..., None, :]
        out = out * value_decay
        decay = value_decay if decay is None else decay * value_decay
    new = new + (state if decay is None else decay * state)
    own = jnp.sum(queries * keys[..., None, :], axis=-1, keepdims=True)
    out = out + own * values[..., None, :]
    return out.reshape(*batch, heads, v.shape[-1]).astype(q.dtype), new
