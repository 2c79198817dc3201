"""The report: values come from stored results alone, verdicts are computed."""

import json
import math
import shutil

import pytest

from experiments.experiment import Goal
from experiments.runner.result import lookup, overall

KEYS = {
    "family",
    "experiment",
    "metric",
    "value",
    "unit",
    "paper",
    "goal",
    "direction",
    "status",
    "command",
    "device",
    "versions",
    "commit",
    "date",
}


@pytest.fixture
def project(tmp_path, walk):
    """Folders of configs and results with one config and no result."""
    (tmp_path / "configs" / "trial").mkdir(parents=True)
    shutil.copy(walk, tmp_path / "configs" / "trial" / "walk.py")
    (tmp_path / "results" / "trial").mkdir(parents=True)
    return tmp_path


@pytest.fixture
def put(project):
    """Stores a result of the walk."""

    def call(metrics, variant=None, **more):
        record = {
            "family": "trial",
            "experiment": "walk",
            "variant": variant,
            "metrics": metrics,
            "date": "2026-01-01T00:00:00+00:00",
            "device": {"platform": "gpu", "kind": "NVIDIA H200", "count": 2},
            "versions": {"jax": "0.12.0"},
            "commit": "0123456789abcdef+dirty",
            "command": f"run {variant}",
            "status": "pass",
            **more,
        }
        name = "walk" + (f"@{variant}" if variant else "")
        (project / "results" / "trial" / f"{name}.json").write_text(json.dumps(record))

    return call


@pytest.fixture
def report(command, project, read):
    """Entries by metric, what was printed, the Markdown."""

    def call(*arguments):
        code, out, err = command(
            "report",
            *("--configs-dir", project / "configs", "--results-dir", project / "results"),
            *("--json", project / "report.json", "--markdown", project / "report.md"),
            *arguments,
        )
        assert code == 0, err
        entries = read(project / "report.json")
        assert all(set(entry) >= KEYS for entry in entries)
        by_metric = {entry["metric"]: entry for entry in entries}
        return by_metric, out, (project / "report.md").read_text()

    return call


def test_nothing_stored(report):
    entries, out, markdown = report()
    assert set(entries) == {"distance", "count", "phases.first.seconds"}
    for entry in entries.values():
        assert entry["status"] == "not run"
        assert entry["value"] is None
        assert "run" in entry["command"]
        assert "walk.py" in entry["command"]
    assert entries["distance"]["paper"] == 3.5
    assert entries["distance"]["goal"] == 1000.0
    assert entries["distance"]["unit"] == "m"
    assert "0 pass, 0 short, 3 not run" in out
    assert "0 pass, 0 short, 3 not run" in markdown


def test_pass_and_short(report, put):
    put({"distance": 1000.0, "count": 5}, phases={"first": {"seconds": 1000.5}})
    entries, out, markdown = report()
    assert {name: entry["status"] for name, entry in entries.items()} == {
        "distance": "pass",
        "count": "short",
        "phases.first.seconds": "short",
    }
    assert entries["count"]["value"] == 5
    assert entries["count"]["device"] == "NVIDIA H200 x2"
    assert entries["count"]["commit"] == "0123456789abcdef+dirty"
    assert entries["count"]["versions"] == {"jax": "0.12.0"}
    assert "1 pass, 2 short, 0 not run" in out
    line = next(line for line in markdown.splitlines() if "| distance |" in line)
    assert [cell.strip() for cell in line.strip("|").split("|")] == [
        "walk",
        "distance",
        "1e+03 m",
        "3.5 m",
        "<= 1e+03 m",
        "pass",
        "NVIDIA H200 x2",
        "0123456789ab+dirty",
        "2026-01-01",
    ]


@pytest.mark.parametrize("value", ["NaN", "Infinity", "-Infinity"])
def test_values_that_are_not_finite_are_short(report, put, value):
    put({"distance": value})
    entries, out, _ = report()
    assert entries["distance"]["status"] == "short"
    assert entries["distance"]["value"] is None
    assert "not finite" in out


def test_several_stored_files(report, put):
    put({"distance": 1.0}, variant="old", date="2026-01-05T00:00:00+00:00")
    put({"distance": 2.0, "count": 7}, variant="new", date="2026-01-06T00:00:00+00:00")
    put(
        {"distance": 9.0, "count": 9}, variant="s", preset="smoke", date="2026-02-01T00:00:00+00:00"
    )
    entries, _, _ = report()
    assert entries["distance"]["value"] == 2.0
    assert entries["distance"]["command"] == "run new"
    put({"distance": 3.0}, date="2025-01-01T00:00:00+00:00")
    entries, _, _ = report()
    assert entries["distance"]["value"] == 3.0
    assert entries["distance"]["variant"] is None
    assert entries["count"]["value"] == 7
    assert entries["count"]["variant"] == "new"


