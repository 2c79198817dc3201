"""Two processes that measure: one after the other."""

import subprocess
import sys
import time

from experiments.bench.turns import device_turn
from experiments.data.files import CACHE

# Says that it is there, when it has its turn, and when that ends.
OTHER = """
import time
from experiments.bench.turns import device_turn
print("there", flush=True)
with device_turn():
    print(time.time(), flush=True)
    time.sleep(0.5)
    print(time.time(), flush=True)
"""


def test_a_turn_waits_for_another_process(tmp_path, monkeypatch):
    monkeypatch.setenv(CACHE, str(tmp_path / "folder"))
    with subprocess.Popen(
        [sys.executable, "-c", OTHER], stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "there\n"
        float(other.stdout.readline())
        with device_turn():
            mine = time.time()
        assert mine >= float(other.stdout.readline())
    assert other.returncode == 0


def test_a_turn_within_a_turn(tmp_path, monkeypatch):
    monkeypatch.setenv(CACHE, str(tmp_path))
    with device_turn():
        with device_turn():
            pass
        other = subprocess.Popen([sys.executable, "-c", OTHER], stdout=subprocess.PIPE, text=True)
        assert other.stdout is not None
        assert other.stdout.readline() == "there\n"
        time.sleep(0.3)
        released = time.time()
    out, _ = other.communicate(timeout=60)
    assert float(out.split()[0]) >= released
