"""Text files as streams of lines, and corpora cut into parts that can be read by themselves.

A part is a range of bytes. Where it begins and ends in the text is decided by what stands there:
both neighbors look at the same bytes, so no line is read twice and none is left out.
"""

from __future__ import annotations

import codecs
import hashlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import BinaryIO, NamedTuple

# A longer line is read as several, so that a file without line ends does not fill the memory.
LINE_BYTES = 1 << 20
# To tell files of one size apart: all of a file up to 16 MB, a larger one's beginning and end.
_WHOLE_BYTES, _SAMPLE_BYTES = 1 << 24, 1 << 16


class TextFile(NamedTuple):
    """A file of a corpus."""

    name: str  # below the folder that was given; the same wherever the folder lies
    path: str
    size: int  # bytes


class Piece(NamedTuple):
    """A range of a file's bytes."""

    path: str
    start: int
    stop: int


def find_files(inputs: Iterable[str], outside: Path) -> list[TextFile]:
    """List text files: those given, and all in given folders but hidden ones, in sorted order.

    Args:
        inputs: files and folders.
        outside: files below this folder are left out, such as the corpus that is being written.

    Raises:
        FileNotFoundError: neither a file nor a folder.
        ValueError: a folder without files.
    """
    files = []
    for given in map(Path, inputs):
        if given.is_file():
            files.append(TextFile(given.name, str(given), given.stat().st_size))
            continue
        if not given.is_dir():
            raise FileNotFoundError(f"{given}: no such file or folder")
        found = {path.relative_to(given).as_posix(): path for path in given.rglob("*")}
        kept = [
            TextFile(name, str(path), path.stat().st_size)
            for name, path in sorted(found.items())
            if not any(part.startswith(".") for part in name.split("/"))
            and path.is_file()
            and outside.resolve() not in path.resolve().parents
        ]
        if not kept:
            raise ValueError(f"{given}: no files in this folder")
        files += kept
    return files


def fingerprint(files: Iterable[TextFile]) -> str:
    """Return SHA-256 of the files' names, sizes and content, of large ones the two ends only."""
    digest = hashlib.sha256()
    for file in files:
        digest.update(f"{file.name}\0{file.size}\0".encode("utf-8", "surrogateescape"))
        with open(file.path, "rb") as stream:
            if file.size <= _WHOLE_BYTES:
                digest.update(stream.read())
            else:
                digest.update(stream.read(_SAMPLE_BYTES))
                stream.seek(file.size - _SAMPLE_BYTES)
                digest.update(stream.read())
    return digest.hexdigest()


def cut(files: Iterable[TextFile], size: int) -> Iterator[list[Piece]]:
    """Cut files, laid end to end, into units of `size` bytes; the last may be smaller."""
    unit: list[Piece] = []
    room = size
    for file in files:
        start = 0
        while start < file.size:
            stop = min(file.size, start + room)
            unit.append(Piece(file.path, start, stop))
            room -= stop - start
            start = stop
            if not room:
                yield unit
                unit, room = [], size
    if unit:
        yield unit


def lines(
    path: str | Path,
    start: int = 0,
    stop: int | None = None,
    separate: bool = True,
    reach: int = 0,
) -> Iterator[str]:
    """Yield the stripped lines of a part of a file; an empty one ends a document.

    Args:
        path: UTF-8 text, with or without byte order mark.
        start, stop: range of bytes. Both are moved on to the next blank line, or the end of the
            file; where neither is within `reach` bytes, to the next line. So neighboring ranges
            share out the lines.
        separate: whether blank lines separate documents; else they are left out.
        reach: bytes to search for a blank line.

    Raises:
        ValueError: not UTF-8.
    """
    size = Path(path).stat().st_size
    with open(path, "rb") as file:
        stop = size if stop is None else _boundary(file, stop, size, separate, reach)
        place = _boundary(file, start, size, separate, reach)
        file.seek(place)
        for raw in _raw_lines(file):
            if place >= stop:
                break
            text = _decode(raw, file, place).strip()
            place += len(raw)
            if text or separate:
                yield text
    yield ""


def _boundary(file: BinaryIO, place: int, size: int, separate: bool, reach: int) -> int:
    """Return where the first part that begins at `place` or later does begin."""
    if place <= 0 or place >= size:
        return min(max(place, 0), size)
    file.seek(place - 1)  # a line that begins at `place` itself counts
    while (raw := file.readline(LINE_BYTES)) and not raw.endswith(b"\n"):
        pass
    first = at = file.tell()
    if separate:
        for raw in _raw_lines(file):
            if at >= place + reach:
                break
            if not raw.decode("utf-8", "replace").strip():
                return at
            at += len(raw)
        else:
            return at  # the end of the file
    return first


def _raw_lines(file: BinaryIO) -> Iterator[bytes]:
    """Yield lines with their ends; one that is too long in parts, cut at blanks or characters."""
    while raw := file.readline(LINE_BYTES):
        if len(raw) == LINE_BYTES and not raw.endswith(b"\n"):
            keep = raw.rfind(b" ") + 1 or len(raw) - 1
            while keep > len(raw) - 4 and raw[keep] & 0xC0 == 0x80:  # inside a character
                keep -= 1
            file.seek(keep - len(raw), 1)
            raw = raw[:keep]
        yield raw


def _decode(raw: bytes, file: BinaryIO, place: int) -> str:
    """Decode a line that begins at byte `place`; say where it is not UTF-8."""
    try:
        return (raw if place else raw.removeprefix(codecs.BOM_UTF8)).decode("utf-8")
    except UnicodeDecodeError as error:
        file.seek(0)
        number = 1
        for offset in range(0, place, LINE_BYTES):
            number += file.read(min(LINE_BYTES, place - offset)).count(b"\n")
        raise ValueError(
            f"{file.name}, line {number}: not UTF-8 (byte {place + error.start} of the file is "
            f"{raw[error.start]:#04x}); convert it, for instance with iconv"
        ) from error
