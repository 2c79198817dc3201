import dataclasses
import hashlib
import io
import tarfile

import numpy as np
import pytest

from experiments.data import cifar10, mnist, mnist_variations
from experiments.data.files import DataError
from experiments.data.images import Images, synthetic_images


def test_images_and_labels_must_agree():
    with pytest.raises(ValueError, match="2 images but 1 labels"):
        Images(np.zeros((2, 4, 4), np.uint8), np.zeros(1, np.uint8))


def test_synthetic_classes_can_be_told_apart():
    images = synthetic_images(300, (8, 8))
    centres = np.stack([images.pixels[images.labels == c].mean(axis=0) for c in range(10)])
    distances = ((images.pixels[:, None] - centres) ** 2).sum(axis=(2, 3))
    assert (distances.argmin(axis=1) == images.labels).mean() > 0.9


@pytest.mark.parametrize("content", [b"", b"\0\0\x09\1\0\0\0\1\0", b"\0\0\x08\1\0\0\0\2\0"])
def test_idx_that_is_none(content):
    with pytest.raises(DataError, match="idx file"):
        mnist.parse_idx(content)


def test_idx_sizes_are_big_endian():
    content = b"\0\0\x08\2" + b"\0\0\0\2" + b"\0\0\0\3" + bytes(range(6))
    assert mnist.parse_idx(content).tolist() == [[0, 1, 2], [3, 4, 5]]


def records(labels, rng):
    pixels = rng.integers(0, 256, (len(labels), 3, 32, 32), np.uint8)
    rows = [bytes([label]) + image.tobytes() for label, image in zip(labels, pixels, strict=True)]
    return b"".join(rows), pixels.transpose(0, 2, 3, 1)


@pytest.mark.parametrize("content", [b"", bytes(3072), bytes([10]) + bytes(3072)])
def test_cifar_records_that_are_none(content):
    with pytest.raises(DataError, match="CIFAR-10"):
        cifar10.parse_records(content)


@pytest.fixture
def archive(monkeypatch, tmp_path, rng):
    """A small archive of the published layout in the place of the real one."""
    files = {f"data_batch_{i}.bin": records([i, 9 - i], rng) for i in range(1, 6)}
    files["test_batch.bin"] = records([0, 7, 3], rng)
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as tar:
        for name, (content, _) in [*files.items(), ("readme.html", (b"text", None))]:
            member = tarfile.TarInfo(f"cifar-10-batches-bin/{name}")
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    digest = hashlib.sha256(packed.getvalue()).hexdigest()
    monkeypatch.setattr(cifar10, "ARCHIVE", dataclasses.replace(cifar10.ARCHIVE, sha256=digest))
    monkeypatch.setenv("STRUCTLAYERS_DATA", str(tmp_path))
    (tmp_path / "cifar10").mkdir()
    (tmp_path / "cifar10" / "cifar-10-binary.tar.gz").write_bytes(packed.getvalue())
    return files


def test_cifar_archive(archive):
    found = cifar10.load_cifar10()
    assert found.train.labels.tolist() == [1, 8, 2, 7, 3, 6, 4, 5, 5, 4]
    assert found.test.labels.tolist() == [0, 7, 3]
    np.testing.assert_array_equal(found.test.pixels, archive["test_batch.bin"][1])
    np.testing.assert_array_equal(found.train.pixels[:2], archive["data_batch_1.bin"][1])


def test_cifar_grey_from_the_archive(archive):
    found = cifar10.load_cifar10_grey()
    mean = archive["test_batch.bin"][1].astype(float).mean(axis=-1)
    assert np.abs(found.test.pixels - mean).max() <= 0.5
    assert len(found.train) == 10


def test_cifar_grey_that_is_missing_names_both_forms(monkeypatch, tmp_path):
    monkeypatch.setenv("STRUCTLAYERS_DATA", str(tmp_path))
    with pytest.raises(DataError, match=r"data_batch_1\.webp.*cifar-10-binary\.tar\.gz"):
        cifar10.load_cifar10_grey()


def test_rotation(rng):
    digits = rng.uniform(size=(4, 28, 28)).astype(np.float32)
    turned = mnist_variations.rotate(digits, np.arange(4) * np.pi / 2)
    for k in range(4):
        wanted = np.rot90(digits[k], -k)
        np.testing.assert_allclose(turned[k, 1:-1, 1:-1], wanted[1:-1, 1:-1], atol=1e-5)


@pytest.mark.parametrize("independent", [0.0, 0.3, 1.0])
def test_noise_is_uniform_and_correlated_as_stated(independent):
    noise = mnist_variations.correlated_noise(
        np.random.default_rng(0), 4000, independent=independent, bandwidth=6.0
    )
    quantiles = np.quantile(noise[:, 5, 7], [0.1, 0.5, 0.9])
    np.testing.assert_allclose(quantiles, [0.1, 0.5, 0.9], atol=0.03)
    # of two normals of correlation r, the uniforms have (6 / pi) asin(r / 2)
    normal = (1 - independent) * np.exp(-9 / 72)
    found = np.corrcoef(noise[:, 10, 10], noise[:, 10, 13])[0, 1]
    assert found == pytest.approx(6 / np.pi * np.arcsin(normal / 2), abs=0.05)


def test_patches_have_texture():
    patches = mnist_variations.photograph_patches(np.random.default_rng(0), 50)
    assert patches.shape == (50, 28, 28)
    assert patches.min() >= 0
    assert patches.max() <= 1
    assert patches.std(axis=(1, 2)).min() >= mnist_variations.MIN_DEVIATION


@pytest.mark.data
def test_mnist(data_dir):
    found = mnist.load_mnist()
    assert found.train.pixels.shape == (60_000, 28, 28)
    assert found.test.pixels.shape == (10_000, 28, 28)
    assert found.train.pixels.mean() / 255 == pytest.approx(0.1307, abs=1e-4)
    assert found.train.labels[:5].tolist() == [5, 0, 4, 1, 9]


@pytest.mark.data
def test_cifar_grey(data_dir):
    found = cifar10.load_cifar10_grey()
    assert found.train.pixels.shape == (50_000, 32, 32)
    assert found.test.labels[:5].tolist() == [3, 8, 8, 0, 6]
    assert np.bincount(found.train.labels).tolist() == [5000] * 10


@pytest.mark.data
@pytest.mark.parametrize("name", ["bg_rot", "noise"])
def test_variations_are_deterministic(data_dir, name):
    rebuild = getattr(mnist_variations, f"rebuild_mnist_{name}")
    first, again = (rebuild(seed=3, sizes=(20, 30)) for _ in range(2))
    other = rebuild(seed=4, sizes=(20, 30))
    assert first.train.pixels.shape == (20, 28, 28)
    assert first.test.pixels.shape == (30, 28, 28)
    np.testing.assert_array_equal(first.test.pixels, again.test.pixels)
    assert not np.array_equal(first.train.labels, other.train.labels)
    assert first.train.pixels.min() >= 0
    assert first.train.pixels.max() <= 1


@pytest.mark.data
def test_more_digits_than_there_are(data_dir):
    with pytest.raises(ValueError, match="MNIST has 70000 digits, 70001 were asked for"):
        mnist_variations.rebuild_mnist_noise(sizes=(1, 70_000))
