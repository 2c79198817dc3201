"""From atoms to edges and back: neighbours' features gathered, messages summed.

Every edge has its reverse, so that the sum over the edges that an atom sends is the sum over those
that it receives, of the reversed edges. Derivatives of gathers are gathers and sums over receivers
then, never scattered additions in an order that is not the same twice.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from structlayers.models.interatomic_potential.graph import Graph


class Edges(NamedTuple):
    """Where the E edges of N atoms begin and end.

    Attributes:
        receivers: `(E,)`, ascending.
        reverse: `(E,)`, place of the same pair the other way.
        num_atoms: N.
        num_slots: edges of each atom, `E = N K`; None where their number varies.
    """

    receivers: jax.Array
    reverse: jax.Array
    num_atoms: int
    num_slots: int | None

    @classmethod
    def of(cls, graph: Graph) -> "Edges":
        """Those of a graph."""
        return cls(graph.receivers, graph.reverse, graph.num_atoms, graph.num_slots)

    def of_receivers(self, x: jax.Array) -> jax.Array:
        """Of `x (N, ...)` what the receiver has, `(E, ...)`."""
        if self.num_slots is None:
            return x.at[self.receivers].get(indices_are_sorted=True, mode="promise_in_bounds")
        spread = jnp.broadcast_to(x[:, None], (len(x), self.num_slots, *x.shape[1:]))
        return spread.reshape(len(self.receivers), *x.shape[1:])

    def of_senders(self, x: jax.Array) -> jax.Array:
        """Of `x (N, ...)` what the sender has, `(E, ...)`."""
        return self.reversed(self.of_receivers(x))

    def reversed(self, x: jax.Array) -> jax.Array:
        """Of `x (E, ...)` what the reverse edge has.

        The order is its own inverse and its own transpose, a symmetric system that solves itself.
        """

        def permuted(x: jax.Array) -> jax.Array:
            return x.at[self.reverse].get(unique_indices=True, mode="promise_in_bounds")

        return jax.lax.custom_linear_solve(permuted, x, lambda _, x: permuted(x), symmetric=True)

    def sum(self, messages: jax.Array) -> jax.Array:
        """Over the edges of each receiver: `(E, ...)` to `(N, ...)`."""
        if self.num_slots is None:
            return jax.ops.segment_sum(
                messages,
                self.receivers,
                self.num_atoms,
                indices_are_sorted=True,
                mode="promise_in_bounds",
            )
        shape = (self.num_atoms, self.num_slots, *messages.shape[1:])
        return messages.reshape(shape).sum(axis=1)
