"""MNIST-bg-rot and MNIST-noise, rebuilt from MNIST: the published files are not used.

Larochelle, Erhan, Courville, Bergstra, Bengio, "An empirical evaluation of deep architectures on
problems with many factors of variation", ICML 2007, describe both. All 70,000 digits of MNIST are
put in a random order; of them the first are the training set, the next the test set. A background
`b` in [0, 1] shows where the digit `d` has no ink: `d + (1 - d) b`.

Other than in the published sets:

- background: patches of the two photographs that scikit-learn ships, in grey; the paper took 20
  pictures from the internet. Patches with little texture are not used, as there.
- noise: the level of correlation is stated here, and the paper's sets have six levels of it.

So their numbers compare methods with each other, and not with published numbers.
"""

from collections.abc import Callable

import numpy as np
import scipy.ndimage
import scipy.special

from experiments.data.images import Images, ImageSet
from experiments.data.mnist import load_mnist

type Background = Callable[[np.random.Generator, int], np.ndarray]
"""Generator and count to `(count, 28, 28)` in [0, 1]."""

SIZE = 28
MIN_DEVIATION = 0.05  # of the grey values of a patch with texture


def rotate(digits: np.ndarray, angles: np.ndarray) -> np.ndarray:
    """Digits `(count, 28, 28)` turned about their centre, bilinear, zero outside.

    Args:
        digits: float.
        angles: `(count,)` in radians.
    """
    centre = np.full(2, (SIZE - 1) / 2)
    turned = np.empty_like(digits)
    for index, (digit, angle) in enumerate(zip(digits, angles, strict=True)):
        turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
        offset = centre - turn @ centre
        scipy.ndimage.affine_transform(digit, turn, offset, output=turned[index], order=1)
    return turned


def photograph_patches(rng: np.random.Generator, count: int) -> np.ndarray:
    """Random patches of two photographs, in grey, those with little texture left out."""
    from sklearn.datasets import load_sample_image

    photographs = [
        load_sample_image(name).mean(axis=-1).astype(np.float32) / 255
        for name in ("china.jpg", "flower.jpg")
    ]
    patches = np.empty((count, SIZE, SIZE), np.float32)
    filled = 0
    while filled < count:
        picture = photographs[rng.integers(len(photographs))]
        row, column = (rng.integers(side - SIZE + 1) for side in picture.shape)
        patch = picture[row : row + SIZE, column : column + SIZE]
        if patch.std() >= MIN_DEVIATION:
            patches[filled] = patch
            filled += 1
    return patches


def correlated_noise(
    rng: np.random.Generator, count: int, *, independent: float, bandwidth: float = 6.0
) -> np.ndarray:
    """Noise whose pixels are uniform in [0, 1] each and correlated with their neighbours.

    Normal noise of covariance `a I + (1 - a) K`, with `K = exp(-d^2 / (2 bandwidth^2))` by the
    distance d of two pixels, through the normal distribution function.

    Args:
        rng: generator.
        count: number of images.
        independent: a, between 0 (fully correlated) and 1 (white).
        bandwidth: in pixels.
    """
    places = np.stack(np.meshgrid(*[np.arange(SIZE)] * 2, indexing="ij"), -1).reshape(-1, 2)
    squares = ((places[:, None] - places[None]) ** 2).sum(-1)
    kernel = np.exp(-squares / (2 * bandwidth**2))
    covariance = independent * np.eye(SIZE**2) + (1 - independent) * kernel
    values, vectors = np.linalg.eigh(covariance)
    root = (vectors * np.sqrt(np.maximum(values, 0.0))).astype(np.float32)
    normal = rng.standard_normal((count, SIZE**2), np.float32) @ root.T
    return scipy.special.ndtr(normal).reshape(count, SIZE, SIZE)


def _digits(rng: np.random.Generator, count: int) -> Images:
    mnist = load_mnist()
    pixels = np.concatenate([mnist.train.pixels, mnist.test.pixels])
    labels = np.concatenate([mnist.train.labels, mnist.test.labels])
    if count > len(labels):
        raise ValueError(f"MNIST has {len(labels)} digits, {count} were asked for")
    order = rng.permutation(len(labels))[:count]
    return Images(pixels[order].astype(np.float32) / 255, labels[order])


def _compose(
    seed: int, sizes: tuple[int, int], background: Background, *, rotated: bool
) -> ImageSet:
    rng = np.random.default_rng(seed)
    digits = _digits(rng, sum(sizes))
    ink = digits.pixels
    if rotated:
        ink = rotate(ink, rng.uniform(0, 2 * np.pi, len(ink)))
    pixels = ink + (1 - ink) * background(rng, len(ink))
    cut = sizes[0]
    return ImageSet(
        Images(pixels[:cut], digits.labels[:cut]), Images(pixels[cut:], digits.labels[cut:])
    )


def rebuild_mnist_bg_rot(*, seed: int = 0, sizes: tuple[int, int] = (12_000, 50_000)) -> ImageSet:
    """Digits turned by any angle before a patch of a photograph, `(28, 28)` float32 in [0, 1].

    Args:
        seed: of order, angles and patches.
        sizes: number of training and of test images.

    Raises:
        DataError: a file of MNIST is missing or another one.
    """
    return _compose(seed, sizes, photograph_patches, rotated=True)


def rebuild_mnist_noise(
    *, seed: int = 0, sizes: tuple[int, int] = (12_000, 50_000), independent: float = 0.2
) -> ImageSet:
    """Digits before correlated uniform noise, `(28, 28)` float32 in [0, 1].

    Args:
        seed: of order and noise.
        sizes: number of training and of test images.
        independent: share of white noise, see `correlated_noise`.

    Raises:
        DataError: a file of MNIST is missing or another one.
    """

    def background(rng: np.random.Generator, count: int) -> np.ndarray:
        return correlated_noise(rng, count, independent=independent)

    return _compose(seed, sizes, background, rotated=False)
