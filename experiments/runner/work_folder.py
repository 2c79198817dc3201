"""A run's work folder: what may be in it, who may write to it, how far the run has come.

config.json     the config, with its fingerprint; written first
progress.json   results of finished phases, and one entry for each start of the run
metrics.jsonl   one line per call of `advance`
checkpoints/    <phase>/<step>/, Orbax
result.json     numbers and verdict; its presence means: finished
plot.png        picture, where the experiment draws one
lock            held by the process that runs

Files are replaced atomically; a folder that does not look like this is refused untouched.
"""

import fcntl
import hashlib
import json
import os
import shlex
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TextIO

from experiments.errors import CommandError
from experiments.runner.json_files import number, read_json, to_json, write_json

MAX_SHOWN = 5


@dataclass(frozen=True)
class RunIdentity:
    """What a run computes; two runs with the same identity give the same numbers.

    Attributes:
        family: of the config.
        experiment: of the config.
        fields: all fields of the config, as JSON.
    """

    family: str
    experiment: str
    fields: dict[str, Any]

    @classmethod
    def of(cls, config: Any) -> "RunIdentity":
        """Identity of a config dataclass."""
        fields = json.loads(json.dumps(to_json(config)))
        return cls(config.family, config.experiment, fields)

    @property
    def fingerprint(self) -> str:
        """Short hash of family, experiment and fields."""
        text = json.dumps([self.family, self.experiment, self.fields], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]


@dataclass
class WorkFolder:
    """An open work folder; `open_folder` makes it.

    Attributes:
        path: the folder.
        identity: the run it belongs to.
        finished: name to {"results", "steps", "seconds"} of the finished phases.
        segments: one entry for each start of the run: date, device, versions, commit.
        seconds: wall seconds of all starts, as far as recorded.
    """

    path: Path
    identity: RunIdentity
    finished: dict[str, dict[str, Any]] = field(default_factory=dict)
    segments: list[dict[str, Any]] = field(default_factory=list)
    seconds: float = 0.0
    _lock: TextIO | None = None

    @property
    def config_path(self) -> Path:
        """config.json."""
        return self.path / "config.json"

    @property
    def progress_path(self) -> Path:
        """progress.json."""
        return self.path / "progress.json"

    @property
    def metrics_path(self) -> Path:
        """metrics.jsonl."""
        return self.path / "metrics.jsonl"

    @property
    def result_path(self) -> Path:
        """result.json."""
        return self.path / "result.json"

    @property
    def plot_path(self) -> Path:
        """plot.png."""
        return self.path / "plot.png"

    @property
    def checkpoint_path(self) -> Path:
        """checkpoints/."""
        return self.path / "checkpoints"

    def write_progress(self) -> None:
        """Records finished phases and seconds."""
        progress = {
            "fingerprint": self.identity.fingerprint,
            "seconds": self.seconds,
            "finished": self.finished,
            "segments": self.segments,
        }
        write_json(self.progress_path, progress, allow_nan=True)

    def close(self) -> None:
        """Lets another process have the folder."""
        if self._lock is not None:
            self._lock.close()
            self._lock = None


def open_folder(
    path: Path, identity: RunIdentity, about: dict[str, Any], *, resume: bool
) -> WorkFolder:
    """Opens the folder for a new or an interrupted run, or refuses and changes nothing.

    Args:
        path: the work folder; made where it does not exist.
        identity: what is to be run.
        about: more for config.json (config file, preset, changed fields).
        resume: continue what is there; an empty folder starts from the beginning.

    Returns:
        the folder, locked. A finished run is one whose `result_path` exists.

    Raises:
        CommandError: it cannot be written, another process runs in it, it holds something else,
            another config or a damaged file, or it holds this run and `resume` is False.
    """
    _check_contents(path)
    lock = _lock(path)
    try:
        folder = WorkFolder(path, identity, _lock=lock)
        if not folder.config_path.exists():
            write_json(folder.config_path, {**about, **_identity_json(identity)})
            folder.write_progress()
            return folder
        _check_config(folder)
        if folder.result_path.exists():
            read_json(folder.result_path, "the result of a finished run")
        if not resume:
            state = "a finished run" if folder.result_path.exists() else "an unfinished run"
            shows = "show its result" if folder.result_path.exists() else "continue it"
            raise CommandError(
                f"work folder {path} holds {state} of this config; add --resume to {shows}, or "
                "choose another --workdir. Nothing was changed"
            )
        _read_progress(folder)
        return folder
    except OSError as error:
        lock.close()
        raise CommandError(_unwritable(path, error)) from error
    except BaseException:
        lock.close()
        raise


