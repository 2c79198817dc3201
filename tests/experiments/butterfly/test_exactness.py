"""The exactness experiments: goals name what is measured, and wrong members are noticed."""

import dataclasses
from typing import Any

import numpy as np
import pytest

from experiments.butterfly import closed_form, exactness
from experiments.config_files import CONFIGS, load
from structlayers.butterfly.permutations import bit_reversal_permutation
from tests.butterfly.dense_oracle import dense_oracle


@pytest.mark.parametrize("name", ["exact_constructors", "closed_form"])
def test_every_goal_has_a_metric(name: str) -> None:
    config: Any = load(CONFIGS / "butterfly" / f"{name}.py").config
    cases = config.cases[:1]
    config = dataclasses.replace(config, cases=cases, dtypes=("float32",), sizes=(4,))
    experiment = config.build()
    results = {}
    for phase in experiment.phases():
        state = phase.init()
        state, scalars = phase.advance(state, 0, 1)
        assert all(np.isfinite(list(scalars.values())))
        results[phase.name] = phase.finish(state)
    metrics = experiment.finish(results)
    assert {goal.metric for goal in config.goals()} == set(metrics)
    for goal in config.goals():
        if goal.metric.endswith("max_error"):
            assert goal.status(metrics[goal.metric]) == "pass"


@pytest.mark.parametrize("name", ["exact_constructors", "closed_form"])
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"sizes": (8, 12)}, "sizes.* must be powers of two, at least 2; got 12"),
        ({"dtypes": ("float16",)}, "dtypes must be 'float32' or 'float64', got 'float16'"),
        ({"cases": ("fft",)}, "cases must be among .* got 'fft'"),
    ],
)
def test_bad_configs(name: str, change: dict, message: str) -> None:
    config: Any = load(CONFIGS / "butterfly" / f"{name}.py").config
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(config, **change)


def test_random_members_are_products_of_factors() -> None:
    member = closed_form.random_member(8, is_complex=False, tied=True, seed=3)
    rng = np.random.default_rng([8, 3])
    levels = [rng.standard_normal((2**level, 2, 2)) / np.sqrt(2) for level in range(3)]
    twiddle = np.concatenate(levels)[None, None]
    np.testing.assert_allclose(member, dense_oracle(twiddle), atol=1e-14)
    unitary = closed_form.random_member(16, is_complex=True, unitary=True)
    np.testing.assert_allclose(unitary @ unitary.conj().T, np.eye(16), atol=1e-14)


def test_references_are_not_the_operators() -> None:
    identity = np.eye(8)
    np.testing.assert_allclose(
        exactness.CASES["hadamard"].reference(8)(identity)[5], [1, -1, 1, -1, -1, 1, -1, 1]
    )
    haar = exactness.CASES["haar_wavelet"].reference(8)(identity)
    back = exactness.CASES["inverse_haar_wavelet"].reference(8)(haar)
    np.testing.assert_allclose(back, identity, atol=1e-15)
    np.testing.assert_allclose(haar[:, 1], [8**-0.5] * 4 + [-(8**-0.5)] * 4)
    toeplitz = exactness.CASES["toeplitz"].reference(8)(identity).T
    np.testing.assert_allclose(toeplitz[1:, 1:], toeplitz[:-1, :-1], atol=1e-15)


def test_an_error_shows(monkeypatch: pytest.MonkeyPatch) -> None:
    matrix, options = closed_form.case_matrix("dft", 16)
    np.testing.assert_array_equal(options["permutation"], bit_reversal_permutation(16))
    wrong = matrix + 1e-3 * np.eye(16)
    monkeypatch.setattr(closed_form, "case_matrix", lambda name, n: (wrong, options))
    assert closed_form.closed_form_error("dft", 16, "float32") > 1e-4
