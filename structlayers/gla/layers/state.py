"""What a layer keeps between calls: the recurrent state and the last inputs of convolutions."""

import dataclasses

import jax


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class GatedLinearAttentionState:
    """The state of a `GatedLinearAttention` layer; a pytree. Its size does not grow with time.

    Attributes:
        recurrent: float32 (float64) `(*B, G, K, V)`, the matrix state of every head.
        history: the last `W - 1` inputs of the short convolutions of queries, keys and values,
            each `(*B, W - 1, D)`; empty where the layer has none.

    Example:
        >>> import jax.numpy as jnp
        >>> state = GatedLinearAttentionState(jnp.zeros((2, 4, 8, 8)), ())
        >>> jax.tree.leaves(state)[0].shape
        (2, 4, 8, 8)
    """

    recurrent: jax.Array
    history: tuple[jax.Array, ...]
