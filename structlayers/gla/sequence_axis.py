"""Sequences cut into one run of tokens for each rank of a mesh axis, and what ranks exchange.

The tokens of a rank act on the state before them as `S -> exp(a) * S + S_own`: by `S_own`, the
state they leave when they begin from zero, and `a`, the sum of their log gates. That pair is all
that a rank sends, once; every rank then makes the state before its own first token by itself. Going
back, ranks send the gradient of that state and nothing else.
"""

import functools
from collections.abc import Sequence
from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name

from structlayers._core.checks import require_choice
from structlayers._core.partitioning import vary_alike
from structlayers.gla.gates import decay_of

EXCHANGED = "gla_exchanged"
"""Name, for policies of `jax.checkpoint`, of what the backward pass needs of the exchange."""

# Ranks whose states are added up in one kernel of XLA.
_UNROLLED = 8


@dataclass(frozen=True)
class SequenceAxis:
    """An axis of the mesh of the enclosing `jax.shard_map`, whose ranks hold tokens in order.

    Attributes:
        name: of the axis.
        reverse: whether time runs from the last rank to the first.

    Raises:
        ValueError: no enclosing `jax.shard_map` has such an axis.
    """

    name: str
    reverse: bool = False

    def __post_init__(self):
        axes = tuple(jax.sharding.get_abstract_mesh().manual_axes)
        if not axes:
            raise ValueError(
                f"axis_name must be an axis of an enclosing jax.shard_map, got {self.name!r} "
                "outside of any"
            )
        require_choice("axis_name", self.name, axes)

    @property
    def size(self) -> int:
        """The number of ranks P."""
        return jax.lax.axis_size(self.name)

    @property
    def position(self) -> jax.Array:
        """int32: how many ranks come before this one."""
        rank = jax.lax.axis_index(self.name)
        return self.size - 1 - rank if self.reverse else rank

    def from_previous(self, x: jax.Array) -> jax.Array:
        """The array of the rank before; zeros on the first."""
        ranks, step = range(self.size), -1 if self.reverse else 1
        pairs = [(rank, rank + step) for rank in ranks if rank + step in ranks]
        return jax.lax.ppermute(x, self.name, pairs)

    def from_last(self, x: jax.Array) -> jax.Array:
        """The array of the last rank, on all ranks."""
        return self.from_owner(x, self.position == self.size - 1)

    def from_owner(self, x: jax.Array, owned: jax.Array) -> jax.Array:
        """On all ranks the entries of the one rank on which `owned` holds; it broadcasts to x."""
        return jax.lax.psum(jnp.where(owned, x, jnp.zeros_like(x)), self.name)

    def only_first(self, x: jax.Array) -> jax.Array:
        """The array on the first rank, zeros on all others."""
        return jnp.where(self.position == 0, x, jnp.zeros_like(x))

    def receive(
        self, own: jax.Array, log_decays: Sequence[jax.Array]
    ) -> tuple[jax.Array, list[jax.Array]]:
        """`S = sum_j exp(sum of a_i over ranks i from j to this one) * S_own_j` over earlier ranks.

        Args:
            own: `(*B, G, K, V)`, the state that a rank's tokens leave.
            log_decays: `(*B, G, K, 1)` and `(*B, G, 1, V)`, or one of both.

        Returns:
            S `(*B, G, K, V)`, and what `send_back` wants: log decays of all ranks, which lead with
            P. Their name for policies of `jax.checkpoint` is `EXCHANGED`.
        """
        states, *all_decays = _gather(self, (own, *log_decays))
        incoming = checkpoint_name(_from_earlier(self, states, all_decays), EXCHANGED)
        return incoming, [checkpoint_name(x, EXCHANGED) for x in all_decays]

    def send_back(self, gradient: jax.Array, all_decays: Sequence[jax.Array]) -> jax.Array:
        """The gradient of `own` from that of what `receive` made of it: the sum over later ranks.

        Args:
            gradient: `(*B, G, K, V)`.
            all_decays: from `receive`.
        """
        (gradients,) = _gather(self, (gradient,))
        return _from_earlier(SequenceAxis(self.name, not self.reverse), gradients, all_decays)

    def incoming_state(
        self, own: jax.Array, log_decays: Sequence[jax.Array], initial_state: jax.Array | None
    ) -> jax.Array:
        """The state before this rank's first token.

        Args:
            own: `(*B, G, K, V)`, the state that its tokens leave when they begin from zero.
            log_decays: sums of their log gates, `(*B, G, K, 1)` and `(*B, G, 1, V)` or one of
                both, or 1 in place of any size.
            initial_state: `(*B, G, K, V)`, before the first token of the first rank; or None.

        Returns:
            `(*B, G, K, V)`.
        """
        if initial_state is not None:
            initial_state = self.only_first(initial_state)
            own = own + decay_of(log_decays) * initial_state
        lead = own.shape[:-2]
        log_decays = [jnp.broadcast_to(x, (*lead, *x.shape[-2:])) for x in log_decays]
        own, *log_decays, _ = vary_alike([own, *log_decays, self.position])
        incoming = _exchange(self, own, tuple(log_decays))
        return incoming if initial_state is None else incoming + initial_state


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _exchange(axis: SequenceAxis, own: jax.Array, log_decays: tuple[jax.Array, ...]) -> jax.Array:
    """What `receive` gives, with the derivatives that `send_back` makes."""
    return axis.receive(own, log_decays)[0]


