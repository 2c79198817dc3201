"""Labelled images, as every loader gives them."""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Images:
    """Images of one split.

    Attributes:
        pixels: `(count, height, width)`, or with a last axis of 3 colours; uint8, or float32 in
            [0, 1].
        labels: `(count,)` uint8.
    """

    pixels: np.ndarray
    labels: np.ndarray

    def __post_init__(self) -> None:
        """Refuses counts that differ.

        Raises:
            ValueError: names both.
        """
        if len(self.pixels) != len(self.labels):
            raise ValueError(f"{len(self.pixels)} images but {len(self.labels)} labels")

    def __len__(self) -> int:
        """Number of images."""
        return len(self.labels)


@dataclass(frozen=True)
class ImageSet:
    """A data set with its two splits.

    Attributes:
        train: what to train and validate on.
        test: what to test on.
    """

    train: Images
    test: Images


def synthetic_images(
    count: int, shape: tuple[int, ...], *, classes: int = 10, seed: int = 0
) -> Images:
    """Images to try code on: a random pattern a class, under noise, as uint8.

    Args:
        count: number of images.
        shape: of one image.
        classes: number of classes, all about equally frequent.
        seed: of the noise and the labels; the patterns are always the same.

    Returns:
        `Images`.

    Example:
        >>> synthetic_images(5, (4, 4)).pixels.shape
        (5, 4, 4)
    """
    patterns = np.random.default_rng(0).uniform(0, 255, (classes, *shape))
    rng = np.random.default_rng([seed, count])
    labels = rng.integers(0, classes, count)
    noise = rng.uniform(0, 255, (count, *shape))
    pixels = 0.4 * patterns[labels] + 0.6 * noise
    return Images(pixels.astype(np.uint8), labels.astype(np.uint8))
