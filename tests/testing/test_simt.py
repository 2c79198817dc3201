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
