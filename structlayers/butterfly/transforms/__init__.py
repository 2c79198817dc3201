"""Exact constructors: well-known transforms as `ButterflyOperator`s.

Their tables are made in numpy float64 from integer angles and rounded once to the wanted dtype.
"""

from structlayers.butterfly.transforms.benes import permutation_network
from structlayers.butterfly.transforms.convolution import circulant, toeplitz
from structlayers.butterfly.transforms.fourier import (
    dft,
    dft2,
    hartley,
    inverse_dft,
    inverse_dft2,
)
from structlayers.butterfly.transforms.trigonometric import dct, dst, inverse_dct, inverse_dst
from structlayers.butterfly.transforms.walsh_hadamard import hadamard
from structlayers.butterfly.transforms.wavelet import haar_wavelet, inverse_haar_wavelet

__all__ = [
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
]
