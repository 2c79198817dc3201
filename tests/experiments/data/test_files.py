import gzip
import hashlib
import lzma

import pytest

from experiments.data.files import DataError, DataFile

CONTENT = b"digits"


@pytest.fixture
def file(monkeypatch, tmp_path):
    (tmp_path / "set").mkdir()
    monkeypatch.setenv("STRUCTLAYERS_DATA", str(tmp_path))
    return DataFile("set", "a.bin", hashlib.sha256(CONTENT).hexdigest(), "https://example.org/a")


@pytest.mark.parametrize(
    ("name", "compress"),
    [("a.bin", bytes), ("a.bin.gz", gzip.compress), ("a.bin.xz", lzma.compress)],
)
def test_reads_plain_and_compressed(file, tmp_path, name, compress):
    (tmp_path / "set" / name).write_bytes(compress(CONTENT))
    assert file.read() == CONTENT


def test_name_that_ends_as_compressed_is_read_as_it_is(file, tmp_path):
    packed = gzip.compress(CONTENT)
    archive = DataFile("set", "a.tar.gz", hashlib.sha256(packed).hexdigest(), "somewhere")
    (tmp_path / "set" / "a.tar.gz").write_bytes(packed)
    assert archive.read() == packed


def test_missing_file_says_which_from_where_to_where(file, tmp_path):
    with pytest.raises(DataError, match=rf"no a.bin in {tmp_path}/set.*https://example.org/a into"):
        file.read()
    assert file.find() is None


def test_variable_that_is_not_set(file, monkeypatch):
    monkeypatch.delenv("STRUCTLAYERS_DATA")
    with pytest.raises(DataError, match=r"STRUCTLAYERS_DATA is not set; put a.bin .*/set/"):
        file.read()


def test_other_content(file, tmp_path):
    (tmp_path / "set" / "a.bin").write_bytes(b"letters")
    with pytest.raises(DataError, match=r"a\.bin is another file: .* expected " + file.sha256):
        file.read()


def test_damaged_file(file, tmp_path):
    (tmp_path / "set" / "a.bin.gz").write_bytes(gzip.compress(CONTENT)[:-9])
    with pytest.raises(DataError, match=r"a\.bin\.gz cannot be read"):
        file.read()
