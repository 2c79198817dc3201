"""States come back from Orbax bit for bit, with type, dtype and placement."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.errors import CommandError
from experiments.runner.checkpoints import Checkpoints, describe, strong


def assert_same(got, wanted):
    assert jax.tree.structure(got) == jax.tree.structure(wanted)
    for one, two in zip(jax.tree.leaves(got), jax.tree.leaves(wanted), strict=True):
        assert type(one) is type(two)
        assert one.dtype == two.dtype
        assert one.shape == two.shape
        if isinstance(one, jax.Array):
            assert one.sharding == two.sharding
        if jnp.issubdtype(one.dtype, jax.dtypes.prng_key):
            assert jax.random.key_impl(one) == jax.random.key_impl(two)
            one, two = jax.random.key_data(one), jax.random.key_data(two)
        assert np.asarray(one).tobytes() == np.asarray(two).tobytes()


def blank(state):
    """A state of the same structure with other contents."""

    def zero(leaf):
        if isinstance(leaf, np.ndarray):
            return np.zeros_like(leaf)
        if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            return jax.random.split(jax.random.key(9, impl=jax.random.key_impl(leaf)), leaf.shape)
        return jax.device_put(jnp.zeros(leaf.shape, leaf.dtype), leaf.sharding)

    return jax.tree.map(zero, state)


@pytest.fixture
def state(rng):
    mesh = jax.make_mesh((4, 2), ("x", "y"), axis_types=(jax.sharding.AxisType.Auto,) * 2)
    sharding = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("x", "y"))
    normal = rng.standard_normal((8, 6))
    return {
        "jax": {
            name: jnp.asarray(normal[:3], name)
            for name in ("float32", "float16", "bfloat16", "complex64", "int32", "int8", "bool")
        },
        "numpy": {
            name: normal[:3].astype(name)
            for name in ("float64", "float32", "complex128", "int64", "uint8", "bool")
        },
        "keys": (
            jax.random.split(jax.random.key(3), 4).reshape(2, 2),
            jax.random.key(1, impl="rbg"),
        ),
        "empty": [jnp.zeros((0, 3)), np.zeros((2, 0), np.int16)],
        "sharded": jax.device_put(normal.astype(np.float32), sharding),
        "last device": jax.device_put(np.float32(3), jax.devices()[-1]),
        "odd/name with. dots": jnp.asarray([np.nan, -0.0, np.inf]),
        "odd_name with. dots": jnp.arange(3),
        "none": None,
    }


def test_round_trip(tmp_path, state):
    checkpoints = Checkpoints(tmp_path, "print")
    checkpoints.save("phase", 7, state, {"host_state": {"big": 2**100, "list": [1, 2.5, None]}})
    template = blank(state)
    assert_same(template["jax"], jax.tree.map(jnp.zeros_like, state["jax"]))
    restored, record = checkpoints.restore("phase", 7, template)
    assert_same(restored, state)
    assert record["host_state"] == {"big": 2**100, "list": [1, 2.5, None]}
    assert record["step"] == 7


def test_round_trip_in_64_bits(tmp_path, rng):
    with jax.enable_x64(True):
        state = {
            "real": jnp.asarray(rng.standard_normal(5)),
            "complex": jnp.asarray(rng.standard_normal(5) * 1j),
            "integer": jnp.asarray([2**40, -(2**40)]),
        }
        checkpoints = Checkpoints(tmp_path, "print")
        checkpoints.save("phase", 1, state, {})
        restored, _ = checkpoints.restore("phase", 1, blank(state))
        assert restored["complex"].dtype == jnp.complex128
        assert_same(restored, state)


def test_restored_arrays_are_their_own(tmp_path):
    """A phase may donate what it is given."""
    checkpoints = Checkpoints(tmp_path, "print")
    checkpoints.save("phase", 1, [jnp.arange(1000.0)], {})
    [restored], _ = checkpoints.restore("phase", 1, [jnp.zeros(1000)])
    doubled = jax.jit(lambda x: 2 * x, donate_argnums=0)(restored)
    np.testing.assert_array_equal(doubled, 2 * np.arange(1000.0))
    [again], _ = checkpoints.restore("phase", 1, [jnp.zeros(1000)])
    np.testing.assert_array_equal(again, np.arange(1000.0))


def test_only_the_newest_are_kept(tmp_path):
    checkpoints = Checkpoints(tmp_path, "print")
    for step in (5, 10, 100000000, 15):
        checkpoints.save("phase", step, [jnp.full(2, step)], {})
    assert checkpoints.steps("phase") == [15, 100000000]
    assert checkpoints.steps("another") == []
    checkpoints.prune("phase", keep=1)
    assert checkpoints.steps("phase") == [100000000]


def test_leftovers_are_no_checkpoints(tmp_path):
    checkpoints = Checkpoints(tmp_path, "print")
    checkpoints.save("phase", 5, [jnp.zeros(2)], {})
    (tmp_path / "phase" / "00000009").mkdir()
    (tmp_path / "phase" / "00000010.orbax-checkpoint-tmp").mkdir()
    (tmp_path / "phase" / ".removed-00000004").mkdir()
    assert checkpoints.steps("phase") == [5]
    checkpoints.clean()
    names = sorted(path.name for path in (tmp_path / "phase").iterdir())
    assert names == ["00000005", "00000009"]


@pytest.mark.parametrize(
    ("template", "message"),
    [
        (
            {"w": np.zeros((2, 3), np.float32)},
            r"leaf w is float32\[3, 2\].*expected float32\[2, 3\]",
        ),
        ({"w": np.zeros((3, 2))}, r"leaf w is float32\[3, 2\].*expected float64\[3, 2\]"),
        ({"v": np.zeros((3, 2), np.float32)}, "leaf v is absent"),
    ],
)
def test_other_structure(tmp_path, template, message):
    checkpoints = Checkpoints(tmp_path, "print")
    checkpoints.save("phase", 5, {"w": jnp.zeros((3, 2))}, {})
    with pytest.raises(CommandError, match=message):
        checkpoints.restore("phase", 5, template)


def test_other_fingerprint(tmp_path):
    Checkpoints(tmp_path, "one").save("phase", 5, [jnp.zeros(2)], {})
    with pytest.raises(CommandError, match="fingerprint one, this run has two"):
        Checkpoints(tmp_path, "two").restore("phase", 5, [jnp.zeros(2)])


@pytest.mark.parametrize(
    ("state", "message"),
    [
        ({"lr": 0.1}, "state leaf lr is float"),
        ([np.asarray(["text"])], "state leaf 0 is ndarray"),
        ({}, "no arrays"),
    ],
)
def test_states_without_arrays(state, message):
    with pytest.raises(TypeError, match=message):
        describe(state)


def test_weak_types_are_dropped():
    state = strong({"weak": jnp.asarray(3.0), "array": np.ones(2), "key": jax.random.key(0)})
    assert not state["weak"].weak_type
    assert state["weak"].dtype == jnp.float32
    assert isinstance(state["array"], np.ndarray)
