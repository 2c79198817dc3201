"""Token files: a header that says whose ids they are, then the ids, read in place.

bytes     what
0-7       magic "SLTOKENS"
8-11      version of this layout, 1
12-15     bytes of an id, 2 or 4; ids are unsigned, little-endian
16-23     size of the vocabulary
24-31     number of ids
32-39     bytes of UTF-8 that the ids encode
40-71     sha256 of the tokenizer
72-103    sha256 of the text
104-135   sha256 of the ids
136-167   sha256 of bytes 0-135; zeros in files of before it was written
168-255   zeros
"""

import hashlib
import os
import struct
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from experiments.data.files import DataError
from experiments.language_model.tokenizer import Tokenizer

MAGIC = b"SLTOKENS"
VERSION = 1
SIZE = 256
_LAYOUT = struct.Struct("<8sIIQQQ32s32s32s")
_BLOCK = 1 << 24


@dataclass(frozen=True)
class TokenFile:
    """An open token file.

    Attributes:
        path: the file.
        tokens: its ids, uint16 or uint32, mapped into memory and not writable.
        vocabulary: size of the vocabulary.
        text_bytes: bytes of UTF-8 that the ids encode.
        tokenizer_sha256: of the tokenizer, in hex.
        text_sha256: of the text, in hex.
    """

    path: Path
    tokens: np.ndarray
    vocabulary: int
    text_bytes: int
    tokenizer_sha256: str
    text_sha256: str

    def __len__(self) -> int:
        """Number of ids."""
        return len(self.tokens)

    def require(self, tokenizer: Tokenizer, text_sha256: str | None = None) -> "TokenFile":
        """The file itself, if it holds this text in this vocabulary.

        Raises:
            DataError: it is of another tokenizer or another text; nothing is changed.
        """
        for what, found, wanted in (
            ("tokenizer", self.tokenizer_sha256, tokenizer.sha256),
            ("text", self.text_sha256, text_sha256 or self.text_sha256),
        ):
            if found != wanted:
                raise DataError(
                    f"{self.path} is of another {what}: sha256 {found}, vocabulary of "
                    f"{self.vocabulary}; expected {wanted} ({tokenizer.name}, "
                    f"{tokenizer.vocabulary}). Nothing was changed; move that file away"
                )
        return self


def write_token_file(path: Path, text: str, tokenizer: Tokenizer) -> TokenFile:
    """Encodes a text and writes it, complete or not at all; another file there is not replaced.

    Args:
        path: the file to make, in a folder that is made where it is missing.
        text: any.
        tokenizer: gives the ids.

    Returns:
        The open file.

    Raises:
        DataError: the file is there and of another text or tokenizer, or damaged; or the tokenizer
            gave an id outside its vocabulary.

    Example:
        >>> from experiments.language_model.tokenizer import ByteTokenizer
        >>> folder = tempfile.TemporaryDirectory()
        >>> file = write_token_file(Path(folder.name) / "a.tokens", "abc", ByteTokenizer())
        >>> file.tokens.tolist(), file.text_bytes
        ([97, 98, 99], 3)
        >>> folder.cleanup()
    """
    data = text.encode()
    text_sha256 = hashlib.sha256(data).hexdigest()
    if path.exists():
        return open_token_file(path).require(tokenizer, text_sha256)
    ids = tokenizer.encode(text)
    if ids.size and not 0 <= ids.min() <= ids.max() < tokenizer.vocabulary:
        raise DataError(
            f"tokenizer {tokenizer.name} gave ids from {ids.min()} to {ids.max()}; expected 0 to "
            f"{tokenizer.vocabulary - 1}"
        )
    width = 2 if tokenizer.vocabulary <= 1 << 16 else 4
    payload = ids.astype(f"<u{width}").tobytes()
    fields = _LAYOUT.pack(
        MAGIC,
        VERSION,
        width,
        tokenizer.vocabulary,
        len(ids),
        len(data),
        bytes.fromhex(tokenizer.sha256),
        bytes.fromhex(text_sha256),
        hashlib.sha256(payload).digest(),
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=path.parent, suffix=".tmp", delete=False) as file:
        try:
            file.write(_header(fields) + payload)
            file.flush()
            os.fsync(file.fileno())
            os.chmod(file.name, 0o644)  # temporary files are for their maker alone
            os.replace(file.name, path)
        except BaseException:
            os.unlink(file.name)
            raise
    return open_token_file(path)


def open_token_file(path: Path) -> TokenFile:
    """Opens a token file and checks all of it.

    Args:
        path: the file.

    Returns:
        Its header, and its ids mapped into memory.

    Raises:
        DataError: it cannot be read, is no token file, of another version, cut off, or damaged.
    """
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            header = file.read(SIZE)
            if len(header) < SIZE or header[: len(MAGIC)] != MAGIC:
                raise _refused(path, f"it begins with {header[: len(MAGIC)]!r}, not {MAGIC!r}")
            _, version, width, vocabulary, count, text_bytes, *digests = _LAYOUT.unpack_from(header)
            if version != VERSION or width not in (2, 4):
                raise _refused(path, f"its layout is version {version} with ids of {width} bytes")
            fields = header[: _LAYOUT.size]
            if header not in (_header(fields), fields.ljust(SIZE, b"\0")):
                raise _refused(path, "its header does not have the sha256 that stands in it")
            if size != SIZE + count * width:
                expected = SIZE + count * width
                raise _refused(path, f"it has {size} bytes, its header says {expected}")
            payload = hashlib.sha256()
            while block := file.read(_BLOCK):
                payload.update(block)
    except OSError as error:
        raise DataError(f"token file {path} cannot be read: {error.strerror}") from error
    if payload.digest() != digests[2]:
        raise _refused(path, "its ids do not have the sha256 that its header says")
    dtype = np.dtype(f"<u{width}")
    tokens = (
        np.memmap(path, dtype, mode="r", offset=SIZE, shape=(count,))
        if count
        else np.zeros(0, dtype)
    )
    tokenizer, text, _ = (digest.hex() for digest in digests)
    return TokenFile(path, tokens, vocabulary, text_bytes, tokenizer, text)


def _header(fields: bytes) -> bytes:
    return (fields + hashlib.sha256(fields).digest()).ljust(SIZE, b"\0")


def _refused(path: Path, why: str) -> DataError:
    return DataError(
        f"{path} is no whole token file of version {VERSION}: {why}. Nothing was changed; move "
        "that file away to have it made anew"
    )
