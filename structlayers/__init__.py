"""Structured, equivariant, low-precision and encrypted layers for JAX.

Families are sub-packages, imported at first use, so that ``import structlayers`` stays light:
it imports neither Flax nor any kernel.

Example:
    >>> import structlayers
    >>> structlayers.butterfly.__name__
    'structlayers.butterfly'
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from structlayers import butterfly, equivariant, gla, linen, models, structured, testing
    from structlayers.replacement import replace_linear

__version__ = "0.1.0"

__all__ = [
    "butterfly",
    "equivariant",
    "gla",
    "linen",
    "models",
    "replace_linear",
    "structured",
    "testing",
]

# Public name -> "module" or "module:attribute" that holds it.
_LAZY = {
    "butterfly": "structlayers.butterfly",
    "equivariant": "structlayers.equivariant",
    "gla": "structlayers.gla",
    "linen": "structlayers.linen",
    "models": "structlayers.models",
    "replace_linear": "structlayers.replacement:replace_linear",
    "structured": "structlayers.structured",
    "testing": "structlayers.testing",
}


def __getattr__(name: str) -> Any:
    """Imports a public name at first use (PEP 562)."""
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module, _, attribute = _LAZY[name].partition(":")
    value: Any = importlib.import_module(module)
    if attribute:
        value = getattr(value, attribute)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_LAZY})
