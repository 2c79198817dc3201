"""`python -m experiments bench` as a whole: rows, file, table, exit codes, bad input."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from experiments.bench import ceilings, registry, store, table
from experiments.bench.measure import DIFFERENT
from experiments.commands.bench import main
from experiments.errors import CommandError

TOY = "tests.experiments.bench_toy"
ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def small(monkeypatch):
    """The toy family alone, and ceilings of small arrays."""
    monkeypatch.setattr(registry, "families", lambda: [TOY])
    sizes = ceilings.Sizes(2**12, 32, 32, repeats=2, target_seconds=1e-4)
    monkeypatch.setattr(ceilings, "SMALL", sizes)


def _run(capsys, *arguments):
    code = main([str(argument) for argument in arguments])
    return code, *capsys.readouterr()


def test_rows_hold_what_they_should(capsys, tmp_path):
    path = tmp_path / "new" / "rows.json"
    arguments = ("mix", "--spec", "mix_float32", "--implementation", "coarse", "xla")
    code, out, err = _run(capsys, *arguments, "--mode", "both", "--repeats", "3", "--json", path)
    assert code == 0
    rows = json.loads(path.read_text())
    assert [(row["implementation"], row["mode"], row["chosen"]) for row in rows] == [
        ("coarse", "forward", False),
        ("xla", "forward", True),
        ("coarse", "forward_backward", False),
        ("xla", "forward_backward", True),
    ]
    for row in rows:
        assert set(row) == {field.name for field in store.dataclasses.fields(store.Row)}
        assert (row["op"], row["spec"], row["dtype"]) == ("mix", "mix_float32", "float32")
        assert (row["precision"], row["unit"]) == ("highest", "float32")
        assert row["bytes"] == (1024 if row["mode"] == "forward" else 2048)
        rates = row["ceilings"]
        floor = max(row["bytes"] / rates["copy"], row["operations"] / rates["float32"])
        assert row["floor_seconds"] == floor
        assert row["seconds_median"] > 0
        assert row["share"] == pytest.approx(floor / row["seconds_median"])
        assert row["spread"]["n"] == 3
        assert row["device"]["platform"] == "cpu"
        assert row["versions"]["jax"]
        assert row["date"].startswith("20")
        assert row["command"].startswith("python -m experiments bench mix --spec mix_float32")
        assert row["failure"] == ""
        expected = 1e-3 if row["implementation"] == "coarse" else 0.0
        assert abs(row["error"] - expected) < 1e-5
    assert "mix_float32 forward: coarse" in err
    assert "* xla" in out
    assert "copy" in out.splitlines()[0]


def test_the_table_comes_last_and_is_narrow(capsys):
    code, out, _ = _run(capsys, "mix", "--implementation", "xla", "--repeats", "2")
    assert code == 0
    lines = out.splitlines()
    assert "* what the op chooses" in " ".join(lines[-2:])
    assert max(map(len, lines)) <= table.WIDTH
    headings = [line for line in lines if "floor" in line and "operations;" in line]
    assert len(headings) == 3  # smoke specs, since none is tagged cpu
    assert sum(" native " in line for line in lines) == 1
    assert sum(" highest " in line for line in lines) == 2


def test_a_candidate_that_fails_does_not_end_the_table(capsys, tmp_path):
    path = tmp_path / "rows.json"
    arguments = ("mix", "--spec", "mix_float32", "--repeats", "2", "--json", path)
    code, out, _ = _run(capsys, *arguments)
    assert code == 1
    rows = {row["implementation"]: row for row in json.loads(path.read_text())}
    assert list(rows) == ["xla", "coarse", "broken"]
    assert rows["broken"]["failure"] == "RuntimeError: out of patience"
    assert rows["broken"]["seconds_median"] is None
    assert "failed: RuntimeError" in out
    assert "left out, mix_float32: absent: mix: 'absent' cannot serve: not on cpu" in out


def test_new_rows_replace_old_ones_and_keep_the_rest(capsys, tmp_path):
    path = tmp_path / "rows.json"
    arguments = ("mix", "--spec", "mix_float32", "--repeats", "2", "--json", path)
    assert _run(capsys, *arguments, "--implementation", "xla", "coarse")[0] == 0
    first = json.loads(path.read_text())
    elsewhere = {**first[0], "device": {"platform": "gpu", "kind": "other", "count": 1}}
    path.write_text(json.dumps([elsewhere, *first]))
    assert _run(capsys, *arguments, "--implementation", "xla")[0] == 0
    assert _run(capsys, *arguments, "--implementation", "xla", "--precision", "default")[0] == 0
    after = json.loads(path.read_text())
    assert after[:2] == [elsewhere, first[1]]
    assert [(row["implementation"], row["precision"]) for row in after[2:]] == [
        ("xla", "highest"),
        ("xla", "default"),
    ]


def test_integer_ops_have_no_gradients(capsys):
    code, out, _ = _run(capsys, "count_parity", "--mode", "both", "--repeats", "2")
    assert code == 0
    assert "count_parity_int32 forward:" in out
    assert "forward_backward" not in out
    code, _, err = _run(capsys, "count_parity", "--mode", "forward_backward", "--repeats", "2")
    assert code == 2
    assert "the result of count_parity_int32 is made of int32; expected floating point" in err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["mixx"], "unknown op 'mixx'; did you mean 'mix'?"),
        (["mix", "--spec", "mix_float"], "unknown spec of mix 'mix_float'; did you mean 'mix_floa"),
        (["mix", "--implementation", "xls"], "implementation of mix 'xls'; did you mean 'xla'?"),
        (["mix", "--against", "fft"], "unknown rival 'fft'; known are 'none'"),
        (["mix", "--tag", "tpu"], "no spec of mix is tagged 'tpu'"),
        (["mix", "--timer", "profiler"], "--timer profiler needs a GPU"),
        (["mix", "--mod", "forward"], "did you mean '--mode'?"),
        (["mix", "--mode", "backward"], "invalid choice: 'backward'"),
        (["mix", "--repeats", "0"], "must be an integer of at least 1, got '0'"),
        ([], "the following arguments are required: OP"),
    ],
)
def test_bad_input_is_named(capsys, arguments, message):
    code, out, err = _run(capsys, *arguments)
    assert (code, out) == (2, "")
    assert message in err
    assert "Traceback" not in err


def test_a_file_that_is_not_ours_is_left_alone(capsys, tmp_path):
    for content, message in [
        ("{", "is not valid JSON"),
        ('{"op": 1}', "holds no list of benchmark rows"),
        ('[{"op": "mix"}]', "holds no list of benchmark rows"),
    ]:
        path = tmp_path / "other.json"
        path.write_text(content)
        code, _, err = _run(capsys, "mix", "--json", path)
        assert code == 2
        assert message in err
        assert path.read_text() == content
    with pytest.raises(CommandError, match=r"cannot write .*expected a writable file or folder"):
        store.RowFile(path / "below" / "rows.json")


def test_an_explicit_implementation_that_cannot_serve(capsys):
    code, out, err = _run(capsys, "mix", "--implementation", "absent", "--repeats", "2")
    assert code == 1
    assert "not on cpu" in out
    assert "nothing could be measured" in err


def test_needs_no_package_that_a_gpu_machine_lacks():
    # Only JAX, NumPy, rich and what they bring: tyro, beartype and the like are not there.
    script = (
        "import sys\n"
        "for name in ('tyro', 'beartype', 'docstring_parser', 'torch', 'grain'):\n"
        "    sys.modules[name] = None\n"
        "from experiments.bench import registry\n"
        f"registry.families = lambda: [{TOY!r}]\n"
        "from experiments.bench import ceilings\n"
        "ceilings.SMALL = ceilings.Sizes(2**10, 16, 16, 2, 1e-4)\n"
        "from experiments.__main__ import main\n"
        "sys.exit(main(['bench', 'mix', '--spec', 'mix_float32', '--implementation', 'xla',\n"
        "               '--repeats', '2']))\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"}
    done = subprocess.run(
        [sys.executable, "-c", script],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr
    assert "* xla" in done.stdout


def test_the_librarys_own_ops_at_smoke_shapes(capsys, monkeypatch, tmp_path):
    monkeypatch.undo()  # the real families
    sizes = ceilings.Sizes(2**12, 32, 32, repeats=2, target_seconds=1e-4)
    monkeypatch.setattr(ceilings, "SMALL", sizes)
    path = tmp_path / "rows.json"
    found = {}
    for family in registry.families():
        found.update(registry.operations_of(family))
    assert "butterfly_multiply" in found
    for name, operation in found.items():
        specs = registry.select_specs(operation, [], "smoke", "cpu")
        largest = max(specs, key=lambda spec: spec.operations)
        # One op with its rivals; every family tests its rivals' values.
        against = [] if name == "butterfly_multiply" else ["--against", "none"]
        arguments = (name, "--spec", largest.name, "--repeats", "2", "--json", path, *against)
        code, out, err = _run(capsys, *arguments)
        assert code == 0, (out, err)
    rows = json.loads(path.read_text())
    assert {row["op"] for row in rows} == set(found)
    for row in rows:
        compared = row["kind"] == "implementation" or row["error_scope"] != DIFFERENT
        bound = 1e-5 if row["dtype"] in ("float32", "complex64") else 3e-2
        assert not compared or row["error"] < bound, row


def test_units_in_the_table():
    assert table.seconds_text(3.2e-9) == "3.2 ns"
    assert table.seconds_text(4.56) == "4.56 s"
    assert table.bytes_text(2**40) == "1.02e+03 GiB"
    assert table.bytes_text(None) == "-"
