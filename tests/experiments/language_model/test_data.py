"""Tokenizers, token files, windows and batches: exact, resumable, and nothing bad is taken."""

import dataclasses
import hashlib
import struct

import jax
import numpy as np
import pytest

from experiments.data.files import CACHE, DataError
from experiments.language_model import corpora
from experiments.language_model.batches import Batches, Windows
from experiments.language_model.corpora import token_file
from experiments.language_model.mesh import BATCH, MeshShape
from experiments.language_model.token_file import SIZE, open_token_file, write_token_file
from experiments.language_model.tokenizer import ByteTokenizer, GPT2Tokenizer, make_tokenizer
from tests.experiments.language_model.cases import WideTokenizer

TEXT = "Le cœur a ses raisons,\n\nque la raison ne connaît point.\n  Pascal\t— 1670 \n" * 3


class WrongTokenizer(ByteTokenizer):
    """Ids outside its vocabulary."""

    vocabulary = 100


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv(CACHE, str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.mark.parametrize(("tokenizer", "width"), [(ByteTokenizer(), 2), (WideTokenizer(), 4)])
def test_a_token_file_gives_back_the_text(tmp_path, tokenizer, width):
    file = write_token_file(tmp_path / "deep" / "a.tokens", TEXT, tokenizer)
    assert tokenizer.decode(file.tokens.tolist()) == TEXT
    assert file.text_bytes == len(TEXT.encode())
    assert file.path.stat().st_size == SIZE + width * len(file)
    assert not file.tokens.flags.writeable
    assert file.path.stat().st_mode & 0o777 == 0o644
    assert write_token_file(file.path, TEXT, tokenizer).tokens.tolist() == file.tokens.tolist()
    assert [path.name for path in file.path.parent.iterdir()] == ["a.tokens"]


def test_an_empty_text(tmp_path):
    file = write_token_file(tmp_path / "a.tokens", "", ByteTokenizer())
    assert len(file) == len(open_token_file(file.path)) == file.text_bytes == 0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda b: b[:-1], "has 537 bytes, its header says 538"),
        (lambda b: b + b"x", "has 539 bytes, its header says 538"),
        (lambda b: b[:100], "begins with"),
        (lambda b: b"", "begins with b''"),
        (lambda b: b"PK" + b[2:], "begins with b'PKTOKENS', not b'SLTOKENS'"),
        (lambda b: b[:8] + struct.pack("<I", 2) + b[12:], "version 2"),
        (lambda b: b[:12] + struct.pack("<I", 3) + b[16:], "ids of 3 bytes"),
        (lambda b: b[:-2] + b"\x07" + b[-1:], "sha256 that its header says"),
        (lambda b: b[:32] + struct.pack("<Q", 9) + b[40:], "sha256 that stands in it"),
    ],
    ids=["cut", "long", "head", "empty", "magic", "version", "width", "damaged", "bytes"],
)
def test_a_bad_token_file_is_named_and_stays(cache, tmp_path, change, message):
    text = "x" * 141
    path = tmp_path / "a.tokens"
    bad = change(write_token_file(path, text, ByteTokenizer()).path.read_bytes())
    path.write_bytes(bad)
    for attempt in (
        lambda: open_token_file(path),
        lambda: write_token_file(path, text, ByteTokenizer()),
    ):
        with pytest.raises(DataError, match=message) as error:
            attempt()
        assert str(path) in str(error.value)
    assert path.read_bytes() == bad


def test_any_damaged_byte_is_seen(tmp_path):
    path = write_token_file(tmp_path / "a.tokens", "text", ByteTokenizer()).path
    whole = path.read_bytes()
    for place in range(len(whole)):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        with pytest.raises(DataError, match=f"{path} is no whole token file"):
            open_token_file(path)
    path.write_bytes(whole[:136] + bytes(120) + whole[256:])  # as before headers had a sha256
    assert open_token_file(path).tokens.tolist() == list(b"text")


def test_another_vocabulary_or_text_is_named_and_stays(cache):
    file = token_file("synthetic", "valid", ByteTokenizer())
    before = file.path.read_bytes()
    with pytest.raises(DataError, match=r"is of another tokenizer.*vocabulary of 257; expected"):
        file.require(WideTokenizer())
    with pytest.raises(DataError, match="is of another text"):
        write_token_file(file.path, "another", ByteTokenizer())
    (cache / "synthetic-train-bytes.tokens").write_bytes(before)
    with pytest.raises(DataError, match="is of another text"):
        token_file("synthetic", "train", ByteTokenizer())
    assert file.path.read_bytes() == before
    with pytest.raises(DataError, match="no text books/test; expected one of books/train"):
        token_file("books", "test", ByteTokenizer())
    with pytest.raises(ValueError, match="tokenizer must be one of bytes, gpt2; got 'gpt3'"):
        make_tokenizer("gpt3")
    with pytest.raises(DataError, match=r"gave ids from 120 to 120; expected 0 to 99"):
        write_token_file(cache / "wrong.tokens", "x", WrongTokenizer())
    assert sorted(path.name for path in cache.iterdir()) == [
        "synthetic-train-bytes.tokens",
        "synthetic-valid-bytes.tokens",
    ]


