"""The product as a convolution of Fourier coefficients on the torus: the paper's own route."""

import jax
import jax.numpy as jnp
from jax import lax

from structlayers.equivariant.fourier import from_torus, to_torus
from structlayers.equivariant.grids import SphericalGrid
from structlayers.equivariant.precision import TablePrecision
from structlayers.equivariant.xla.products import apply_table
from structlayers.equivariant.xla.transforms import lmax_of


def _to_torus(x: jax.Array, precision: TablePrecision) -> jax.Array:
    table = to_torus(lmax_of(x))
    flat = table.reshape(len(table), -1)
    parts = (apply_table(x, part, precision) for part in (flat.real, flat.imag))
    return lax.complex(*parts).reshape(*x.shape[:-1], *table.shape[1:])


def gaunt_tensor_product(
    x: jax.Array,
    y: jax.Array,
    *,
    lmax: int,
    grid: str | SphericalGrid,
    precision: TablePrecision,
) -> jax.Array:
    """Coefficients on the torus, their convolution by FFT, and integrals over the sphere.

    Args:
        x: `(..., (L1 + 1)^2)`, float32 or float64.
        y: `(..., (L2 + 1)^2)` of the same rank and dtype; leading axes broadcast.
        lmax: L3.
        grid: not used.
        precision: of the tables.

    Returns:
        `(..., (L3 + 1)^2)`.
    """
    del grid
    bandwidth = lmax_of(x) + lmax_of(y)
    sizes = (2 * bandwidth + 1,) * 2
    back = from_torus(bandwidth, lmax)
    back = back.reshape(-1, back.shape[-1])

    @jax.checkpoint
    def product(x: jax.Array, y: jax.Array) -> jax.Array:
        spectra = [jnp.fft.fft2(_to_torus(signal, precision), s=sizes) for signal in (x, y)]
        waves = jnp.fft.ifft2(spectra[0] * spectra[1])
        flat = waves.reshape(*waves.shape[:-2], len(back))
        real = apply_table(flat.real, back.real, precision)
        return real - apply_table(flat.imag, back.imag, precision)

    return product(x, y)
