"""Driving the compiler from a process that does not load it.

libtpu reads its flags once, may abort the process it lives in, and disturbs one that runs tests on
virtual CPU devices: it gets a process of its own, which is started again if it dies.
"""

import base64
import contextlib
import dataclasses
import importlib.util
import os
import pickle
import platform
import queue
import re
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Mapping, Sequence
from json import loads
from pathlib import Path
from typing import Any

import jax

from structlayers.testing.tpu.dumps import dump_flags
from structlayers.testing.tpu.rows import GateRow
from structlayers.testing.tpu.targets import ALL, Target, find_targets

_START_SECONDS = 120.0
_FATAL = re.compile(r"^F\d{4} \S+ +\d+ \S+\] (.*)", re.MULTILINE)
_DROPPED = ("JAX_", "XLA_", "TPU_", "LIBTPU_", "PJRT_")


class TpuCompilerUnavailableError(RuntimeError):
    """libtpu is missing or cannot be used; the message says which."""


def missing_compiler() -> str | None:
    """Why there is no TPU compiler on this machine; None if libtpu is installed.

    It looks for the package only: a compiler that is there but does not start is reported by
    `TpuCompiler`.
    """
    if importlib.util.find_spec("libtpu") is not None:
        return None
    where = f"{platform.system()} {platform.machine()}"
    return f"libtpu is not installed (pip install libtpu; Linux x86_64 only, this is {where})"


def skip_without_compiler() -> None:
    """In a test: skips it on a machine without libtpu.

    With STRUCTLAYERS_REQUIRE_TPU_GATE=1 in the environment it fails the test instead.
    """
    import pytest

    if reason := missing_compiler():
        if os.environ.get("STRUCTLAYERS_REQUIRE_TPU_GATE") == "1":
            pytest.fail(f"STRUCTLAYERS_REQUIRE_TPU_GATE=1, but {reason}", pytrace=False)
        pytest.skip(f"TPU compile gate: {reason}")


class TpuCompiler:
    """A process that compiles for TPUs without one, for many functions.

    Args:
        timeout: seconds that one compilation may take before the process is ended.
        simulate: also have the compiler simulate each kernel, on all targets but v4, where it
            cannot. Slow: a long grid takes minutes.

    Raises:
        TpuCompilerUnavailableError: libtpu is missing or does not start.
        ValueError: `timeout` is not positive.

    Example:
        >>> import jax
        >>> x = jax.ShapeDtypeStruct((8, 128), "float32")
        >>> with TpuCompiler() as compiler:  # doctest: +SKIP
        ...     [row.compiled for row in compiler.compile("jax.numpy:sin", x, targets=["v5e"])]
        [True]
    """

    def __init__(self, *, timeout: float = 300.0, simulate: bool = False) -> None:
        if timeout <= 0:
            raise ValueError(f"timeout must be > 0 seconds, got {timeout}")
        if reason := missing_compiler():
            raise TpuCompilerUnavailableError(reason)
        self._timeout = timeout
        self._simulate = simulate
        self._simulating = False
        self._process: subprocess.Popen[str] | None = None
        self._lines: queue.Queue[str | None] = queue.Queue()
        self._reader: threading.Thread | None = None
        self._folder = tempfile.TemporaryDirectory(prefix="tpu-gate-")
        self.versions: Mapping[str, str] = {}
        try:
            self._start(simulate=simulate)
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> "TpuCompiler":
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def compile(
        self,
        function: Callable[..., Any] | str,
        *args: Any,
        targets: Sequence[str] = ALL,
        **static: Any,
    ) -> list[GateRow]:
        """Compiles ``function(*args, **static)`` for one device of each target.

        Args:
            function: "module:attribute", "file.py:attribute", or a function that can be imported
                under its own name.
            *args: pytrees of arrays or `jax.ShapeDtypeStruct`; only shapes and dtypes are used.
            targets: names of generations.
            **static: keyword arguments; they must survive pickling.

        Returns:
            A row per target, in order. Failure to compile, a crash of the compiler and a timeout
            are rows with an `error`.

        Raises:
            ValueError: unknown target, or a function that cannot be imported by name.
            ImportError: the process of the compiler cannot import the function.
            TypeError: an argument is not an array, or cannot be pickled.
        """
        chosen = find_targets(targets)
        path = function if isinstance(function, str) else import_path(function)
        shapes = jax.tree.map(_shape, args)
        return [self._compile(path, shapes, static, target) for target in chosen]

    def close(self) -> None:
        """Ends the process and removes its files."""
        self._stop()
        self._folder.cleanup()

    def _compile(self, path: str, args: Any, static: Mapping[str, Any], target: Target) -> GateRow:
        try:
            request = pickle.dumps((path, args, dict(static), target.name))
        except Exception as error:
            raise TypeError(f"arguments of {path} cannot be pickled: {error}") from error
        simulate = self._simulate and target.has_simulation
        if self._process is None or self._simulating != simulate:
            self._stop()
            self._start(simulate=simulate)
        try:
            line = self._ask(base64.b64encode(request).decode())
        except queue.Empty:
            self._stop()
            error = f"no answer from the compiler in {self._timeout:g} s"
            return GateRow(target.name, compiled=False, error=error)
        except BaseException:
            # The answer to a request that was broken off must not be taken for the next one's.
            self._stop()
            raise
        if line is None:
            code = self._process.wait() if self._process else None
            self._stop()
            error = f"the compiler crashed (exit code {code}): {self._last_words()}"
            return GateRow(target.name, compiled=False, error=error)
        answer = loads(line)
        if "refused" in answer:
            raise ImportError(f"cannot load {path}: {answer['refused']}")
        row = GateRow.from_json(answer["row"])
        if self._simulate and not simulate:
            notes = (*row.notes, f"the compiler cannot simulate {target.name}")
            row = dataclasses.replace(row, notes=notes)
        return row

    def _ask(self, request: str) -> str | None:
        """The answer to a request; None if the process died."""
        assert self._process is not None
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(request + "\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            return None
        return self._lines.get(timeout=self._timeout)

    def _start(self, *, simulate: bool) -> None:
        self._simulating = simulate
        folder = Path(self._folder.name)
        dumps = folder / "dumps"
        dumps.mkdir(exist_ok=True)
        command = [sys.executable, "-m", "structlayers.testing.tpu.worker", str(dumps)]
        with (folder / "stderr").open("w") as stderr:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=stderr,
                text=True,
                env=worker_environment(dump_flags(dumps, simulate=simulate)),
            )
        self._lines = queue.Queue()
        self._reader = threading.Thread(
            target=_read_lines, args=(self._process, self._lines), daemon=True
        )
        self._reader.start()
        try:
            line = self._lines.get(timeout=_START_SECONDS)
        except queue.Empty:
            line = None
        answer = {} if line is None else loads(line)
        if "ready" not in answer:
            self._stop()
            reason = answer.get("unavailable") or f"it did not start: {self._last_words()}"
            raise TpuCompilerUnavailableError(f"no TPU compiler: {reason}")
        self.versions = answer["ready"]

    def _stop(self) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        process.kill()
        process.wait()
        if self._reader is not None:
            self._reader.join()
        for pipe in (process.stdin, process.stdout):
            # A request that was never read is still in the buffer.
            with contextlib.suppress(BrokenPipeError):
                if pipe is not None:
                    pipe.close()

    def _last_words(self) -> str:
        text = (Path(self._folder.name) / "stderr").read_text(errors="replace")
        words = _FATAL.findall(text)[:1] or text.splitlines()[-5:]
        return " ".join(" ".join(words).split())[:700] or "it said nothing"


