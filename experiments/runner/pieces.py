"""Runs of parts of a config, and the result that they make together."""

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from experiments.errors import CommandError
from experiments.experiment import Config, Experiment
from experiments.runner.json_files import read_json
from experiments.runner.result import make_record
from experiments.runner.work_folder import RunIdentity, differing_fields


@dataclass(frozen=True)
class Piece:
    """Finished phases of one run.

    Attributes:
        path: a stored result or a work folder.
        about: config file, preset, variant, changed fields.
        fields: of its config.
        phases: name to {"results", "steps", "seconds"}.
        source: "device", "versions", "commit", "starts", "command", "date".
        seconds: wall seconds of the run.
    """

    path: Path
    about: dict[str, Any]
    fields: dict[str, Any]
    phases: dict[str, dict[str, Any]]
    source: dict[str, Any]
    seconds: float


def read_piece(path: Path) -> Piece:
    """A piece out of a stored result, or out of a work folder, whose run may have been stopped.

    Raises:
        CommandError: it is neither.
    """
    if path.is_dir():
        return _of_folder(path)
    record = read_json(path, "a stored result")
    if not isinstance(record, dict) or "phases" not in record:
        raise CommandError(f"{path} is no stored result; it has no phases")
    return Piece(
        path,
        {key: record.get(key) for key in ("family", "experiment", "preset", "overrides")},
        record["config"],
        record["phases"],
        {key: record[key] for key in ("device", "versions", "commit", "starts", "command", "date")},
        record["seconds"]["total"],
    )


def _of_folder(path: Path) -> Piece:
    about = read_json(path / "config.json", "the config of a run")
    progress = read_json(path / "progress.json", "the record of finished phases")
    last = progress["segments"][-1]
    changes = about.get("overrides") or {}
    words = [word for name, value in changes.items() for word in _option(name, value)]
    command = ["python", "-m", "experiments", "run", about["config_file"], *words]
    return Piece(
        path,
        about,
        about["fields"],
        progress["finished"],
        {
            **{key: last[key] for key in ("device", "versions", "commit", "date")},
            "starts": len(progress["segments"]),
            "command": shlex.join(command),
        },
        progress["seconds"],
    )


def _option(name: str, value: Any) -> list[str]:
    values = value if isinstance(value, list) else [value]
    return [f"--{name.replace('_', '-')}", *map(str, values)]


def join(
    config: Config, experiment: Experiment, about: Mapping[str, Any], pieces: Sequence[Piece]
) -> dict[str, Any]:
    """The result of a config whose phases were run in pieces.

    Args:
        config: the whole. A piece has the same fields, but of a list it may have fewer or more, as
            lists choose what is run.
        experiment: what the config builds.
        about: config file, preset, variant, changed fields.
        pieces: of one device and with the same versions; together they hold every phase once.

    Returns:
        as of one run, with all commits and the latest date; "pieces" says which phases are whose.

    Raises:
        CommandError: a piece is of another experiment, device or other versions, a smoke run, or
            has other fields; a phase is in two of them, in none, or not of the config.
    """
    fields = RunIdentity.of(config).fields
    names = {phase.name for phase in experiment.phases()}
    for piece in pieces:
        _check(piece, pieces[0], about, fields)
        if foreign := sorted(piece.phases.keys() - names):
            raise CommandError(f"{piece.path} has phases that are not wanted: {', '.join(foreign)}")
    finished: dict[str, dict[str, Any]] = {}
    origin: dict[str, Path] = {}
    for phase in experiment.phases():
        holders = [piece for piece in pieces if phase.name in piece.phases]
        if len(holders) != 1:
            names = ", ".join(str(piece.path) for piece in holders) or "no piece"
            raise CommandError(f"phase {phase.name} is in {names}; expected it in one")
        finished[phase.name] = holders[0].phases[phase.name]
        origin[phase.name] = holders[0].path
    latest = max(pieces, key=lambda piece: piece.source["date"])
    record = make_record(
        config,
        experiment,
        finished,
        about,
        fields=fields,
        total_seconds=sum(piece.seconds for piece in pieces),
        source={
            **{key: latest.source[key] for key in ("device", "versions", "date")},
            "commit": " + ".join(dict.fromkeys(piece.source["commit"] for piece in pieces)),
            "starts": sum(piece.source["starts"] for piece in pieces),
            "command": " && ".join(piece.source["command"] for piece in pieces),
        },
    )
    record["pieces"] = [
        {
            "phases": [name for name, path in origin.items() if path == piece.path],
            **{key: piece.source[key] for key in ("command", "commit", "date")},
        }
        for piece in pieces
    ]
    return record


def _check(piece: Piece, first: Piece, about: Mapping[str, Any], fields: Mapping[str, Any]) -> None:
    for key in ("family", "experiment"):
        if piece.about[key] != about[key]:
            raise CommandError(
                f"{piece.path} is of {key} {piece.about[key]!r}; expected {about[key]!r}"
            )
    if piece.about["preset"] != "full":
        raise CommandError(f"{piece.path} is a {piece.about['preset']} run; expected a full one")
    for key in ("device", "versions"):
        found, wanted = piece.source[key], first.source[key]
        if found != wanted:
            texts = "; ".join(differing_fields(found, wanted, key))
            raise CommandError(f"{piece.path} and {first.path} differ: {texts}")
    chosen = {
        name: fields[name] if _chooses(value, fields.get(name)) else value
        for name, value in piece.fields.items()
    }
    # a field that the run did not have yet is no change, as in the report
    differing = differing_fields(chosen, {name: fields.get(name) for name in chosen})
    if differing:
        raise CommandError(f"{piece.path} has other fields: {'; '.join(differing)}")


def _chooses(one: Any, other: Any) -> bool:
    """Whether both are lists, one of them with some of the other's entries."""
    if not (isinstance(one, list) and isinstance(other, list)):
        return False
    return all(entry in other for entry in one) or all(entry in one for entry in other)
