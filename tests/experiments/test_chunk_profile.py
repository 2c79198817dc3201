"""`run --profile`: which chunk is traced, and the table of a made-up trace."""

import re

import pytest
from jax.profiler import ProfileData

from experiments.device_trace import device_kernels
from experiments.runner.chunk_profile import ChunkProfile, kernel_table
from tests.experiments.test_bench_profiler import SPACE


def test_kernels_that_overlap_are_busy_once():
    kernels = [(0, 4000, "a"), (1000, 1000, "b"), (3000, 3000, "a"), (10_000, 2000, "c")]
    lines = kernel_table(kernels)
    assert lines[0] == "4 kernels, busy 0.008 of 0.012 ms, median gap 0.0 us"
    assert [line.split()[-1] for line in lines[1:]] == ["a", "c", "b"]
    assert lines[1].split()[:4] == ["87.5%", "0.007", "ms", "2"]


def test_kernels_of_a_trace_have_names():
    kernels = device_kernels(ProfileData.from_text_proto(SPACE))
    assert [(duration, name) for _, duration, name in kernels] == [
        (1000, "gemm"),
        (2000, "gemm"),
        (3000, "gemm"),
        (4000, "gemm"),
    ]


def test_the_second_chunk_is_traced(command, walk, tmp_path):
    folder = tmp_path / "run"
    arguments = ("run", walk, "--workdir", folder, "--profile")
    code, out, err = command(*arguments)
    assert code == 0
    found = re.findall(r"profile of (\w+): (\S+) \(no kernels of a GPU in it\)", out + err)
    assert [path for _, path in found] == [str(folder / "profile" / name) for name, _ in found]
    assert len(found) == 2
    for _, path in found:
        assert len(list((tmp_path / path).rglob("*.xplane.pb"))) == 1
    code, out, err = command(*arguments, "--resume")
    assert code == 0
    assert "already finished" in out + err


@pytest.mark.parametrize("chunks", [1, 3])
def test_other_chunks_are_not(chunks, tmp_path):
    notes = []

    class Display:
        def note(self, text):
            notes.append(text)

    # all of a display that a profile calls
    profile = ChunkProfile(tmp_path, Display())  # pyrefly: ignore
    profile.start()
    for _ in range(chunks):
        with profile.chunk("walk") as results:
            results.append(1.0)
    assert len(notes) == len(list(tmp_path.iterdir())) == min(chunks - 1, 1)
