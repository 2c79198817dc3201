import math

import pytest

from experiments.butterfly import op_numerics
from experiments.butterfly.op_numerics import NumericsPhase, OpNumerics, op_errors
from structlayers.butterfly import xla


@pytest.mark.parametrize(("dtype", "limit"), [("float32", 2e-6), ("bfloat16", 1e-2)])
def test_errors_of_every_implementation(dtype, limit):
    chosen, found = op_errors(16, 7, dtype, materialize_up_to=16)
    assert set(found) == {"xla", "dense"}
    assert chosen in found
    for forward, largest in found.values():
        assert 0 < forward <= largest < limit


def test_dense_is_left_out_above_its_size():
    _, found = op_errors(128, 3, "float32", materialize_up_to=64)
    assert set(found) == {"xla"}


def test_a_wrong_product_is_seen(monkeypatch):
    right = xla.apply_block

    def wrong(x, weights, precision):
        return right(x, weights, precision).at[-1].multiply(1.1)

    monkeypatch.setattr(xla, "apply_block", wrong)
    _, found = op_errors(64, 8, "float32", materialize_up_to=64)
    assert all(forward > 1e-2 for forward, _ in found.values())


def test_metrics_are_the_largest_over_the_sizes(monkeypatch):
    def errors(n, batch, dtype, materialize_up_to):
        found = {"xla": (1e-7 * n, 2e-7 * n)}
        return "xla", found if n > 8 else {**found, "dense": (1e-5, math.nan)}

    monkeypatch.setattr(op_numerics, "op_errors", errors)
    experiment = OpNumerics(("float32",), (8, 32), batch=3, materialize_up_to=8)
    (phase,) = experiment.phases()
    assert isinstance(phase, NumericsPhase)
    state, _ = phase.advance(phase.init(), 0, 1)
    state, logged = phase.advance(state, 1, 1)
    assert logged == {"n": 32.0, "chosen": pytest.approx(6.4e-6)}
    metrics = experiment.finish({"float32": phase.finish(state)})
    assert metrics["float32/chosen/forward"] == pytest.approx(3.2e-6)
    assert metrics["float32/xla/gradients"] == pytest.approx(6.4e-6)
    assert metrics["float32/dense/forward"] == pytest.approx(1e-5)
    assert metrics["float32/worst/forward"] == pytest.approx(1e-5)
    assert math.isnan(metrics["float32/worst/gradients"])
