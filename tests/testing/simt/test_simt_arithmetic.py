"""The NumPy machine: arithmetic of the tensor cores, functions, and bank conflicts."""

import jax
import ml_dtypes
import numpy as np
import pytest

from tests.testing.simt.programs import run


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
