"""The NumPy machine: what barriers order, and faults that it has to find."""

import numpy as np
import pytest

from structlayers.testing.simt import RaceError
from tests.testing.simt.programs import WORDS, run


def swap(synchronize):
    """Each thread reads what its counterpart in the other warp has stored."""

    def program(m, inputs, outputs):
        m.store_shared(m.thread() * 4, [m.thread().value.astype(np.uint32)])
        if synchronize:
            m.synchronize()
        words = m.load_shared((m.thread() ^ 32) * 4, 1)
        m.store_global(outputs[0], m.constant(0), 0, m.thread() * 4, words)

    return program


def test_stores_are_seen_after_a_barrier():
    (found,) = run(swap(synchronize=True))
    assert np.array_equal(found, np.arange(64) ^ 32)


def test_finds_a_missing_barrier():
    with pytest.raises(RaceError, match="byte 128"):
        run(swap(synchronize=False))


@pytest.mark.parametrize("other", [32, 64])
def test_barriers_of_teams_order_no_others(other):
    """A warp writes what another one has read, of its own team of two warps or of the other."""

    def program(m, inputs, outputs):
        with m.when(m.thread() < 32):
            m.store_shared(m.thread() * 4, [m.thread().value.astype(np.uint32)])
        m.synchronize()
        with m.when((m.thread() >= other) & (m.thread() < other + 32)):
            m.load_shared((m.thread() & 31) * 4, 1)
        m.synchronize_team(m.warp() >> 1, 64)
        with m.when(m.thread() < 32):
            m.store_shared(m.thread() * 4, [m.thread().value.astype(np.uint32)])

    if other == 32:
        run(program, outputs=(), threads=128)
        return
    with pytest.raises(RaceError, match="byte 0 of"):
        run(program, outputs=(), threads=128)


def test_a_barrier_of_a_team_hands_on_what_came_before():
    """Warp 3 learns of warp 0 by way of warp 1."""

    def program(m, inputs, outputs):
        with m.when(m.thread() < 32):
            m.store_shared(m.thread() * 4, [m.thread().value.astype(np.uint32)])
        m.synchronize_team(m.warp() >> 1, 64)
        with m.when(m.thread() >= 96), pytest.raises(RaceError):
            m.load_shared((m.thread() & 31) * 4, 1)
        m.synchronize()
        with m.when(m.thread() >= 96):
            (words,) = m.load_shared((m.thread() & 31) * 4, 1)
            m.store_global(outputs[0], m.constant(0), 0, (m.thread() & 31) * 4, [words])

    (found,) = run(program, threads=128)
    assert np.array_equal(found[:32], np.arange(32))


def test_finds_reads_of_what_was_never_written():
    def program(m, inputs, outputs):
        m.load_shared(m.thread() * 4, 1)

    with pytest.raises(ValueError, match="never written"):
        run(program)


def test_refuses_instructions_of_clusters_in_a_launch_without_them():
    def program(m, inputs, outputs):
        m.cluster_arrive()
        m.cluster_wait()

    with pytest.raises(RuntimeError, match="launch without clusters"):
        run(program, outputs=())
    run(program, outputs=(), cluster_size=2)


def test_finds_a_barrier_that_waits_for_ever():
    def program(m, inputs, outputs):
        m.barrier_init(0)
        m.barrier_wait(0, 0)

    with pytest.raises(ValueError, match="waits for ever"):
        run(program)


def hand_over(waits_for_full=True, waits_for_empty=True, frees=True):
    """One team of a warp leaves words in shared memory four times, the other sums them up."""

    def program(m, inputs, outputs):
        place, lane = (m.thread() & 31) * 4 + 64, m.lane()

        def arrive(barrier):
            m.reconverge()
            with m.when(lane.equals(0)):
                m.barrier_arrive(barrier)

        def leave(step, carried):
            if waits_for_empty:
                m.barrier_wait(8, (step & 1) ^ 1)
            m.store_shared(place, [m.word_of(step + 1)])
            arrive(0)
            return carried

        def take(step, total):
            if waits_for_full:
                m.barrier_wait(0, step & 1)
            (word,) = m.load_shared(place, 1)
            if frees:
                arrive(8)
            return [m.word_of(m.integer_of(total[0]) + m.integer_of(word))]

        def taker():
            total = m.loop(0, 4, 1, take, [m.word(0)])
            m.store_global(outputs[0], m.constant(0), 0, lane * 4, total)

        with m.when(m.thread().equals(0)):
            m.barrier_init(0)
            m.barrier_init(8)
        m.synchronize()
        m.teams(32, [lambda: m.loop(0, 4, 1, leave), taker])

    return program


def test_teams_wait_for_each_other():
    (found,) = run(hand_over())
    assert (found[:32] == 1 + 2 + 3 + 4).all()


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"waits_for_full": False}, RaceError, "and others"),
        ({"waits_for_empty": False}, ValueError, "waits for ever"),
        ({"frees": False}, ValueError, "waits for ever"),
    ],
)
def test_finds_hand_overs_without_order(options, error, message):
    with pytest.raises(error, match=message):
        run(hand_over(**options))


@pytest.mark.parametrize("waits", [True, False])
def test_what_a_product_reads_is_stored_to_after_a_wait(waits):
    def program(m, inputs, outputs):
        at = m.thread() * 16
        for panel in range(0, 8192, 2048):
            m.store_shared(at + panel, [m.word(0)] * 4)
        m.synchronize()
        found = m.warpgroup_begin([m.zero()] * 32)
        zero = m.constant(0)
        found = m.warpgroup_product(found, [m.word(0)] * 4, zero, transpose=False, panel=0)
        m.warpgroup_commit()
        m.warpgroup_wait(0 if waits else 1, found)
        m.synchronize()
        m.store_shared(at, [m.word(1)] * 4)

    if waits:
        run(program, threads=128, shared_bytes=8192)
        return
    with pytest.raises(RaceError, match="multiplied"):
        run(program, threads=128, shared_bytes=8192)


def test_a_barrier_tells_whether_any_thread_of_the_team_holds():
    def program(m, inputs, outputs):
        for i, thread in enumerate((37, 64)):
            flag = m.synchronize_any(m.thread().equals(thread), m.warp(), 32)
            words = [flag.value.astype(np.uint32)]
            m.store_global(outputs[i], m.constant(0), 0, m.thread() * 4, words)

    found, none = run(program, outputs=(WORDS, WORDS))
    assert np.array_equal(found, np.arange(64) >= 32)
    assert not np.any(none)
