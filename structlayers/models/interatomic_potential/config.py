"""The sizes and options of an interatomic potential."""

import dataclasses

import jax
import jax.numpy as jnp
from flax.typing import Dtype

from structlayers._core.checks import require_choice, require_integer, require_positive
from structlayers._core.layers import require_real_dtype
from structlayers._core.precision import PrecisionLike, canonicalize_precision
from structlayers.models.interatomic_potential.contractions import CONTRACTIONS


@dataclasses.dataclass(frozen=True)
class InteratomicPotentialConfig:
    """Sizes and options of an `InteratomicPotential`; hashable.

    Attributes:
        species: atomic numbers of the elements that it knows, ascending.
        atomic_energies: energy of the isolated atom of each element, kept in float64; None is 0.
        cutoff: atoms closer than this are neighbours, in angstrom.
        channels: C, of every degree.
        lmax: largest degree of the edges' harmonics and of the sums over neighbours.
        hidden_lmax: largest degree of the features between two interactions.
        num_interactions: layers.
        correlation: nu, the most neighbours that one product couples.
        contraction: a name in `CONTRACTIONS`.
        rank: R of the contraction "gaunt_rank".
        power_scale: s, by which products of nu neighbours are multiplied nu - 1 times. At 1 all
            powers start with the same variance for sums over neighbours of unit variance; below,
            high ones, which grow fastest far from what was trained on, count less and are learned
            more slowly.
        degree_scale: d, by which an edge's harmonics of degree l are multiplied l times. At 1 the
            components of all degrees start with the same variance; above, directions count more
            and are learned faster.
        num_bessel: radial functions.
        cutoff_power: p of the polynomial cutoff; p - 1 derivatives vanish at the cutoff.
        radial_features: hidden sizes of the radial networks.
        readout_features: hidden size of the last readout.
        mean_neighbours: sums over neighbours are divided by it.
        scale: energies of atoms are multiplied by it, by custom the root mean square force.
        shift: then it is added to the energy of every atom.
        dtype: of parameters and computation.
        precision: of float32 products; None is the highest.
        implementation: of the Gaunt contractions' op; None chooses.

    Raises:
        ValueError: no element or not ascending, a size that is too small, another number of atomic
            energies than elements, an unknown contraction or precision.
        TypeError: a dtype that is not real floating point.

    Example:
        >>> InteratomicPotentialConfig((1, 6, 8), channels=16, contraction="clebsch_gordan").lmax
        3
    """

    species: tuple[int, ...]
    atomic_energies: tuple[float, ...] | None = None
    cutoff: float = 5.0
    channels: int = 64
    lmax: int = 3
    hidden_lmax: int = 2
    num_interactions: int = 2
    correlation: int = 3
    contraction: str = "clebsch_gordan"
    rank: int = 4
    power_scale: float = 1.0
    degree_scale: float = 1.0
    num_bessel: int = 8
    cutoff_power: int = 5
    radial_features: tuple[int, ...] = (64, 64, 64)
    readout_features: int = 16
    mean_neighbours: float = 1.0
    scale: float = 1.0
    shift: float = 0.0
    dtype: Dtype = jnp.float32
    precision: PrecisionLike = None
    implementation: str | None = None

    def __post_init__(self) -> None:
        species = self.species
        if not species or list(species) != sorted(set(species)) or species[0] < 1:
            raise ValueError(f"species must be ascending atomic numbers, got {species}")
        if self.atomic_energies is not None and len(self.atomic_energies) != len(species):
            raise ValueError(
                f"atomic_energies must have one entry for each of {len(species)} species, "
                f"got {len(self.atomic_energies)}"
            )
        for name in ("channels", "num_interactions", "correlation", "rank", "num_bessel"):
            require_positive(name, getattr(self, name))
        for features in (*self.radial_features, self.readout_features, self.cutoff_power):
            require_positive("radial_features, readout_features and cutoff_power", features)
        for name in ("lmax", "hidden_lmax"):
            if require_integer(name, getattr(self, name)) < 0:
                raise ValueError(f"{name} must be at least 0, got {getattr(self, name)}")
        for name in ("cutoff", "mean_neighbours", "scale", "power_scale", "degree_scale"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} must be positive, got {getattr(self, name)}")
        require_choice("contraction", self.contraction, tuple(CONTRACTIONS))
        require_real_dtype("dtype", self.dtype)
        canonicalize_precision(self.precision)

    @property
    def jax_precision(self) -> jax.lax.Precision:
        """Of the products, as JAX knows it."""
        return canonicalize_precision(self.precision)
