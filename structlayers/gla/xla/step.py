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


def decode(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    gate_logits: jax.Array,
    state: jax.Array,
    output_gate: jax.Array,
    norm_scale: jax.Array,
    *,
    scale: float,
    gate_logit_normalizer: float,
    norm_epsilon: float,
    precision: jax.lax.Precision,
) -> tuple[jax.Array, jax.Array]:
    """A token of a layer, between its projections; arguments and results as in the reference."""
    dtype = state.dtype
    log_gate = jax.nn.log_sigmoid(gate_logits.astype(dtype)) / gate_logit_normalizer
    out, state = step(q, k, v, log_gate, None, state, scale=scale, precision=precision)
    wide = out.astype(dtype)
    inverse = jax.lax.rsqrt(jnp.mean(wide * wide, axis=-1, keepdims=True) + norm_epsilon)
    normalized = wide * inverse * norm_scale.astype(dtype).reshape((1,) * (out.ndim - 1) + (-1,))
    gated = jax.nn.swish(output_gate.astype(dtype)) * normalized
    return gated.astype(q.dtype), state
