"""What kernels of gated linear attention need to be differentiable, to any order in reverse mode.

Residuals are the inputs and what a kernel keeps beside them, such as states. The derivative of the
backward pass is that of the same gradients by XLA.

Ranks that share a sequence exchange states between two of a kernel's launches: what its segments do
to the state before them, which is asked for first, and outputs given that state. Going back it is
the same with cotangents, so the gradients of a rank's state are nowhere made by themselves.
"""

import abc
import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.custom_derivatives import SymbolicZero

from structlayers._core.partitioning import partition_over_batch, vary_alike
from structlayers.gla.sequence_axis import SequenceAxis
from structlayers.gla.xla import chunks

# q, k, v, log_gate with all axes, what resets add to gates of K channels `(*B, T)`, state
type Args = tuple[jax.Array, jax.Array, jax.Array, jax.Array, jax.Array | None, jax.Array]


@dataclasses.dataclass(frozen=True)
class Kernels(abc.ABC):
    """Kernels for some sizes and settings; static for JAX.

    All functions are for a shard of the batch axes, with which all arrays lead.

    Attributes:
        scale: of the outputs.
        chunk_size: tokens of a chunk.
        precision: of float32 products.
    """

    scale: float
    chunk_size: int
    precision: lax.Precision

    @property
    @abc.abstractmethod
    def partitioned(self) -> bool:
        """Whether they may stand in a rule of partitioning."""

    @property
    def sequence_axis(self) -> SequenceAxis | None:
        """Over whose ranks the tokens go on; then the state is that before the first of all."""
        return None

    def alone(self) -> "Kernels":
        """The same for the tokens of one rank, given the state before them."""
        return self

    def summarize(self, args: Args, *, keeps: bool) -> tuple[jax.Array, jax.Array, Any]:
        """What tokens do to the state before them: `S -> exp(log_decay) * S + own`.

        Args:
            args: of a rank; the state counts to `own`.
            keeps: whether `values_and_states` follows, or `values`.

        Returns:
            own `(*B, G, K, V)`, log_decay `(*B, G, K, 1)`, and what was found on the way, which
            those two take.
        """
        raise NotImplementedError

    @abc.abstractmethod
    def values(self, args: Args, known: Any) -> tuple[jax.Array, jax.Array]:
        """Outputs and final states.

        Args:
            args: with the state before the first token.
            known: from `summarize`, or None.
        """

    @abc.abstractmethod
    def values_and_states(self, args: Args, known: Any) -> tuple[jax.Array, jax.Array, Any]:
        """The same, and what `gradients` wants of the states."""

    @abc.abstractmethod
    def gradients(self, args: Args, kept: Any, cotangents: Any) -> Args:
        """Gradients of all arguments.

        Args:
            args: the arrays.
            kept: of the states; with a `sequence_axis` the pair of that and the log decays of all
                ranks.
            cotangents: of outputs, and of final states or None for zeros (`filled`).
        """


def attend(args: Args, kernels: Kernels) -> tuple[jax.Array, jax.Array]:
    """Outputs and final states, on every shard of the batch axes, if there are any.

    Args:
        args: the arrays.
        kernels: that compute them.
    """
    if kernels.sequence_axis is not None:
        args = (*args[:-1], kernels.sequence_axis.only_first(args[-1]))
    args = vary_alike(args)  # so do the gradients
    if args[0].ndim > 3:
        return _attend(args, kernels)
    out, final = _attend(jax.tree.map(lambda x: x[None], args), kernels)
    return out[0], final[0]


def filled(args: Args, cotangents: Any) -> tuple[jax.Array, jax.Array]:
    """Cotangents of outputs and final states, zeros for None.

    Args:
        args: the arrays.
        cotangents: of what they give.
    """
    q, _, v, *_, state = args
    out = jax.ShapeDtypeStruct((*q.shape[:-1], v.shape[-1]), q.dtype)
    pairs = zip(cotangents, (out, state), strict=True)
    full = [jnp.zeros(like.shape, like.dtype) if x is None else x for x, like in pairs]
    dout, dfinal = vary_alike((args, full))[1]
    return dout, dfinal


@functools.partial(jax.custom_vjp, nondiff_argnums=(1,))
def _attend(args: Args, kernels: Kernels) -> tuple[jax.Array, jax.Array]:
    """The same, with a batch."""
    args, known, _ = _begin(args, kernels, keeps=False)
    return _on_shards(_values, args, known, kernels=kernels)


def _begin(args: Args, kernels: Kernels, *, keeps: bool) -> tuple[Args, Any, Any]:
    """Arguments with the state before a rank's tokens, what else is known, decays of all ranks."""
    if kernels.sequence_axis is None:
        return args, None, None
    own, log_decay, known = _summarize(args, kernels, keeps)
    incoming, all_decays = kernels.sequence_axis.receive(own, [log_decay])
    return (*args[:-1], args[-1] + incoming), known, all_decays


@functools.partial(jax.custom_vjp, nondiff_argnums=(1, 2))
def _summarize(args: Args, kernels: Kernels, keeps: bool) -> tuple[jax.Array, jax.Array, Any]:
    return kernels.summarize(args, keeps=keeps)


