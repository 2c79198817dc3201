"""Equivariance: rotations commute with a vector field, not with a componentwise function."""

import jax.numpy as jnp
import numpy as np
import pytest

from structlayers.testing import assert_equivariant


def _radial(x):
    return x * jnp.sum(x**2, axis=-1, keepdims=True)


def _rotation(angle):
    c, s = np.cos(angle), np.sin(angle)
    return jnp.asarray([[c, -s], [s, c]], jnp.float32)


def _rotate(x):
    return jnp.matmul(x, _rotation(0.7), precision="highest")


def test_equivariant_function_passes(rng):
    x = jnp.asarray(rng.standard_normal((11, 2)), jnp.float32)
    assert_equivariant(
        _radial, (x,), act_on_inputs=lambda x: (_rotate(x),), act_on_output=_rotate, bound=1e-6
    )


def test_invariance_is_the_identity_on_the_output(rng):
    x, y = (jnp.asarray(rng.standard_normal((11, 2)), jnp.float32) for _ in range(2))
    assert_equivariant(
        lambda x, y: jnp.sum(x * y, axis=-1),
        (x, y),
        act_on_inputs=lambda x, y: (_rotate(x), _rotate(y)),
        act_on_output=lambda z: z,
        bound=1e-5,
    )


def test_other_functions_fail(rng):
    x = jnp.asarray(rng.standard_normal((11, 2)), jnp.float32)
    with pytest.raises(AssertionError, match="rotations: error ratio"):
        assert_equivariant(
            jnp.tanh,
            (x,),
            act_on_inputs=lambda x: (_rotate(x),),
            act_on_output=_rotate,
            bound=1e-3,
            name="rotations",
        )
