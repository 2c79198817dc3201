"""How the methods of Table 1 stand to each other."""

import itertools
from collections.abc import Mapping

from experiments.butterfly.compression import paper


def rank(accuracy: Mapping[str, float], dataset: str) -> dict[str, float]:
    """How the methods stand to each other, as far as the paper's were trained.

    `neighbours_in_paper_order`: of the neighbours in the paper's ranking, how many are in that
    order here. `METHOD/baselines_below`: how many of the paper's six baselines have less than a
    butterfly.

    Example:
        >>> found = {"bpbp_real": 48.0, "unconstrained": 49.0, "low_rank": 30.0}
        >>> rank(found, "cifar10_grey")
        {'neighbours_in_paper_order': 1.0, 'bpbp_real/baselines_below': 1.0}
    """
    order = [method for method in paper.ranking(dataset) if method in accuracy]
    pairs = [accuracy[a] > accuracy[b] for a, b in itertools.pairwise(order)]
    baselines = [method for method in order if method not in paper.BUTTERFLIES]
    below = {
        f"{method}/baselines_below": float(
            sum(accuracy[method] > accuracy[other] for other in baselines)
        )
        for method in paper.BUTTERFLIES
        if method in accuracy
    }
    return {"neighbours_in_paper_order": float(sum(pairs)), **below}
