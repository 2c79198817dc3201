"""The NumPy machine: arithmetic of the tensor cores, and faults that it has to find."""

import jax
import ml_dtypes
import numpy as np
import pytest

from structlayers.testing.simt import RaceError, simulate

WORDS = jax.ShapeDtypeStruct((64,), np.uint32)


def run(program, inputs=(), outputs=(WORDS,), **kwargs):
    sizes = {"clusters": 1, "cluster_size": 1, "threads": 64, "shared_bytes": 1024}
    return simulate(program, list(inputs), list(outputs), **sizes | kwargs)


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


def test_counts_bank_conflicts():
    counts = []

    def program(stride):
        def body(m, inputs, outputs):
            m.store_shared(m.thread() * (4 * stride), [m.word(1)])
            counts.append((m.wavefronts, m.least_wavefronts))

        return body

    for stride in (1, 2):
        run(program(stride), threads=32)
    assert counts == [(1, 1), (2, 1)]


def test_tensor_product_is_the_matrix_product():
    rng = np.random.default_rng(0)
    a = rng.standard_normal((16, 16)).astype(ml_dtypes.bfloat16)
    b = rng.standard_normal((16, 8)).astype(ml_dtypes.bfloat16)

    def program(m, inputs, outputs):
        lane = m.lane()
        g, t = lane >> 2, lane & 3
        left = []
        for column in (0, 8):
            for row in (0, 8):
                left += m.load_global(inputs[0], (g + row) * 32 + (t * 2 + column) * 2, 1)
        # the right operand is stored by columns
        right = [m.load_global(inputs[1], g * 32 + (t * 2 + row) * 2, 1)[0] for row in (0, 8)]
        acc = m.tensor_product([m.zero()] * 4, left, right)
        for half in range(2):
            words = [m.bits(value) for value in acc[2 * half : 2 * half + 2]]
            m.store_global(outputs[0], g + 8 * half, 32, t * 8, words)

    inputs = [a, np.ascontiguousarray(b.T)]
    (found,) = run(program, inputs, [jax.ShapeDtypeStruct((16, 8), np.float32)], threads=32)
    wanted = a.astype(np.float64) @ b.astype(np.float64)
    assert np.allclose(found, wanted, rtol=1e-5, atol=1e-5)


def test_functions_of_float32_and_halves_of_words():
    values = np.linspace(0.25, 8, 32, dtype=np.float32)
    halves = np.stack([-values, values], 1).astype(ml_dtypes.bfloat16)
    names = ("abs", "exp", "log1p", "rsqrt")

    def program(m, inputs, outputs):
        (word,) = m.load_global(inputs[0], m.thread() * 4, 1, constant=False)
        x = m.float(word)
        results = [m.unary(name, x) for name in names]
        results += [m.divide(m.number(3.0), x), *m.unpack(m.pack(m.negate(x), x))]
        for row, value in enumerate(results):
            m.store_global(outputs[0], m.constant(row), 128, m.thread() * 4, [m.bits(value)])
        m.store_global(inputs[0], m.constant(0), 0, m.thread() * 4, [m.bits(m.negate(x))])

    array = values.copy()
    outputs = [jax.ShapeDtypeStruct((7, 32), np.float32)]
    (found,) = run(program, [array], outputs, threads=32)
    exact = values.astype(np.float64)
    wanted = [exact, np.exp(exact), np.log1p(exact), exact**-0.5, 3 / exact, *halves.T]
    assert np.allclose(found, np.stack(wanted).astype(np.float64), rtol=3e-7)
    assert np.array_equal(array, -values)


