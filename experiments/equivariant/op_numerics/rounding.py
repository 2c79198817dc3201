"""Rounding of values and gradients in float32 and below, equivariance, and equal bits."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.equivariant.op_numerics.signals import (
    Measured,
    Measurement,
    draw,
    exact_results,
    rotation,
)
from structlayers.equivariant import gaunt_tensor_product
from structlayers.equivariant.ops.gaunt import dispatcher
from structlayers.equivariant.precision import canonicalize_table_precision
from structlayers.testing import error_ratio

PRECISIONS = ("highest", "3xtf32", "tf32", "bf16")
KERNEL = {"3xtf32": "float32", "tf32": "float32", "bf16": "bfloat16"}
"""Precisions of the kernel for Hopper GPUs, and the dtype of its signals in each."""

_COMPARED = 64


def chosen(lmax: int, precision: str, rows: int, dtype: str, implementation: str | None) -> str:
    """Name of the implementation that runs.

    Raises:
        NotImplementedError: the implementation does not serve here.
    """
    x = jax.ShapeDtypeStruct((rows, (lmax + 1) ** 2), dtype)
    return dispatcher.choose(
        x,
        x,
        implementation=implementation,
        lmax=lmax,
        grid=None,
        precision=canonicalize_table_precision(precision, dtype),
    ).name


def rounding_cases(
    precisions: tuple[str, ...], degrees: tuple[int, ...]
) -> tuple[dict[str, Measurement], dict[str, str]]:
    """What the op chooses, at `L = L1 = L2 = L3`; and the names of what it chooses."""
    cases, notes = {}, {}
    for precision in precisions:
        for lmax in degrees:
            name = f"{precision}_{lmax}"
            notes[name] = chosen(lmax, precision, 64, "float32", None)
            cases[name] = partial(rounding, lmax, precision, 64, "float32", None)
    return cases, notes


def kernel_cases(
    precisions: tuple[str, ...], degrees: tuple[int, ...], rows: int
) -> tuple[dict[str, Measurement], dict[str, str]]:
    """The kernel for Hopper GPUs wherever it serves; and why it does not elsewhere."""
    cases, notes = {}, {}
    for precision in precisions:
        for lmax in degrees if precision in KERNEL else ():
            name, dtype = f"{precision}_{lmax}", KERNEL[precision]
            try:
                notes[name] = chosen(lmax, precision, rows, dtype, "pallas_gpu")
            except NotImplementedError as error:
                notes[name] = f"not served here: {error}"
                cases[name] = _nothing
            else:
                cases[name] = partial(rounding, lmax, precision, rows, dtype, "pallas_gpu")
    return cases, notes


def _nothing() -> Measured:
    return {}


def rounding(
    lmax: int, precision: str, rows: int, dtype: str, implementation: str | None
) -> Measured:
    """Relative RMS errors of values and gradients, and of equivariance of both.

    And how many entries of any of them differ between two runs. Errors are those of 64 of the rows.
    """

    @jax.jit
    def run(x: Any, y: Any, c: Any) -> tuple[jax.Array, ...]:
        product = partial(
            gaunt_tensor_product, lmax=lmax, precision=precision, implementation=implementation
        )
        z, pull = jax.vjp(product, x, y)
        return z, *pull(c)

    def results(arrays: list[np.ndarray]) -> list[np.ndarray]:
        return [np.asarray(out) for out in run(*arrays)]

    index = np.linspace(0, rows - 1, min(rows, _COMPARED)).astype(int)
    signals = [np.asarray(jnp.asarray(x, dtype)) for x in draw(lmax, lmax, lmax, rows=rows)]
    found, again = results(signals), results(signals)
    changed = sum(int(np.sum(one != two)) for one, two in zip(found, again, strict=True))
    rows_of = [np.asarray(out[index], np.float64) for out in found]
    wanted = exact_results(*(np.asarray(x[index], np.float64) for x in signals))
    errors = [error_ratio(one, two) for one, two in zip(rows_of, wanted, strict=True)]
    turned = []
    for inverts in (False, True):
        matrix = rotation(lmax, inverts=inverts)
        moved = [x.copy() for x in signals]
        for x in moved:
            x[index] = x[index].astype(np.float64) @ matrix.T
        acted = results(moved)
        turned.append(
            [
                error_ratio(np.asarray(one[index], np.float64), two @ matrix.T)
                for one, two in zip(acted, rows_of, strict=True)
            ]
        )
    worst = np.max(turned, axis=0)
    return {
        "values": errors[0],
        "gradients": max(errors[1:]),
        "equivariance": float(worst[0]),
        "gradient_equivariance": float(max(worst[1:])),
        "changed": float(changed),
    }
