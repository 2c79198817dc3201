"""Measurements of the Gaunt products: what they give, and that faults show in them."""

import jax.numpy as jnp
import pytest

from configs.equivariant.op_numerics import Config
from experiments.equivariant.op_numerics import exactness, rounding, rules, signals
from experiments.equivariant.op_numerics.experiment import MeasurePhase, OpNumerics
from structlayers._core.dispatch import assume_platform

FORMS = ("gauss_legendre", "separable")


def test_a_wrong_product_is_seen(monkeypatch):
    right = signals.gaunt_tensor_product

    def wrong(x, y, **options):
        z = right(x, y, **options)
        return z.at[..., -1].add(1e-3 * jnp.abs(x[..., 0]))

    measure = exactness.exact_cases(1, FORMS)["1_1_1"]
    assert max(measure().values()) < 1e-12
    monkeypatch.setattr(signals, "gaunt_tensor_product", wrong)
    assert measure()["gauss_legendre"] > 1e-4
    assert measure()["agreement"] < 1e-12  # both are wrong
    linear = exactness.other_cases(1, FORMS)["linear_separable"]
    assert linear()["bilinearity"] > 1e-4
    monkeypatch.setattr(rounding, "gaunt_tensor_product", wrong)
    found = rounding.rounding(1, "tf32", 16, "float32", None)
    assert found["equivariance"] > 1e-3 * 0.1
    assert found["gradients"] > 1e-4


def test_forms_that_disagree_are_seen(monkeypatch):
    right = signals.gaunt_tensor_product

    def wrong(x, y, *, implementation, **options):
        z = right(x, y, implementation=implementation, **options)
        return z * (1.001 if implementation == "separable" else 1)

    monkeypatch.setattr(signals, "gaunt_tensor_product", wrong)
    assert exactness.exact_cases(1, FORMS)["1_1_1"]()["agreement"] > 1e-4


def test_a_grid_that_is_too_small_is_seen(monkeypatch):
    assert rules._small_grids(3) == {"small_grids": 0.0, "small_grids_tried": 7.0}
    monkeypatch.setattr(rules, "gaunt_tensor_product", lambda *args, **options: None)
    assert rules._small_grids(3)["small_grids"] == 1


def test_a_transcendental_operation_is_seen(monkeypatch):
    assert rules._transcendentals("gauss_legendre") == {"transcendentals": 0.0}
    right = signals.gaunt_tensor_product

    def wrong(x, y, **options):
        return right(x, y, **options) * jnp.sin(x[..., :1])

    monkeypatch.setattr(signals, "gaunt_tensor_product", wrong)
    assert rules._transcendentals("gauss_legendre")["transcendentals"] >= 1


def test_the_kernel_is_measured_where_it_serves():
    cases, notes = rounding.kernel_cases(("highest", "tf32", "bf16"), (2, 4), 70)
    assert set(cases) == {"tf32_2", "tf32_4", "bf16_2", "bf16_4"}
    assert all("not served here" in note and "this is cpu" in note for note in notes.values())
    assert all(measure() == {} for measure in cases.values())
    with assume_platform("gpu"):
        _, notes = rounding.kernel_cases(("tf32",), (8,), 70)
    assert notes == {"tf32_8": "pallas_gpu"}


def test_metrics_are_the_largest_and_the_kernels_are_apart():
    experiment = OpNumerics(1, (1,), (1, 2), 4, 70, FORMS, ("tf32",), ("rounding", "kernel"))
    rounded, kernel = experiment.phases()
    assert isinstance(rounded, MeasurePhase)
    assert isinstance(kernel, MeasurePhase)
    state, logged = kernel.advance(kernel.init(), 0, 2)
    assert logged == {}
    assert all(set(case) == {"ran"} for case in kernel.finish(state).values())
    results = {
        "rounding": {"tf32_1": {"values": 1.0, "ran": "xla"}, "tf32_2": {"values": 3.0}},
        "kernel": {"tf32_1": {"values": 2.0, "changed": 0.0, "ran": "pallas_gpu"}},
        "rules": {"grid_1": {"small_grids_tried": 3.0}, "grid_2": {"small_grids_tried": 6.0}},
    }
    assert experiment.finish(results) == {
        "tf32/values": 3.0,
        "kernel/tf32/values": 2.0,
        "kernel/tf32/changed": 0.0,
        "small_grids_tried": 9.0,
    }
    state, _ = rounded.advance(rounded.init(), 0, 1)
    found = rounded.finish(state)
    assert found["tf32_1"]["ran"] == "sparse"
    rounded.init()
    rounded.set_host_state({"found": {"tf32_1": {"values": 5.0}}})
    assert rounded.finish(state)["tf32_1"]["values"] == 5.0


def test_unknown_names_are_refused():
    with pytest.raises(ValueError, match="forms must be among gauss_legendre"):
        Config(forms=("nothing",))
    with pytest.raises(ValueError, match="precisions must be among highest"):
        Config(precisions=("nothing",))
    with pytest.raises(ValueError, match="parts must be among exactness"):
        Config(parts=("nothing",))
