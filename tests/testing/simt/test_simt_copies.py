"""The NumPy machine: asynchronous copies, and faults that it has to find."""

import jax
import numpy as np
import pytest

from structlayers.testing.simt import RaceError
from tests.testing.simt.programs import run


@pytest.mark.parametrize("waits", [True, False])
def test_loads_ahead_arrive_at_a_barrier(waits):
    """For all who have waited for it, with the arrivals of other threads."""

    def program(m, inputs, outputs):
        m.barrier_init(0, 64 + 1)
        zero, place = m.constant(0), m.thread() * 16
        m.store_shared(place + 64, [m.word(1)] * 4)
        m.synchronize()
        m.load_ahead((m.thread() ^ 32) * 16 + 64, inputs[0], zero, 0, place)
        m.loads_arrive(0)
        with m.when(m.thread().equals(0)):
            m.barrier_expect(0, 0)
        if waits:
            m.barrier_wait(0, 0)
        m.store_global(outputs[0], zero, 0, place, m.load_shared(place + 64, 4))

    values, struct = np.arange(256, dtype=np.int32), jax.ShapeDtypeStruct((256,), np.int32)
    if waits:
        (found,) = run(program, [values], (struct,), shared_bytes=2048)
        assert np.array_equal(found.reshape(2, -1), values.reshape(2, -1)[::-1])
        return
    with pytest.raises(RaceError, match="and others"):
        run(program, [values], (struct,), shared_bytes=2048)


@pytest.mark.parametrize("waits", [True, False])
def test_what_a_copy_brings_is_read_after_its_barrier(waits):
    def program(m, inputs, outputs):
        zero = m.constant(0)
        m.barrier_init(0)
        m.synchronize()
        with m.when(m.thread().equals(0)):
            m.barrier_expect(0, 256)
            m.copy_in(zero + 64, inputs[0], zero, 0, zero, 256, 0)
            if waits:
                m.barrier_wait(0, 0)
        m.synchronize()  # hands on what one thread has waited for
        words = m.load_shared(m.thread() * 4 + 64, 1)
        m.store_global(outputs[0], zero, 0, m.thread() * 4, words)

    values = np.arange(64, dtype=np.int32)
    if waits:
        (found,) = run(program, [values])
        assert np.array_equal(found[:64], values)
        return
    with pytest.raises(RaceError, match="and others"):
        run(program, [values])


def test_a_copy_does_not_replace_what_others_may_still_read():
    def program(m, inputs, outputs):
        zero = m.constant(0)
        m.barrier_init(0)
        m.store_shared(m.thread() * 4 + 64, [m.word(7)])
        m.synchronize()
        m.load_shared(m.thread() * 4 + 64, 1)
        with m.when(m.thread().equals(0)):
            m.barrier_expect(0, 256)
            m.copy_in(zero + 64, inputs[0], zero, 0, zero, 256, 0)

    with pytest.raises(RaceError, match="while it is read"):
        run(program, [np.arange(64, dtype=np.int32)])


def test_loads_ahead_arrive_when_they_are_waited_for():
    def program(waits):
        def body(m, inputs, outputs):
            m.load_ahead(m.thread() * 16, inputs[0], m.constant(0), 0, m.thread() * 16)
            m.commit_loads()
            if waits:
                m.wait_loads(0)
            m.synchronize()
            words = m.load_shared((m.thread() ^ 32) * 16, 1)
            m.store_global(outputs[0], m.constant(0), 0, m.thread() * 4, words)

        return body

    data = np.arange(256, dtype=np.uint32)
    (found,) = run(program(waits=True), [data])
    assert np.array_equal(found, 4 * (np.arange(64) ^ 32))
    with pytest.raises(ValueError, match="never written"):
        run(program(waits=False), [data])


@pytest.mark.parametrize("ordered", [True, False])
def test_a_warp_copies_what_it_has_waited_for(ordered):
    def program(m, inputs, outputs):
        m.store_shared(m.thread() * 4, [m.word(7)])
        if ordered:
            m.reconverge()
        with m.when(m.thread().equals(0)):
            zero = m.constant(0)
            m.copy_out(outputs[0], zero, 0, zero, zero, 128)

    if ordered:
        (found,) = run(program, threads=32)
        assert (found[:32] == 7).all()
        return
    with pytest.raises(RaceError, match="before the barrier"):
        run(program, threads=32)


def test_a_warp_does_not_copy_what_another_has_stored():
    def program(m, inputs, outputs):
        m.store_shared(m.thread() * 4, [m.word(7)])
        m.reconverge()
        with m.when(m.thread().equals(0)):
            zero = m.constant(0)
            m.copy_out(outputs[0], zero, 0, zero, zero, 256)

    with pytest.raises(RaceError, match="before the barrier"):
        run(program)


@pytest.mark.parametrize(
    ("waits", "synchronizes", "message"),
    [(True, True, None), (False, True, "while it is copied"), (True, False, "and others")],
)
def test_what_a_copy_reads_is_stored_to_after_a_wait_and_a_barrier(waits, synchronizes, message):
    def program(m, inputs, outputs):
        zero = m.constant(0)
        m.store_shared(m.thread() * 4, [m.word(7)])
        m.synchronize()
        with m.when(m.thread().equals(0)):
            for _ in range(2):
                m.copy_out(outputs[0], zero, 0, zero, zero, 256)
                m.commit_out()
            m.wait_out(0 if waits else 1)
        if synchronizes:
            m.synchronize()
        m.store_shared(m.thread() * 4, [m.word(8)])

    if message is None:
        (found,) = run(program)
        assert (found[:64] == 7).all()
        return
    with pytest.raises(RaceError, match=message):
        run(program)
