"""Rivals of butterflies: circulant, Toeplitz-like, LDR, Fastfood and low-rank matrices.

Letters: `*B` leading batch axes, `N` size of a stack, `n` inputs (at most N), `S` stacks one below
the other, `r` rank or displacement rank, `m` outputs. The equations are in the family's README.md.
"""

import importlib
from typing import TYPE_CHECKING, Any

from structlayers.structured.ops import (
    circulant_multiply,
    circulant_to_dense,
    fastfood_multiply,
    fastfood_to_dense,
    ldr_multiply,
    ldr_to_dense,
    low_rank_multiply,
    low_rank_to_dense,
    toeplitz_like_multiply,
    toeplitz_like_to_dense,
)

# Imported at first use (PEP 562): what needs Flax, and what only some programs call.
_LAZY = {
    "ARG_SPECS": "arg_specs",
    "CirculantLinear": "layers",
    "FastfoodLinear": "layers",
    "LDRLinear": "layers",
    "LowRankLinear": "layers",
    "ToeplitzLikeLinear": "layers",
    "project_to_circulant": "project",
    "project_to_low_rank": "project",
    "project_to_toeplitz_like": "project",
}

if TYPE_CHECKING:
    from structlayers.structured.arg_specs import ARG_SPECS
    from structlayers.structured.layers import (
        CirculantLinear,
        FastfoodLinear,
        LDRLinear,
        LowRankLinear,
        ToeplitzLikeLinear,
    )
    from structlayers.structured.project import (
        project_to_circulant,
        project_to_low_rank,
        project_to_toeplitz_like,
    )

__all__ = [
    "ARG_SPECS",
    "CirculantLinear",
    "FastfoodLinear",
    "LDRLinear",
    "LowRankLinear",
    "ToeplitzLikeLinear",
    "circulant_multiply",
    "circulant_to_dense",
    "fastfood_multiply",
    "fastfood_to_dense",
    "ldr_multiply",
    "ldr_to_dense",
    "low_rank_multiply",
    "low_rank_to_dense",
    "project_to_circulant",
    "project_to_low_rank",
    "project_to_toeplitz_like",
    "toeplitz_like_multiply",
    "toeplitz_like_to_dense",
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
