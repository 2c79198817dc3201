"""The experiment through the runner: killed and resumed, on several processes, bad input."""

import socket
import time
from typing import Any

import numpy as np
import pytest

from experiments.config_files import CONFIGS, load
from experiments.data.files import CACHE
from experiments.language_model import paper
from experiments.language_model.config import LanguageModelRun
from experiments.language_model.token_file import write_token_file
from experiments.language_model.variants import VARIANTS
from tests.experiments.language_model.cases import WideTokenizer

CONFIG = CONFIGS / "gla" / "lm_books.py"
FIELDS = [CONFIG, "--preset", "smoke", "--variants", "transformer", "--steps", 30, "--chunk", 2]
TIMES = {"seconds", "tokens_per_second"}


@pytest.fixture
def begin(start, tmp_path):
    """Starts a run in a folder of this name."""

    def call(name, *fields, **environment):
        environment = {CACHE: str(tmp_path / "cache"), **environment}
        return start("run", *FIELDS, *fields, "--workdir", tmp_path / name, **environment)

    return call


def ended(process):
    out, err = process.communicate(timeout=200)
    assert process.returncode == 0, err
    return out


def wait_for(condition, *processes):
    deadline = time.monotonic() + 150
    while not condition():
        assert time.monotonic() < deadline
        for process in processes:
            assert process.poll() is None, process.communicate()[1]
        time.sleep(0.005)


def numbers(read, folder):
    """All numbers of a run but the times."""
    lines = [
        {name: value for name, value in line.items() if name not in TIMES}
        for line in read(folder / "metrics.jsonl")
    ]
    results = read(folder / "result.json")["phases"]["transformer"]["results"]
    return lines, {name: value for name, value in results.items() if name not in TIMES}


@pytest.fixture(scope="module")
def kept():
    """Numbers of the undisturbed run, once for all tests."""
    return {}


@pytest.fixture
def whole(begin, read, tmp_path, kept):
    if not kept:
        ended(begin("whole"))
        kept["numbers"] = numbers(read, tmp_path / "whole")
    return kept["numbers"]


def test_the_run_learns(whole):
    lines, results = whole
    assert [line["step"] for line in lines] == list(range(2, 31, 2))
    assert lines[-1]["loss"] < lines[0]["loss"] - 0.5
    assert results["valid_perplexity"] < 257
    assert results["tokens"] == 30 * 8 * 16
    assert results["curve"]["step"] == [line["step"] for line in lines]
    assert results["curve"]["loss"] == [line["loss"] for line in lines]


