"""Public operations of the family: they check arguments and choose the implementation."""

from structlayers.equivariant.ops.gaunt import gaunt_tensor_product
from structlayers.equivariant.ops.many_body import many_body_product
from structlayers.equivariant.ops.messages import gaunt_message_passing

__all__ = ["gaunt_message_passing", "gaunt_tensor_product", "many_body_product"]
