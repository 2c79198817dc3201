"""Roots of unity and radix-2 Fourier factors against exact values."""

import math

import numpy as np
import pytest

from structlayers.butterfly.transforms.tables import (
    fourier_levels,
    log2_norm,
    roots_of_unity,
    scale_levels,
)


def test_roots_are_exact_on_the_axes() -> None:
    k = np.arange(-64, 64)
    roots = roots_of_unity(k * 2**40, 2**42)  # multiples of a quarter turn
    np.testing.assert_array_equal(roots, np.array([1, 1j, -1, -1j])[k % 4])


@pytest.mark.parametrize("denominator", [1, 2, 3, 8, 12, 1000, 65536])
def test_roots_match_long_double(denominator: int) -> None:
    k = np.arange(-denominator, 2 * denominator + 1)
    angle = 2 * np.pi * np.longdouble(1) * (k % denominator) / denominator
    angle += 2 * np.longdouble("1.2246467991473531772e-16") * (k % denominator) / denominator
    exact = np.cos(angle) + 1j * np.sin(angle)
    assert float(np.max(np.abs(roots_of_unity(k, denominator) - exact))) < 2.3e-16


def test_roots_are_symmetric_to_the_last_bit() -> None:
    roots = roots_of_unity(np.arange(1024), 1024)
    np.testing.assert_array_equal(roots[1:], roots[:0:-1].conj())
    np.testing.assert_array_equal(roots[:256].real, roots[256:0:-1].imag)
    np.testing.assert_array_equal(roots[:512], -roots[512:])


@pytest.mark.parametrize("shift", [0, 1, 5])
@pytest.mark.parametrize("sign", [-1, 1])
def test_fourier_levels_are_the_shifted_dft(sign: int, shift: int) -> None:
    n = 16
    reversal = [int(f"{i:04b}"[::-1], 2) for i in range(n)]
    product = np.eye(n)[reversal]
    for level, blocks in enumerate(fourier_levels(n, sign=sign, shift=shift)):
        s = 2**level
        parts = product.reshape(-1, 2, s, n)
        product = np.einsum("kij,pjkn->pikn", blocks, parts).reshape(n, n)
    k, m = np.arange(n)[:, None] + shift, np.arange(n)
    np.testing.assert_allclose(product, np.exp(sign * 2j * np.pi * k * m / n), atol=1e-13)


@pytest.mark.parametrize("count", [1, 2, 3, 7, 10])
@pytest.mark.parametrize(("norm", "power"), [("backward", 0.0), ("ortho", -0.5), ("forward", -1.0)])
def test_scale_is_spread_exactly(count: int, norm: str, power: float) -> None:
    levels = scale_levels([np.ones(1)] * count, log2_norm(count, norm, inverse=False))
    assert math.prod(float(level[0]) for level in levels) == pytest.approx(2 ** (power * count))
    assert all(level[0] in (1.0, 0.5, math.sqrt(0.5), math.sqrt(0.125)) for level in levels)
    inverse = {"backward": "forward", "forward": "backward", "ortho": "ortho"}[norm]
    assert log2_norm(count, norm, inverse=False) == log2_norm(count, inverse, inverse=True)
