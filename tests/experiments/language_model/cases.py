"""What several tests of language models share."""

import hashlib

from experiments.language_model.tokenizer import ByteTokenizer


class WideTokenizer(ByteTokenizer):
    """The ids of bytes in a vocabulary that takes 32 bits."""

    name = "wide"
    vocabulary = 1 << 17
    sha256 = hashlib.sha256(b"wide").hexdigest()
