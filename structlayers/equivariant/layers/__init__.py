"""Flax modules of the family."""

from structlayers.equivariant.layers.gaunt_convolution import GauntConvolution
from structlayers.equivariant.layers.gaunt_many_body import GauntManyBody
from structlayers.equivariant.layers.gaunt_tensor_product import GauntTensorProduct

__all__ = ["GauntConvolution", "GauntManyBody", "GauntTensorProduct"]
