"""Equivariant tensor products of signals on the sphere, on grids that are proved exact.

Letters: `*B` leading batch axes, `C` channels, `E` edges, `L` the largest degree of a signal,
`(L + 1)^2` its coefficients at index `l^2 + l + m`, `N` points of a grid, `T` the degree that a
grid is exact to, `nu` factors of a many-body product. The equations are in the family's README.md.
"""

import importlib
from typing import TYPE_CHECKING, Any

from structlayers.equivariant.grids import SphericalGrid
from structlayers.equivariant.harmonics import spherical_harmonics
from structlayers.equivariant.ops import (
    gaunt_message_passing,
    gaunt_tensor_product,
    many_body_product,
)
from structlayers.equivariant.wigner import clebsch_gordan, gaunt, wigner_3j

# Imported at first use (PEP 562): what needs Flax, and what only some programs call.
_LAZY = {
    "ARG_SPECS": "arg_specs",
    "GauntConvolution": "layers",
    "GauntManyBody": "layers",
    "GauntTensorProduct": "layers",
}

if TYPE_CHECKING:
    from structlayers.equivariant.arg_specs import ARG_SPECS
    from structlayers.equivariant.layers import GauntConvolution, GauntManyBody, GauntTensorProduct

__all__ = [
    "ARG_SPECS",
    "GauntConvolution",
    "GauntManyBody",
    "GauntTensorProduct",
    "SphericalGrid",
    "clebsch_gordan",
    "gaunt",
    "gaunt_message_passing",
    "gaunt_tensor_product",
    "many_body_product",
    "spherical_harmonics",
    "wigner_3j",
]


def __getattr__(name: str) -> Any:
    """Imports a lazy public name at first use."""
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module = importlib.import_module(f"{__name__}.{_LAZY[name]}")
    value = globals()[name] = getattr(module, name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_LAZY})
