"""The potential as an ASE calculator: geometry optimisation and molecular dynamics."""

from typing import Any

import jax
import numpy as np
from flax import nnx

from structlayers.models.interatomic_potential.graph import CapacityError, Graph, make_graph
from structlayers.models.interatomic_potential.model import InteratomicPotential
from structlayers.models.interatomic_potential.structure import Structure, species_of


class Evaluator:
    """Energy, forces and stress of one structure after another, compiled for a number of edges.

    When neighbours outgrow the places for edges, they are given more and the potential is compiled
    again; none is left out. The places are as many for each atom where that takes little memory
    (`Graph.suited_slots`), else for all together.

    Args:
        potential: the potential.
        headroom: places for edges, as a multiple of what the first structure needs.

    Raises:
        ValueError: headroom below 1.

    Example:
        >>> from structlayers.models.interatomic_potential import InteratomicPotentialConfig
        >>> config = InteratomicPotentialConfig((1,), channels=2, lmax=1, num_interactions=1)
        >>> evaluator = Evaluator(InteratomicPotential(config, rngs=nnx.Rngs(0)))
        >>> found = evaluator(Structure([1, 1], [[0, 0, 0], [0, 0, 0.74]]))
        >>> sorted(found), found["forces"].shape
        (['energy', 'forces'], (2, 3))
    """

    def __init__(self, potential: InteratomicPotential, *, headroom: float = 1.25):
        if headroom < 1:
            raise ValueError(f"headroom must be at least 1, got {headroom}")
        self.config, self.headroom = potential.config, headroom
        self.num_edges = 0
        self.num_slots: int | None = None
        graphdef, self._state = nnx.split(potential)
        self._predict = jax.jit(
            lambda state, graph, stress: nnx.merge(graphdef, state).predict(graph, stress=stress),
            static_argnames="stress",
        )

    def __call__(self, structure: Structure) -> dict[str, Any]:
        """Float64 "energy" with the isolated atoms' and "forces"; "stress" where there is a cell.

        Args:
            structure: its elements must be among the potential's.

        Returns:
            Energy, forces `(n, 3)` and stress `(3, 3)`.

        Raises:
            ValueError: an element never seen in training, or atoms on top of each other.
        """
        has_cell = all(structure.periodic)
        found = self._predict(self._state, self._graph(structure), stress=has_cell)
        isolated = self.config.atomic_energies or (0.0,) * len(self.config.species)
        species = species_of(structure.numbers, self.config.species)
        results = {
            "energy": float(found.energy[0]) + float(np.asarray(isolated)[species].sum()),
            "forces": np.asarray(found.forces, np.float64),
        }
        if has_cell:
            results["stress"] = np.asarray(found.stress[0], np.float64)
        return results

    def _graph(self, structure: Structure) -> Graph:
        config = self.config
        options = {"dtype": np.dtype(config.dtype)}
        exact = make_graph([structure], config.species, config.cutoff, **options)
        try:
            return self._placed(exact)
        except CapacityError:
            self.num_slots = exact.suited_slots(headroom=self.headroom)
            self.num_edges = max(1, int(np.ceil(self.headroom * exact.num_edges)))
            return self._placed(exact)

    def _placed(self, exact: Graph) -> Graph:
        if self.num_slots is None:
            return exact.with_edges(self.num_edges)
        return exact.with_slots(self.num_slots)


def ase_calculator(potential: InteratomicPotential, **options: Any) -> Any:
    """An `ase.calculators.calculator.Calculator` of a potential; needs the extra "potentials".

    It gives energy, forces, and the stress of structures that are periodic in all directions.
    There is no electronic entropy: the free energy, which ASE's optimisers of cells ask for, is the
    energy.

    Args:
        potential: the potential.
        **options: of `Evaluator`.

    Returns:
        The calculator, for `atoms.calc`.

    Example:
        >>> import ase.build
        >>> from structlayers.models.interatomic_potential import InteratomicPotentialConfig
        >>> config = InteratomicPotentialConfig((1, 8), channels=2, lmax=1, num_interactions=1)
        >>> water = ase.build.molecule("H2O")
        >>> water.calc = ase_calculator(InteratomicPotential(config, rngs=nnx.Rngs(0)))
        >>> water.get_forces().shape
        (3, 3)
    """
    from ase.calculators.calculator import Calculator, all_changes
    from ase.stress import full_3x3_to_voigt_6_stress

    evaluator = Evaluator(potential, **options)

    class PotentialCalculator(Calculator):
        """Energy, forces and stress by an `InteratomicPotential`."""

        # a list of the class, in ASE's own form
        implemented_properties = ["energy", "free_energy", "forces", "stress"]  # noqa: RUF012

        def calculate(
            self,
            atoms: Any = None,
            properties: Any = ("energy",),
            system_changes: Any = all_changes,
        ) -> None:
            """Fills `results`; see ASE."""
            super().calculate(atoms, properties, system_changes)
            results = evaluator(Structure.from_ase(self.atoms))
            results["free_energy"] = results["energy"]
            if "stress" in results:
                results["stress"] = full_3x3_to_voigt_6_stress(results["stress"])
            self.results = results

    return PotentialCalculator()
