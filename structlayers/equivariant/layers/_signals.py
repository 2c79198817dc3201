"""What the layers of the family share: signals with channels."""

from typing import Any

import jax

from structlayers.equivariant.signals import Parity, lmax_of, unpack


def take_channels(name: str, x: Any, channels: int, lmax: int) -> tuple[jax.Array, Parity | None]:
    """Coefficients `(*B, C, (L + 1)^2)` of exactly these sizes, and their parity.

    Raises:
        ValueError: other channels (1 passes where C may broadcast: 0 means any), another degree.
    """
    x, parity = unpack(name, x)
    found = lmax_of(name, x)
    if found != lmax:
        raise ValueError(f"{name} must be a signal of degree {lmax}, got degree {found}: {x.shape}")
    if x.ndim < 2 or channels not in (0, x.shape[-2]):
        raise ValueError(
            f"{name} must have shape (*B, {channels or 'C'}, {(lmax + 1) ** 2}), got {x.shape}"
        )
    return x, parity
