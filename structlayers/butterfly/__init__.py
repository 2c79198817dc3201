"""Butterfly and Monarch matrices: products of sparse factors, ``O(N log N)`` to apply.

Letters: ``*B`` leading batch axes, ``N = 2**M`` transform size, ``M`` levels, ``S`` stacks, ``K``
blocks (butterflies in a row), ``R`` radix, ``s`` stride. The equations are in the family's
README.md.
"""

import importlib
from typing import Any

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

# Names whose modules import Flax or are rarely needed, imported at first use (PEP 562):
# name -> "module:attribute".
_LAZY: dict[str, str] = {}

__all__ = [
    "ButterflyOperator",
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
    "even_odd_permutation",
    "flip_stride_order",
    "fold_diagonal",
    "initializers",
    "inverse_permutation",
    "is_permutation",
    "merge_blocks",
    "merge_butterfly",
    "monarch_to_blocks",
    "permutation_logits_shape",
    "reverse_half_permutation",
    "rotation_angles",
    "rotation_twiddle",
    "round_permutation",
    "soft_permutation",
    "soft_permutation_factor",
    "split_blocks",
    "tie_butterfly",
    "twiddle_shape",
    "unitary_angles",
    "unitary_twiddle",
    "untie_butterfly",
]


def __getattr__(name: str) -> Any:
    """Imports a lazy public name at first use."""
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module, _, attribute = _LAZY[name].partition(":")
    value = getattr(importlib.import_module(module), attribute)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_LAZY})
