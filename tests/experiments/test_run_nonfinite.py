"""NaN and infinity stop a run by name; what was saved before stays."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.runner.nonfinite import nonfinite_leaves, nonfinite_scalars

FIELDS = ["--num-steps", 16, "--checkpoint-steps", 4, "--bad-phase", "second", "--bad-step", 12]


@pytest.mark.parametrize(
    ("place", "value", "named"),
    [
        ("state", "nan", "device.position (1 of 5 entries; first NaN at [2])"),
        ("host", "-inf", "host (1 of 3 entries; first infinity at [1])"),
        ("metric", "inf", "logged loss = inf"),
    ],
)
def test_stops_with_phase_step_and_tensor(command, walk, tmp_path, place, value, named):
    folder = tmp_path / "run"
    bad = ["--bad-place", place, f"--bad-value={value}"]
    code, _, err = command("run", walk, *FIELDS, *bad, "--workdir", folder)
    assert code == 3
    assert "phase second at step 12" in err
    assert "finite at step 8" in err
    assert named in err
    assert "00000008" in err
    assert "Traceback" not in err
    kept = sorted(path.name for path in (folder / "checkpoints" / "second").iterdir())
    assert kept == ["00000004", "00000008"]
    assert not (folder / "result.json").exists()

    code, _, err = command("run", walk, *FIELDS, *bad, "--workdir", folder, "--resume")
    assert code == 3
    assert "phase second at step 12" in err


def test_allowed_names_do_not_stop(command, walk, tmp_path, read):
    allow = ["--allow-nonfinite", "device", "rms", "host"]
    code, _, err = command("run", walk, *FIELDS, *allow, "--workdir", tmp_path / "run")
    assert code == 0, err
    position = read(tmp_path / "run" / "result.json")["phases"]["second"]["results"]["position"]
    assert position[2] == "NaN"
    lines = read(tmp_path / "run" / "metrics.jsonl")
    assert lines[-1]["rms"] == "NaN"


def test_allowed_names_are_exact(command, walk, tmp_path):
    allow = ["--allow-nonfinite", "devi", "host"]
    code, _, err = command("run", walk, *FIELDS, *allow, "--workdir", tmp_path / "run")
    assert code == 3
    assert "device.position" in err


def test_changed_shape_is_refused(command, walk, tmp_path):
    bad = ["--bad-place", "shape"]
    with pytest.raises(
        TypeError, match=r"phase second: after step 12 .*float64\[2\].*float64\[3\]"
    ):
        command("run", walk, *FIELDS, *bad, "--workdir", tmp_path / "run")


def test_every_kind_of_leaf():
    state = {
        "good": jnp.ones((2, 3)),
        "complex": jnp.asarray([1, complex(0, np.inf)], jnp.complex64),
        "half": jnp.asarray([[1.0, jnp.nan]], jnp.bfloat16),
        "scalar": jnp.float32(np.nan),
        "numpy": np.asarray([1.0, np.nan, np.nan]),
        "integer": np.asarray([1]),
        "key": jax.random.key(0),
        "empty": jnp.zeros((0, 2)),
    }
    assert nonfinite_leaves(state) == [
        "complex (1 of 2 entries; first infinity at [1])",
        "half (1 of 2 entries; first NaN at [0, 1])",
        "numpy (2 of 3 entries; first NaN at [1])",
        "scalar (1 of 1 entries; first NaN at [])",
    ]
    allowed = frozenset({"complex", "half", "numpy"})
    assert nonfinite_leaves(state, allowed) == ["scalar (1 of 1 entries; first NaN at [])"]
    assert nonfinite_leaves(state, frozenset({"*"})) == []


def test_leaves_on_different_devices():
    first, last = jax.devices()[0], jax.devices()[-1]
    mesh = jax.make_mesh((8,), ("x",), axis_types=(jax.sharding.AxisType.Auto,))
    sharding = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("x"))
    values = np.ones(16, np.float32)
    values[11] = np.inf
    state = [
        jax.device_put(np.ones(2), first),
        jax.device_put(np.asarray([np.nan], np.float32), last),
        jax.device_put(values, sharding),
    ]
    assert nonfinite_leaves(state) == [
        "1 (1 of 1 entries; first NaN at [0])",
        "2 (1 of 16 entries; first infinity at [11])",
    ]


def test_scalars():
    scalars = {"loss": 1.0, "ratio": float("nan"), "gap": float("inf")}
    assert nonfinite_scalars(scalars) == ["ratio = nan", "gap = inf"]
    assert nonfinite_scalars(scalars, frozenset({"gap"})) == ["ratio = nan"]