def test_result_of_former_fields_is_stale(report, put, command, walk, project):
    code, _, err = command(
        *("run", walk, "--workdir", project / "run", "--variant", "v", "--num-steps", 4),
        *("--store", "--results-dir", project / "results"),
    )
    assert code == 0, err
    assert report()[0]["count"]["stale"] == ""
    path = project / "results" / "trial" / "walk@v.json"
    record = json.loads(path.read_text())
    record["config"]["most"] = 10.0
    path.write_text(json.dumps(record))
    assert report()[0]["count"]["stale"] == ""
    record["config"]["chunk"] = 5
    path.write_text(json.dumps(record))
    entries, _, markdown = report()
    assert entries["count"]["stale"] == "chunk is 5 there, 4 here"
    assert "walk is stale" in markdown


def test_rows_of_bench_and_tpu(report, project):
    for kind, row in {
        "bench": {
            "op": "multiply",
            "seconds_median": 0.125,
            "device": {"kind": "NVIDIA H200", "count": 1},
            "versions": {"jax": "1"},
        },
        "tpu": {"op": "multiply", "compiled": True, "error": None, "memory": {"vmem": 4096}},
    }.items():
        folder = project / "results" / "trial" / kind
        folder.mkdir()
        (folder / "multiply.json").write_text(json.dumps([row, {**row, "op": "other"}]))
    _, out, markdown = report()
    assert "Benchmarks: trial/multiply" in out
    assert "| multiply | 0.125 | NVIDIA H200 x1 |" in markdown
    assert "| op | compiled | memory.vmem |" in markdown
    assert "| other | yes | 4096 |" in markdown


def test_family(report, project, command):
    assert report("--family", "trial")[0]
    code, _, err = command(
        "report",
        *("--configs-dir", project / "configs", "--results-dir", project / "results"),
        *("--family", "trail"),
    )
    assert code == 2
    assert "'trail'" in err
    assert "trial" in err


def test_broken_config_does_not_hide_others(command, project):
    (project / "configs" / "trial" / "broken.py").write_text("raise ValueError('torn')")
    code, out, err = command(
        "report", "--configs-dir", project / "configs", "--results-dir", project / "results"
    )
    assert code == 1
    assert "broken.py: torn" in err
    assert "distance" in out


@pytest.mark.parametrize("text", ["{", "[]", '{"family": "trial"}'])
def test_damaged_stored_result(command, project, text):
    path = project / "results" / "trial" / "walk.json"
    path.write_text(text)
    for name in ("report", "list"):
        code, _, err = command(
            name, "--configs-dir", project / "configs", "--results-dir", project / "results"
        )
        assert code == 2
        assert str(path) in err


def test_result_without_config(command, project, put):
    put({"distance": 1.0})
    (project / "configs" / "trial" / "walk.py").unlink()
    code, out, _ = command(
        "report", "--configs-dir", project / "configs", "--results-dir", project / "results"
    )
    assert code == 0
    assert "no config: trial/walk" in out


def test_list(command, project, put):
    folders = ("--configs-dir", project / "configs", "--results-dir", project / "results")
    code, out, _ = command("list", *folders)
    assert code == 0
    row = next(line for line in out.splitlines() if "walk.py" in line)
    assert row.split()[:3] == ["trial", "configs/trial/walk.py", "-"]
    assert "A random walk in two phases" in out
    put({}, status="short")
    _, out, _ = command("list", *folders)
    assert "short 2026-01-01" in out
    code, _, err = command("list", *folders, "--family", "none")
    assert code == 2
    assert "'none'" in err


@pytest.mark.parametrize(
    ("direction", "value", "status"),
    [
        ("<=", 1.0, "pass"),
        ("<=", 1.0000001, "short"),
        (">=", 1.0, "pass"),
        (">=", 0.9999999, "short"),
        ("<=", math.nan, "short"),
        (">=", math.nan, "short"),
        (">=", math.inf, "short"),
        ("<=", -math.inf, "short"),
        ("<=", None, "not run"),
    ],
)
def test_goal_status(direction, value, status):
    assert Goal("x", 1.0, direction).status(value) == status


def test_bad_goals():
    with pytest.raises(ValueError, match="direction of goal 'x'"):
        Goal("x", 1.0, "<")  # pyrefly: ignore
    with pytest.raises(ValueError, match="goal of 'x' must be a finite number, got nan"):
        Goal("x", math.nan, "<=")


def test_lookup():
    record = {
        "metrics": {"a": 1, "seconds.total": 5.0, "text": "x"},
        "seconds": {"total": 2.0, "compute": 1.0},
        "steps": 7,
        "phases": {"n1.5": {"seconds": 3.0, "results": {"a": 9}}},
    }
    assert lookup(record, "a") == 1
    assert lookup(record, "seconds.total") == 5.0
    assert lookup(record, "seconds.compute") == 1.0
    assert lookup(record, "steps") == 7
    assert lookup(record, "phases.n1.5.seconds") == 3.0
    assert lookup(record, "phases.absent.seconds") is None
    assert lookup(record, "text") is None
    assert lookup(record, "b") is None


def test_overall():
    goals = [{"status": "pass"}, {"status": "not run"}]
    assert overall(goals, smoke=False) == "short"
    assert overall(goals, smoke=True) == "pass"
    assert overall([*goals, {"status": "short"}], smoke=True) == "short"
    assert overall([], smoke=False) == "pass"
