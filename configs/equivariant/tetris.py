"""Tetris: eight shapes of four blocks, two of them mirror images, told apart by three products.

Paper: Xie, Daigavane, Kotak, Smidt, "The Price of Freedom: Exploring Expressivity and Runtime
Tradeoffs in Equivariant Tensor Products", 2025, arXiv:2506.13523, whose experiment of this name
shows a figure and no numbers.
What: networks invariant under rotations, trained on one copy of each shape and tested on turned
ones. The product of scalar signals has no coupling of odd sum: fed with true tensors alone it makes
no pseudoscalar, and gives mirror images the same scores whatever its weights. This is a test of
expressivity that it has to fail; with the product of vector signals beside it, it has to pass.
Expected: Clebsch-Gordan and Gaunt with vector signals 8 of 8 shapes; Gaunt alone the six others and
one of the pair, 7 of 8, and scores of the pair that differ by rounding.
Hardware: 2-core CPU, 3 minutes.
Command: python -m experiments run configs/equivariant/tetris.py --store
"""

from dataclasses import dataclass, replace
from typing import Self

from experiments.equivariant.tetris import PRODUCTS, TetrisTable
from experiments.experiment import Goal


@dataclass(frozen=True)
class Config:
    """Products, network and training."""

    family: str = "equivariant"
    experiment: str = "tetris"
    products: tuple[str, ...] = PRODUCTS
    """Of experiments/equivariant/tetris.py."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """One training each."""
    channels: int = 8
    """Multiplicity of every irrep."""
    layers: int = 3
    """Layers of messages."""
    num_steps: int = 200
    """Steps of Adam."""
    learning_rate: float = 0.01
    """Of Adam."""
    copies: int = 10
    """Turned copies of every shape in the test."""

    def __post_init__(self) -> None:
        """Refuses products that are not there, and sizes below one.

        Raises:
            ValueError: names the field, its value and what is wanted.
        """
        for product in self.products:
            if product not in PRODUCTS:
                raise ValueError(f"products must be among {', '.join(PRODUCTS)}; got {product!r}")
        for field in ("channels", "layers", "num_steps", "copies"):
            if getattr(self, field) < 1:
                raise ValueError(f"{field} must be at least 1, got {getattr(self, field)}")

    def build(self) -> TetrisTable:
        """One phase a product and seed."""
        return TetrisTable(
            self.products,
            self.seeds,
            self.channels,
            self.layers,
            self.num_steps,
            self.learning_rate,
            self.copies,
        )

    def goals(self) -> tuple[Goal, ...]:
        """All shapes with odd couplings; without them all but one, and a pair that looks alike."""
        goals = []
        for product in self.products:
            if product == "gaunt":
                goals += [
                    Goal("gaunt/accuracy", 0.875, "<="),
                    Goal("gaunt/accuracy_others", 1.0, ">="),
                    Goal("gaunt/mirror_difference", 1e-5, "<="),
                ]
            else:
                goals += [
                    Goal(f"{product}/accuracy", 1.0, ">="),
                    Goal(f"{product}/mirror_difference_least", 0.1, ">="),
                ]
        return tuple(goals)

    def smoke(self) -> Self:
        """Few steps of one seed; scores of the pair are what they are for any weights."""
        return replace(self, products=("gaunt",), seeds=(0,), channels=2, num_steps=10, copies=1)


def get_config() -> Config:
    """All products, three seeds."""
    return Config()
