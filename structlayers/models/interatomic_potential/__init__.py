"""A potential of atoms: graphs, neighbour lists, the model, a calculator."""

from structlayers.models.interatomic_potential.calculator import Evaluator, ase_calculator
from structlayers.models.interatomic_potential.config import InteratomicPotentialConfig
from structlayers.models.interatomic_potential.contractions import CONTRACTIONS
from structlayers.models.interatomic_potential.extxyz import read_extxyz
from structlayers.models.interatomic_potential.files import load_potential, save_potential
from structlayers.models.interatomic_potential.graph import (
    CapacityError,
    Graph,
    make_graph,
    stack_graphs,
)
from structlayers.models.interatomic_potential.model import (
    Interaction,
    InteratomicPotential,
    Prediction,
)
from structlayers.models.interatomic_potential.neighbours import NeighbourList, neighbour_list
from structlayers.models.interatomic_potential.structure import Structure

__all__ = [
    "CONTRACTIONS",
    "CapacityError",
    "Evaluator",
    "Graph",
    "Interaction",
    "InteratomicPotential",
    "InteratomicPotentialConfig",
    "NeighbourList",
    "Prediction",
    "Structure",
    "ase_calculator",
    "load_potential",
    "make_graph",
    "neighbour_list",
    "read_extxyz",
    "save_potential",
    "stack_graphs",
]
