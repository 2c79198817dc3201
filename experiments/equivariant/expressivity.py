"""What tensor products can express: paths, interactions and degrees of freedom, measured.

Each product is taken as it runs, those of vectors and matrices by grids and matrices rather than
couplings, on one channel, with all the weights it has; in the settings SISO (L x L to L), SIMO
(L x L to 0..2 L) and MIMO (0..L x 0..L to 0..2 L).
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

from experiments.experiment import Results, Scalars
from structlayers.equivariant.expressivity import (
    Product,
    expressivity_report,
    setting_degrees,
)
from structlayers.equivariant.ops.clebsch_gordan import clebsch_gordan_tensor_product
from structlayers.equivariant.ops.gaunt import gaunt_tensor_product
from structlayers.equivariant.ops.matrix import matrix_tensor_product
from structlayers.equivariant.ops.vector_signal import vector_signal_tensor_product
from structlayers.equivariant.paths import Path, count_paths, tensor_product_paths

COUNTS = ("paths", "interactions", "degrees_of_freedom", "span")

type Counts = dict[str, int]


def _shapes(degrees: Sequence[int], *lead: int) -> tuple[jax.ShapeDtypeStruct, ...]:
    """Weights of the degrees of both factors and the product."""
    return tuple(jax.ShapeDtypeStruct((*lead, degree + 1), "float64") for degree in degrees)


def _clebsch_gordan(degrees: Sequence[int], paths: tuple[Path, ...]) -> tuple[Product, Any]:
    def product(weights: Any, x: jax.Array, y: jax.Array) -> jax.Array:
        return clebsch_gordan_tensor_product(x, y, weights=weights, paths=paths, lmax=degrees[2])

    return product, jax.ShapeDtypeStruct((len(paths),), "float64")


def _gaunt(degrees: Sequence[int], paths: tuple[Path, ...]) -> tuple[Product, Any]:
    del paths

    def product(weights: Any, x: jax.Array, y: jax.Array) -> jax.Array:
        return gaunt_tensor_product(x, y, weights=weights, lmax=degrees[2])

    return product, _shapes(degrees)


def _gaunt_rank2(degrees: Sequence[int], paths: tuple[Path, ...]) -> tuple[Product, Any]:
    del paths

    def product(weights: Any, x: jax.Array, y: jax.Array) -> jax.Array:
        each = gaunt_tensor_product(x[:, None], y[:, None], weights=weights, lmax=degrees[2])
        return each.sum(1)

    return product, _shapes(degrees, 2)


def _vector_signal(degrees: Sequence[int], paths: tuple[Path, ...]) -> tuple[Product, Any]:
    del paths

    def product(weights: Any, x: jax.Array, y: jax.Array) -> jax.Array:
        return vector_signal_tensor_product(
            x, y, weights=weights, lmax=degrees[2], implementation="xla"
        )

    return product, _shapes(degrees)


def _gaunt_and_vector(degrees: Sequence[int], paths: tuple[Path, ...]) -> tuple[Product, Any]:
    scalar, shapes = _gaunt(degrees, paths)
    vector, more = _vector_signal(degrees, paths)

    def product(weights: Any, x: jax.Array, y: jax.Array) -> jax.Array:
        return scalar(weights[0], x, y) + vector(weights[1], x, y)

    return product, (shapes, more)


def _matrix(degrees: Sequence[int], paths: tuple[Path, ...]) -> tuple[Product, Any]:
    del paths

    def product(weights: Any, x: jax.Array, y: jax.Array) -> jax.Array:
        return matrix_tensor_product(x, y, weights=weights, lmax=degrees[2], implementation="xla")

    return product, _shapes(degrees)


PRODUCTS: dict[str, Callable[[Sequence[int], tuple[Path, ...]], tuple[Product, Any]]] = {
    "clebsch_gordan": _clebsch_gordan,
    "gaunt": _gaunt,
    "gaunt_rank2": _gaunt_rank2,
    "vector_signal": _vector_signal,
    "gaunt_and_vector_signal": _gaunt_and_vector,
    "matrix": _matrix,
}
"""Products by name: functions of the degrees L1, L2, L3 and the paths, to the product as a function
of weights, x and y, and the shapes of its weights."""


def closed_form(product: str, setting: str, lmax: int) -> Counts:
    """The counts that formulas give, of those that have one (up to L = 4 for "matrix").

    Args:
        product: key of `PRODUCTS`.
        setting: "siso", "simo" or "mimo".
        lmax: L.

    Returns:
        Paths, and where known interactions and degrees of freedom.
    """
    every, even = {
        "siso": (1, 1 - lmax % 2),
        "simo": (2 * lmax + 1, lmax + 1),
        "mimo": (count_paths(lmax), count_paths(lmax, "even")),
    }[setting]
    odd = every - even
    # weights of degrees: as many as there are degrees, less the scales that they share
    even_freedom = 4 * lmax + 1 if setting == "mimo" else even
    odd_freedom = 4 * lmax - 3 if setting == "mimo" else odd
    all_freedom = 4 * lmax + 1 if setting == "mimo" else every
    found = {
        "clebsch_gordan": {"interactions": every, "degrees_of_freedom": every},
        "gaunt": {"interactions": even, "degrees_of_freedom": even_freedom},
        "gaunt_rank2": {"interactions": even},
        "vector_signal": {"interactions": odd, "degrees_of_freedom": odd_freedom},
        "gaunt_and_vector_signal": {
            "interactions": every,
            "degrees_of_freedom": even_freedom + odd_freedom,
        },
        "matrix": {"interactions": every, "degrees_of_freedom": all_freedom},
    }[product]
    return {"paths": every, **found}


@dataclass(frozen=True)
class ExpressivityPhase:
    """One product, one setting and degree a step.

    Attributes:
        product: key of `PRODUCTS`.
        cases: pairs of setting and L.
    """

    product: str
    cases: tuple[tuple[str, int], ...]
    chunk: int = 1

    @property
    def name(self) -> str:
        """The product."""
        return self.product

    @property
    def num_steps(self) -> int:
        """Number of cases."""
        return len(self.cases)

    def init(self) -> dict[str, np.ndarray]:
        """Counts and remainders to be filled in."""
        shape = (len(self.cases), len(COUNTS))
        return {"counts": np.zeros(shape, np.int64), "remainders": np.zeros(len(self.cases))}

    def advance(
        self, state: dict[str, np.ndarray], step: int, num: int
    ) -> tuple[dict[str, np.ndarray], Scalars]:
        """Measures the next cases."""
        counts, remainders = np.array(state["counts"]), np.array(state["remainders"])
        for index in range(step, step + num):
            degrees = setting_degrees(*self.cases[index])
            largest = [max(each) for each in degrees]
            product, weights = PRODUCTS[self.product](largest, tensor_product_paths(*degrees))
            report = expressivity_report(product, weights, *degrees)
            counts[index] = (
                len(report.paths),
                len(report.interactions),
                report.degrees_of_freedom,
                report.span,
            )
            remainders[index] = report.remainder
        freedom = float(counts[step + num - 1, COUNTS.index("degrees_of_freedom")])
        return {"counts": counts, "remainders": remainders}, {"degrees_of_freedom": freedom}

    def finish(self, state: dict[str, np.ndarray]) -> dict[str, Any]:
        """The counts of every case, and how far they are from the closed forms."""
        counts, remainders = np.asarray(state["counts"]), np.asarray(state["remainders"])
        table, off = {}, 0
        for (setting, lmax), row in zip(self.cases, counts, strict=True):
            found = dict(zip(COUNTS, row.tolist(), strict=True))
            wanted = closed_form(self.product, setting, lmax)
            off += sum(abs(found[name] - value) for name, value in wanted.items())
            table[f"{setting}_l{lmax}"] = found
        return {"table": table, "off_by": off, "remainder": float(remainders.max())}


@dataclass(frozen=True)
class ExpressivityTable:
    """All products in all settings.

    Attributes:
        products: keys of `PRODUCTS`.
        settings: "siso", "simo", "mimo".
        degrees: L.
    """

    products: tuple[str, ...]
    settings: tuple[str, ...]
    degrees: tuple[int, ...]

    def phases(self) -> Sequence[ExpressivityPhase]:
        """One phase a product."""
        cases = tuple((setting, lmax) for setting in self.settings for lmax in self.degrees)
        return [ExpressivityPhase(product, cases) for product in self.products]

    def finish(self, results: Results) -> dict[str, float]:
        """`PRODUCT/SETTING_lL/COUNT`; `PRODUCT/off_by` and `PRODUCT/remainder` over all cases."""
        metrics: dict[str, float] = {}
        for product, result in results.items():
            for case, counts in result["table"].items():
                metrics |= {f"{product}/{case}/{name}": counts[name] for name in COUNTS[1:]}
            metrics[f"{product}/off_by"] = result["off_by"]
            metrics[f"{product}/remainder"] = result["remainder"]
        return metrics

    def plot(self, results: Results, metrics: Mapping[str, Any], path: Any) -> None:
        """Interactions and degrees of freedom in the setting MIMO, or the last one."""
        import matplotlib

        matplotlib.use("Agg")
        import matplotlib.pyplot as plt

        del metrics
        setting = "mimo" if "mimo" in self.settings else self.settings[-1]
        figure, axes = plt.subplots(1, 2, figsize=(9, 4), layout="constrained", sharey=True)
        for axis, name in zip(axes, ("interactions", "degrees_of_freedom"), strict=True):
            for (product, result), marker in zip(results.items(), "osD^vx+*", strict=False):
                values = [result["table"][f"{setting}_l{lmax}"][name] for lmax in self.degrees]
                axis.plot(self.degrees, values, marker=marker, label=product)
            axis.set(xlabel="L", title=f"{setting.upper()}: {name.replace('_', ' ')}")
            axis.set_yscale("symlog", linthresh=1)
            axis.set_xticks(self.degrees)
        axes[0].legend(fontsize=7)
        figure.savefig(path, dpi=130)
        plt.close(figure)
