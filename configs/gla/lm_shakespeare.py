"""Language models of bytes on Tiny Shakespeare, small enough for a CPU.

The gates of `lm_books.py` in a small decoder (2 layers of 64 features, two heads, 0.16 million
parameters), float32: 600 batches of 16 windows of 128 bytes. Held out is the last tenth of the
text. It says whether training works and how much a gate is worth at all, at one seed.

Paper: Yang et al. 2024, arXiv:2312.06635, tables 4 and 2: 340 million parameters and other text, so
only the order can be compared.
Expected: perplexity over that of GLA: 1.57 without a gate, 1.12 constant, 1.05 scalar.
Data: input.txt in $STRUCTLAYERS_DATA/tinyshakespeare; the smoke preset makes its own text.
Hardware: 2-core CPU, 8 to 16 minutes while it had other work.
Command: python -m experiments run configs/gla/lm_shakespeare.py
"""

from experiments.language_model.config import LanguageModelRun


def get_config() -> LanguageModelRun:
    """Five models."""
    return LanguageModelRun(
        experiment="lm_shakespeare",
        variants=("gla", "transformer", "no_gate", "scalar_gate", "constant_gate"),
        corpus="tinyshakespeare",
        other_texts=(),
        tokenizer="bytes",
        context=128,
        features=64,
        layers=2,
        heads=2,
        dtype="float32",
        batch=16,
        accumulation=1,
        steps=600,
        warmup=40,
        learning_rate=3e-3,
        final_learning_rate=3e-4,
        chunk=50,
        valid_windows=64,
    )
