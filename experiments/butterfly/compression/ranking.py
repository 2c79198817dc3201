"""How the methods of Table 1 stand to each other."""

import itertools
from collections.abc import Mapping

from experiments.butterfly.compression import paper


def rank(accuracy: Mapping[str, float], dataset: str) -> dict[str, float]:
    """How the methods stand to each other, if all of the paper's were trained; else nothing.

    `neighbours_in_paper_order`: of the neighbours in the paper's ranking, how many are in that
    order here. `METHOD/baselines_below`: how many of the paper's six baselines have less than a
    butterfly.

    Example:
        >>> rank({"bpbp_real": 48.0, "low_rank": 30.0}, "cifar10_grey")
        {}
    """
    order = paper.ranking(dataset)
    if not set(order) <= set(accuracy):
        return {}
    pairs = [accuracy[a] > accuracy[b] for a, b in itertools.pairwise(order)]
    baselines = [method for method in order if method not in paper.BUTTERFLIES]
    below = {
        f"{method}/baselines_below": float(
            sum(accuracy[method] > accuracy[other] for other in baselines)
        )
        for method in paper.BUTTERFLIES
    }
    return {"neighbours_in_paper_order": float(sum(pairs)), **below}