def compile_for_tpu(
    function: Callable[..., Any] | str,
    *args: Any,
    targets: Sequence[str] = ALL,
    **static: Any,
) -> list[GateRow]:
    """Compiles ``function(*args, **static)`` for TPUs in a process of its own, once.

    For several functions open one `TpuCompiler`; its `compile` has the same arguments.

    Args:
        function: "module:attribute", "file.py:attribute", or an importable function.
        *args: pytrees of arrays or `jax.ShapeDtypeStruct`.
        targets: names of generations: "v4", "v5e", "v5p", "v6e", "TPU7x".
        **static: keyword arguments of the function.

    Returns:
        A row per target.

    Raises:
        TpuCompilerUnavailableError: libtpu is missing or does not start.
        ValueError: unknown target, or a function that cannot be imported by name.
        ImportError: the process of the compiler cannot import the function.
        TypeError: an argument is not an array, or cannot be pickled.

    Example:
        >>> import jax
        >>> x = jax.ShapeDtypeStruct((1024, 1024), "bfloat16")
        >>> [row] = compile_for_tpu("jax.numpy:dot", x, x, targets=["v6e"])  # doctest: +SKIP
        >>> row.compiled  # doctest: +SKIP
        True
    """
    with TpuCompiler() as compiler:
        return compiler.compile(function, *args, targets=targets, **static)


def import_path(function: Callable[..., Any]) -> str:
    """The "module:attribute" under which another process finds the same function.

    Raises:
        ValueError: there is none, as for a lambda, a local function or one of `__main__`.

    Example:
        >>> import json
        >>> import_path(json.dumps)
        'json:dumps'
    """
    module = getattr(function, "__module__", None)
    name = getattr(function, "__qualname__", None)
    found: Any = sys.modules.get(module or "")
    for attribute in (name or "").split("."):
        found = getattr(found, attribute, None)
    if module == "__main__" or found is not function:
        raise ValueError(
            f"function must be importable by name in another process, got {function!r}: move it to "
            "the top of a module, or pass 'module:attribute' or 'file.py:attribute'"
        )
    return f"{module}:{name}"


def worker_environment(flags: str) -> dict[str, str]:
    """The environment of the compiler's process: this one without settings of JAX and XLA."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith(_DROPPED)}
    return kept | {
        "JAX_PLATFORMS": "cpu",
        "LIBTPU_INIT_ARGS": flags,
        # There is no TPU here to hold a lock for, nor a machine to describe.
        "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
        "TPU_SKIP_MDS_QUERY": "1",
        "PYTHONPATH": os.pathsep.join(path or os.getcwd() for path in sys.path),
    }


def _shape(leaf: Any) -> jax.ShapeDtypeStruct:
    if not (hasattr(leaf, "shape") and hasattr(leaf, "dtype")):
        raise TypeError(
            f"arguments must be arrays or jax.ShapeDtypeStruct, got {leaf!r}; "
            "pass other values as keyword arguments"
        )
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype)


def _read_lines(process: subprocess.Popen[str], lines: queue.Queue[str | None]) -> None:
    assert process.stdout is not None
    for line in process.stdout:
        lines.put(line)
    lines.put(None)
