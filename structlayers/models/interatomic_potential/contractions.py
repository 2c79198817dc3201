"""Symmetric contractions by name.

A contraction maps `A (N, C, (lmax + 1)^2)` to `B (N, C, (lmax_out + 1)^2)`, each channel for
itself, by polynomials of degree 1 to nu with weights by channel and by the atom's element.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING

from flax import nnx

from structlayers.models.interatomic_potential.clebsch_gordan import ClebschGordanContraction
from structlayers.models.interatomic_potential.gaunt import (
    GauntContraction,
    VectorSignalContraction,
)

if TYPE_CHECKING:
    from structlayers.models.interatomic_potential.config import InteratomicPotentialConfig


def _ranked(config: "InteratomicPotentialConfig", lmax_out: int, *, rngs: nnx.Rngs) -> nnx.Module:
    return GauntContraction(config, lmax_out, rank=config.rank, rngs=rngs)


CONTRACTIONS: dict[str, Callable[..., nnx.Module]] = {
    "clebsch_gordan": ClebschGordanContraction,
    "gaunt": GauntContraction,
    "gaunt_rank": _ranked,
    "gaunt_vector_signal": VectorSignalContraction,
}
"""Contractions by name, each called as `(config, lmax_out, rngs=rngs)`."""