@pytest.mark.parametrize("transpose", [True, False])
@pytest.mark.parametrize("blocks", [1, 2])
def test_warpgroup_product_is_the_matrix_product(transpose, blocks):
    """The right operand in panels of 64 columns of permuted rows, beyond the start of a panel."""
    rng = np.random.default_rng(1)
    a = rng.standard_normal((64, 16)).astype(ml_dtypes.bfloat16)
    b = rng.standard_normal((16, 128 if transpose else 32)).astype(ml_dtypes.bfloat16)
    columns = b.shape[1]
    # rows of 128 bytes as they stand in shared memory, eight units of 16 bytes each
    rows = np.zeros((32 * columns // 64 if transpose else columns, 8, 8), b.dtype)
    if transpose:  # rows 8 to 23 of two panels of 32 rows
        rows = rows.reshape(2, 32, 8, 8)
        rows[:, 8:24] = b.reshape(16, 2, 8, 8).transpose(1, 0, 2, 3)
        rows = rows.reshape(-1, 8, 8)
    else:  # the second 16 of 64 values
        rows[:, 2:4] = b.T.reshape(columns, 2, 8)
    permuted = np.empty_like(rows)
    for row, units in enumerate(rows):
        for unit in range(8):
            permuted[row, unit ^ (row % 8)] = units[unit]

    def program(m, inputs, outputs):
        for at in range(0, permuted.nbytes, 16 * 128):
            place = m.thread() * 16 + at
            m.store_shared(place, m.load_global(inputs[1], place, 4))
        m.synchronize()
        warp, g, t = m.warp(), m.lane() >> 2, m.lane() & 3
        left = [
            m.load_global(inputs[0], (warp * 16 + g + row) * 32 + (t * 2 + column) * 2, 1)[0]
            for column in (0, 8)
            for row in (0, 8)
        ]
        made = m.warpgroup_begin([*[m.zero()] * (columns // 2), *left])
        acc, left = made[: columns // 2], made[columns // 2 :]
        right = m.constant(8 * 128 if transpose else 32)
        acc = m.warpgroup_product(acc, left, right, transpose=transpose, panel=32 * 128)
        m.warpgroup_commit()
        acc = m.warpgroup_wait(0, acc)
        for i in range(0, columns // 2, 2):
            row = warp * 16 + g + 8 * (i >> 1 & 1)
            words = [m.bits(value) for value in acc[i : i + 2]]
            row = row + m.rank() * 64
            m.store_global(outputs[0], row, 4 * columns, t * 8 + 32 * (i >> 2), words)

    shape = jax.ShapeDtypeStruct((blocks, 64, columns), np.float32)
    sizes = {"cluster_size": blocks, "threads": 128, "shared_bytes": permuted.nbytes + 128}
    (found,) = run(program, [a, permuted], [shape], **sizes)
    wanted = a.astype(np.float64) @ b.astype(np.float64)
    assert np.allclose(found, wanted, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("transpose", [True, False])
def test_warpgroup_product_has_left_operands_in_shared_memory(transpose):
    """As right ones of 64 columns, or their transposes, are: 16 of 64 values of a row, or rows."""
    rng = np.random.default_rng(1)
    a, b = (rng.standard_normal((64, 16)).astype(ml_dtypes.bfloat16) for _ in range(2))
    stored = np.zeros((2, 64, 8, 8), a.dtype)  # of each 64 rows of eight units
    for values, rows in zip((a, b), stored, strict=True):
        if transpose:
            rows[16:32] = values.T.reshape(16, 8, 8)
        else:
            rows[:, 2:4] = values.reshape(64, 2, 8)
    units = np.arange(8) ^ (np.arange(64) % 8)[:, None]
    permuted = np.take_along_axis(stored, units[None, :, :, None], axis=2)
    offset = 16 * 128 if transpose else 32

    def program(m, inputs, outputs):
        for at in range(0, permuted.nbytes, 128 * 16):
            place = m.thread() * 16 + at
            m.store_shared(place, m.load_global(inputs[0], place, 4))
        m.synchronize()
        acc = m.warpgroup_begin([m.zero()] * 32)
        left, right = m.constant(offset), m.constant(64 * 128 + offset)
        acc = m.warpgroup_product(
            acc, left, right, transpose=transpose, panel=0, left_transpose=transpose
        )
        m.warpgroup_commit()
        acc = m.warpgroup_wait(0, acc)
        for i in range(0, 32, 2):
            row = m.warp() * 16 + (m.lane() >> 2) + 8 * (i >> 1 & 1)
            words = [m.bits(value) for value in acc[i : i + 2]]
            m.store_global(outputs[0], row, 256, (m.lane() & 3) * 8 + 32 * (i >> 2), words)

    shape = jax.ShapeDtypeStruct((64, 64), np.float32)
    (found,) = run(program, [permuted], [shape], threads=128, shared_bytes=permuted.nbytes)
    wanted = a.astype(np.float64) @ b.astype(np.float64).T
    assert np.allclose(found, wanted, rtol=1e-5, atol=1e-5)


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


def test_a_barrier_tells_whether_any_thread_of_the_team_holds():
    def program(m, inputs, outputs):
        for i, thread in enumerate((37, 64)):
            flag = m.synchronize_any(m.thread().equals(thread), m.warp(), 32)
            words = [flag.value.astype(np.uint32)]
            m.store_global(outputs[i], m.constant(0), 0, m.thread() * 4, words)

    found, none = run(program, outputs=(WORDS, WORDS))
    assert np.array_equal(found, np.arange(64) >= 32)
    assert not np.any(none)


def test_tensor_product_of_tf32_sees_eleven_bits():
    rng = np.random.default_rng(2)
    a, b = (rng.standard_normal(shape).astype(np.float32) for shape in ((16, 8), (8, 8)))

    def program(m, inputs, outputs):
        lane = m.lane()
        g, t = lane >> 2, lane & 3

        def word(array, row, column, columns):
            return m.load_global(array, (row * columns + column) * 4, 1)[0]

        left = [word(inputs[0], g + 8 * (r % 2), t + 4 * (r // 2), 8) for r in range(4)]
        right = [word(inputs[1], t + 4 * r, g, 8) for r in range(2)]
        acc = m.tensor_product_tf32([m.number(1.0)] * 4, left, right)
        for i in range(2):
            offset = ((g + 8 * i) * 8 + t * 2) * 4
            words = [m.bits(x) for x in acc[2 * i : 2 * i + 2]]
            m.store_global(outputs[0], m.constant(0), 0, offset, words)

    out = jax.ShapeDtypeStruct((16, 8), np.float32)
    (found,) = run(program, [a, b], (out,), threads=32)

    def truncated(x):
        return (x.view(np.uint32) & 0xFFFFE000).view(np.float32).astype(np.float64)

    wanted = 1 + truncated(a) @ truncated(b)
    assert np.abs(found - wanted).max() <= 1e-5
    assert np.abs(found - 1 - a @ b).max() >= 1e-4


def test_rounds_to_tf32():
    values = [1 + 2**-11, 1 + 3 * 2**-11, -(1 + 2**-11 + 2**-20), 3.0, np.inf, -0.0]
    wanted = [1.0, 1 + 2**-9, -(1 + 2**-10), 3.0, np.inf, -0.0]
    inputs = np.resize(np.array(values, np.float32), 32)

    def program(m, inputs, outputs):
        (word,) = m.load_global(inputs[0], m.thread() * 4, 1)
        words = [m.bits(m.round_tf32(m.float(word)))]
        m.store_global(outputs[0], m.constant(0), 0, m.thread() * 4, words)

    out = jax.ShapeDtypeStruct((32,), np.float32)
    (found,) = run(program, [inputs], (out,), threads=32)
    assert np.array_equal(found, np.resize(np.array(wanted, np.float32), 32))


def test_halves_of_words():
    def program(m, inputs, outputs):
        word = m.load_global_half(inputs[0], m.constant(0), 0, m.thread() * 2)
        m.store_shared_half(m.thread() * 2, word)
        word = m.load_shared_half((m.thread() ^ 1) * 2)
        m.store_global_half(outputs[0], m.constant(0), 0, m.thread() * 2, word)

    values = np.arange(32, dtype=np.uint16) + 40_000
    (found,) = run(program, [values], (jax.ShapeDtypeStruct((32,), np.uint16),), threads=32)
    assert np.array_equal(found, values[np.arange(32) ^ 1])


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
