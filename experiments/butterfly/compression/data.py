"""The three data sets as rows of features: padded, standardised, split, on the device."""

from dataclasses import dataclass
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments.data.cifar10 import load_cifar10_grey
from experiments.data.images import Images, ImageSet, synthetic_images
from experiments.data.mnist_variations import rebuild_mnist_bg_rot, rebuild_mnist_noise

type DatasetName = Literal["cifar10_grey", "mnist_bg_rot", "mnist_noise"]

_LEAST = 1e-6  # deviation of a feature that counts as changing


class Rows(NamedTuple):
    """Features and labels of one split.

    Attributes:
        features: `(count, n)` float32.
        labels: `(count,)` int32.
    """

    features: jax.Array
    labels: jax.Array


@dataclass(frozen=True)
class Splits:
    """What a network is trained on, selected on, and tested on.

    Attributes:
        train: for the gradients.
        validation: for the checkpoint and the learning rate.
        test: for the number reported.
    """

    train: Rows
    validation: Rows
    test: Rows


def load_images(name: DatasetName, seed: int) -> ImageSet:
    """A data set by name; the two variations of MNIST are rebuilt from the seed.

    Raises:
        DataError: a file is missing or another one.
    """
    if name == "cifar10_grey":
        return load_cifar10_grey()
    rebuild = rebuild_mnist_bg_rot if name == "mnist_bg_rot" else rebuild_mnist_noise
    return rebuild(seed=seed)


def synthetic_set(n: int) -> ImageSet:
    """Few images of n - 1 pixels to try the code on."""
    return ImageSet(synthetic_images(400, (1, n - 1)), synthetic_images(200, (1, n - 1), seed=1))


def make_splits(images: ImageSet, n: int, validation_share: float, seed: int) -> Splits:
    """Rows of n features: pixels in reading order, then zeros.

    A feature is standardised by its mean and deviation over the training rows; one that never
    changes there becomes zero.

    Args:
        images: a data set of at most n pixels.
        n: number of features.
        validation_share: share of the training images that is kept for validation.
        seed: of the order that splits them.

    Raises:
        ValueError: more than n pixels.
    """
    order = np.random.default_rng(seed).permutation(len(images.train))
    kept = round(validation_share * len(order))
    pieces = [
        _take(images.train, order[kept:]),
        _take(images.train, order[:kept]),
        _take(images.test, np.arange(len(images.test))),
    ]
    pixels = pieces[0][0].shape[1]
    if pixels > n:
        raise ValueError(f"n must be at least the number of pixels, {pixels}, got {n}")
    mean = pieces[0][0].mean(axis=0, dtype=np.float64)
    deviation = pieces[0][0].std(axis=0, dtype=np.float64)
    # a feature that never changes has a deviation of rounding
    scale = np.where(deviation > _LEAST, 1 / np.maximum(deviation, _LEAST), 0)

    def rows(features: np.ndarray, labels: np.ndarray) -> Rows:
        standard = (features - mean.astype(np.float32)) * scale.astype(np.float32)
        padded = np.pad(standard, [(0, 0), (0, n - pixels)])
        return Rows(jnp.asarray(padded), jnp.asarray(labels.astype(np.int32)))

    return Splits(*(rows(*piece) for piece in pieces))


def _take(images: Images, index: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    pixels = images.pixels[index].reshape(len(index), -1)
    scale = np.float32(255) if pixels.dtype == np.uint8 else np.float32(1)
    return pixels.astype(np.float32) / scale, images.labels[index]
