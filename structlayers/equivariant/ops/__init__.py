"""Public operations of the family: they check arguments and choose the implementation."""

from structlayers.equivariant.ops.gaunt import gaunt_tensor_product
from structlayers.equivariant.ops.many_body import many_body_product

__all__ = ["gaunt_tensor_product", "many_body_product"]