def test_missing_text_is_named(cache, monkeypatch):
    monkeypatch.delenv("STRUCTLAYERS_DATA", raising=False)
    with pytest.raises(DataError, match=r"STRUCTLAYERS_DATA is not set; put valid\.txt"):
        token_file("books", "valid", ByteTokenizer())
    assert not cache.exists()


def test_a_token_file_stands_for_its_text(cache, monkeypatch):
    """Where the text's sha256 is known, the text need not be there."""
    text = dataclasses.replace(
        corpora.CORPORA["books"]["valid"], sha256=hashlib.sha256(TEXT.encode()).hexdigest()
    )
    monkeypatch.setitem(corpora.CORPORA["books"], "valid", text)
    monkeypatch.delenv("STRUCTLAYERS_DATA", raising=False)
    write_token_file(cache / "books-valid-bytes.tokens", TEXT, ByteTokenizer())
    assert len(token_file("books", "valid", ByteTokenizer())) == len(TEXT.encode())


@pytest.mark.data
def test_gpt2_vocabulary(data_dir):
    """Ids as published, the same whether a text is cut into pieces or not."""
    pytest.importorskip("tokenizers")
    tokenizer = GPT2Tokenizer()
    ids = tokenizer.encode("Hello world, matrix-free LM").tolist()
    assert ids == [15496, 995, 11, 17593, 12, 5787, 37125]
    text = TEXT + corpora.BOOKS_VALID.read().decode()[:600_000]
    whole = tokenizer._model.encode(text).ids
    assert tokenizer.encode(text).tolist() == whole
    assert tokenizer.decode(whole) == text
    assert tokenizer.encode("").tolist() == []


def batches(mesh, *, accumulation=1, steps=9, windows=7):
    sharding = jax.sharding.NamedSharding(mesh.make(), BATCH)
    tokens = np.arange(3 * windows + 1, dtype=np.uint16)
    return Batches(Windows(tokens, 3), sharding, 4, accumulation, steps, seed=5)


def test_every_window_once_an_epoch_in_another_order():
    found = batches(MeshShape(data=1), steps=14)
    rows = np.concatenate([np.asarray(found.next()).reshape(-1, 4) for _ in range(14)])
    np.testing.assert_array_equal(rows, rows[:, :1] + np.arange(4))
    epochs = (rows[:, 0] // 3).reshape(8, 7)
    assert (np.sort(epochs, axis=1) == np.arange(7)).all()
    assert len({tuple(epoch) for epoch in epochs.tolist()}) > 4
    with pytest.raises(StopIteration):
        found.next()


def test_batches_do_not_depend_on_mesh_or_interruptions():
    first = [np.asarray(batch) for batch in all_of(batches(MeshShape(data=1)))]
    spread = batches(MeshShape(data=2, fsdp=2, tensor=2))
    for step in range(4):
        batch = spread.next()
        assert batch.sharding.is_equivalent_to(spread.sharding, 3)
        np.testing.assert_array_equal(batch, first[step])
    state = spread.iterator.get_state()
    again = batches(MeshShape(data=1), accumulation=2)
    again.iterator.set_state(state)
    for step in range(4, 9):
        np.testing.assert_array_equal(np.asarray(again.next()).reshape(1, 4, 4), first[step])


def all_of(found):
    return [found.next() for _ in range(found.steps)]


def test_each_process_reads_its_own_rows():
    """Rows of a device's shard, and no others, as several processes would ask for."""
    found = batches(MeshShape(data=4, fsdp=1, tensor=2), accumulation=1)
    places = found.sharding.devices_indices_map(found.shape)
    for device, place in places.items():
        row = list(found.sharding.mesh.devices.ravel()).index(device) // 2
        assert place[1] == slice(row, row + 1, None)
    assert found.rows == [0, 1, 2, 3]


def test_a_text_shorter_than_a_window():
    with pytest.raises(DataError, match=r"has 3 tokens; expected more than context = 3"):
        Windows(np.arange(3), 3)
