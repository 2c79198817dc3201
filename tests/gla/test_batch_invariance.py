"""batch_invariant: the same bits alone and in a batch, with and without more tokens."""

import jax
import numpy as np
import pytest

from structlayers.gla import batch_invariant
from structlayers.gla.batch_invariance import is_batch_invariant
from structlayers.gla.pallas_gpu import calls, segments
from structlayers.testing import assert_gradients_match
from tests.gla.test_pallas_gpu import GRADIENTS, VALUES, arguments, kernel, reference


@pytest.fixture
def few(monkeypatch):
    """A card of eight multiprocessors, for which one sequence is cut and four are not."""
    monkeypatch.setattr(segments, "_SEGMENT_CHUNKS", 1)
    monkeypatch.setattr(segments, "MULTIPROCESSORS", 8)
    assert segments.segment_count(1, 256, 2, 64) == 4
    assert segments.segment_count(4, 256, 2, 64) == 1


def results(arrays):
    """Values and gradients."""
    values, pull = jax.vjp(kernel(), *arrays)
    return values, pull(values)


def equal_bits(one, two):
    """Whether all arrays are the same."""
    return all(jax.tree.leaves(jax.tree.map(lambda a, b: np.array_equal(a, b), one, two)))


def first(tree, time=None):
    """Of the first sequence."""
    return jax.tree.map(lambda x: x[:1, :time], tree)


@pytest.mark.usefixtures("simulated", "few")
def test_a_batch_changes_bits_outside_alone(rng):
    together = arguments(rng, 4, 256, 2, 2, 64, 64, "start")
    alone = first(together)
    assert not equal_bits(results(alone), first(results(together)))
    with batch_invariant():
        assert equal_bits(results(alone), first(results(together)))
        assert_gradients_match(kernel(), reference(), alone, GRADIENTS, value_bound=VALUES)


@pytest.mark.usefixtures("simulated", "few")
def test_more_tokens_change_no_bit_as_nothing_is_cut(rng, monkeypatch):
    def refuse(*arrays, **options):
        raise RuntimeError("segments")

    monkeypatch.setattr(calls, "summarize", refuse)
    *tokens, state = arguments(rng, 1, 256, 1, 1, 64, 64, "start")
    shorter = first(tokens, 192)
    with batch_invariant():
        (long, _), (short, _) = (kernel()(*x, state) for x in (tokens, shorter))
    assert np.array_equal(long[:, :192], short)
    with pytest.raises(RuntimeError, match="segments"):
        kernel()(*tokens, state)


def test_it_ends_with_the_block():
    with batch_invariant():
        assert is_batch_invariant()
    assert not is_batch_invariant()
