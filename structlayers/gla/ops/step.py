"""One token, for decoding: of the recurrence, and of all that a layer does between projections."""

import contextlib
from collections.abc import Generator
from contextvars import ContextVar
from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from structlayers._core.checks import require_real, require_shape
from structlayers._core.context import bound
from structlayers._core.dispatch import Dispatcher, Implementation
from structlayers._core.precision import (
    PrecisionLike,
    accumulation_dtype,
    canonicalize_precision,
)
from structlayers.gla.ops.arguments import check_scale, check_state, check_tokens

# Bytes of states from which Hopper's kernel is taken where the state's buffer is known to be reused
# and no implementation is named: the smallest that was measured (kernels.md).
_KERNEL_FROM_BYTES = 2**21
_in_place: ContextVar[bool] = ContextVar("states_in_place", default=False)


@contextlib.contextmanager
def states_in_place() -> Generator[None]:
    """Says that states are carried by a loop, or donated: their buffers can be written.

    Where no implementation is named, Hopper's kernel of one token is taken, which writes the state
    where it was. Elsewhere XLA would copy the state before it, which costs more than it saves and
    cannot be seen from inside. It acts while a function is traced.

    Example:
        >>> import jax
        >>> import jax.numpy as jnp
        >>> def one(state: jax.Array, token: jax.Array) -> tuple[jax.Array, jax.Array]:
        ...     with states_in_place():
        ...         out, state = gated_linear_attention_step(token, token, token, -token, state)
        ...     return state, out
        >>> state, out = jax.lax.scan(one, jnp.zeros((1, 8, 8)), jnp.ones((5, 1, 8)))
        >>> out.shape
        (5, 1, 8)
    """
    with bound(_in_place, True):
        yield


def _check_step(*args: Any, **static: Any) -> None:
    from structlayers.gla.pallas_gpu.step_support import check_step

    check_step(*args, **static)


def _check_decode(*args: Any, **static: Any) -> None:
    from structlayers.gla.pallas_gpu.step_support import check_decode

    check_decode(*args, **static)


def _prefer_step(*args: Any, platform: str, **static: Any) -> tuple[tuple[str, str], ...]:
    del static
    return _prefer(args[5], platform)


def _prefer_decode(*args: Any, platform: str, **static: Any) -> tuple[tuple[str, str], ...]:
    del static
    return _prefer(args[4], platform)


def _prefer(state: Any, platform: str) -> tuple[tuple[str, str], ...]:
    if platform != "gpu" or not _in_place.get() or 4 * state.size < _KERNEL_FROM_BYTES:
        return ()
    return (("pallas_gpu", "faster than xla where the state is written in place, see kernels.md"),)


dispatcher = Dispatcher(
    "gated_linear_attention_step",
    (
        Implementation("xla", "structlayers.gla.xla.step:step"),
        Implementation("reference", "structlayers.gla.reference:step"),
        Implementation("pallas_gpu", "structlayers.gla.pallas_gpu.step:step", _check_step),
    ),
    _prefer_step,
)
decode_dispatcher = Dispatcher(
    "gated_linear_attention_decode",
    (
        Implementation("xla", "structlayers.gla.xla.step:decode"),
        Implementation("reference", "structlayers.gla.reference:decode"),
        Implementation("pallas_gpu", "structlayers.gla.pallas_gpu.step:decode", _check_decode),
    ),
    _prefer_decode,
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
        implementation: "xla", "pallas_gpu" (one launch that writes the state where it was, if its
            buffer may be reused; bfloat16 and float32, gates of K channels), "reference", or None
            to choose, which is the kernel for large states inside `states_in_place()` alone.

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


def gated_linear_attention_decode(
    q: ArrayLike,
    k: ArrayLike,
    v: ArrayLike,
    gate_logits: ArrayLike,
    state: ArrayLike,
    output_gate: ArrayLike,
    norm_scale: ArrayLike,
    *,
    gate_logit_normalizer: int | float = 16,
    norm_epsilon: float = 1e-6,
    scale: int | float | None = None,
    precision: PrecisionLike = None,
    implementation: str | None = None,
) -> tuple[jax.Array, jax.Array]:
    """All that `GatedLinearAttention` does for one token between its projections.

    `o, S'` of `gated_linear_attention_step` with gates `sigmoid(x)^(1 / tau)`, and the output
    `swish(r) * w * o / sqrt(mean(o^2) + epsilon)`, in float32 and rounded once.

    Args:
        q: `(*B, H, K)`, float32, bfloat16, float16, or float64 under x64.
        k: `(*B, G, K)` of the same dtype, H a multiple of G.
        v: `(*B, G, V)` of the same dtype.
        gate_logits: x, `(*B, G, K)`, real.
        state: S, float32 (float64 with float64 q), `(*B, G, K, V)`.
        output_gate: r, `(*B, H, V)` of the dtype of q.
        norm_scale: w, real `(V,)`.
        gate_logit_normalizer: tau.
        norm_epsilon: epsilon.
        scale: s; None is `1 / sqrt(K)`.
        precision: of the products, which are float32 at least; None is the highest.
        implementation: "xla", "pallas_gpu" (one launch), "reference", or None to choose, which is
            the kernel for large states inside `states_in_place()` alone.

    Returns:
        `(*B, H, V)` in the dtype of q, and S', shaped as S.

    Raises:
        TypeError: a dtype that does not fit.
        ValueError: a shape that does not fit, a normalizer that is not above 0, or a negative
            epsilon.

    Example:
        >>> one, state = jnp.ones((1, 2)), jnp.zeros((1, 2, 2))
        >>> out, state = gated_linear_attention_decode(one, one, one, one, state, 99 * one, one[0])
        >>> out.round().tolist(), state[0].tolist()
        ([[99.0, 99.0]], [[1.0, 1.0], [1.0, 1.0]])

    References:
        Yang, Wang, Shen, Panda, Kim, "Gated Linear Attention Transformers with Hardware-Efficient
        Training", 2024, arXiv:2312.06635, section 4.4.
    """
    q, k, v, _, _ = check_tokens(q, k, v, None, None, "*B")
    if not gate_logit_normalizer > 0:
        raise ValueError(f"gate_logit_normalizer must be above 0, got {gate_logit_normalizer}")
    if not norm_epsilon >= 0:
        raise ValueError(f"norm_epsilon must be at least 0, got {norm_epsilon}")
    gate_logits, output_gate = jnp.asarray(gate_logits), jnp.asarray(output_gate)
    norm_scale = jnp.asarray(norm_scale)
    for name, array, shape in (
        ("gate_logits", gate_logits, k.shape),
        ("output_gate", output_gate, (*q.shape[:-1], v.shape[-1])),
        ("norm_scale", norm_scale, v.shape[-1:]),
    ):
        require_real(name, array)
        require_shape(name, array, shape)
    if output_gate.dtype != q.dtype:
        raise TypeError(f"output_gate must have the dtype of q, {q.dtype}, got {output_gate.dtype}")
    shape = (*k.shape, v.shape[-1])
    return decode_dispatcher(
        q,
        k,
        v,
        gate_logits,
        check_state("state", state, "*B, G, K, V", shape, accumulation_dtype(q.dtype)),
        output_gate,
        norm_scale,
        implementation=implementation,
        scale=check_scale(scale, k.shape[-1]),
        gate_logit_normalizer=float(gate_logit_normalizer),
        norm_epsilon=float(norm_epsilon),
        precision=canonicalize_precision(precision),
    )
