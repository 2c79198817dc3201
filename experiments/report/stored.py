"""Stored results: experiments/results/<family>/<experiment>[@variant].json.

Several files may hold results of one experiment, e.g. a part of its metrics measured on another
device. A metric is taken from the file without a variant if that has it, else from the variant
with the latest date. Smoke runs are kept under a variant but never count.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from experiments.errors import CommandError
from experiments.runner.json_files import read_json
from experiments.runner.result import lookup

KEYS = ("family", "experiment", "metrics", "date")


@dataclass(frozen=True)
class Stored:
    """The stored results of one experiment, the one to ask first in front.

    Attributes:
        family: folder.
        experiment: file name up to "@".
        records: contents of the files.
    """

    family: str
    experiment: str
    records: tuple[dict[str, Any], ...] = field(default=())

    def find(self, metric: str) -> tuple[float | int | None, dict[str, Any] | None]:
        """Value of a metric and the record that it comes from; (None, None) if there is none."""
        for record in self.records:
            value = lookup(record, metric)
            if value is not None:
                return value, record
        return None, None


def read_stored(root: Path) -> dict[tuple[str, str], Stored]:
    """All stored results by (family, experiment).

    Args:
        root: experiments/results; need not exist.

    Raises:
        CommandError: a file is damaged or is no result.
    """
    groups: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for path in sorted(root.glob("*/*.json")):
        record = read_json(path, "a stored result")
        missing = [key for key in KEYS if not isinstance(record, dict) or key not in record]
        if missing:
            raise CommandError(f"{path} lacks {', '.join(missing)}; expected a stored result")
        experiment = path.stem.partition("@")[0]
        groups.setdefault((path.parent.name, experiment), []).append(record)
    return {key: Stored(*key, records=_ordered(records)) for key, records in groups.items()}


def _ordered(records: Iterable[dict[str, Any]]) -> tuple[dict[str, Any], ...]:
    counted = [record for record in records if record.get("preset") != "smoke"]
    latest_first = sorted(counted, key=lambda record: record["date"], reverse=True)
    return tuple(sorted(latest_first, key=lambda record: record.get("variant") is not None))
