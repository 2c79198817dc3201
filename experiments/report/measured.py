"""Rows that other commands measured: results/<family>/bench/*.json and tpu/*.json.

Each file is a list of flat rows (or {"rows": [...], ...}); the rows' own keys are the columns.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from experiments.errors import CommandError
from experiments.report.entries import device_text
from experiments.runner.json_files import read_json
from experiments.runner.result import format_number

KINDS = {"bench": "Benchmarks", "tpu": "TPU compile gate"}
HIDDEN = ("versions", "commit", "date", "command", "family")


@dataclass(frozen=True)
class Measured:
    """The rows of one file.

    Attributes:
        family: folder.
        kind: "bench" or "tpu".
        name: file name without ".json".
        rows: as stored.
    """

    family: str
    kind: str
    name: str
    rows: tuple[dict[str, Any], ...]

    @property
    def title(self) -> str:
        """Heading of its table."""
        return f"{KINDS[self.kind]}: {self.family}/{self.name}"

    def columns(self) -> list[str]:
        """Keys of the rows that fit a table, in the order they first appear."""
        seen: dict[str, None] = {}
        for row in self.rows:
            for key, value in _flat(row).items():
                if key.split(".")[0] not in HIDDEN and value not in (None, ""):
                    seen.setdefault(key)
        return list(seen)

    def cells(self, columns: list[str]) -> list[list[str]]:
        """Table of texts, one line a row."""
        flat = [_flat(row) for row in self.rows]
        return [[_cell(row.get(column)) for column in columns] for row in flat]


def read_measured(root: Path) -> list[Measured]:
    """All stored rows of `bench` and `tpu`.

    Args:
        root: experiments/results; need not exist.

    Raises:
        CommandError: a file is damaged or holds no list of rows.
    """
    found = []
    for kind in KINDS:
        for path in sorted(root.glob(f"*/{kind}/*.json")):
            content = read_json(path, "a list of rows")
            rows = content.get("rows") if isinstance(content, Mapping) else content
            if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
                raise CommandError(f"{path} holds no list of rows; expected JSON objects in a list")
            found.append(Measured(path.parent.parent.name, kind, path.stem, tuple(rows)))
    return sorted(found, key=lambda item: (item.family, item.kind, item.name))


def _flat(row: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in row.items():
        if key == "device":
            flat[prefix + key] = device_text(value)
        elif isinstance(value, Mapping):
            flat |= _flat(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = value
    return flat


def _cell(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int | float):
        return format_number(value)
    if isinstance(value, list):
        return ", ".join(map(str, value))
    return "-" if value is None else " ".join(str(value).split())
