"""How the next word is drawn from its logits."""

import dataclasses

import jax
import jax.numpy as jnp

from structlayers._core.checks import require_positive


@dataclasses.dataclass(frozen=True)
class Sampler:
    """Draws words with probabilities `softmax(logits / temperature)`, cut to the likeliest.

    `top_k` is applied before `top_p`, and both after the temperature. Words that tie with the last
    one kept are kept.

    Attributes:
        temperature: 0 takes the largest logit (greedy); 1 draws from the model.
        top_k: keep the k largest logits; None keeps all.
        top_p: keep the fewest words whose probabilities sum to at least p, one at least; None keeps
            all.

    Raises:
        ValueError: a negative temperature, `top_k` below 1, or `top_p` outside (0, 1].

    Example:
        >>> greedy = Sampler(temperature=0)
        >>> greedy(None, jnp.array([[0.1, 2.0, 1.0]])).tolist()
        [1]

    References:
        Holtzman, Buys, Du, Forbes, Choi, "The Curious Case of Neural Text Degeneration", 2019,
        arXiv:1904.09751, section 3.1 (top-p).
    """

    temperature: int | float = 1.0
    top_k: int | None = None
    top_p: int | float | None = None

    def __post_init__(self):
        if not self.temperature >= 0:
            raise ValueError(f"temperature must be at least 0, got {self.temperature}")
        if self.top_k is not None:
            require_positive("top_k", self.top_k)
        if self.top_p is not None and not 0 < self.top_p <= 1:
            raise ValueError(f"top_p must be in (0, 1], got {self.top_p}")

    @property
    def is_greedy(self) -> bool:
        """Whether no random key is needed."""
        return self.temperature == 0

    def __call__(self, key: jax.Array | None, logits: jax.Array) -> jax.Array:
        """Draws words.

        Args:
            key: random key; None where the sampler is greedy.
            logits: `(*B, N)`.

        Returns:
            int32 `(*B,)`.

        Raises:
            ValueError: no key where one is needed.
        """
        if self.is_greedy:
            return jnp.argmax(logits, axis=-1).astype(jnp.int32)
        if key is None:
            raise ValueError("key must be given where temperature is above 0")
        words = jax.random.categorical(key, self.cut(logits), axis=-1)
        return words.astype(jnp.int32)

    def cut(self, logits: jax.Array) -> jax.Array:
        """Logits `(*B, N)` over the temperature, -inf for words that are cut off."""
        logits = logits.astype(jnp.float32) / self.temperature
        if self.top_k is not None and self.top_k < logits.shape[-1]:
            largest, _ = jax.lax.top_k(logits, self.top_k)
            logits = _keep_from(logits, largest[..., -1:])
        if self.top_p is not None and self.top_p < 1:
            ordered = jnp.sort(logits, axis=-1, descending=True)
            probabilities = jax.nn.softmax(ordered, axis=-1)
            before = jnp.cumsum(probabilities, axis=-1) - probabilities
            kept = jnp.where(before < self.top_p, ordered, jnp.inf)
            logits = _keep_from(logits, jnp.min(kept, axis=-1, keepdims=True))
        return logits


def _keep_from(logits: jax.Array, least: jax.Array) -> jax.Array:
    return jnp.where(logits >= least, logits, -jnp.inf)
