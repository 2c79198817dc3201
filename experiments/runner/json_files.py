"""JSON for configs, metrics and results: encoding of Python and array values, atomic files.

Standard JSON has no NaN and no infinity: they are written as the strings "NaN", "Infinity" and
"-Infinity", which `float()` (and `number`) reads back.
"""

import dataclasses
import enum
import json
import math
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from experiments.errors import CommandError


def to_json(value: Any) -> Any:
    """Value made of what the json module writes; Python's own NaN and infinity are kept.

    Args:
        value: dataclass, mapping, sequence, set, path, enum, numpy or jax array or scalar, dtype,
            or a plain JSON value, nested at will.

    Returns:
        dicts with string keys, lists, strings, numbers, booleans and None.

    Raises:
        TypeError: for anything else.

    Example:
        >>> to_json({"shape": (2, np.int32(3)), 1: np.float64(0.5)})
        {'shape': [2, 3], '1': 0.5}
    """
    match value:
        case enum.Enum():
            return value.name
        case None | bool() | str() | int():
            return value
        case float():
            return float(value)  # np.float64 is a float too
        case np.dtype():
            return value.name
        case os.PathLike():
            return os.fspath(value)
        case Mapping():
            return {str(key): to_json(item) for key, item in value.items()}
        case list() | tuple():
            return [to_json(item) for item in value]
        case set() | frozenset():
            return sorted(to_json(item) for item in value)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {
            field.name: to_json(getattr(value, field.name)) for field in dataclasses.fields(value)
        }
    if isinstance(value, type):
        return value.__name__
    if hasattr(value, "__array__"):
        array = np.asarray(value)
        if array.dtype.kind == "c":
            raise TypeError("complex numbers have no JSON form; store real and imaginary part")
        if array.dtype.kind not in "biufSU":  # bfloat16, float8 and int4 are kinds of their own
            array = array.astype(np.float64)
        return array.tolist()
    raise TypeError(f"{type(value).__name__} has no JSON form: {value!r}")


def strict(value: Any) -> Any:
    """The same JSON value with NaN and infinities as strings.

    Example:
        >>> strict([1.0, float("nan"), float("-inf")])
        [1.0, 'NaN', '-Infinity']
    """
    match value:
        case float() if not math.isfinite(value):
            return "NaN" if math.isnan(value) else ("Infinity" if value > 0 else "-Infinity")
        case dict():
            return {key: strict(item) for key, item in value.items()}
        case list():
            return [strict(item) for item in value]
    return value


def number(value: Any) -> float | int | None:
    """Number out of strict JSON: "NaN" and the infinities become floats, other types None.

    Example:
        >>> number("-Infinity"), number(3), number("text")
        (-inf, 3, None)
    """
    if isinstance(value, str):
        return float(value) if value in ("NaN", "Infinity", "-Infinity") else None
    return value if isinstance(value, int | float) else None


def write_text(path: Path, text: str) -> None:
    """Writes a whole file or nothing: a temporary file beside it, fsync, rename."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        umask = os.umask(0)
        os.umask(umask)
        os.chmod(name, 0o666 & ~umask)  # mkstemp makes private files
        os.replace(name, path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def write_json(path: Path, value: Any, *, allow_nan: bool = False) -> None:
    """Writes an indented JSON file atomically.

    Args:
        path: file to write or replace.
        value: anything `to_json` takes.
        allow_nan: keep Python's NaN tokens (files that only this package reads).
    """
    encoded = to_json(value) if allow_nan else strict(to_json(value))
    write_text(path, json.dumps(encoded, indent=1, allow_nan=allow_nan) + "\n")


def read_json(path: Path, expected: str) -> Any:
    """Reads a JSON file.

    Args:
        path: the file.
        expected: what it should be, for the message.

    Raises:
        CommandError: it cannot be read or is no JSON; the message names path and place.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise CommandError(
            f"{path} is not valid JSON ({error}); expected {expected}. Nothing was changed"
        ) from error
    except OSError as error:
        raise CommandError(f"cannot read {path}: {error.strerror}; expected {expected}") from error
