"""The fits of the recovery experiment find what they are to find, and notice what they do not."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.butterfly.recovery.config import LearnedRecoveryConfig, RecoveryConfig
from experiments.butterfly.recovery.experiment import summarize
from experiments.butterfly.recovery.fixed import FixedFit
from experiments.butterfly.recovery.learned import LearnedFit
from experiments.butterfly.recovery.models import dense_matrix
from experiments.butterfly.targets import target_matrix
from structlayers.butterfly import butterfly_to_dense, round_permutation


@pytest.fixture(autouse=True)
def standard_promotion():
    """Optax multiplies its integer step count with floats: not for strict promotion."""
    with jax.numpy_dtype_promotion("standard"):
        yield


def run(config, chunk=200):
    """All phases of a config without the runner: phase name to (state, results)."""
    outcomes = {}
    for phase in config.build().phases():
        state, step = phase.init(), 0
        while step < phase.num_steps:
            num = min(chunk, phase.num_steps - step)
            state, _ = phase.advance(state, step, num)
            step += num
        outcomes[phase.name] = (state, phase.finish(state))
    return outcomes


def test_dft_is_recovered_in_float32():
    config = RecoveryConfig(sizes=(16,), dtypes=("float32",), steps=600, seeds=4)
    (state, result), *_ = run(config).values()
    summary = summarize(result, config)
    assert summary["seeds_at_line"] == 1
    assert summary["steps_to_recovered_median"] <= 500
    assert summary["parameters"] == 2 * 2 * 16 * 4  # complex untied: 2 N log2 N complex numbers
    # the reported error is that of the factors themselves, multiplied in double precision
    pairs = np.asarray(state["parameters"][0], np.float64)
    with jax.enable_x64(True):
        twiddle = pairs[..., 0] + 1j * pairs[..., 1]
        matrix = np.asarray(butterfly_to_dense(twiddle, alternating=False))
    target = target_matrix("dft", 16)
    scale = np.sqrt(np.mean(np.abs(target) ** 2))
    columns = [0, 8, 4, 12, 2, 10, 6, 14, 1, 9, 5, 13, 3, 11, 7, 15]
    error = np.linalg.norm(matrix * scale - target[:, columns]) / np.linalg.norm(target)
    assert error < 3e-7
    assert result["relative_error"][0] == pytest.approx(error, rel=0.5, abs=6e-8)


def test_hadamard_is_recovered_to_double_precision():
    config = RecoveryConfig(
        transform="hadamard",
        sizes=(8,),
        dtypes=("float64",),
        steps=800,
        seeds=2,
        is_complex=False,
        column_permutation="identity",
    )
    with jax.enable_x64(True):
        (_, result), *_ = run(config).values()
    assert max(result["relative_error"]) <= 1e-12
    assert summarize(result, config)["seeds_at_line"] == 1


def test_a_random_matrix_is_not_recovered():
    config = RecoveryConfig(transform="randn", sizes=(16,), dtypes=("float32",), steps=50, seeds=2)
    (_, result), *_ = run(config).values()
    summary = summarize(result, config)
    assert summary["seeds_at_line"] == 0
    assert summary["seeds_recovered"] == 0
    assert "steps_per_success" not in summary
    assert summary["relative_error"] > 0.1


def test_fourier_initializer_is_the_identity_with_noise():
    config = RecoveryConfig(
        transform="convolution",
        sizes=(16,),
        dtypes=("float32",),
        blocks=2,
        tied=True,
        seeds=2,
        initializer="fourier",
    )
    fit = FixedFit(config, 16, "float32")
    start = fit.fourier_parameters()
    noise = np.asarray(fit.init()["parameters"] - start)
    assert 0.01 < noise.std() < 0.2
    assert not np.array_equal(noise[0], noise[1])
    assert fit.between is not None
    dense = dense_matrix(start[0], True, fit.between)
    # the first permutation is absorbed in the target: what is left is its inverse
    expected = np.eye(16)[:, fit.between]
    np.testing.assert_allclose(np.asarray(dense), expected, atol=1e-5)


@pytest.mark.parametrize("chunk", [70, 1000])
def test_learned_permutation_is_found_whatever_the_chunks(chunk):
    config = LearnedRecoveryConfig(
        transform="hadamard", sizes=(8,), is_complex=False, seeds=4, restarts=2, relax_steps=400
    )
    (state, result), *_ = run(config, chunk).values()
    summary = summarize(result, config)
    assert summary["seeds_at_line"] >= 0.25
    assert summary["exact_permutations"] >= 1
    assert np.isfinite(np.asarray(state["relaxed_loss"])).all()
    permutations = np.asarray(state["permutation"])
    assert (np.sort(permutations, axis=1) == np.arange(8)).all()


def test_extra_permutation_is_rounded_before_the_others():
    config = LearnedRecoveryConfig(transform="dct", sizes=(8,), extra_permutation=True)
    fit = LearnedFit(config, 8, "float32")
    levels = np.array([[9.0, -9.0, -9.0]], np.float32)
    extra = np.array([9.0, -9.0, 9.0], np.float32)
    found = fit.round_seed({"levels": jnp.asarray(levels), "extra": jnp.asarray(extra)})
    first = np.array([0, 2, 4, 6, 7, 5, 3, 1])
    np.testing.assert_array_equal(
        np.asarray(found), first[np.asarray(round_permutation(levels, 8))]
    )
