"""Expressivity of tensor products: paths, interactions, degrees of freedom, L = 1 .. 4.

Paper: Xie, Daigavane, Kotak, Smidt, "The Price of Freedom: Exploring Expressivity and Runtime
Tradeoffs in Equivariant Tensor Products", 2025, arXiv:2506.13523; its code divides times by the
counts of the setting MIMO: n (2 n^2 + 1) / 3 paths with n = L + 1, of which n (n + 1) (2 n + 1) / 6
natural ones, for Clebsch-Gordan products, and 4 L + 1 for Gaunt and matrix products.
What: each product as it runs, one channel, all its weights, in float64. Interactions are the paths
that it has, degrees of freedom the rank of the derivative of its path weights, span the dimension
of the space that they fill, `off_by` the distance of all counts from the closed forms, `remainder`
the share of the bilinear map that is no sum of paths.
Expected: `off_by` 0 and `remainder` below 1e-12 for every product.
Hardware: 2-core CPU, 3 minutes.
Command: python -m experiments run configs/equivariant/expressivity.py --store
"""

from dataclasses import dataclass, replace
from typing import Self

from experiments.equivariant.expressivity import PRODUCTS, ExpressivityTable, closed_form
from experiments.experiment import Goal
from structlayers.equivariant.expressivity import SETTINGS

_COUNTED_IN_THE_PAPER = ("clebsch_gordan", "gaunt", "matrix")


@dataclass(frozen=True)
class Config:
    """Which products, settings and degrees."""

    family: str = "equivariant"
    experiment: str = "expressivity"
    products: tuple[str, ...] = tuple(PRODUCTS)
    """Products, by the names in experiments/equivariant/expressivity.py."""
    settings: tuple[str, ...] = SETTINGS
    """One of "siso", "simo", "mimo": single or multiple degrees of inputs and outputs."""
    degrees: tuple[int, ...] = (1, 2, 3, 4)
    """Degrees L, up to 4."""

    def __post_init__(self) -> None:
        """Refuses names and degrees that are not there.

        Raises:
            ValueError: names the field, its value and what is wanted.
        """
        for field, names in (("products", tuple(PRODUCTS)), ("settings", SETTINGS)):
            for name in getattr(self, field):
                if name not in names:
                    raise ValueError(f"{field} must be among {', '.join(names)}; got {name!r}")
        for lmax in self.degrees:
            if not 1 <= lmax <= 4:
                raise ValueError(f"degrees must be 1 to 4, got {lmax}")

    def build(self) -> ExpressivityTable:
        """One phase a product."""
        return ExpressivityTable(self.products, self.settings, self.degrees)

    def goals(self) -> tuple[Goal, ...]:
        """Counts of closed forms, and equivariance."""
        goals = []
        for product in self.products:
            goals += [
                Goal(f"{product}/off_by", 0, "<="),
                Goal(f"{product}/remainder", 1e-12, "<="),
            ]
            for lmax in self.degrees if "mimo" in self.settings else ():
                counts = closed_form(product, "mimo", lmax)
                if "degrees_of_freedom" in counts:
                    wanted = counts["degrees_of_freedom"]
                    name = f"{product}/mimo_l{lmax}/degrees_of_freedom"
                    paper = wanted if product in _COUNTED_IN_THE_PAPER else None
                    goals.append(Goal(name, wanted, ">=", paper=paper))
        return tuple(goals)

    def smoke(self) -> Self:
        """The smallest degree."""
        return replace(self, degrees=(1,))


def get_config() -> Config:
    """All products in all settings."""
    return Config()
