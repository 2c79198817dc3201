"""Multi-query associative recall small enough for a CPU: 16 tokens, 4 pairs, 64 words.

The three mixers of mqar.py in language models of two blocks and two heads, d = 64, with smaller
channel mixers; two learning rates side by side, until one has 99 % on 300 further examples or 20
epochs of 20,000 examples are over. Every second place after the pairs is a query; a guess among the
values seen has 25 %.

Paper: Yang et al. 2024, arXiv:2312.06635, section 5.1, Figure 4, at 256 and 512 tokens (curves).
Expected: all three solve it; the states of gated linear attention and RetNet hold four pairs with
ease, so that this task hardly tells them apart.
Hardware: 2-core CPU, 6 minutes (12 on a busy one).
Command: python -m experiments run configs/gla/mqar_cpu.py
"""

from experiments.gla.mqar.config import RecallConfig


def get_config() -> RecallConfig:
    """One task, three mixers, one size."""
    return RecallConfig(
        experiment="mqar_cpu",
        tasks=("16/4",),
        features=(64,),
        hidden_features=64,
        vocab_size=64,
        learning_rates=(2e-3, 5e-3),
        epochs=20,
        batch_tokens=1024,
        train_examples=20_000,
        validation_examples=300,
        test_examples=3000,
        dtype="float32",
        precision="highest",
    )
