"""The loss of a word: what every training loop and every evaluation shares."""

import jax
import jax.numpy as jnp

from structlayers._core.dispatch import current_platform


def cross_entropy(logits: jax.Array, words: jax.Array) -> jax.Array:
    """`-log p` of words by `p = softmax(logits)`, in nats.

    The word's logit is a sum over a mask, not a look-up: the gradient of a look-up is a scatter
    into an array of the size of the logits, and XLA cannot partition it on a mesh of tensor and
    sequence.

    Args:
        logits: float32 `(..., V)`.
        words: integers `(...)`; one outside the vocabulary has the logit 0.

    Returns:
        float32 `(...)`.

    Example:
        >>> round(cross_entropy(jnp.log(jnp.array([0.25, 0.75])), jnp.array(0)).item(), 4)
        1.3863
    """
    mask = jax.nn.one_hot(words, logits.shape[-1], dtype=bool)
    wanted = jnp.sum(jnp.where(mask, logits, 0), axis=-1)
    return _logsumexp(logits) - wanted


def _logsumexp(logits: jax.Array) -> jax.Array:
    """Over the last axis. On GPUs the maximum and the sum are found in one pass over the logits."""
    if current_platform() == "gpu":
        return _logsumexp_in_one_pass(logits)
    return jax.nn.logsumexp(logits, axis=-1)


@jax.custom_jvp
def _logsumexp_in_one_pass(logits: jax.Array) -> jax.Array:
    least = jnp.array(jnp.finfo(logits.dtype).min, logits.dtype)
    terms = (logits, jnp.ones_like(logits))
    largest, total = jax.lax.reduce(terms, (least, jnp.zeros_like(least)), _add, [logits.ndim - 1])
    return largest + jnp.log(total)


def _add(a: tuple[jax.Array, jax.Array], b: tuple[jax.Array, jax.Array]) -> list[jax.Array]:
    """The sum of `s e^m` of two pairs (m, s), as such a pair whose m is the larger one."""
    largest = jnp.maximum(a[0], b[0])
    left, right = (total * jnp.exp(most - largest) for most, total in (a, b))
    return [largest, left + right]


@_logsumexp_in_one_pass.defjvp
def _logsumexp_jvp(
    primals: tuple[jax.Array], tangents: tuple[jax.Array]
) -> tuple[jax.Array, jax.Array]:
    (logits,), (tangent,) = primals, tangents
    value = _logsumexp_in_one_pass(logits)
    return value, jnp.sum(jnp.exp(logits - value[..., None]) * tangent, axis=-1)
