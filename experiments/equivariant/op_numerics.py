"""Errors of the Gaunt products against exact coefficients, their symmetries, and grids that refuse.

Standard normal coefficients, signed. The oracle is the table of Gaunt coefficients, built from 3j
symbols by integer arithmetic, in float64 by NumPy.
"""

import functools
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.experiment import Phase, Results
from structlayers.equivariant import (
    SphericalGrid,
    gaunt_tensor_product,
    many_body_product,
    spherical_harmonics,
)
from structlayers.equivariant.reference import many_body_product as exact_powers
from structlayers.equivariant.tables import dense_gaunt
from structlayers.testing import error_ratio

FORMS = (
    "gauss_legendre",
    "equiangular",
    "design",
    "separable",
    "antipodal",
    "fourier",
)
"""Kinds of grid with one table each way, and other implementations on Gauss-Legendre points."""

PRECISIONS = ("highest", "3xtf32", "tf32", "bf16")

_ROWS = 64
_KINDS = ("gauss_legendre", "equiangular", "design")


def _draw(*degrees: int, rows: int = _ROWS) -> list[np.ndarray]:
    rng = np.random.default_rng([7, *degrees])
    return [rng.standard_normal((rows, (lmax + 1) ** 2)) for lmax in degrees]


def _by_form(form: str) -> Callable[..., jax.Array]:
    """The product in one of the forms."""
    if form in _KINDS:
        return functools.partial(gaunt_tensor_product, grid=form, implementation="xla")
    return functools.partial(gaunt_tensor_product, implementation=form)


def exactness(form: str, degrees: tuple[int, int, int]) -> float:
    """Largest difference to exact coefficients in float64."""
    l1, l2, l3 = degrees
    x, y = _draw(l1, l2, rows=4)
    wanted = np.einsum("ni,nj,ijk->nk", x, y, dense_gaunt(l1, l2, l3), optimize=True)
    with jax.enable_x64(True):
        found = np.asarray(_by_form(form)(x, y, lmax=l3))
    return float(np.max(np.abs(found - wanted)))


def derivative_error(form: str, lmax: int) -> list[float]:
    """Relative errors of first, second and third derivatives of a cubic function, float64."""
    x, y, c = _draw(lmax, lmax, lmax, rows=3)

    def derivatives(product: Callable[..., jax.Array]) -> list[list[np.ndarray]]:
        def loss(x: jax.Array, y: jax.Array) -> jax.Array:
            return jnp.vdot(product(x, y, lmax=lmax) ** 3, c)

        def first(x: jax.Array, y: jax.Array) -> jax.Array:
            gx, gy = jax.grad(loss, (0, 1))(x, y)
            return jnp.sum(jnp.sin(gx)) + jnp.sum(jnp.sin(gy))

        def second(x: jax.Array, y: jax.Array) -> jax.Array:
            gx, gy = jax.grad(first, (0, 1))(x, y)
            return jnp.sum(gx**2) + jnp.sum(gy**2)

        every = jax.jit(lambda x, y: [jax.grad(f, (0, 1))(x, y) for f in (loss, first, second)])
        return [[np.asarray(g) for g in pair] for pair in every(x, y)]

    with jax.enable_x64(True):
        table = jnp.asarray(dense_gaunt(lmax, lmax, lmax))

        def oracle(x: jax.Array, y: jax.Array, *, lmax: int) -> jax.Array:
            del lmax
            return jnp.einsum("ni,nj,ijk->nk", x, y, table, precision="highest")

        found, wanted = derivatives(_by_form(form)), derivatives(oracle)
    return [
        max(error_ratio(*pair) for pair in zip(one, two, strict=True))
        for one, two in zip(found, wanted, strict=True)
    ]


def rotation(lmax: int, *, inverts: bool) -> np.ndarray:
    """A rotation of coefficients, times the inversion of directions if `inverts`."""
    turn, _ = np.linalg.qr(np.random.default_rng(5).standard_normal((3, 3)))
    turn = turn * np.linalg.det(turn) * (-1 if inverts else 1)
    grid = SphericalGrid.gauss_legendre(2 * lmax)
    turned = spherical_harmonics(lmax, grid.points @ turn)
    return spherical_harmonics(lmax, grid.points).T @ (grid.weights[:, None] * turned)


