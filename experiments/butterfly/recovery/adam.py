"""The one training loop of the recovery experiment: Adam on many seeds at once."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import optax


def cosine_adam(learning_rate: float, steps: int, floor: float = 0.0) -> Any:
    """Adam with a cosine decay from `learning_rate` to `floor` times it over `steps`."""
    return optax.adam(optax.cosine_decay_schedule(learning_rate, steps, alpha=floor))


def first_below(record: jax.Array, loss: jax.Array, bound: float, step: jax.Array) -> jax.Array:
    """Per seed the first step whose loss is at most the bound; -1 while there is none."""
    return jnp.where((record < 0) & (loss <= bound), step.astype(record.dtype), record)


@partial(jax.jit, static_argnames=("loss", "optimizer", "bounds"), donate_argnums=0)
def descend(
    state: dict[str, Any],
    data: Any,
    step: jax.Array,
    num: jax.Array,
    *,
    loss: Callable[[Any, Any], jax.Array],
    optimizer: Any,
    bounds: tuple[float, ...],
) -> tuple[dict[str, Any], jax.Array]:
    """`num` steps of Adam on every seed.

    Args:
        state: {"parameters": pytree with a leading seed axis, "adam": optimizer state,
            "reached": (len(bounds), seeds) int32}.
        data: pytree with a leading seed axis that the loss gets with each seed's parameters, or
            one shared by all seeds (leaves of `data["shared"]`).
        step: first step's number.
        num: how many.
        loss: (parameters, data) of one seed to a real number.
        optimizer: optax transformation.
        bounds: losses whose first crossing is recorded.

    Returns:
        New state and the losses (seeds,) before the last update.
    """
    axes = {name: None if name == "shared" else 0 for name in data}
    value_and_grad = jax.vmap(jax.value_and_grad(loss), in_axes=(0, axes))

    def body(i: jax.Array, carry: tuple[dict[str, Any], jax.Array]) -> Any:
        state, _ = carry
        losses, gradients = value_and_grad(state["parameters"], data)
        updates, adam = optimizer.update(gradients, state["adam"])
        reached = [
            first_below(row, losses, bound, step + i)
            for row, bound in zip(state["reached"], bounds, strict=True)
        ]
        new = {
            "parameters": optax.apply_updates(state["parameters"], updates),
            "adam": adam,
            "reached": jnp.stack(reached),
        }
        return new, losses

    seeds = state["reached"].shape[1]
    dtype = jax.tree.leaves(state["parameters"])[0].dtype
    return jax.lax.fori_loop(0, num, body, (state, jnp.zeros(seeds, dtype)))