def test_killed_and_resumed_gives_the_same_numbers(begin, read, tmp_path, snapshot, whole):
    """SIGKILL between checkpoints; bit for bit. A damaged checkpoint is named and stays."""
    folder = tmp_path / "run"
    fields = ["--checkpoint-steps", 8]
    process = begin("run", *fields)
    log = folder / "metrics.jsonl"
    wait_for(lambda: log.exists() and log.read_text().count("\n") >= 6, process)
    process.kill()
    process.communicate()
    assert (folder / "checkpoints" / "transformer" / "00000008").is_dir()
    newest = max((folder / "checkpoints" / "transformer").iterdir())
    damaged = max(newest.rglob("*"), key=lambda path: path.is_file() and path.stat().st_size)
    content = damaged.read_bytes()
    damaged.write_bytes(content[: len(content) // 2])
    before = snapshot(folder / "checkpoints")
    process = begin("run", *fields, "--resume")
    _, err = process.communicate(timeout=200)
    assert process.returncode == 2, err
    assert f"checkpoint {newest} cannot be read" in err
    assert snapshot(folder / "checkpoints") == before
    damaged.write_bytes(content)
    ended(begin("run", *fields, "--resume"))
    assert numbers(read, folder) == whole


def test_two_processes_give_the_numbers_of_one(begin, read, tmp_path, whole):
    """Parameters lie in halves on two processes, each of which reads half of every batch."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    processes = [
        begin(
            "two",
            *("--fsdp", 2),
            JAX_COORDINATOR_ADDRESS=f"localhost:{port}",
            JAX_NUM_PROCESSES="2",
            JAX_PROCESS_ID=str(index),
        )
        for index in range(2)
    ]
    for process in processes:
        ended(process)
    lines, results = numbers(read, tmp_path / "two")
    assert read(tmp_path / "two" / "result.json")["device"]["count"] == 2
    for found, expected in zip(lines, whole[0], strict=True):
        assert found.keys() == expected.keys()
        for name in found.keys() - {"phase"}:
            np.testing.assert_allclose(found[name], expected[name], rtol=2e-5, err_msg=name)
    for name in ("train_perplexity", "valid_perplexity", "valid_bits_per_byte"):
        np.testing.assert_allclose(results[name], whole[1][name], rtol=2e-5)


def test_bad_texts_end_the_run_with_a_message(command, tmp_path, monkeypatch):
    """A token file that is cut off, one of another vocabulary, a text that is not there."""
    monkeypatch.setenv(CACHE, str(tmp_path))
    monkeypatch.delenv("STRUCTLAYERS_DATA", raising=False)
    path = tmp_path / "synthetic-valid-bytes.tokens"

    def run(name, *fields):
        code, _, err = command("run", *FIELDS, "--data", 1, *fields, "--workdir", tmp_path / name)
        assert code == 2
        return err

    path.write_bytes(b"SLTOKENS")
    assert f"{path} is no whole token file" in run("cut")
    assert path.read_bytes() == b"SLTOKENS"
    other = write_token_file(tmp_path / "other.tokens", "text", WideTokenizer()).path.read_bytes()
    path.write_bytes(other)
    assert f"{path} is of another tokenizer" in run("other")
    assert path.read_bytes() == other
    path.unlink()
    assert "STRUCTLAYERS_DATA is not set; put valid.txt" in run("no", "--other-texts", "wikitext")
    assert "batch must be a multiple of accumulation times mesh.data times mesh.fsdp, 6; got 8" in (
        run("mesh", "--fsdp", 3)
    )
    assert "context must be a multiple of mesh.sequence = 3" in run("run", "--sequence", 3)
    assert "mesh.sequence must be 1 for transformer: only models of gla" in (
        run("transformer", "--sequence", 2)
    )


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"variants": ()}, "variants must name at least one"),
        ({"variants": ("mamba",)}, r"variants must be among gla, .*; got 'mamba'"),
        ({"tokenizer": "t5"}, "tokenizer must be one of bytes, gpt2; got 't5'"),
        ({"batch": 6, "accumulation": 4}, "batch must be a multiple of accumulation = 4, got 6"),
        ({"steps": 0}, "steps must be at least 1, got 0"),
        ({"warmup": 260}, "warmup must be less than steps = 260, got 260"),
        ({"test_contexts": (0,)}, r"test_contexts must be at least 1, got \(0,\)"),
    ],
)
def test_bad_fields_are_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        LanguageModelRun(**fields)


def test_goals_are_the_papers_order():
    config: Any = load(CONFIG).config
    goals = {goal.metric: goal for goal in config.goals()}
    assert {f"{name}/perplexity_over_gla" for name in paper.TRAIN_PERPLEXITY} - set(goals) == {
        "gla/perplexity_over_gla"
    }
    assert goals["one_head/perplexity_over_gla"].direction == "<="
    assert goals["no_gate/perplexity_over_gla"].paper == pytest.approx(23.21 / 14.77)
    assert config.smoke().goals() == ()
    assert set(config.variants) < set(VARIANTS)
    longer = load(CONFIGS / "gla" / "length_extrapolation.py").config
    assert [goal.metric for goal in longer.goals()] == ["gla/perplexity_20480_over_2048"]
