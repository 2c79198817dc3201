"""What kernels of gated linear attention need to be differentiable, to any order in reverse mode.

Residuals are the inputs and the states that a kernel keeps. The derivative of the backward pass is
that of the same gradients by XLA.
"""

import abc
import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from structlayers._core.partitioning import partition_over_batch, vary_alike
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

    @abc.abstractmethod
    def values(self, args: Args) -> tuple[jax.Array, jax.Array]:
        """Outputs and final states."""

    @abc.abstractmethod
    def values_and_states(self, args: Args) -> tuple[jax.Array, jax.Array, jax.Array]:
        """The same, and what `gradients` wants of the states."""

    @abc.abstractmethod
    def gradients(self, args: Args, kept: jax.Array, cotangents: Any) -> Args:
        """Gradients of all arguments."""


def attend(args: Args, kernels: Kernels) -> tuple[jax.Array, jax.Array]:
    """Outputs and final states, on every shard of the batch axes, if there are any.

    Args:
        args: the arrays.
        kernels: that compute them.
    """
    args = vary_alike(args)  # so do the gradients
    if args[0].ndim > 3:
        return _attend(args, kernels)
    out, final = _attend(jax.tree.map(lambda x: x[None], args), kernels)
    return out[0], final[0]


@functools.partial(jax.custom_vjp, nondiff_argnums=(1,))
def _attend(args: Args, kernels: Kernels) -> tuple[jax.Array, jax.Array]:
    """The same, with a batch."""
    return _on_shards(_values, args, kernels=kernels)


@functools.partial(jax.custom_vjp, nondiff_argnums=(1,))
def _attend_and_keep(args: Args, kernels: Kernels) -> tuple[jax.Array, ...]:
    """With the states as well, which only `_pull_back` reads: they have no gradient."""
    return _on_shards(_values_and_states, args, kernels=kernels)


def _keep_forward(args: Args, kernels: Kernels) -> Any:
    out, final, kept = _attend_and_keep(args, kernels)
    return (out, final, kept), (args, kept)


def _keep_backward(kernels: Kernels, residuals: Any, cotangents: Any) -> tuple[Args]:
    args, kept = residuals
    return (_pull_back(args, kept, cotangents[:2], kernels),)


_attend_and_keep.defvjp(_keep_forward, _keep_backward)


def _attend_forward(args: Args, kernels: Kernels) -> Any:
    out, final, kept = _attend_and_keep(args, kernels)
    return (out, final), (args, kept)


def _attend_backward(kernels: Kernels, residuals: Any, cotangents: Any) -> tuple[Args]:
    return (_pull_back(*residuals, cotangents, kernels),)


_attend.defvjp(_attend_forward, _attend_backward)


@functools.partial(jax.custom_vjp, nondiff_argnums=(3,))
def _pull_back(args: Args, kept: jax.Array, cotangents: Any, kernels: Kernels) -> Args:
    return _on_shards(_gradients, args, kept, cotangents, kernels=kernels)


def _pull_back_forward(args: Args, kept: jax.Array, cotangents: Any, kernels: Kernels) -> Any:
    return _pull_back(args, kept, cotangents, kernels), (args, kept, cotangents)


def _pull_back_backward(kernels: Kernels, residuals: Any, seconds: Args) -> tuple[Any, ...]:
    args, kept, cotangents = residuals
    gradients = functools.partial(_gradients_by_xla, kernels=kernels)
    _, pull = jax.vjp(gradients, args, cotangents)
    dargs, dcotangents = pull(seconds)
    return dargs, jnp.zeros_like(kept), dcotangents


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
        )

    return jax.vjp(call, args)[1](cotangents)[0]


def _on_shards(fn: Callable[..., Any], args: Args, *rest: Any, kernels: Kernels) -> Any:
    """Runs a function whose arrays all lead with the batch axes on every shard of them."""
    if not kernels.partitioned:
        return fn(args, *rest, kernels=kernels)
    batched = (True,) * (1 + len(rest))
    run = partition_over_batch(fn, batched=batched, num_batch_axes=args[0].ndim - 3)
    return run(args, *rest, kernels=kernels)


def _values(args: Args, *, kernels: Kernels) -> tuple[jax.Array, jax.Array]:
    return kernels.values(args)


def _values_and_states(args: Args, *, kernels: Kernels) -> tuple[jax.Array, ...]:
    return kernels.values_and_states(args)


def _gradients(args: Args, kept: jax.Array, cotangents: Any, *, kernels: Kernels) -> Args:
    return kernels.gradients(args, kept, cotangents)
