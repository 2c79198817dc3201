"""What must not change: counted where it does."""

from typing import Any

import jax
import numpy as np
import pytest

from configs.gla.op_numerics import Config
from experiments.gla import op_numerics
from experiments.gla.op_numerics import CALLS, NumericsPhase, changed_calls
from structlayers.gla.batch_invariance import is_batch_invariant


def test_values_of_the_recurrence_are_those_of_any_call():
    assert changed_calls("float32", "reference", 90, 70) == [0] * len(CALLS)
    found = dict(zip(CALLS, changed_calls("bfloat16", "xla", 90, 70), strict=True))
    assert [found[name] for name in ("again", "longer", "longer_by_default")] == [0, 0, 0]


@pytest.mark.parametrize("changing", CALLS)
def test_what_differs_is_counted(changing, monkeypatch):
    """A result that depends on how often it was called, on the batch, or on T."""
    calls = iter(range(9))
    what, _, by_default = changing.partition("_")

    def results(implementation: str | None, *, gradients: bool) -> Any:
        def run(q: np.ndarray, *arrays: np.ndarray) -> Any:
            place = {"again": next(calls) % 2, "batch": q.ndim, "longer": q.shape[-3]}[what]
            place *= not (by_default and is_batch_invariant())
            out = np.full(q.shape, float(place))
            return out, np.zeros((*q.shape[:-3], 1)), None

        return run

    monkeypatch.setattr(op_numerics, "results", results)
    found = dict(zip(CALLS, changed_calls("float32", None, 90, 70), strict=True))
    size = 2 * 64
    wanted = {
        # calls have the numbers 0 to 3, and 4 to 7 inside
        "again": {
            "again": 2 * 90 * size,
            **dict.fromkeys(("longer", "longer_by_default"), 64 * size),
        },
        "batch": dict.fromkeys(("batch", "batch_by_default"), 90 * size),
        "longer": dict.fromkeys(("longer", "longer_by_default"), 64 * size),
        "batch_by_default": {"batch_by_default": 90 * size},
        "longer_by_default": {"longer_by_default": 64 * size},
    }
    assert found == dict.fromkeys(CALLS, 0) | wanted[changing]


def test_counts_reach_the_goals(monkeypatch):
    monkeypatch.setattr(op_numerics, "changed_prefix", lambda *size: 1)
    monkeypatch.setattr(op_numerics, "changed_calls", lambda *size: [2, 3, 4, 5, 6])
    config = Config(prefixes=((40, 17), (50, 20)))
    phase = NumericsPhase("bfloat16", (), config.prefixes, None)
    state = phase.init() | {"errors": np.zeros((1, 4))}
    for step in range(phase.num_steps):
        state, _ = phase.advance(state, step, 1)
    result = phase.finish(jax.tree.map(np.asarray, state) | {"errors": np.zeros((0, 4))})
    result["cases"] = {"k64_v64_t2048_start": {"o": 1.0}, "k64_v64_t32768_start": {"o": 1.0}}
    result["cases"]["k64_v64_t2048_start"] |= dict.fromkeys(op_numerics.OUTPUTS[1:], 1.0)
    metrics = config.build().finish({"bfloat16": result})
    assert metrics["bfloat16/changed"] == 2
    assert [metrics[f"bfloat16/changed_{name}"] for name in CALLS] == [4, 6, 8, 10, 12]
    goals = {goal.metric for goal in config.goals()}
    assert {f"bfloat16/changed_{name}" for name in CALLS[:3]} | {"float32/changed_again"} <= goals
