"""Message passing against a loop over edges; masks, broadcasting, symmetry, bad indices."""

import e3nn_jax as e3nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from structlayers.equivariant import (
    gaunt_message_passing,
    gaunt_tensor_product,
    spherical_harmonics,
)
from structlayers.testing import assert_gradients_match
from tests.equivariant.cases import signal, turn

SENDERS = np.array([0, 1, 2, 2, 3])
RECEIVERS = np.array([0, 0, 1, 3, 3])


def test_equal_to_a_loop_over_edges(rng):
    x, y = signal(rng, 4, 3, lmax=2), signal(rng, 5, lmax=1)
    w1, w3 = rng.standard_normal((5, 3, 3)), rng.standard_normal((5, 3, 4))
    wanted = np.zeros((4, 3, 16))
    with jax.enable_x64(True):
        for edge, (s, r) in enumerate(zip(SENDERS, RECEIVERS, strict=True)):
            weights = (w1[edge], None, w3[edge])
            wanted[r] += gaunt_tensor_product(x[s], y[edge][None], weights=weights)
        found = gaunt_message_passing(x, y, SENDERS, RECEIVERS, weights=(w1, None, w3))
        ordered = gaunt_message_passing(
            x, y, SENDERS, RECEIVERS, weights=(w1, None, w3), indices_are_sorted=True
        )
    np.testing.assert_allclose(found, wanted, atol=1e-12)
    np.testing.assert_allclose(ordered, wanted, atol=1e-12)


def test_masked_edges_send_nothing(rng):
    x, y = signal(rng, 4, 2, lmax=1, dtype="float32"), signal(rng, 5, lmax=1, dtype="float32")
    mask = np.array([True, False, True, True, False])
    y[1] = np.nan

    def run(x, y):
        return gaunt_message_passing(x, y, SENDERS, RECEIVERS, mask=mask, lmax=1)

    out, pull = jax.vjp(run, x, y)
    dx, dy = pull(jnp.ones_like(out))
    kept = gaunt_message_passing(x, y[mask], SENDERS[mask], RECEIVERS[mask], lmax=1)
    np.testing.assert_allclose(out, kept, atol=1e-6)
    assert np.isfinite(dx).all()
    assert not np.any(dy[~mask])


def test_gradients(rng):
    x, y = signal(rng, 4, 2, lmax=2, dtype="float32"), signal(rng, 5, lmax=2, dtype="float32")
    w = rng.standard_normal((5, 2, 3)).astype("float32")

    def run(x, y, w, implementation="xla"):
        return gaunt_message_passing(
            x,
            y,
            SENDERS,
            RECEIVERS,
            lmax=2,
            weights=(None, None, w),
            implementation=implementation,
        )

    assert_gradients_match(
        run, lambda *a: run(*a, implementation="clebsch_gordan"), (x, y, w), 2e-6
    )


def test_equivariance_with_harmonics_of_the_edges(rng):
    """Positions and features turn, results turn; the inversion too."""
    positions = rng.standard_normal((4, 3))
    x = e3nn.IrrepsArray("2x0e+2x1o", jnp.asarray(rng.standard_normal((4, 8)), jnp.float32))

    senders, receivers = np.array([0, 1, 2, 3]), np.array([1, 2, 3, 0])

    def message(x, positions):
        harmonics = spherical_harmonics(2, positions[receivers] - positions[senders])
        y = e3nn.IrrepsArray("0e+1o+2e", jnp.asarray(harmonics, jnp.float32))
        return gaunt_message_passing(x, y, senders, receivers, lmax=2)

    for inverts in (False, True):
        matrix = turn(inverts=inverts)
        acted = message(
            x.transform_by_matrix(jnp.asarray(matrix, jnp.float32)), positions @ matrix.T
        )
        wanted = message(x, positions).transform_by_matrix(jnp.asarray(matrix, jnp.float32))
        np.testing.assert_allclose(acted.array, wanted.array, atol=3e-6)


def test_no_edges():
    none = np.zeros(0, np.int32)
    z = gaunt_message_passing(jnp.ones((3, 2, 4)), jnp.ones((0, 1, 4)), none, none, lmax=1)
    np.testing.assert_array_equal(z, np.zeros((3, 2, 4)))


