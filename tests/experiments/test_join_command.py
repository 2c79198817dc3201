"""`join`: one result of runs that each did some phases."""

import json

import pytest

from experiments.report.render import short_commit
from tests.experiments.conftest import TRIAL_CONFIGS

PARTS = TRIAL_CONFIGS / "trial" / "parts.py"


@pytest.fixture
def piece(command, tmp_path):
    """Runs some parts; gives the stored result and the work folder."""

    def call(*parts, options=()):
        name = "_".join(parts)
        folder = tmp_path / f"work_{name}"
        code, _, err = command(
            *("run", PARTS, "--parts", *parts, *options, "--workdir", folder),
            *("--store", "--variant", name, "--results-dir", tmp_path / "results"),
        )
        assert code == 0, err
        return tmp_path / "results" / "trial" / f"parts@{name}.json", folder

    return call


@pytest.fixture
def join(command, tmp_path):
    return lambda *words: command("join", PARTS, *words, "--results-dir", tmp_path / "results")


def test_pieces_make_the_whole(piece, join, command, tmp_path, read):
    stored, _ = piece("three", "one")
    _, folder = piece("two")
    code, out, err = join(stored, folder)
    assert code == 0, err
    assert "stored as" in out
    record = read(tmp_path / "results" / "trial" / "parts.json")
    code, _, err = command("run", PARTS, "--workdir", tmp_path / "whole")
    assert code == 0, err
    whole = read(tmp_path / "whole" / "result.json")
    for key in ("metrics", "goals", "status", "config", "steps", "variant", "overrides"):
        assert record[key] == whole[key]
    assert list(record["phases"]) == ["one", "two", "three"]
    assert [entry["phases"] for entry in record["pieces"]] == [["one", "three"], ["two"]]
    assert "--parts three one" in record["command"]
    assert "--parts two" in record["command"]
    assert (tmp_path / "results" / "trial" / "parts.png").read_bytes().startswith(b"\x89PNG")


def test_all_commits_are_named(piece, join, tmp_path, read):
    first, second = piece("one")[0], piece("two", "three")[0]
    for path, commit in ((first, "a" * 40), (second, "b" * 40 + "+dirty")):
        path.write_text(json.dumps(json.loads(path.read_text()) | {"commit": commit}))
    code, _, err = join(first, second)
    assert code == 0, err
    record = read(tmp_path / "results" / "trial" / "parts.json")
    assert record["commit"] == "a" * 40 + " + " + "b" * 40 + "+dirty"
    assert short_commit(record["commit"]) == "aaaaaaaaaaaa + bbbbbbbbbbbb+dirty"


def test_a_stopped_run_is_a_piece_of_less(piece, join, tmp_path, read):
    _, folder = piece("one", "two")
    (folder / "result.json").unlink()
    progress = json.loads((folder / "progress.json").read_text())
    del progress["finished"]["two"]
    (folder / "progress.json").write_text(json.dumps(progress))
    code, _, err = join(folder, "--parts", "one", "--variant", "less")
    assert code == 0, err
    record = read(tmp_path / "results" / "trial" / "parts@less.json")
    assert record["metrics"] == {"one": 3.0}
    assert record["status"] == "short"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["ONE"], "phase two is in no piece; expected it in one"),
        (["ONE", "ALSO"], "phase one is in"),
        (["SCALED", "REST"], "scale is 2.0 there, 1.0 here"),
        (["ONE", "REST", "--parts", "one", "two"], "--variant"),
        (["ALSO", "--parts", "one", "--variant", "a"], "not wanted: three"),
        (["SMOKE", "REST"], "is a smoke run; expected a full one"),
        (["OLD", "REST"], "differ: versions.jax is"),
        (["OTHER", "REST"], "is of experiment 'walk'; expected 'parts'"),
        (["NONE"], "no stored result"),
        ([], "at least one PIECE"),
    ],
)
def test_what_does_not_fit_is_refused(piece, join, tmp_path, words, message):
    def altered(path, **changes):
        record = json.loads(path.read_text()) | changes
        copy = tmp_path / f"altered_{path.name}"
        copy.write_text(json.dumps(record))
        return copy

    made = {}
    for word in words:
        match word:
            case "ONE" | "ALSO":
                made[word] = piece("one")[0] if word == "ONE" else piece("one", "three")[0]
            case "REST":
                made[word] = piece("two", "three")[0]
            case "SCALED":
                made[word] = piece("one", options=("--scale", 2.0))[0]
            case "SMOKE":
                made[word] = altered(piece("one")[0], preset="smoke")
            case "OLD":
                path = piece("one")[0]
                versions = json.loads(path.read_text())["versions"] | {"jax": "0.1"}
                made[word] = altered(path, versions=versions)
            case "OTHER":
                made[word] = altered(piece("one")[0], experiment="walk")
            case "NONE":
                made[word] = tmp_path / "none.json"
                made[word].write_text("[]")
    code, _, err = join(*(made.get(word, word) for word in words))
    assert code == 2
    assert message in err
    assert not (tmp_path / "results" / "trial" / "parts.json").exists()
