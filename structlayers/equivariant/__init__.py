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
    bessel_basis,
    clebsch_gordan_tensor_product,
    gaunt_message_passing,
    gaunt_tensor_product,
    gaussian_basis,
    many_body_product,
    matrix_tensor_product,
    polynomial_cutoff,
    symmetric_contraction,
    vector_signal_tensor_product,
)
from structlayers.equivariant.wigner import clebsch_gordan, gaunt, wigner_3j

# Imported at first use (PEP 562): what needs Flax, and what only some programs call.
_LAZY = {
    "ARG_SPECS": "arg_specs",
    "BesselBasis": "layers",
    "ClebschGordanConvolution": "layers",
    "ClebschGordanTensorProduct": "layers",
    "Expressivity": "expressivity",
    "Gate": "layers",
    "GauntConvolution": "layers",
    "GauntManyBody": "layers",
    "GauntTensorProduct": "layers",
    "GaussianBasis": "layers",
    "IrrepsLinear": "layers",
    "IrrepsRMSNorm": "layers",
    "SymmetricContraction": "layers",
    "VectorSignalTensorProduct": "layers",
    "count_paths": "paths",
    "expressivity_report": "expressivity",
    "factor_path_weights": "path_weights",
    "irreps_paths": "ops.clebsch_gordan",
    "setting_degrees": "expressivity",
    "tensor_product_paths": "paths",
    "vector_spherical_harmonics": "vector_harmonics",
}

if TYPE_CHECKING:
    from structlayers.equivariant.arg_specs import ARG_SPECS
    from structlayers.equivariant.expressivity import (
        Expressivity,
        expressivity_report,
        setting_degrees,
    )
    from structlayers.equivariant.layers import (
        BesselBasis,
        ClebschGordanConvolution,
        ClebschGordanTensorProduct,
        Gate,
        GauntConvolution,
        GauntManyBody,
        GauntTensorProduct,
        GaussianBasis,
        IrrepsLinear,
        IrrepsRMSNorm,
        SymmetricContraction,
        VectorSignalTensorProduct,
    )
    from structlayers.equivariant.ops.clebsch_gordan import irreps_paths
    from structlayers.equivariant.path_weights import factor_path_weights
    from structlayers.equivariant.paths import count_paths, tensor_product_paths
    from structlayers.equivariant.vector_harmonics import vector_spherical_harmonics

__all__ = [
    "ARG_SPECS",
    "BesselBasis",
    "ClebschGordanConvolution",
    "ClebschGordanTensorProduct",
    "Expressivity",
    "Gate",
    "GauntConvolution",
    "GauntManyBody",
    "GauntTensorProduct",
    "GaussianBasis",
    "IrrepsLinear",
    "IrrepsRMSNorm",
    "SphericalGrid",
    "SymmetricContraction",
    "VectorSignalTensorProduct",
    "bessel_basis",
    "clebsch_gordan",
    "clebsch_gordan_tensor_product",
    "count_paths",
    "expressivity_report",
    "factor_path_weights",
    "gaunt",
    "gaunt_message_passing",
    "gaunt_tensor_product",
    "gaussian_basis",
    "irreps_paths",
    "many_body_product",
    "matrix_tensor_product",
    "polynomial_cutoff",
    "setting_degrees",
    "spherical_harmonics",
    "symmetric_contraction",
    "tensor_product_paths",
    "vector_signal_tensor_product",
    "vector_spherical_harmonics",
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