def rounding(lmax: int, precision: str) -> list[float]:
    """Relative RMS errors of values and gradients, and of equivariance of both, in float32."""
    x, y, c = (array.astype(np.float32) for array in _draw(lmax, lmax, lmax))

    @jax.jit
    def run(x: Any, y: Any, c: Any) -> tuple[jax.Array, ...]:
        product = functools.partial(
            gaunt_tensor_product, lmax=lmax, precision=precision, implementation="xla"
        )
        z, pull = jax.vjp(product, x, y)
        return z, *pull(c)

    found = run(x, y, c)
    table = dense_gaunt(lmax, lmax, lmax)
    wide = [array.astype(np.float64) for array in (x, y, c)]
    wanted = [
        np.einsum(terms, *pair, table, optimize=True)
        for terms, pair in (
            ("ni,nj,ijk->nk", wide[:2]),
            ("nj,nk,ijk->ni", wide[1:]),
            ("ni,nk,ijk->nj", wide[::2]),
        )
    ]
    errors = [error_ratio(one, two) for one, two in zip(found, wanted, strict=True)]
    turned = []
    for inverts in (False, True):
        matrix = rotation(lmax, inverts=inverts)
        acted = run(*((array @ matrix.T).astype(np.float32) for array in wide))
        outs = (np.asarray(out, np.float64) @ matrix.T for out in found)
        turned.append([error_ratio(one, two) for one, two in zip(acted, outs, strict=True)])
    worst = np.max(turned, axis=0)
    return [errors[0], max(errors[1:]), float(worst[0]), float(max(worst[1:]))]


def power_error(lmax: int, order: int) -> float:
    """Largest relative error of powers in float64, against products path by path."""
    (x,) = _draw(lmax, rows=3)
    with jax.enable_x64(True):
        found = np.asarray(many_body_product(x, order=order, lmax=lmax))[:, 1:]
        wanted = np.asarray(exact_powers(jnp.asarray(x), order=order, lmax=lmax))
    return error_ratio(found, wanted)


def accepted_small_grids(degree: int) -> float:
    """How many grids with a point too few in one direction are made all the same."""
    beta, odd, alpha = degree // 2, 2 * (degree // 2), degree
    tries = [
        functools.partial(SphericalGrid.gauss_legendre, degree, num_alpha=alpha),
        functools.partial(SphericalGrid.equiangular, degree, num_alpha=alpha),
    ]
    if beta:
        tries.append(functools.partial(SphericalGrid.gauss_legendre, degree, num_beta=beta))
        tries.append(functools.partial(SphericalGrid.equiangular, degree, num_beta=odd))
        # the rules aside: the same points, claimed to be exact, must fail the proof
        less = SphericalGrid.gauss_legendre(2 * beta - 1, num_alpha=degree + 1)
        tries.append(functools.partial(SphericalGrid, less.points, less.weights, degree))
    accepted = 0
    for make in tries:
        try:
            make()
        except ValueError:
            continue
        accepted += 1
    return float(accepted)


def odd_sums(lmax: int) -> float:
    """The largest coefficient of degree l in products of degree l with degree l, for odd l."""
    (x, y), size = _draw(lmax, lmax), (lmax + 1) ** 2
    alone = np.arange(size) >= lmax**2
    with jax.enable_x64(True):
        z = gaunt_tensor_product(x * alone, y * alone, lmax=lmax, implementation="clebsch_gordan")
    return float(np.max(np.abs(np.asarray(z)[:, alone])))


def compile_seconds(lmax: int) -> float:
    """To trace, lower and compile values and gradients, with tables made anew."""
    x = jax.ShapeDtypeStruct((1024, (lmax + 1) ** 2), jnp.float32)
    start = time.perf_counter()

    def loss(x: jax.Array, y: jax.Array) -> jax.Array:
        return jnp.sum(gaunt_tensor_product(x, y, lmax=lmax) ** 2)

    jax.jit(jax.value_and_grad(loss, (0, 1))).lower(x, x).compile()
    return time.perf_counter() - start


type Measurement = Callable[[], float | list[float]]


@dataclass(frozen=True)
class MeasurePhase:
    """One measurement a step.

    Attributes:
        name: of the phase.
        cases: name of a case, names of what it gives, and the measurement.
    """

    name: str
    cases: tuple[tuple[str, tuple[str, ...], Measurement], ...]
    chunk: int = 1
    allow_nonfinite: frozenset[str] = frozenset({"*"})  # a failure shows in the metrics

    @property
    def num_steps(self) -> int:
        """Number of cases."""
        return len(self.cases)

    def init(self) -> dict[str, np.ndarray]:
        """Values to be filled in, (cases, largest number of values)."""
        width = max(len(names) for _, names, _ in self.cases)
        return {"values": np.full((len(self.cases), width), np.nan)}

    def advance(
        self, state: dict[str, np.ndarray], step: int, num: int
    ) -> tuple[dict[str, np.ndarray], dict[str, float]]:
        """Measures the next cases."""
        values = np.array(state["values"])
        for index in range(step, step + num):
            found = np.atleast_1d(self.cases[index][2]())
            values[index, : len(found)] = found
        return {"values": values}, {"value": float(values[step + num - 1, 0])}

    def finish(self, state: dict[str, np.ndarray]) -> dict[str, Any]:
        """By case and name the values."""
        return {
            case: {name: float(v) for name, v in zip(names, row, strict=False)}
            for (case, names, _), row in zip(self.cases, np.asarray(state["values"]), strict=True)
        }


