"""Images of chunks, which the kernel `prepare` makes for Hopper, against their definition."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from structlayers.gla.pallas_gpu import prepare
from structlayers.gla.pallas_gpu.layout import CHUNK, SCORE_BYTES, Sizes
from structlayers.testing import error_ratio
from structlayers.testing.simt import simulate
from tests.gla.cases import inputs

SCALE = 0.3


def make(time, heads, groups, key, q, k, gate):
    """Weighted queries and keys, scores, and decays, `(H, N, ...)`, as the kernel makes them."""
    sizes = Sizes(1, time, heads, groups, key, 64, SCALE)
    count = heads * sizes.chunks
    (image,) = simulate(
        prepare.program(sizes),
        (q, k, gate),
        [jax.ShapeDtypeStruct((count, sizes.image_bytes), jnp.uint8)],
        clusters=prepare.blocks(sizes),
        cluster_size=1,
        threads=prepare.THREADS,
        shared_bytes=prepare.shared_bytes(sizes),
    )
    image = image.reshape(heads, sizes.chunks, -1)
    ends = np.cumsum([sizes.tile_bytes, sizes.tile_bytes, SCORE_BYTES])
    *tiles, decay = np.split(image, ends, axis=-1)
    return *map(unpermuted, tiles), np.ascontiguousarray(decay).view(np.float32)


def unpermuted(tile):
    """Rows of a tile whose panels of 64 columns have units of 8 permuted by their row."""
    tile = np.ascontiguousarray(tile).view(jnp.bfloat16).astype(np.float64)
    tile = tile.reshape(*tile.shape[:2], -1, CHUNK, 8, 8)
    rows, units = np.arange(CHUNK)[:, None], np.arange(8)
    tile = tile[..., rows, units ^ (rows & 7), :]
    return np.moveaxis(tile, 2, 3).reshape(*tile.shape[:2], CHUNK, -1)


def define(heads, groups, q, k, gate):
    """The same in float64."""
    pad = -gate.shape[1] % CHUNK
    arrays = []
    for x in (q, k, gate):
        x = np.repeat(np.asarray(x[0], np.float64), heads // x.shape[2], axis=1)
        x = np.pad(x, ((0, pad), (0, 0), (0, 0)))
        arrays.append(np.moveaxis(x, 1, 0).reshape(heads, -1, CHUNK, x.shape[-1]))
    q, k, gate = arrays
    total = np.cumsum(gate, axis=2)
    between = total[:, :, :, None] - total[:, :, None]
    below = np.tri(CHUNK, dtype=bool)[..., None]
    pairs = np.where(below, np.exp(np.minimum(between, 0)), 0)
    scores = SCALE * np.einsum("hnik,hnjk,hnijk->hnij", q, k, pairs)
    end = total[:, :, -1:]
    return SCALE * q * np.exp(total), k * np.exp(end - total), scores, np.exp(end[:, :, 0])


@pytest.mark.parametrize("kind", ["start", "-5", "spiky", "strong", "mixed"])
@pytest.mark.parametrize(
    ("time", "heads", "groups", "key"),
    [(130, 1, 1, 64), (64, 4, 2, 64), (100, 2, 1, 128), (192, 1, 1, 128), (70, 1, 1, 256)],
)
def test_images(time, heads, groups, key, kind, rng):
    """Teams without a chunk, rows past the end, several warps for a row of the image."""
    q, k, _, gate = inputs(rng, (1,), time, heads, groups, key, 64, kind, "bfloat16")
    found = make(time, heads, groups, key, q, k, gate)
    wanted = define(heads, groups, q, k, gate)
    for name, got, want in zip(("queries", "keys", "scores"), found, wanted, strict=False):
        assert error_ratio(got, want) <= 4e-3, name
    np.testing.assert_allclose(found[3], wanted[3], rtol=2e-5, atol=1e-30)
    assert not np.triu(found[2], 1).any()


@pytest.mark.parametrize(("former", "latter"), [("start", "strong"), ("mixed", "start")])
@pytest.mark.parametrize("cut", [3, 8, 29, 41])
def test_rows_have_no_bits_of_later_tokens(former, latter, cut, rng):
    sizes = (64, 1, 1, 128)
    first, second = (inputs(rng, (1,), *sizes, 64, kind, "bfloat16") for kind in (former, latter))
    after = np.arange(64)[None, :, None, None] >= cut
    second = [np.where(after, b, a) for a, b in zip(first, second, strict=True)]
    queries, _, scores, _ = make(*sizes, *(first[i] for i in (0, 1, 3)))
    others, _, other_scores, _ = make(*sizes, *(second[i] for i in (0, 1, 3)))
    np.testing.assert_array_equal(queries[:, :, :cut], others[:, :, :cut])
    np.testing.assert_array_equal(scores[:, :, :cut], other_scores[:, :, :cut])
    assert (scores[:, :, cut:] != other_scores[:, :, cut:]).any()
