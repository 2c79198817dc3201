"""Several processes: detection, and a run of two of them on this machine."""

import signal
import socket
import time

import numpy as np
import pytest

from experiments.errors import CommandError
from experiments.runner.distributed import broadcast, largest, launch


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("localhost", 0))
        return sock.getsockname()[1]


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({}, None),
        ({"JAX_COORDINATOR_ADDRESS": "a:1"}, None),
        (
            {
                "JAX_COORDINATOR_ADDRESS": "a:1",
                "JAX_NUM_PROCESSES": "1",
                "JAX_PROCESS_ID": "0",
            },
            None,
        ),
        (
            {
                "JAX_COORDINATOR_ADDRESS": "a:1",
                "JAX_NUM_PROCESSES": "4",
                "JAX_PROCESS_ID": "3",
            },
            {"coordinator_address": "a:1", "num_processes": 4, "process_id": 3},
        ),
        ({"SLURM_STEP_NUM_TASKS": "8", "SLURM_PROCID": "2"}, {}),
        ({"SLURM_STEP_NUM_TASKS": "1", "SLURM_PROCID": "0"}, None),
        ({"SLURM_NTASKS": "8"}, None),
        ({"OMPI_COMM_WORLD_SIZE": "2"}, {}),
        ({"OMPI_COMM_WORLD_SIZE": "1"}, None),
        ({"TPU_WORKER_HOSTNAMES": "one,two"}, {}),
        ({"TPU_WORKER_HOSTNAMES": "one"}, None),
    ],
)
def test_launch(environment, expected):
    assert launch(environment) == expected


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        ({"JAX_NUM_PROCESSES": "2"}, "JAX_COORDINATOR_ADDRESS, JAX_PROCESS_ID not set"),
        (
            {"JAX_COORDINATOR_ADDRESS": "a", "JAX_NUM_PROCESSES": "2", "JAX_PROCESS_ID": "2"},
            "JAX_PROCESS_ID='2'",
        ),
        (
            {"JAX_COORDINATOR_ADDRESS": "a", "JAX_NUM_PROCESSES": "two", "JAX_PROCESS_ID": "0"},
            "JAX_NUM_PROCESSES='two'",
        ),
    ],
)
def test_bad_launch(environment, message):
    with pytest.raises(CommandError, match=message):
        launch(environment)


def test_one_process_agrees_with_itself():
    assert broadcast({"a": [1, None]}) == {"a": [1, None]}
    assert largest(3, 0) == [3, 0]


def run_two(start, *arguments):
    port = free_port()
    return [
        start(
            "run",
            *arguments,
            JAX_COORDINATOR_ADDRESS=f"localhost:{port}",
            JAX_NUM_PROCESSES="2",
            JAX_PROCESS_ID=str(index),
        )
        for index in range(2)
    ]


def test_two_processes(start, walk, read, tmp_path):
    """A signal to one stops both at the same step; resumed, they end like a single one."""
    folder = tmp_path / "two"
    fields = [walk, "--num-steps", 24, "--delay", 0.1]
    processes = run_two(start, *fields, "--workdir", folder)
    deadline = time.monotonic() + 100
    log = folder / "metrics.jsonl"
    while not (log.exists() and log.read_text().count("\n") >= 2):
        assert time.monotonic() < deadline
        assert processes[0].poll() is None, processes[0].communicate()[1]
        time.sleep(0.01)
    processes[1].send_signal(signal.SIGTERM)
    for process in processes:
        _, err = process.communicate(timeout=100)
        assert process.returncode == 128 + signal.SIGTERM, err
    assert not (folder / "result.json").exists()

    processes = run_two(start, *fields, "--workdir", folder, "--resume")
    outputs = [process.communicate(timeout=100) for process in processes]
    assert [process.returncode for process in processes] == [0, 0], outputs
    assert "distance" in outputs[0][0]
    assert "distance" not in outputs[1][0]

    alone = start("run", *fields, "--workdir", tmp_path / "one")
    _, err = alone.communicate(timeout=100)
    assert alone.returncode == 0, err
    one, two = (read(tmp_path / name / "result.json") for name in ("one", "two"))
    assert two["metrics"] == one["metrics"]
    assert two["device"]["count"] == 2 * one["device"]["count"]
    steps = [(line["phase"], line["step"]) for line in read(log)]
    assert steps == [(phase, step) for phase in ("first", "second") for step in range(4, 25, 4)]


def test_refusal_reaches_both(start, walk, tmp_path):
    folder = tmp_path / "two"
    folder.mkdir()
    (folder / "letter.txt").write_text("Dear reader")
    processes = run_two(start, walk, "--workdir", folder)
    for process in processes:
        _, err = process.communicate(timeout=100)
        assert process.returncode == 2
        assert "letter.txt" in err


def test_state_spread_over_processes(start, mesh, read, tmp_path):
    """Arrays that no process holds whole are saved by all and restored, also after SIGKILL."""
    folder = tmp_path / "two"
    fields = [mesh, "--checkpoint-steps", 2]
    processes = run_two(start, *fields, "--workdir", folder)
    deadline = time.monotonic() + 100
    while not (folder / "checkpoints" / "rows" / "00000004").exists():
        assert time.monotonic() < deadline
        assert processes[0].poll() is None, processes[0].communicate()[1]
        time.sleep(0.01)
    for process in processes:
        process.kill()
        process.communicate()
    processes = run_two(start, *fields, "--workdir", folder, "--resume")
    outputs = [process.communicate(timeout=100) for process in processes]
    assert [process.returncode for process in processes] == [0, 0], outputs
    assert "from step" in outputs[0][0]

    whole = np.arange(12, dtype=np.float32).reshape(4, 3)
    sums = []
    for _ in range(21):
        whole = np.float32(0.9) * whole + np.flip(whole, 0)
        sums.append(float(whole.sum()))
    lines = read(folder / "metrics.jsonl")
    assert [line["step"] for line in lines] == list(range(1, 21))
    np.testing.assert_allclose([line["sum"] for line in lines], sums[:20], rtol=1e-5)
    result = read(folder / "result.json")["metrics"]["sum"]
    np.testing.assert_allclose(result, sums[20], rtol=1e-5)