@dataclass(frozen=True)
class OpNumerics:
    """Exactness, derivatives, rounding, and rules.

    Attributes:
        lmax: of L1 and L2, every L3 up to their sum, in float64.
        derivative_degrees: L at which derivatives are compared.
        rounding_degrees: L of float32.
        grid_degree: T up to which small grids are tried.
        forms: some of `FORMS`.
        precisions: some of `PRECISIONS`.
    """

    lmax: int
    derivative_degrees: tuple[int, ...]
    rounding_degrees: tuple[int, ...]
    grid_degree: int
    forms: tuple[str, ...]
    precisions: tuple[str, ...]

    def phases(self) -> Sequence[Phase]:
        """Measurements by kind."""
        degrees = range(self.lmax + 1)
        triples = [(a, b, c) for a in degrees for b in degrees if b <= a for c in range(a + b + 1)]
        exact = tuple(
            (f"{form}_{a}_{b}_{c}", (form,), functools.partial(exactness, form, (a, b, c)))
            for form in self.forms
            for a, b, c in triples
        )
        names = ("first", "second", "third")
        derivatives = tuple(
            (f"{form}_{lmax}", names, functools.partial(derivative_error, form, lmax))
            for form in self.forms
            for lmax in self.derivative_degrees
        )
        names = ("values", "gradients", "equivariance", "gradient_equivariance")
        rounded = tuple(
            (
                f"{precision}_{lmax}",
                tuple(f"{precision}/{name}" for name in names),
                functools.partial(rounding, lmax, precision),
            )
            for precision in self.precisions
            for lmax in self.rounding_degrees
        )
        rules = (
            *(
                (f"grid_{t}", ("small_grids",), functools.partial(accepted_small_grids, t))
                for t in range(1, self.grid_degree + 1)
            ),
            *(
                (f"odd_{n}", ("odd_sums",), functools.partial(odd_sums, n))
                for n in range(1, self.lmax + 1, 2)
            ),
            *(
                (f"power_{n}", (f"power{n}",), functools.partial(power_error, 2, n))
                for n in (2, 3, 4)
            ),
            *(
                (f"compile_{n}", ("compile_seconds",), functools.partial(compile_seconds, n))
                for n in self.rounding_degrees
            ),
        )
        return [
            MeasurePhase("exactness", exact),
            MeasurePhase("derivatives", derivatives),
            MeasurePhase("rounding", rounded),
            MeasurePhase("rules", rules),
        ]

    def finish(self, results: Results) -> dict[str, float]:
        """The largest value of every name: `float64/FORM`, `PRECISION/OUTPUT`, rules."""
        metrics: dict[str, float] = {}
        for phase, cases in results.items():
            prefix = {"exactness": "float64/", "derivatives": "float64/derivative_"}.get(phase, "")
            for values in cases.values():
                for name, value in values.items():
                    known = metrics.get(prefix + name, -np.inf)
                    metrics[prefix + name] = float(np.maximum(known, float(value)))
        return metrics

    def plot(self, results: Results, metrics: Mapping[str, Any], path: Any) -> None:
        """Errors of values by degree for every precision, and those of equivariance."""
        import matplotlib

        matplotlib.use("Agg")
        import matplotlib.pyplot as plt

        del metrics
        figure, axes = plt.subplots(figsize=(6, 4.5), layout="constrained")
        for number, precision in enumerate(self.precisions):
            for name, line in (("values", "-o"), ("gradient_equivariance", ":x")):
                points = [
                    float(results["rounding"][f"{precision}_{lmax}"][f"{precision}/{name}"])
                    for lmax in self.rounding_degrees
                ]
                label = f"{precision}, {name.replace('_', ' ')}"
                axes.plot(self.rounding_degrees, points, line, color=f"C{number}", label=label)
        axes.set(yscale="log", xlabel="L", ylabel="relative error")
        axes.legend(fontsize=7)
        figure.savefig(path, dpi=130)
        plt.close(figure)
