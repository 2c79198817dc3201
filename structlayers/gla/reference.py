"""The definitions: token by token, and all pairs of tokens. Oracle of the tests.

Plain `jax.numpy`, any floating dtype; float64 under `jax.enable_x64`. Arguments are those that
`ops` hands to every implementation: gates in the dtype of the state, gates of one channel as
`(*B, T, G, 1)`.
"""

import jax
import jax.numpy as jnp

from structlayers._core.precision import PrecisionLike, accumulation_dtype
from structlayers.gla.gates import with_resets
from structlayers.gla.packing import Packing, Tokens


def step(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    log_gate: jax.Array | None,
    log_value_gate: jax.Array | None,
    state: jax.Array,
    *,
    scale: float,
    precision: PrecisionLike = None,
) -> tuple[jax.Array, jax.Array]:
    """`S' = (exp(a) exp(b)^T) * S + k v^T`, `o = scale q S'`.

    Args:
        q: `(*B, H, K)`.
        k: `(*B, G, K)`.
        v: `(*B, G, V)`.
        log_gate: a, `(*B, G, K)` or `(*B, G, 1)`, or None.
        log_value_gate: b, `(*B, G, V)`, or None.
        state: S, `(*B, G, K, V)`.
        scale: of the output.
        precision: not used: products are true.

    Returns:
        o `(*B, H, V)` in the dtype of q, and S'.
    """
    del precision
    dtype = state.dtype
    if log_gate is not None:
        state = jnp.exp(log_gate)[..., :, None] * state
    if log_value_gate is not None:
        state = state * jnp.exp(log_value_gate)[..., None, :]
    state = state + k.astype(dtype)[..., :, None] * v.astype(dtype)[..., None, :]
    *batch, heads, width = q.shape
    grouped = q.astype(dtype).reshape(*batch, k.shape[-2], heads // k.shape[-2], width)
    out = scale * jnp.einsum("...grk,...gkv->...grv", grouped, state, precision="highest")
    return out.reshape(*batch, heads, v.shape[-1]).astype(q.dtype), state


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
    precision: PrecisionLike = None,
) -> tuple[jax.Array, jax.Array]:
    """`swish(r) * w * o / sqrt(mean(o^2) + epsilon)` of a step with gates `sigmoid(x)^(1 / tau)`.

    Args:
        q: `(*B, H, K)`.
        k: `(*B, G, K)`.
        v: `(*B, G, V)`.
        gate_logits: x, `(*B, G, K)`.
        state: S, `(*B, G, K, V)`.
        output_gate: r, `(*B, H, V)`.
        norm_scale: w, `(V,)`.
        scale: of the output o.
        gate_logit_normalizer: tau.
        norm_epsilon: epsilon.
        precision: not used: products are true.

    Returns:
        `(*B, H, V)` in the dtype of q, and S'.
    """
    del precision
    dtype = state.dtype
    gate = jax.nn.log_sigmoid(gate_logits.astype(dtype)) / gate_logit_normalizer
    out, state = step(q.astype(dtype), k, v, gate, None, state, scale=scale)
    mean = jnp.mean(out**2, axis=-1, keepdims=True)
    weights = norm_scale.astype(dtype).reshape((1,) * (out.ndim - 1) + (-1,))
    normalized = weights * out / jnp.sqrt(mean + norm_epsilon)
    return (jax.nn.swish(output_gate.astype(dtype)) * normalized).astype(q.dtype), state


