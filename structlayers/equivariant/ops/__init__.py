"""Public operations of the family: they check arguments and choose the implementation."""

from structlayers.equivariant.ops.clebsch_gordan import clebsch_gordan_tensor_product
from structlayers.equivariant.ops.gaunt import gaunt_tensor_product
from structlayers.equivariant.ops.many_body import many_body_product
from structlayers.equivariant.ops.matrix import matrix_tensor_product
from structlayers.equivariant.ops.messages import gaunt_message_passing
from structlayers.equivariant.ops.radial import bessel_basis, gaussian_basis, polynomial_cutoff
from structlayers.equivariant.ops.symmetric_contraction import symmetric_contraction
from structlayers.equivariant.ops.vector_signal import vector_signal_tensor_product

__all__ = [
    "bessel_basis",
    "clebsch_gordan_tensor_product",
    "gaunt_message_passing",
    "gaunt_tensor_product",
    "gaussian_basis",
    "many_body_product",
    "matrix_tensor_product",
    "polynomial_cutoff",
    "symmetric_contraction",
    "vector_signal_tensor_product",
]
