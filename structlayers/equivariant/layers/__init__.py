"""Flax modules of the family."""

from structlayers.equivariant.layers.clebsch_gordan import (
    ClebschGordanConvolution,
    ClebschGordanTensorProduct,
    SymmetricContraction,
)
from structlayers.equivariant.layers.gate import Gate
from structlayers.equivariant.layers.gaunt_convolution import GauntConvolution
from structlayers.equivariant.layers.gaunt_many_body import GauntManyBody
from structlayers.equivariant.layers.gaunt_tensor_product import GauntTensorProduct
from structlayers.equivariant.layers.irreps_linear import IrrepsLinear
from structlayers.equivariant.layers.norm import IrrepsRMSNorm
from structlayers.equivariant.layers.radial import BesselBasis, GaussianBasis
from structlayers.equivariant.layers.vector_signal import VectorSignalTensorProduct

__all__ = [
    "BesselBasis",
    "ClebschGordanConvolution",
    "ClebschGordanTensorProduct",
    "Gate",
    "GauntConvolution",
    "GauntManyBody",
    "GauntTensorProduct",
    "GaussianBasis",
    "IrrepsLinear",
    "IrrepsRMSNorm",
    "SymmetricContraction",
    "VectorSignalTensorProduct",
]