def _check_contents(path: Path) -> None:
    try:
        names = {entry.name for entry in path.iterdir()} if path.exists() else set()
    except OSError as error:
        raise CommandError(_unwritable(path, error)) from error
    other = sorted(name for name in names if name != "lock" and not name.endswith(".tmp"))
    if other and "config.json" not in names:
        raise CommandError(
            f"work folder {path} has no config.json but holds {', '.join(other[:MAX_SHOWN])}; "
            "expected an empty folder or the folder of an earlier run. Nothing was changed; "
            "choose another --workdir or move these away"
        )


def _lock(path: Path) -> TextIO:
    try:
        path.mkdir(parents=True, exist_ok=True)
        lock = (path / "lock").open("a+", encoding="utf-8")
    except OSError as error:
        raise CommandError(_unwritable(path, error)) from error
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        lock.seek(0)
        holder = lock.read().strip() or "unknown"
        lock.close()
        raise CommandError(
            f"work folder {path} is in use by process {holder}; wait for it or choose another "
            "--workdir"
        ) from None
    except OSError:
        pass  # some network file systems have no locks
    lock.truncate(0)
    lock.write(str(os.getpid()))
    lock.flush()
    return lock


def _unwritable(path: Path, error: OSError) -> str:
    return (
        f"cannot use work folder {path}: {error.strerror} ({error.filename}); expected a folder "
        "that can be made and written"
    )


def _identity_json(identity: RunIdentity) -> dict[str, Any]:
    return {
        "family": identity.family,
        "experiment": identity.experiment,
        "fingerprint": identity.fingerprint,
        "fields": identity.fields,
    }


def _check_config(folder: WorkFolder) -> None:
    expected = "the config.json of a run"
    stored = read_json(folder.config_path, expected)
    keys = ("family", "experiment", "fields")
    if not isinstance(stored, dict) or not all(key in stored for key in keys):
        raise CommandError(
            f"{folder.config_path} lacks {', '.join(keys)}; expected {expected}. Nothing was "
            "changed; choose another --workdir"
        )
    mine = _identity_json(folder.identity)
    differences = [
        f"{key} is {stored[key]!r} there, {mine[key]!r} here"
        for key in ("family", "experiment")
        if stored[key] != mine[key]
    ] or differing_fields(stored["fields"], folder.identity.fields)
    if differences:
        more = len(differences) - MAX_SHOWN
        shown = "; ".join(differences[:MAX_SHOWN]) + (f"; and {more} more" if more > 0 else "")
        raise CommandError(
            f"work folder {folder.path} belongs to another config: {shown}. Nothing was changed; "
            "choose another --workdir or run with the same fields"
        )


def differing_fields(there: Any, here: Any, name: str = "") -> list[str]:
    """Differences of two JSON configs, one text each: "lr is 0.1 there, 0.2 here"."""
    if isinstance(there, dict) and isinstance(here, dict):
        found = []
        for key in [*there, *(key for key in here if key not in there)]:
            inner = f"{name}.{key}" if name else key
            if key not in here:
                found.append(f"{inner} is {there[key]!r} there, absent here")
            elif key not in there:
                found.append(f"{inner} is absent there, {here[key]!r} here")
            else:
                found += differing_fields(there[key], here[key], inner)
        return found
    return [] if there == here else [f"{name} is {there!r} there, {here!r} here"]


def _read_progress(folder: WorkFolder) -> None:
    path = folder.progress_path
    if not path.exists():
        others = [p.name for p in (folder.metrics_path, folder.checkpoint_path) if p.exists()]
        if others or folder.result_path.exists():
            raise CommandError(
                f"{path} is missing beside {', '.join(others) or 'result.json'}; expected the "
                "record of finished phases. Nothing was changed; choose another --workdir"
            )
        folder.write_progress()
        return
    stored = read_json(path, "the record of finished phases")
    try:
        fingerprint = stored["fingerprint"]
        folder.finished = dict(stored["finished"])
        folder.segments = list(stored["segments"])
        folder.seconds = float(number(stored["seconds"]) or 0.0)
    except (KeyError, TypeError, ValueError) as error:
        raise CommandError(
            f"{path} lacks {error}; expected fingerprint, finished, segments and seconds. "
            "Nothing was changed; choose another --workdir"
        ) from error
    if fingerprint != folder.identity.fingerprint:
        raise CommandError(
            f"{path} is of another config: fingerprint {fingerprint}, this run has "
            f"{folder.identity.fingerprint}. Nothing was changed; choose another --workdir"
        )


def default_path(family: str, experiment: str, variant: str | None, smoke: bool) -> Path:
    """`runs/<family>/<experiment>[@variant][-smoke]` under the current folder."""
    name = experiment + (f"@{variant}" if variant else "") + ("-smoke" if smoke else "")
    return Path("runs") / family / name


def resume_command(command: str, path: Path) -> str:
    """Command line that continues the run in `path`."""
    return f"{command} --workdir {shlex.quote(str(path))} --resume"
