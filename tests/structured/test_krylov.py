"""The three ways to the rows of Krylov matrices, against powers of the dense operator."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from structlayers.structured.xla.krylov import (
    krylov_rows_by_blocks,
    krylov_rows_by_doubling,
    krylov_rows_by_scan,
)


def rows_by_scan(diagonals: jax.Array, v: jax.Array) -> jax.Array:
    """The scan's two pairs of rows, (N, S, r, N), in the order of the others."""
    leads = v.shape[:-2]
    d, v = (a.reshape(-1, 1, *a.shape[-2:]) for a in (diagonals, v))
    rows = [krylov_rows_by_scan((d[k], d[k]), (v[k], v[k]))[1] for k in range(len(d))]
    return jnp.moveaxis(jnp.stack(rows), 1, -2).reshape(*leads, *v.shape[-2:-1], v.shape[-1], -1)


WAYS = {
    "scan": rows_by_scan,
    "doubling": lambda d, v: krylov_rows_by_doubling(d, v, jax.lax.Precision.HIGHEST),
    "blocks": krylov_rows_by_blocks,
    "small blocks": lambda d, v: krylov_rows_by_blocks(d, v, block=3),
}


def powers(diagonals: np.ndarray, v: np.ndarray) -> np.ndarray:
    """Rows `A^t v` of one operator (3, N) and vectors (r, N), A written out."""
    size = v.shape[-1]
    index = np.arange(size)
    operator = np.zeros((size, size))
    for offset, band in zip((-1, 0, 1), diagonals, strict=True):
        np.add.at(operator, (index, (index + offset) % size), band)
    rows = [v]
    for _ in range(size - 1):
        rows.append(rows[-1] @ operator.T)
    return np.stack(rows, axis=1)


@pytest.mark.parametrize("size", [1, 2, 3, 7, 64, 65, 100])
@pytest.mark.parametrize("way", WAYS)
def test_rows(way, size, rng):
    # near a shift, as a layer starts: powers keep their size
    diagonals = 0.02 * rng.standard_normal((2, 1, 3, size))
    diagonals[:, :, 0] += 1
    v = rng.standard_normal((2, 1, 2, size))
    wanted = np.stack([powers(diagonals[k, 0], v[k, 0]) for k in range(2)])[:, None]
    with jax.enable_x64(True):
        found = np.asarray(WAYS[way](jnp.asarray(diagonals), jnp.asarray(v)))
    assert found.shape == (2, 1, 2, size, size)
    np.testing.assert_allclose(found, wanted, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("size", [2, 65, 70])
def test_gradients_by_blocks(size, rng):
    diagonals = 0.02 * rng.standard_normal((1, 3, size))
    diagonals[:, 0] += 1
    v, weights = rng.standard_normal((1, 2, size)), rng.standard_normal((1, 2, size, size))
    with jax.enable_x64(True):
        arrays = (jnp.asarray(diagonals), jnp.asarray(v))
        found, wanted = (
            jax.grad(lambda d, v, way=way: jnp.sum(weights * WAYS[way](d, v)), (0, 1))(*arrays)
            for way in ("blocks", "scan")
        )
        for ours, theirs in zip(found, wanted, strict=True):
            np.testing.assert_allclose(ours, theirs, rtol=1e-9, atol=1e-9)
