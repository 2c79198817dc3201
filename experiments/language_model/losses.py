"""The loss of a word: what every training loop and every evaluation shares."""

import jax
import jax.numpy as jnp


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
    return jax.nn.logsumexp(logits, axis=-1) - wanted
