"""What the layers of the family share: irreps of inputs, weights of a species."""

from typing import Any

import e3nn_jax as e3nn
import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from structlayers.equivariant.ops.arguments import check_indices, take_rows

type IrrepsLike = str | e3nn.Irreps


def require_irreps(name: str, inputs: Any, irreps: e3nn.Irreps) -> e3nn.IrrepsArray:
    """An irreps array with equal irreps gathered, checked against what a layer was made for.

    Raises:
        TypeError: no irreps array.
        ValueError: other irreps.
    """
    if not isinstance(inputs, e3nn.IrrepsArray):
        raise TypeError(f"{name} must be an e3nn_jax.IrrepsArray, got {type(inputs).__name__}")
    grouped = inputs.regroup()
    if grouped.irreps != irreps:
        raise ValueError(f"{name} must have irreps {irreps}, got {inputs.irreps}")
    return grouped


def take_species(
    values: ArrayLike, species: ArrayLike | None, num_species: int | None
) -> jax.Array:
    """`(S, ...)` to the rows `(*B, ...)` of some species; without species, the values.

    Rows of species that are traced and out of range are NaN.

    Raises:
        ValueError: species missing, given where there are none, or known and out of range.
        TypeError: species that are no integers.
    """
    values = jnp.asarray(values)
    if species is None and num_species is None:
        return values
    if species is None or num_species is None:
        wanted = "no species" if num_species is None else f"indices below {num_species}"
        raise ValueError(f"species must be {wanted}, got {species}")
    return take_rows(values, check_indices("species", species, num_species, jnp.shape(species)))