def _summarize_forward(args: Args, kernels: Kernels, keeps: bool) -> Any:
    return _summarize(args, kernels, keeps), args


def _summarize_backward(kernels: Kernels, keeps: bool, args: Args, cotangents: Any) -> tuple[Args]:
    """By XLA: only derivatives of `_attend_forward` come here, those of `_attend` do not."""
    del keeps

    def call(args: Args) -> tuple[jax.Array, jax.Array]:
        _, k, v, log_gate, resets, state = args
        own, (log_decay,) = chunks.own_state(
            k,
            v,
            log_gate,
            None,
            None if resets is None else resets < 0,
            chunk_size=kernels.chunk_size,
            precision=kernels.precision,
        )
        return own + jnp.exp(log_decay) * state, log_decay

    return jax.vjp(call, args)[1](cotangents[:2])


_summarize.defvjp(_summarize_forward, _summarize_backward)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def _attend_and_keep(args: Args, known: Any, kernels: Kernels) -> tuple[jax.Array, jax.Array, Any]:
    """With the states as well, which only `_pull_back` reads: they have no gradient.

    Nor has what is known, which follows from the arguments.
    """
    return _on_shards(_values_and_states, args, known, kernels=kernels)


def _keep_forward(args: Args, known: Any, kernels: Kernels) -> Any:
    out, final, kept = _attend_and_keep(args, known, kernels)
    return (out, final, kept), (args, known, kept)


def _keep_backward(kernels: Kernels, residuals: Any, cotangents: Any) -> tuple[Args, Any]:
    args, known, kept = residuals
    gradients = _pull_back(args, kept, cotangents[:2], kernels.alone())
    return gradients, jax.tree.map(jnp.zeros_like, known)


_attend_and_keep.defvjp(_keep_forward, _keep_backward)


def _attend_forward(primals: Any, kernels: Kernels) -> Any:
    args: Args = jax.tree.map(lambda primal: primal.value, primals)
    given, known, all_decays = _begin(args, kernels, keeps=True)
    out, final, kept = _attend_and_keep(given, known, kernels)
    return (out, final), (args, kept if all_decays is None else (kept, all_decays))


def _attend_backward(kernels: Kernels, residuals: Any, cotangents: Any) -> tuple[Args]:
    dout, dfinal = (None if isinstance(x, SymbolicZero) else x for x in cotangents)
    if dout is None:
        dout, dfinal = filled(residuals[0], (dout, dfinal))
    return (_pull_back(*residuals, (dout, dfinal), kernels),)


_attend.defvjp(_attend_forward, _attend_backward, symbolic_zeros=True)


@functools.partial(jax.custom_vjp, nondiff_argnums=(3,))
def _pull_back(args: Args, kept: Any, cotangents: Any, kernels: Kernels) -> Args:
    return _on_shards(_gradients, args, kept, cotangents, kernels=kernels)


def _pull_back_forward(args: Args, kept: Any, cotangents: Any, kernels: Kernels) -> Any:
    return _pull_back(args, kept, cotangents, kernels), (args, kept, cotangents)


def _pull_back_backward(kernels: Kernels, residuals: Any, seconds: Args) -> tuple[Any, ...]:
    args, kept, cotangents = residuals
    gradients = functools.partial(_gradients_by_xla, kernels=kernels)
    _, pull = jax.vjp(gradients, args, cotangents)
    dargs, dcotangents = pull(seconds)
    return dargs, jax.tree.map(jnp.zeros_like, kept), dcotangents


_pull_back.defvjp(_pull_back_forward, _pull_back_backward)


def _gradients_by_xla(args: Args, cotangents: Any, *, kernels: Kernels) -> Args:
    """The gradients in a form that can be differentiated again."""

    def call(args: Args) -> tuple[jax.Array, jax.Array]:
        q, k, v, log_gate, resets, state = args
        return chunks.gated_linear_attention(
            q,
            k,
            v,
            log_gate,
            None,
            state,
            None if resets is None else resets < 0,
            None,
            scale=kernels.scale,
            chunk_size=kernels.chunk_size,
            precision=kernels.precision,
            sequence_axis=kernels.sequence_axis,
        )

    return jax.vjp(call, args)[1](filled(args, cotangents))[0]


def _on_shards(fn: Callable[..., Any], args: Args, *rest: Any, kernels: Kernels) -> Any:
    """Runs a function whose arrays all lead with the batch axes on every shard of them."""
    if not kernels.partitioned:
        return fn(args, *rest, kernels=kernels)
    batched = (True,) * (1 + len(rest))
    run = partition_over_batch(fn, batched=batched, num_batch_axes=args[0].ndim - 3)
    return run(args, *rest, kernels=kernels)


def _values(args: Args, known: Any, *, kernels: Kernels) -> tuple[jax.Array, jax.Array]:
    return kernels.values(args, known)


def _values_and_states(
    args: Args, known: Any, *, kernels: Kernels
) -> tuple[jax.Array, jax.Array, Any]:
    return kernels.values_and_states(args, known)


def _gradients(args: Args, kept: Any, cotangents: Any, *, kernels: Kernels) -> Args:
    return kernels.gradients(args, kept, cotangents)
