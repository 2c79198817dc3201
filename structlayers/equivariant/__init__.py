"""Equivariant tensor products of signals on the sphere, on grids that are proved exact.

Letters: `*B` leading batch axes, `C` channels, `E` edges, `L` the largest degree of a signal,
`(L + 1)^2` its coefficients at index `l^2 + l + m`, `N` points of a grid, `T` the degree that a
grid is exact to, `nu` factors of a many-body product. The equations are in the family's README.md.
"""

from structlayers.equivariant.grids import SphericalGrid
from structlayers.equivariant.harmonics import spherical_harmonics
from structlayers.equivariant.ops import gaunt_tensor_product, many_body_product
from structlayers.equivariant.wigner import clebsch_gordan, gaunt, wigner_3j

__all__ = [
    "SphericalGrid",
    "clebsch_gordan",
    "gaunt",
    "gaunt_tensor_product",
    "many_body_product",
    "spherical_harmonics",
    "wigner_3j",
]
