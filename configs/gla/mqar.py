"""Multi-query associative recall with gated linear attention, RetNet and softmax attention.

Pairs of keys and values, then every key once more, whose value is to be named: 256 tokens with 16
pairs and 512 with 64. Language models of two blocks and two heads, sizes 64 to 512, trained on
100,000 examples at four learning rates side by side until one has 99 % on 1000 further examples or
64 epochs are over; reported on 3000 others. Parts are run by --tasks, --mixers and --features, each
stored with --variant. Sequences, sizes, rates and epochs are those of the released code of Arora et
al. (github.com/HazyResearch/zoology), whose blocks have no channel mixer; these have SwiGLU.

Paper: Yang et al. 2024, arXiv:2312.06635, section 5.1, Figure 4 (curves, no numbers); the task is
that of Arora et al. 2023, arXiv:2312.04927, section 4.
Expected: softmax attention solves every task; gated linear attention is at no size behind RetNet.
Hardware: one H200. Hours for all of it (estimated); minutes for one task and size.
Command: python -m experiments run configs/gla/mqar.py
"""

from experiments.gla.mqar.config import RecallConfig


def get_config() -> RecallConfig:
    """Both tasks, three mixers, four sizes."""
    return RecallConfig()
