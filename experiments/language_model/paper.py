"""Numbers of Yang et al. 2024, arXiv:2312.06635v6, to compare with."""

# Table 4: perplexity on the training text over the last 200 steps; 340 million parameters, 7
# billion tokens of SlimPajama.
TRAIN_PERPLEXITY = {
    "gla": 14.77,
    "no_gate": 23.21,
    "constant_gate": 16.55,
    "scalar_gate": 15.56,
    "eight_heads": 15.29,
    "one_head": 14.61,
}
# Table 2: perplexity on WikiText; 340 million parameters, 15 billion tokens.
WIKI_PERPLEXITY = {"gla": 28.65, "transformer": 28.39}


def over_gla(variant: str) -> float:
    """Perplexity of a variant divided by that of GLA (table 4).

    Example:
        >>> round(over_gla("scalar_gate"), 3)
        1.053
    """
    return TRAIN_PERPLEXITY[variant] / TRAIN_PERPLEXITY["gla"]
