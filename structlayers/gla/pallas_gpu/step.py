"""Calls of the decode kernel: one launch a token, the state written where it was read."""

import functools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jax.custom_batching import custom_vmap

from structlayers._core.partitioning import partition_over_batch
from structlayers.gla.pallas_gpu.step_plan import Plan, tile_columns
from structlayers.gla.xla import step as xla

type Outputs = tuple[jax.Array, jax.Array]


@dataclass(frozen=True)
class Options:
    """The scale of the outputs; with a norm also tau and epsilon."""

    scale: float
    gate_normalizer: float | None = None
    norm_epsilon: float | None = None


def step(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    log_gate: jax.Array,
    log_value_gate: None,
    state: jax.Array,
    *,
    scale: float,
    precision: jax.lax.Precision,
) -> Outputs:
    """Arguments and results as in the reference."""
    del log_value_gate, precision
    return _apply(Options(scale), q, k, v, log_gate, state)


def decode(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    gate_logits: jax.Array,
    state: jax.Array,
    output_gate: jax.Array,
    norm_scale: jax.Array,
    *,
    scale: float,
    gate_logit_normalizer: float,
    norm_epsilon: float,
    precision: jax.lax.Precision,
) -> Outputs:
    """Arguments and results as in the reference."""
    del precision
    options = Options(scale, gate_logit_normalizer, norm_epsilon)
    return _apply(options, q, k, v, gate_logits, state, output_gate, norm_scale)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _apply(options: Options, *operands: jax.Array) -> Outputs:
    batched = (*[True] * 6, False)[: len(operands)]
    run = partition_over_batch(_on_shard, batched=batched, num_batch_axes=operands[0].ndim - 2)
    return run(*operands, options=options)


def _forward(options: Options, *operands: jax.Array) -> tuple[Outputs, tuple[jax.Array, ...]]:
    return _apply(options, *operands), operands


def _backward(options: Options, operands: tuple[jax.Array, ...], gradients: Outputs) -> Any:
    return jax.vjp(functools.partial(_by_xla, options), *operands)[1](gradients)


_apply.defvjp(_forward, _backward)


def _by_xla(options: Options, *operands: jax.Array) -> Outputs:
    """The same by the portable implementation."""
    precision = jax.lax.Precision.HIGHEST
    if options.gate_normalizer is None or options.norm_epsilon is None:
        q, k, v, log_gate, state = operands
        return xla.step(q, k, v, log_gate, None, state, scale=options.scale, precision=precision)
    return xla.decode(
        *operands,
        scale=options.scale,
        gate_logit_normalizer=options.gate_normalizer,
        norm_epsilon=options.norm_epsilon,
        precision=precision,
    )


def _on_shard(*operands: jax.Array, options: Options) -> Outputs:
    """All sequences of a shard as one axis."""
    lead = operands[0].shape[:-2]
    rows = [x.reshape(-1, *x.shape[len(lead) :]) for x in operands[:6]]
    out, state = _kernel(options)(*rows, *operands[6:])
    return out.reshape(*lead, *out.shape[1:]), state.reshape(*lead, *state.shape[1:])


@functools.cache
def _kernel(options: Options) -> Callable[..., Outputs]:
    """The kernel of one axis of sequences, with a rule for `jax.vmap`."""

    @custom_vmap
    def run(*operands: jax.Array) -> Outputs:
        return _launch(options, *operands)

    @run.def_vmap
    def _(size: int, mapped: Sequence[bool], *operands: jax.Array) -> Any:
        if any(mapped[6:]):
            by_xla = functools.partial(_by_xla, options)
            axes = tuple(0 if one else None for one in mapped)
            return jax.vmap(by_xla, axes)(*operands), (True, True)
        rows = [
            x if one else jnp.broadcast_to(x, (size, *x.shape))
            for x, one in zip(operands[:6], mapped, strict=False)
        ]
        results = run(*(x.reshape(-1, *x.shape[2:]) for x in rows), *operands[6:])
        return tuple(x.reshape(size, -1, *x.shape[1:]) for x in results), (True, True)

    return run


def _launch(
    options: Options,
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    gates: jax.Array,
    state: jax.Array,
    *epilogue: jax.Array,
) -> Outputs:
    from structlayers._core.simt.mosaic import launch
    from structlayers.gla.pallas_gpu.step_program import program

    *lead, key, value = state.shape
    queries = q.shape[-2] // k.shape[-2]
    plan = Plan(
        states=math.prod(lead),
        queries=queries,
        key=key,
        value=value,
        scale=options.scale,
        gate_normalizer=options.gate_normalizer,
        norm_epsilon=options.norm_epsilon,
        half=q.dtype == jnp.bfloat16,
        half_gates=gates.dtype == jnp.bfloat16,
        columns=tile_columns(queries, key, value),
    )
    in_place = jax.new_ref(state)
    if epilogue:
        output_gate, norm_scale = epilogue
        epilogue = output_gate, norm_scale.astype(jnp.float32)
    (out,) = launch(
        program(plan),
        [q, k, v, gates, in_place, *epilogue],
        [jax.ShapeDtypeStruct((*q.shape[:-1], value), q.dtype)],
        clusters=plan.clusters,
        cluster_size=plan.cluster_size,
        threads=plan.threads,
        shared_bytes=plan.shared_bytes,
        name=f"gla_step_{key}_{value}_{q.dtype.name}",
    )
    return out, jax.freeze(in_place)
