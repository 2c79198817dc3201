"""Calls of the Hopper kernels, and of XLA in their place."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.custom_batching import custom_vmap

from structlayers._core.batching import map_calls
from structlayers.butterfly import xla
from structlayers.butterfly.pallas_gpu import gradient_program, scalar_program, tensor_program
from structlayers.butterfly.pallas_gpu.gradient_layout import GradientPlan
from structlayers.butterfly.pallas_gpu.tensor_layout import Factor, Plan
from structlayers.butterfly.pallas_gpu.weights import fragments, from_sums

# An estimate: a launch and its gaps in a loop against the time of XLA's products for as many rows.
LAUNCH_FROM_ROWS = 1024

type Blocks = Mapping[int, jax.Array]


def multiply_by_xla(x: jax.Array, factors: jax.Array, increasing: bool) -> jax.Array:
    """The product of all factors as the portable implementation has it."""
    twiddle = factors[None, None]
    return xla.butterfly_multiply(x, twiddle, None, increasing_stride=increasing)


def with_batching(kernel: Callable[..., jax.Array], by_xla: Callable[..., jax.Array]) -> Any:
    """A kernel of (rows, weights...) with a rule for `jax.vmap`.

    Rows that share their weights are one batch. Each set of weights of its own takes a launch,
    which pays for many rows; few are left to XLA, for all sets at once.

    Args:
        kernel: of rows ``(B, N)`` and weights, to rows of the same shape.
        by_xla: the same product as the portable implementation has it.
    """

    @custom_vmap
    def run(x: jax.Array, *weights: jax.Array) -> jax.Array:
        return kernel(x, *weights)

    @run.def_vmap
    def _(size: int, mapped: Sequence[bool], *operands: jax.Array) -> Any:
        if any(mapped[1:]):
            return each_set(run, by_xla, size, mapped, operands), True
        x, *weights = operands
        return run(x.reshape(-1, x.shape[-1]), *weights).reshape(x.shape), True

    return run


def each_set(
    run: Callable[..., Any],
    by_xla: Callable[..., Any],
    size: int,
    mapped: Sequence[bool],
    operands: Sequence[jax.Array],
) -> Any:
    """Results for sets of operands, rows first: launch by launch, or few rows by XLA at once."""
    if operands[0].shape[-2] < LAUNCH_FROM_ROWS:
        axes = tuple(0 if one else None for one in mapped)
        return jax.vmap(by_xla, axes)(*operands)
    return map_calls(run, size, mapped, operands)


def _weights(factors: Sequence[Factor], blocks: Blocks) -> jax.Array:
    return fragments([blocks[factor.stride] for factor in factors])


def multiply(x: jax.Array, blocks: Blocks, plans: Sequence[Plan]) -> jax.Array:
    """Rows times the factors of one plan after the other, in bfloat16."""
    # the fragments of all in one array, which XLA makes by one kernel rather than several
    weights = _weights([factor for plan in plans for factor in plan.factors], blocks)
    for plan in plans:
        x = multiply_by_plan(x, weights, plan)
    return x


def multiply_by_plan(x: jax.Array, weights: jax.Array, plan: Plan) -> jax.Array:
    """Rows times one plan's factors, given as fragments or, if it merges them, as they are."""
    grid = (plan.clusters, plan.cluster_size)
    return _launch(tensor_program.program(plan), (x, weights), x, plan, grid)


def multiply_real(x: jax.Array, factors: jax.Array, plan: scalar_program.Plan) -> jax.Array:
    """Rows times a plan's factors, in float32 or complex64."""
    return _launch(scalar_program.program(plan), (x, factors), x, plan, (plan.blocks, 1))


def sum_gradient(
    x: jax.Array, dy: jax.Array, blocks: Blocks, transposed: Blocks, plan: GradientPlan
) -> jax.Array:
    """Gradient ``(P, s, R, R)`` of a plan's target from its values and its last cotangents."""
    before, after = plan.factors[: plan.target], plan.factors[plan.target + 1 :]
    inputs = [x, dy]
    if before or after:
        inputs.append(_weights(before, blocks) if before else _weights(after, transposed))
    out = jax.ShapeDtypeStruct((plan.sets, *plan.set_shape), jnp.float32)
    sums = _launch(gradient_program.program(plan), inputs, out, plan, (plan.clusters, 1))
    return from_sums(sums, plan.summed)


def _launch(
    program: Any, inputs: Sequence[jax.Array], out: Any, plan: Any, grid: tuple[int, int]
) -> jax.Array:
    from structlayers._core.simt.mosaic import launch

    (y,) = launch(
        program,
        inputs,
        (jax.ShapeDtypeStruct(out.shape, out.dtype),),
        clusters=grid[0],
        cluster_size=grid[1],
        threads=plan.threads,
        shared_bytes=plan.shared_bytes,
        name=f"butterfly_{plan.size}_{inputs[0].dtype.name}",
    )
    return y