def test_bad_input_is_refused():
    x, y = jnp.ones((4, 2, 4)), jnp.ones((5, 4))
    with pytest.raises(ValueError, match="receivers must be from 0 to 3, got 1 to 4"):
        gaunt_message_passing(x, y, SENDERS, SENDERS + 1)
    with pytest.raises(ValueError, match="senders must be from 0 to 3, got -1 to 3"):
        gaunt_message_passing(x, y, np.array([-1, 0, 1, 2, 3]), RECEIVERS)
    with pytest.raises(TypeError, match="senders must hold integers, got float32"):
        gaunt_message_passing(x, y, jnp.ones(5), RECEIVERS)
    with pytest.raises(ValueError, match=r"receivers must have shape \(5,\), got \(4,\)"):
        gaunt_message_passing(x, y, SENDERS, RECEIVERS[:4])
    with pytest.raises(TypeError, match="mask must be bool, got int32"):
        gaunt_message_passing(x, y, SENDERS, RECEIVERS, mask=jnp.ones(5, jnp.int32))
    with pytest.raises(ValueError, match=r"mask must have shape \(E,\) = \(5,\)"):
        gaunt_message_passing(x, y, SENDERS, RECEIVERS, mask=jnp.ones(4, bool))
    with pytest.raises(ValueError, match="receivers must not decrease"):
        gaunt_message_passing(x, y, SENDERS, RECEIVERS[::-1].copy(), indices_are_sorted=True)
    with pytest.raises(ValueError, match=r"x must have shape \(N, \*B"):
        gaunt_message_passing(jnp.ones(4), y, SENDERS, RECEIVERS)
    with pytest.raises(ValueError, match=r"weights must broadcast against \(E, \*B\) = \(5, 2\)"):
        gaunt_message_passing(
            x, y, SENDERS, RECEIVERS, weights=(jnp.ones((3, 5, 2, 2)), None, None)
        )


@pytest.mark.parametrize("unknown", [4, -1])
def test_senders_that_cannot_be_checked_send_nan(unknown, rng):
    x, y = signal(rng, 4, 2, lmax=1, dtype="float32"), signal(rng, 5, lmax=1, dtype="float32")
    senders = SENDERS.copy()
    senders[2] = unknown
    with pytest.raises(ValueError, match=f"senders must be from 0 to 3, got .*{unknown}"):
        gaunt_message_passing(x, y, senders, RECEIVERS)
    z = jax.jit(gaunt_message_passing)(x, y, senders, RECEIVERS)
    assert np.isnan(z[1]).all()
    np.testing.assert_allclose(z[0], gaunt_message_passing(x, y, SENDERS, RECEIVERS)[0], atol=1e-5)


@pytest.mark.parametrize("unknown", [4, -1])
def test_receivers_that_cannot_be_checked_lose_no_message(unknown, rng):
    x, y = signal(rng, 4, 2, lmax=1, dtype="float32"), signal(rng, 5, lmax=1, dtype="float32")
    receivers = RECEIVERS.copy()
    receivers[2] = unknown
    assert np.isnan(jax.jit(gaunt_message_passing)(x, y, SENDERS, receivers)).all()
    mask = np.arange(5) != 2
    z = jax.jit(gaunt_message_passing)(x, y, SENDERS, receivers, mask=mask)
    wanted = gaunt_message_passing(x, y, SENDERS, RECEIVERS, mask=mask)
    np.testing.assert_allclose(z, wanted, atol=1e-5)


def test_edges_that_only_fill_up_leave_gradients_alone(rng):
    """Whatever they hold, under jit their indices too."""
    x, y = signal(rng, 4, 2, lmax=1, dtype="float32"), signal(rng, 5, lmax=1, dtype="float32")
    w = jnp.asarray(rng.standard_normal((5, 2, 2)), jnp.float32)
    mask = np.arange(5) != 2
    senders, broken = np.where(mask, SENDERS, 4), jnp.where(mask[:, None], y, jnp.nan)

    @jax.jit
    def gradients(x, y, w, senders):
        def total(x, y, w):
            z = gaunt_message_passing(
                x, y, senders, RECEIVERS, weights=(w, None, None), mask=mask, lmax=1
            )
            return jnp.sum(z**2)

        return jax.grad(total, argnums=(0, 1, 2))(x, y, w)

    found, wanted = gradients(x, broken, w, senders), gradients(x, y, w, SENDERS)
    for one, other in zip(found, wanted, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-5)
