r"""Tables between spherical harmonics and Fourier series on the torus, NumPy float64.

A meridian goes on over the pole: with `b` in [0, 2 pi) harmonics are trigonometric polynomials
`Y_lm(b, a) = sum_uv c_uv e^(i (u b + v a))`, `v = +-m`, `|u| <= l`. Back, `int Y_lm e^(i (u b +
v a)) sin b` over the sphere alone, b up to pi: not the conjugate, and elementary.
"""

import functools

import numpy as np

from structlayers.equivariant.harmonics import degrees_of, legendre_factors, orders_of


@functools.cache
def _polar_series(lmax: int) -> np.ndarray:
    """Fourier coefficients of the Legendre factors, complex128 `(l, m, u)`, u = -L..L."""
    size = 2 * lmax + 1
    beta = 2 * np.pi * np.arange(size) / size
    values = legendre_factors(lmax, np.cos(beta))
    values[:, :, 1::2] *= np.where(np.sin(beta) < 0, -1, 1)[:, None, None]
    series = np.fft.fft(values, axis=0) / size
    return np.moveaxis(np.roll(series, lmax, axis=0), 0, -1)


@functools.cache
def to_torus(lmax: int) -> np.ndarray:
    """Fourier coefficients of every harmonic.

    Args:
        lmax: L.

    Returns:
        complex128 `((L + 1)^2, 2 L + 1, 2 L + 1)`: harmonic, u, v; read-only.

    Example:
        >>> to_torus(1)[2].round(6)[[0, 2], 1].real.tolist()  # cos(b): u = -1 and 1
        [0.244301, 0.244301]

    References:
        Luo, Chen, Krishnapriyan, "Enabling Efficient Equivariant Operations in the Fourier Basis
        via Gaunt Tensor Products", 2024, arXiv:2401.10216, on the 2D Fourier basis.
    """
    degrees, orders = degrees_of(lmax), orders_of(lmax)
    polar = _polar_series(lmax)[degrees, np.abs(orders)]
    table = np.zeros((len(degrees), 2 * lmax + 1, 2 * lmax + 1), np.complex128)
    for index, m in enumerate(orders):
        if m == 0:
            table[index, :, lmax] = polar[index] / np.sqrt(2 * np.pi)
            continue
        for sign in (-1, 1):
            wave = 0.5 if m > 0 else -0.5j * sign
            table[index, :, lmax + sign * abs(m)] = wave * polar[index] / np.sqrt(np.pi)
    table.setflags(write=False)
    return table


@functools.cache
def from_torus(bandwidth: int, lmax: int) -> np.ndarray:
    r"""Integrals over the sphere of harmonics times waves.

    `int_0^pi e^(i k b) sin b db` is `2 / (1 - k^2)` for even k, `+-i pi / 2` for `k = +-1`, else 0.

    Args:
        bandwidth: P, the largest |u| and |v|.
        lmax: L.

    Returns:
        complex128 `(2 P + 1, 2 P + 1, (L + 1)^2)`: u, v, harmonic; read-only.

    Example:
        >>> round(float(from_torus(0, 0)[0, 0, 0].real / (4 * np.pi) ** 0.5), 12)
        1.0
    """
    degrees, orders = degrees_of(lmax), orders_of(lmax)
    k = np.arange(-bandwidth, bandwidth + 1)[:, None] + np.arange(-lmax, lmax + 1)
    even = k % 2 == 0
    waves = np.where(even, 2 / np.where(even, 1 - k.astype(float) ** 2, 1), 0).astype(np.complex128)
    waves[np.abs(k) == 1] = 0.5j * np.pi * k[np.abs(k) == 1]
    polar = _polar_series(lmax)[degrees, np.abs(orders)] @ waves.T
    table = np.zeros((2 * bandwidth + 1, 2 * bandwidth + 1, len(degrees)), np.complex128)
    for index, m in enumerate(orders):
        if abs(m) > bandwidth:
            continue
        if m == 0:
            table[:, bandwidth, index] = np.sqrt(2 * np.pi) * polar[index]
            continue
        for sign in (-1, 1):
            wave = 1 if m > 0 else 1j * sign
            table[:, bandwidth + sign * abs(m), index] = np.sqrt(np.pi) * wave * polar[index]
    table.setflags(write=False)
    return table
