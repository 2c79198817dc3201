import functools
import importlib.util

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.equivariant.rivals import RIVALS
from structlayers._core.arg_spec import ArgSpec
from structlayers.equivariant import gaunt_tensor_product
from structlayers.testing import assert_close

MAKE = {rival.name: rival.make for rival in RIVALS["gaunt_tensor_product"]}


def spec(*shapes, lmax=2, dtype="float32"):
    arrays = tuple(jax.ShapeDtypeStruct(shape, jnp.dtype(dtype)) for shape in shapes)
    return ArgSpec("a", "gaunt_tensor_product", arrays, {"lmax": lmax}, 0, "", frozenset({"gpu"}))


def test_e3nn_has_the_even_paths_side_by_side(rng):
    contender = MAKE["e3nn"](spec((5, 3, 9), (5, 3, 4)))
    arrays = contender.prepare(*(rng.standard_normal((5, 3, n), np.float32) for n in (9, 4)))
    # 0 x 0, 1 x 1 -> 0; 0 x 1, 1 x 0, 2 x 1 -> 1; 1 x 1, 2 x 0 -> 2
    degrees = [0, 0, 1, 1, 1, 2, 2]
    assert contender.run(*arrays).shape == (5, 3, sum(2 * degree + 1 for degree in degrees))


@pytest.mark.skipif(
    importlib.util.find_spec("cuequivariance_jax") is None, reason="needs cuequivariance-jax"
)
def test_cuequivariance_computes_the_same(rng):
    arrays = [jnp.asarray(rng.standard_normal((5, 8, n)), jnp.float32) for n in (16, 9)]
    contender = MAKE["cuequivariance"](spec((5, 8, 16), (5, 8, 9), lmax=3))
    run = functools.partial(gaunt_tensor_product, lmax=3)
    assert_close("product", contender.run(*contender.prepare(*arrays)), run(*arrays), 1e-6)


@pytest.mark.skipif(importlib.util.find_spec("e3j") is None, reason="needs e3j")
def test_e3j_computes_the_same_with_channels_last(rng):
    arrays = [jnp.asarray(rng.standard_normal((5, 8, n)), jnp.float32) for n in (16, 9)]
    contender = MAKE["e3j"](spec((5, 8, 16), (5, 8, 9), lmax=3))
    run = functools.partial(gaunt_tensor_product, lmax=3)
    with jax.numpy_rank_promotion("allow"), jax.numpy_dtype_promotion("standard"):
        found = contender.run(*contender.prepare(*arrays)).swapaxes(-1, -2)
    assert_close("product", found, run(*arrays), 1e-6)


@pytest.mark.skipif(importlib.util.find_spec("e3j") is not None, reason="e3j is installed")
def test_e3j_is_asked_for_where_it_is_not():
    with pytest.raises(NotImplementedError, match="e3j is not installed"):
        MAKE["e3j"](spec((5, 8, 9), (5, 8, 9)))


@pytest.mark.parametrize(
    ("wrong", "reason"),
    [
        (spec((5, 9), (5, 3, 9)), "as many of each"),
        (spec((5, 3, 9), (5, 1, 9)), "as many of each"),
        (spec((5, 3, 9), (5, 3, 9), dtype="bfloat16"), "not bfloat16"),
    ],
)
def test_what_they_do_not_serve_is_refused(wrong, reason):
    with pytest.raises(NotImplementedError, match=reason):
        MAKE["e3nn"](wrong)
