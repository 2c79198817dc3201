"""What must be exact or refused, and what it takes to compile."""

import time
from collections.abc import Iterator
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.equivariant.op_numerics.signals import (
    Measured,
    Measurement,
    by_form,
    draw,
    largest,
)
from structlayers.equivariant import SphericalGrid, gaunt_tensor_product

_ANGLES = {"sin", "cos", "tan", "asin", "acos", "atan", "atan2", "sinh", "cosh", "tanh"}
_POWERS = {"exp", "exp2", "expm1", "log", "log1p", "pow", "sqrt", "rsqrt", "lgamma", "erf"}


def rule_cases(
    lmax: int, grid_degree: int, compiled: tuple[int, ...], forms: tuple[str, ...]
) -> dict[str, Measurement]:
    """Grids that are one point short, paths of odd sum, programs."""
    return {
        **{f"grid_{t}": partial(_small_grids, t) for t in range(1, grid_degree + 1)},
        **{f"odd_{n}": partial(_odd_sums, n) for n in range(1, lmax + 1, 2)},
        **{f"program_{form}": partial(_transcendentals, form) for form in forms},
        **{f"compile_{n}": partial(_compile_seconds, n) for n in compiled},
    }


def _small_grids(degree: int) -> Measured:
    """How many grids with too few points are tried, and made all the same."""
    beta, odd, alpha = degree // 2, 2 * (degree // 2), degree
    tries = [
        partial(SphericalGrid.gauss_legendre, degree, num_alpha=alpha),
        partial(SphericalGrid.equiangular, degree, num_alpha=alpha),
    ]
    if beta:
        tries.append(partial(SphericalGrid.gauss_legendre, degree, num_beta=beta))
        tries.append(partial(SphericalGrid.equiangular, degree, num_beta=odd))
        # the rules aside: the same points, claimed to be exact, must fail the proof
        less = SphericalGrid.gauss_legendre(2 * beta - 1, num_alpha=degree + 1)
        tries.append(partial(SphericalGrid, less.points, less.weights, degree))
    rule = SphericalGrid.lebedev(degree)
    tries.append(partial(SphericalGrid, rule.points, rule.weights, rule.degree + 1))
    # by the op: a grid that is exact to one degree less than the product needs
    x = jnp.ones((1, (degree + 1) ** 2))
    short = SphericalGrid.gauss_legendre(degree - 1)
    tries.append(partial(gaunt_tensor_product, x, jnp.ones((1, 1)), lmax=0, grid=short))
    accepted = 0
    for make in tries:
        try:
            make()
        except ValueError:
            continue
        accepted += 1
    return {"small_grids": float(accepted), "small_grids_tried": float(len(tries))}


def _odd_sums(lmax: int) -> Measured:
    """The largest coefficient of degree l in products of degree l with degree l, for odd l.

    Exactly zero where no coefficient is multiplied; on all points of a grid a sum that cancels.
    """
    (x, y), size = draw(lmax, lmax), (lmax + 1) ** 2
    alone = np.arange(size) >= lmax**2
    exact = ["clebsch_gordan", "antipodal", "sparse"]

    def left(form: str) -> float:
        z = by_form(form)(x * alone, y * alone, lmax=lmax)
        return largest([np.asarray(z)[:, alone]])

    with jax.enable_x64(True):
        return {
            "odd_sums": max(map(left, exact)),
            "odd_sums_on_grid": left("gauss_legendre"),
        }


def _loss(x: jax.Array, y: jax.Array, *, lmax: int, form: str | None) -> jax.Array:
    product = gaunt_tensor_product if form is None else by_form(form)
    return jnp.sum(product(x, y, lmax=lmax) ** 2)


def _gradients(lmax: int, form: str | None) -> Any:
    return jax.jit(jax.value_and_grad(partial(_loss, lmax=lmax, form=form), (0, 1)))


def _equations(jaxpr: Any) -> Iterator[Any]:
    """All equations, those of inner programs too."""
    for equation in jaxpr.eqns:
        yield equation
        for value in jax.tree.leaves(equation.params, is_leaf=lambda leaf: hasattr(leaf, "eqns")):
            inner = getattr(value, "jaxpr", value)
            if hasattr(inner, "eqns"):
                yield from _equations(inner)


def _transcendentals(form: str) -> Measured:
    """How many transcendental operations the program of values and gradients has, at L = 4."""
    x = jax.ShapeDtypeStruct((8, 25), jnp.float32)
    program = _gradients(4, form).trace(x, x).jaxpr
    names = [equation.primitive.name for equation in _equations(program)]
    if not names:
        raise ValueError(f"the program of {form} has no equations")
    return {"transcendentals": float(sum(name in _ANGLES | _POWERS for name in names))}


def _compile_seconds(lmax: int) -> Measured:
    """Processor time to trace, lower and compile values and gradients; a busy machine adds none."""
    x = jax.ShapeDtypeStruct((1024, (lmax + 1) ** 2), jnp.float32)
    start = time.process_time()
    _gradients(lmax, None).lower(x, x).compile()
    return {"compile_seconds": time.process_time() - start}
