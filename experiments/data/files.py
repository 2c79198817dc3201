"""Files of public data sets: where they lie, and whether they are the ones expected."""

import gzip
import hashlib
import lzma
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from experiments.errors import CommandError

VARIABLE = "STRUCTLAYERS_DATA"
CACHE = "STRUCTLAYERS_CACHE"

_READERS: dict[str, Callable[[bytes], bytes]] = {
    "": bytes,
    ".gz": gzip.decompress,
    ".xz": lzma.decompress,
}


def cache_folder() -> Path:
    """Of files that can be made again: $STRUCTLAYERS_CACHE, or ~/.cache/structlayers."""
    return Path(os.environ.get(CACHE) or Path.home() / ".cache" / "structlayers")


class DataError(CommandError):
    """A data file that is missing or is another one; the message says where it comes from."""


@dataclass(frozen=True)
class DataFile:
    """One file of a public data set.

    Attributes:
        folder: folder of the data set under $STRUCTLAYERS_DATA.
        name: name of the file; it may also lie there compressed, as name.gz or name.xz.
        sha256: of the file itself, not compressed.
        source: where it is published.
    """

    folder: str
    name: str
    sha256: str
    source: str

    def find(self) -> Path | None:
        """The file, as it is or compressed (.gz, .xz); None where it is not there."""
        root = os.environ.get(VARIABLE)
        if not root:
            return None
        paths = [Path(root) / self.folder / f"{self.name}{ending}" for ending in _READERS]
        return next((path for path in paths if path.is_file()), None)

    def read(self) -> bytes:
        """Its content, not compressed.

        Raises:
            DataError: it is missing, cannot be decompressed, or is another file.
        """
        path = self.find()
        if path is None:
            raise DataError(self._missing())
        decompress = _READERS[path.name.removeprefix(self.name)]
        try:
            content = decompress(path.read_bytes())
        except (OSError, EOFError, lzma.LZMAError) as error:
            raise DataError(f"{path} cannot be read: {error}; {self._wanted()}") from error
        found = hashlib.sha256(content).hexdigest()
        if found != self.sha256:
            raise DataError(
                f"{path} is another file: its content has sha256 {found}, expected {self.sha256}; "
                f"{self._wanted()}"
            )
        return content

    def _missing(self) -> str:
        root = os.environ.get(VARIABLE)
        where = f"{VARIABLE} is not set" if not root else f"no {self.name} in {root}/{self.folder}"
        return f"{where}; {self._wanted()}"

    def _wanted(self) -> str:
        return (
            f"put {self.name} (or {self.name}.gz, {self.name}.xz) from {self.source} into "
            f"${VARIABLE}/{self.folder}/"
        )
