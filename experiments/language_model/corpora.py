"""Texts to train and test on, and their token files, made once and kept."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np

from experiments.data.files import DataError, DataFile, cache_folder
from experiments.language_model.token_file import TokenFile, open_token_file, write_token_file
from experiments.language_model.tokenizer import Tokenizer

_BOOKS = "github.com/mlschmitt/classic-books-markdown 9448827, split and joined by manifest.json,"
BOOKS_TRAIN = DataFile(
    "books",
    "train.txt",
    "c1732c361daac631460839e2ea86cb42ad613a0532f6b32a9ae040eb8fb908b3",
    _BOOKS,
)
BOOKS_VALID = DataFile(
    "books",
    "valid.txt",
    "fbb91024cfb3c9334faa231db18a8942606496a56886c9e40a32fc92c2bebcc4",
    _BOOKS,
)
WIKITEXT_VALID = DataFile(
    "wikitext-eval",
    "valid.txt",
    "f0737ed31fc1329026e95cb8b98e19c2a182c39c240ab909dc31abf2f8af58e8",
    "github.com/pytorch/examples word_language_model/data/wikitext-2",
)
SHAKESPEARE = DataFile(
    "tinyshakespeare",
    "input.txt",
    "86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed",
    "github.com/karpathy/char-rnn data/tinyshakespeare",
)


@dataclass(frozen=True)
class Text:
    """One text.

    Attributes:
        read: gives it.
        sha256: of its UTF-8, where it is known without reading.
    """

    read: Callable[[], str]
    sha256: str | None = None


def of_file(file: DataFile) -> Text:
    """The text of a file."""
    return Text(lambda: file.read().decode(), file.sha256)


def _shakespeare(start: float, end: float) -> str:
    """A stretch of Tiny Shakespeare, by shares of its characters."""
    text = SHAKESPEARE.read().decode()
    return text[int(start * len(text)) : int(end * len(text))]


def synthetic_text(words: int, seed: int) -> str:
    """Words of a chain in which each has four successors, to try the code without data.

    Example:
        >>> len(synthetic_text(5, 0).split(" "))
        5
    """
    rng = np.random.default_rng(0)
    successors = rng.integers(0, 64, (64, 4))
    vocabulary = ["".join(map(chr, rng.integers(97, 123, 1 + i % 7))) for i in range(64)]
    choices = np.random.default_rng(seed + 1).integers(0, 4, words)
    chain, word = [], 0
    for choice in choices:
        word = successors[word, choice]
        chain.append(vocabulary[word])
    return " ".join(chain)


CORPORA: dict[str, dict[str, Text]] = {
    "books": {"train": of_file(BOOKS_TRAIN), "valid": of_file(BOOKS_VALID)},
    # the last tenth is held out, by custom
    "tinyshakespeare": {
        "train": Text(partial(_shakespeare, 0, 0.9)),
        "valid": Text(partial(_shakespeare, 0.9, 1)),
    },
    "wikitext": {"valid": of_file(WIKITEXT_VALID)},
    "synthetic": {
        "train": Text(partial(synthetic_text, 20000, 0)),
        "valid": Text(partial(synthetic_text, 2000, 1)),
    },
}


def token_file(corpus: str, split: str, tokenizer: Tokenizer) -> TokenFile:
    """The token file of a text; made where it is not there yet.

    The file is `<corpus>-<split>-<tokenizer>.tokens` in `cache_folder()`. A text whose sha256 is
    known need not be there once its token file is.

    Raises:
        DataError: the text is needed and missing, or the file is of another text or tokenizer, or
            damaged.
    """
    if split not in CORPORA.get(corpus, {}):
        known = ", ".join(f"{name}/{part}" for name, parts in CORPORA.items() for part in parts)
        raise DataError(f"no text {corpus}/{split}; expected one of {known}")
    text = CORPORA[corpus][split]
    path = cache_folder() / f"{corpus}-{split}-{tokenizer.name}.tokens"
    if not path.exists():
        return write_token_file(path, text.read(), tokenizer)
    wanted = text.sha256 or hashlib.sha256(text.read().encode()).hexdigest()
    return open_token_file(path).require(tokenizer, wanted)
