"""`gated_linear_attention_step`: one token, for decoding."""

import jax
from jax.typing import ArrayLike

from structlayers._core.dispatch import Dispatcher, Implementation
from structlayers._core.precision import (
    PrecisionLike,
    accumulation_dtype,
    canonicalize_precision,
)
from structlayers.gla.ops.arguments import check_scale, check_state, check_tokens

dispatcher = Dispatcher(
    "gated_linear_attention_step",
    (
        Implementation("xla", "structlayers.gla.xla.step:step"),
        Implementation("reference", "structlayers.gla.reference:step"),
    ),
)


def gated_linear_attention_step(
    q: ArrayLike,
    k: ArrayLike,
    v: ArrayLike,
    log_gate: ArrayLike | None,
    state: ArrayLike,
    *,
    log_value_gate: ArrayLike | None = None,
    scale: int | float | None = None,
    precision: PrecisionLike = None,
    implementation: str | None = None,
) -> tuple[jax.Array, jax.Array]:
    """One token of `gated_linear_attention`: `S' = (a b^T) * S + k v^T`, `o = s q S'`.

    `5 K V` operations a head; the state, read and written once, is nearly all of the traffic.

    Args:
        q: `(*B, H, K)`, float32, bfloat16, float16, or float64 under x64.
        k: `(*B, G, K)` of the same dtype, H a multiple of G.
        v: `(*B, G, V)` of the same dtype.
        log_gate: `log a`, at most 0: `(*B, G, K)` with 1 in place of any size; None: no gate.
        state: S, float32 (float64 with float64 q), `(*B, G, K, V)`.
        log_value_gate: `log b`, the same for `(*B, G, V)`.
        scale: s; None is `1 / sqrt(K)`.
        precision: of the products, which are float32 at least; None is the highest.
        implementation: "xla", "reference", or None to choose.

    Returns:
        o `(*B, H, V)` in the dtype of q, and S', shaped as S. Derivatives of any kind.

    Raises:
        TypeError: a dtype that does not fit.
        ValueError: a shape that does not fit, or known gates above 0.

    Example:
        >>> import jax.numpy as jnp
        >>> one, state = jnp.ones((1, 1)), jnp.full((1, 1, 1), 4.0)
        >>> out, state = gated_linear_attention_step(one, one, one, jnp.log(one / 2), state)
        >>> out.item(), state.item()
        (3.0, 3.0)

    References:
        Yang, Wang, Shen, Panda, Kim, "Gated Linear Attention Transformers with Hardware-Efficient
        Training", 2024, arXiv:2312.06635, equation 3.
    """
    tokens = check_tokens(q, k, v, log_gate, log_value_gate, "*B")
    q, k, v, _, _ = tokens
    shape = (*k.shape, v.shape[-1])
    return dispatcher(
        *tokens,
        check_state("state", state, "*B, G, K, V", shape, accumulation_dtype(q.dtype)),
        implementation=implementation,
        scale=check_scale(scale, k.shape[-1]),
        precision=canonicalize_precision(precision),
    )
