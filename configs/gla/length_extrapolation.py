"""Trained on windows of 2048 tokens, tested on windows of up to 20480.

GLA, retention and softmax attention with rotary positions, as in lm_books.py but with windows of
2048 tokens. The three held-out books are predicted in windows of 2048 to 20480 tokens: always the
same tokens, with more of the text before them. The picture has the perplexity by place in the
longest window.

Paper: Yang et al. 2024, arXiv:2312.06635, figure 5 (1.3 billion parameters, 100 billion tokens):
curves, no printed numbers; GLA goes on to improve or to hold beyond 2048, softmax attention is not
shown.
Expected: GLA at 20480 no worse than at 2048.
Data: books and tokenizers in $STRUCTLAYERS_DATA, or their token files in $STRUCTLAYERS_CACHE.
Hardware: one GPU of 80 GB. On an H200 5 minutes for all beside three other trainings. Parts:
--variants NAME --variant NAME --store.
Command: python -m experiments run configs/gla/length_extrapolation.py
"""

from experiments.language_model.config import LanguageModelRun


def get_config() -> LanguageModelRun:
    """Three models."""
    return LanguageModelRun(
        experiment="length_extrapolation",
        variants=("gla", "retention", "transformer"),
        other_texts=(),
        context=2048,
        test_contexts=(4096, 8192, 16384, 20480),
        batch=32,
        loss_chunk=2048,
    )
