"""Where the text of a corpus comes from: files cut into units, or a data set read as a stream."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from convbert.data import text


class Source(Protocol):
    """Text in units that can be read one by one, in any order."""

    @property
    def separate(self) -> bool:
        """Whether documents are told apart within a file."""

    @property
    def unit(self) -> str:
        """What sizes count."""

    @property
    def sizes(self) -> list[int]:
        """The sizes of the units."""

    def describe(self) -> dict[str, Any]:
        """Return what tells this text, and its cutting, from another."""

    def lines(self, unit: int) -> Iterator[str]:
        """Yield the lines of a unit; an empty one ends a document."""


class Files:
    """Text files, laid end to end and cut into units of equal size."""

    unit = "B"

    def __init__(
        self, inputs: list[str], outside: Path, shard_bytes: int, separate: bool = True
    ) -> None:
        """Look for the files; the errors are those of `text.find_files`.

        Args:
            inputs: files and folders.
            outside: a folder whose files do not belong to the text.
            shard_bytes: size of a unit.
            separate: whether blank lines separate documents.
        """
        files = text.find_files(inputs, outside)
        self.shard_bytes, self.separate = shard_bytes, separate
        self.pieces = list(text.cut(files, shard_bytes))
        self.sizes = [sum(p.stop - p.start for p in pieces) for pieces in self.pieces]
        self._description = {
            "files": len(files),
            "bytes": sum(file.size for file in files),
            "names_and_samples_sha256": text.fingerprint(files),
            "shard_bytes": shard_bytes,
        }

    def describe(self) -> dict[str, Any]:
        """Return number, size and fingerprint of the files, and the size of a unit."""
        return self._description

    def lines(self, unit: int) -> Iterator[str]:
        """Yield the lines of a unit; an empty one ends a document."""
        for piece in self.pieces[unit]:
            yield from text.lines(*piece, separate=self.separate, reach=self.shard_bytes)


@dataclass(frozen=True)
class Dataset:
    """A data set of the `datasets` library, read as a stream; a unit is one of its files."""

    name: str  # on the hub, or a local folder with parquet, JSON, CSV or text files
    config: str
    split: str
    revision: str
    column: str
    separate: bool = True  # whether each row is a document
    unit = "file"

    @property
    def sizes(self) -> list[int]:
        """One for each file."""
        return [1] * self._open()[0].num_shards

    def _open(self) -> tuple[Any, str]:
        return _open(self.name, self.config, self.split, self.revision)

    def describe(self) -> dict[str, Any]:
        """Return the data set's names, its number of files, and what the library tells it by."""
        stream, version = self._open()
        if self.column not in (columns := list(stream.column_names or [])):
            raise ValueError(
                f"text_column={self.column!r}: {self.name} has the columns {', '.join(columns)}"
            )
        names = {key: getattr(self, key) for key in ("name", "config", "split", "revision")}
        return {**names, "column": self.column, "files": stream.num_shards, "version": version}

    def lines(self, unit: int) -> Iterator[str]:
        """Yield the lines of a file's rows; where rows are documents, an empty one after each."""
        stream = self._open()[0]
        rows = stream.shard(num_shards=stream.num_shards, index=unit)
        for number, row in enumerate(rows.select_columns([self.column])):
            content = row[self.column]
            if not isinstance(content, str):
                where = f"{self.name}, file {unit}, row {number}"
                raise ValueError(f"{where}: {self.column} is {content!r}, not text")
            yield from filter(None, map(str.strip, content.splitlines()))
            if self.separate:
                yield ""
        yield ""


@functools.lru_cache(maxsize=1)
def _open(name: str, config: str, split: str, revision: str) -> tuple[Any, str]:
    """Open a data set without reading it; return it and the hash of its version."""
    import datasets

    try:
        builder = datasets.load_dataset_builder(name, config or None, revision=revision or None)
        return builder.as_streaming_dataset(split), str(builder.hash)
    except Exception as error:  # the network, the hub and its libraries raise anything
        lines = str(error).splitlines() or [""]
        raise ValueError(f"dataset={name!r}: {type(error).__name__}: {lines[0]}") from error
