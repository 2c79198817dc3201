"""Products as convolutions of Fourier coefficients on the torus: the paper's own route."""

import jax
import jax.numpy as jnp
from jax import lax

from structlayers.equivariant.fourier import from_torus, to_torus
from structlayers.equivariant.grids import GridLike
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
    grid: GridLike,
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


def many_body_product(
    x: jax.Array,
    *,
    order: int,
    lmax: int,
    grid: GridLike,
    precision: TablePrecision,
) -> jax.Array:
    """Powers 2 to nu of one signal, by powers of one spectrum; nothing but x is kept.

    Args:
        x: `(..., (L + 1)^2)`, float32 or float64.
        order: nu, at least 2.
        lmax: the largest degree of the results.
        grid: not used.
        precision: of the tables.

    Returns:
        `(..., nu - 1, (lmax + 1)^2)`.
    """
    del grid
    degree = lmax_of(x)
    size = 2 * order * degree + 1

    @jax.checkpoint
    def powers(x: jax.Array) -> jax.Array:
        values = power = jnp.fft.fft2(_to_torus(x, precision), s=(size, size))
        found = []
        for exponent in range(2, order + 1):
            power = power * values
            bandwidth = exponent * degree
            back = from_torus(bandwidth, lmax).reshape(-1, (lmax + 1) ** 2)
            window = jnp.fft.ifft2(power)[..., : 2 * bandwidth + 1, : 2 * bandwidth + 1]
            flat = window.reshape(*x.shape[:-1], len(back))
            real = apply_table(flat.real, back.real, precision)
            found.append(real - apply_table(flat.imag, back.imag, precision))
        return jnp.stack(found, axis=-2)

    return powers(x)
