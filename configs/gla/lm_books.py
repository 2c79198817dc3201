"""Language models on books: gated linear attention, its ablations, and Transformer++.

One decoder (8 layers of 512 features, SwiGLU, tied embeddings, 53 million parameters, half of them
the embedding) with seven mixers: GLA with four heads, without a gate, with a constant gate for each
head (RetNet's), with a scalar gate for each head and token (Mamba-2's), with one and with eight
heads, and softmax attention with rotary positions. All see the same windows of 1024 tokens in the
same order, 17.0 of the 17.7 million tokens that 103 English books have in GPT-2's vocabulary;
AdamW, cosine from 1e-3 to 1e-4. Train perplexity is over the last 50 steps; held out are three
books, and the WikiText-2 validation text as published, with <unk>.

Paper: Yang et al. 2024, arXiv:2312.06635, tables 4 and 2: 340 million parameters, 7 and 15 billion
tokens of SlimPajama. Here are a four-hundredth of the tokens, so only ratios can be compared.
Expected: perplexity over that of GLA: 1.57 without a gate, 1.12 constant, 1.05 scalar, 1.04 with
eight heads, 0.99 with one; GLA over Transformer++ 1.01.
Data: books, tokenizers and wikitext-eval in $STRUCTLAYERS_DATA, or their token files in
$STRUCTLAYERS_CACHE; the smoke preset makes its own text.
Hardware: one GPU of 80 GB, about 10 minutes for all. On an H200 three runs of parts and a fourth
experiment side by side took 6 minutes; a process holds 16 to 32 GB. Parts: --variants NAME
--variant NAME --store.
Command: python -m experiments run configs/gla/lm_books.py
"""

from experiments.language_model.config import LanguageModelRun


def get_config() -> LanguageModelRun:
    """All models."""
    return LanguageModelRun(
        experiment="lm_books",
        variants=(
            "gla",
            "transformer",
            "no_gate",
            "scalar_gate",
            "constant_gate",
            "one_head",
            "eight_heads",
        ),
        loss_chunk=1024,
    )