def _forward(
    axis: SequenceAxis, own: jax.Array, log_decays: tuple[jax.Array, ...]
) -> tuple[jax.Array, tuple]:
    incoming, all_decays = axis.receive(own, log_decays)
    return incoming, (incoming, log_decays, all_decays)


def _backward(
    axis: SequenceAxis, residuals: tuple, gradient: jax.Array
) -> tuple[jax.Array, tuple[jax.Array, ...]]:
    """Gates of this rank decay what comes in on its way out."""
    incoming, log_decays, all_decays = residuals
    own = axis.send_back(gradient, all_decays)
    passed = decay_of(log_decays) * incoming * own
    summed = [
        jnp.sum(passed, tuple(i for i in (-2, -1) if x.shape[i] == 1), keepdims=True)
        for x in log_decays
    ]
    return own, tuple(summed)


_exchange.defvjp(_forward, _backward)


def _from_earlier(
    axis: SequenceAxis, states: jax.Array, log_decays: Sequence[jax.Array]
) -> jax.Array:
    """The sum of `receive` from what all ranks have sent, `(P, *B, G, K, V)`, in one pass."""
    ranks = jnp.arange(axis.size, dtype=jnp.int32)
    before = ranks[::-1] if axis.reverse else ranks

    def step(state: jax.Array, sent: tuple) -> tuple[jax.Array, None]:
        before, own, log_decays = sent
        return jnp.where(before < axis.position, decay_of(log_decays) * state + own, state), None

    *_, start = vary_alike((axis.position, states, jnp.zeros_like(states[0])))
    sent = (before, states, list(log_decays))
    unroll = min(axis.size, _UNROLLED)
    return jax.lax.scan(step, start, sent, reverse=axis.reverse, unroll=unroll)[0]


def _gather(axis: SequenceAxis, arrays: Sequence[jax.Array]) -> list[jax.Array]:
    """Arrays `(*B, G, m, n)` of all ranks, each `(P, *B, G, m, n)`, by one collective."""
    flat = [x.reshape(*x.shape[:-2], -1) for x in arrays]
    gathered = jax.lax.all_gather(jnp.concatenate(flat, axis=-1), axis.name)
    ends = [sum(x.shape[-1] for x in flat[:i]) for i in range(1, len(flat))]
    parts = jnp.split(gathered, ends, axis=-1)
    return [part.reshape(axis.size, *x.shape) for part, x in zip(parts, arrays, strict=True)]
