"""Butterfly and Monarch matrices: products of sparse factors, ``O(N log N)`` to apply.

Letters: ``*B`` leading batch axes, ``N = 2**M`` transform size, ``M`` levels, ``S`` stacks, ``K``
blocks (butterflies in a row), ``R`` radix, ``s`` stride. The equations are in the family's
README.md.
"""

import importlib
from typing import TYPE_CHECKING, Any

from structlayers.butterfly import initializers
from structlayers.butterfly.convert import (
    blocks_to_monarch,
    butterfly_compose,
    butterfly_conjugate,
    butterfly_kronecker,
    butterfly_transpose,
    flip_stride_order,
    fold_diagonal,
    merge_blocks,
    merge_butterfly,
    monarch_to_blocks,
    split_blocks,
    tie_butterfly,
    untie_butterfly,
)
from structlayers.butterfly.factors import twiddle_shape
from structlayers.butterfly.operator import ButterflyOperator
from structlayers.butterfly.ops import (
    block_butterfly_multiply,
    butterfly_multiply,
    butterfly_to_dense,
)
from structlayers.butterfly.parametrizations import (
    rotation_angles,
    rotation_twiddle,
    unitary_angles,
    unitary_twiddle,
)
from structlayers.butterfly.permutations import (
    apply_permutation,
    bit_reversal_permutation,
    even_odd_permutation,
    inverse_permutation,
    is_permutation,
    permutation_logits_shape,
    reverse_half_permutation,
    round_permutation,
    soft_permutation,
    soft_permutation_factor,
)

# Imported at first use (PEP 562): what needs Flax, and what only some programs call.
_LAZY_MODULES: dict[str, tuple[str, ...]] = {
    "transforms": (
        "circulant",
        "dct",
        "dft",
        "dft2",
        "dst",
        "haar_wavelet",
        "hadamard",
        "hartley",
        "inverse_dct",
        "inverse_dft",
        "inverse_dft2",
        "inverse_dst",
        "inverse_haar_wavelet",
        "permutation_network",
        "toeplitz",
    ),
    "monarch": ("monarch_init", "monarch_shapes", "monarch_to_dense", "project_to_monarch"),
    "ops.monarch": ("monarch_multiply",),
    "ops.hadamard": ("hadamard_multiply", "sorf_multiply"),
    "factorize": ("factorize_butterfly",),
    "arg_specs": ("ARG_SPECS",),
    "layers": ("ButterflyLinear", "LearnedPermutation", "MonarchLinear", "OrthogonalButterfly"),
}
_LAZY = {name: module for module, names in _LAZY_MODULES.items() for name in names}

if TYPE_CHECKING:
    from structlayers.butterfly.arg_specs import ARG_SPECS
    from structlayers.butterfly.factorize import factorize_butterfly
    from structlayers.butterfly.layers import (
        ButterflyLinear,
        LearnedPermutation,
        MonarchLinear,
        OrthogonalButterfly,
    )
    from structlayers.butterfly.monarch import (
        monarch_init,
        monarch_shapes,
        monarch_to_dense,
        project_to_monarch,
    )
    from structlayers.butterfly.ops.hadamard import hadamard_multiply, sorf_multiply
    from structlayers.butterfly.ops.monarch import monarch_multiply
    from structlayers.butterfly.transforms import (
        circulant,
        dct,
        dft,
        dft2,
        dst,
        haar_wavelet,
        hadamard,
        hartley,
        inverse_dct,
        inverse_dft,
        inverse_dft2,
        inverse_dst,
        inverse_haar_wavelet,
        permutation_network,
        toeplitz,
    )

__all__ = [
    "ARG_SPECS",
    "ButterflyLinear",
    "ButterflyOperator",
    "LearnedPermutation",
    "MonarchLinear",
    "OrthogonalButterfly",
    "apply_permutation",
    "bit_reversal_permutation",
    "block_butterfly_multiply",
    "blocks_to_monarch",
    "butterfly_compose",
    "butterfly_conjugate",
    "butterfly_kronecker",
    "butterfly_multiply",
    "butterfly_to_dense",
    "butterfly_transpose",
    "circulant",
    "dct",
    "dft",
    "dft2",
    "dst",
    "even_odd_permutation",
    "factorize_butterfly",
    "flip_stride_order",
    "fold_diagonal",
    "haar_wavelet",
    "hadamard",
    "hadamard_multiply",
    "hartley",
    "initializers",
    "inverse_dct",
    "inverse_dft",
    "inverse_dft2",
    "inverse_dst",
    "inverse_haar_wavelet",
    "inverse_permutation",
    "is_permutation",
    "merge_blocks",
    "merge_butterfly",
    "monarch_init",
    "monarch_multiply",
    "monarch_shapes",
    "monarch_to_blocks",
    "monarch_to_dense",
    "permutation_logits_shape",
    "permutation_network",
    "project_to_monarch",
    "reverse_half_permutation",
    "rotation_angles",
    "rotation_twiddle",
    "round_permutation",
    "soft_permutation",
    "soft_permutation_factor",
    "sorf_multiply",
    "split_blocks",
    "tie_butterfly",
    "toeplitz",
    "twiddle_shape",
    "unitary_angles",
    "unitary_twiddle",
    "untie_butterfly",
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