def gated_linear_attention(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    log_gate: jax.Array | None,
    log_value_gate: jax.Array | None,
    initial_state: jax.Array | None,
    resets: jax.Array | None,
    packing: Packing | None,
    *,
    scale: float,
    chunk_size: int,
    precision: PrecisionLike = None,
) -> tuple[jax.Array, jax.Array]:
    """The recurrence, one token after the other.

    Args:
        q: `(*B, T, H, K)`.
        k: `(*B, T, G, K)`.
        v: `(*B, T, G, V)`.
        log_gate: `(*B, T, G, K)` or `(*B, T, G, 1)`, or None.
        log_value_gate: `(*B, T, G, V)`, or None.
        initial_state: `(*B, G, K, V)`; with a packing `(S, G, K, V)`. None is zero.
        resets: bool `(*B, T)`, where a sequence begins; or None.
        packing: of sequences that begin chunks of T, without batch axes; or None.
        scale: of the outputs.
        chunk_size: of the packing.
        precision: not used.

    Returns:
        o `(*B, T, H, V)` in the dtype of q, and the final states, of the shape of the initial.
    """
    dtype = accumulation_dtype(q.dtype)
    log_gate = with_resets(log_gate, resets, dtype)
    shape = (*k.shape[:-3], *k.shape[-2:], v.shape[-1])
    tokens: Tokens = jax.tree.map(
        lambda x: jnp.moveaxis(x, -3, 0), (q, k, v, log_gate, log_value_gate)
    )

    if packing is None:
        state = jnp.zeros(shape, dtype) if initial_state is None else initial_state

        def token(state: jax.Array, x: Tokens) -> tuple[jax.Array, jax.Array]:
            out, state = step(*x, state, scale=scale)
            return state, out

        state, out = jax.lax.scan(token, state, tokens)
        return jnp.moveaxis(out, 0, -3), state

    count = packing.last.shape[0]
    starts = jnp.zeros((count, *shape), dtype) if initial_state is None else initial_state
    sequence = jnp.repeat(packing.sequence, chunk_size)
    first = jnp.repeat(packing.first, chunk_size) & (jnp.arange(q.shape[0]) % chunk_size == 0)

    def packed_token(
        carry: tuple[jax.Array, jax.Array], x: tuple[jax.Array, jax.Array, Tokens]
    ) -> tuple[tuple[jax.Array, jax.Array], jax.Array]:
        (state, finals), (sequence, first, values) = carry, x
        state = jnp.where(first, starts.at[sequence].get(mode="clip"), state)
        out, state = step(*values, state, scale=scale)
        return (state, finals.at[sequence].set(state, mode="drop")), out

    carry = (jnp.zeros(shape, dtype), starts)
    (_, finals), out = jax.lax.scan(packed_token, carry, (sequence, first, tokens))
    return out, finals


def gated_linear_attention_parallel(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    log_gate: jax.Array | None,
    log_value_gate: jax.Array | None,
    initial_state: jax.Array | None,
    resets: jax.Array | None,
    packing: Packing | None,
    *,
    scale: float,
    chunk_size: int,
    precision: PrecisionLike = None,
) -> tuple[jax.Array, jax.Array]:
    """All pairs: `o_i = scale sum_(j <= i) sum_k q_ik k_jk exp(a_j+1 + ... + a_i)_k v_j`.

    Arguments and results as in `gated_linear_attention`, without a packing. `O(T^2 K)` memory.
    """
    assert packing is None
    del packing, chunk_size, precision
    dtype = accumulation_dtype(q.dtype)
    *batch, time, heads, width = q.shape
    groups = k.shape[-2]
    grouped = q.astype(dtype).reshape(*batch, time, groups, heads // groups, width)
    k, v = k.astype(dtype), v.astype(dtype)
    log_gate = with_resets(log_gate, resets, dtype)
    causal = jnp.tri(time, dtype=bool).T[:, :, None, None]  # j, i: j <= i
    later = jnp.tri(time, k=-1, dtype=bool).T[:, :, None, None]  # j < i

    def weights(gate: jax.Array | None) -> tuple[jax.Array, jax.Array]:
        """From every j to every i `(*B, j, i, G, D)`, and from before the start to i."""
        if gate is None:
            one = jnp.ones((1,) * (len(batch) + 3), dtype)
            return jnp.broadcast_to(one[..., None], (*one.shape[:-2], 1, 1, 1)), one
        between = jnp.where(_leading(later, batch), gate[..., None, :, :, :], 0)
        return jnp.exp(jnp.cumsum(between, axis=-3)), jnp.exp(jnp.cumsum(gate, axis=-3))

    pair, start = weights(log_gate)
    value_pair, value_start = weights(log_value_gate)
    pair = jnp.where(_leading(causal, batch), pair, 0)
    decayed = k[..., :, None, :, :] * pair  # *B j i G K
    scores = jnp.einsum("...igrk,...jigk->...jigr", grouped, decayed, precision="highest")
    values = v[..., :, None, :, :] * value_pair
    values = jnp.broadcast_to(values, (*batch, time, time, groups, v.shape[-1]))
    out = jnp.einsum("...jigr,...jigv->...igrv", scores, values, precision="highest")
    state = jnp.einsum(
        "...jgk,...jgv->...gkv", decayed[..., -1, :, :], values[..., -1, :, :], precision="highest"
    )
    if initial_state is not None:
        carried = jnp.einsum(
            "...igrk,...gkv->...igrv",
            grouped * start[..., None, :],
            initial_state,
            precision="highest",
        )
        out = out + carried * value_start[..., None, :]
        last, value_last = start[..., -1, :, :], value_start[..., -1, :, :]
        state = state + last[..., :, None] * initial_state * value_last[..., None, :]
    out = scale * out.reshape(*batch, time, heads, v.shape[-1])
    return out.astype(q.dtype), state


def _leading(array: jax.Array, batch: list[int]) -> jax.Array:
    return array.reshape((1,) * len(batch) + array.shape)
