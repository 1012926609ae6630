"""The files that GLUE's leaderboard takes: one of predictions per test set, and a zip of all.

Not in the paper; from the benchmark's own rules. A file has the header `index<TAB>prediction`,
then rows numbered from 0 in the order of the test set. Labels are words where the task's files
have words, else 0 and 1; scores of STS-B lie in [0, 5].
"""

from __future__ import annotations

import os
import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

from convbert.data import glue

HEADER = "index\tprediction"


class TestSet(NamedTuple):
    """Where the texts of a file come from."""

    task: str
    split: str

    @property
    def rows(self) -> int:
        """Return the number of its rows."""
        return glue.TASKS[self.task].splits[self.split].rows


FILES: Mapping[str, TestSet] = MappingProxyType(
    {
        "AX": TestSet("ax", "test"),
        "CoLA": TestSet("cola", "test"),
        "MNLI-m": TestSet("mnli", "test_matched"),
        "MNLI-mm": TestSet("mnli", "test_mismatched"),
        "MRPC": TestSet("mrpc", "test"),
        "QNLI": TestSet("qnli", "test"),
        "QQP": TestSet("qqp", "test"),
        "RTE": TestSet("rte", "test"),
        "SST-2": TestSet("sst-2", "test"),
        "STS-B": TestSet("sts-b", "test"),
        "WNLI": TestSet("wnli", "test"),
    }
)


def write(file: Path, task: str, predictions: Iterable[float]) -> None:
    """Write a file of predictions, aside and then renamed.

    Args:
        file: to write; its folder is made.
        task: a key of `glue.TASKS`.
        predictions: index of a label per row, or a score, which is clipped to [0, 5].
    """
    labels = glue.TASKS[task].labels
    words = (f"{min(max(p, 0), 5):.6f}" if labels is None else labels[int(p)] for p in predictions)
    rows = [HEADER, *(f"{index}\t{word}" for index, word in enumerate(words))]
    write_aside(file, "".join(f"{row}\n" for row in rows).encode())


def write_aside(file: Path, content: bytes) -> None:
    """Write a file under another name and rename it, so that it is whole or not there."""
    file.parent.mkdir(parents=True, exist_ok=True)
    aside = file.with_name(f".{file.name}.{os.getpid()}")
    try:
        aside.write_bytes(content)
        os.replace(aside, file)
    finally:
        aside.unlink(missing_ok=True)


def check(file: Path, name: str) -> list[float]:
    """Read a file of predictions as strictly as the leaderboard.

    Args:
        file: to read.
        name: a key of `FILES`, which says what belongs into it.

    Returns:
        The index of each label, or each score.

    Raises:
        ValueError: names file, line, expected and found.
        FileNotFoundError: the file does not exist.
    """
    test, values = FILES[name], []
    lines = file.read_bytes().split(b"\n")
    if lines.pop() != b"":
        raise ValueError(f"{file.name}: expected a line end at the end of the file")
    for number, line in enumerate(lines, start=1):
        where, text = f"{file.name}, line {number}", line.decode("utf-8", "backslashreplace")
        if text.endswith("\r"):
            raise ValueError(f"{where}: expected lines that end in LF, found CR LF")
        if number == 1:
            if text != HEADER:
                raise ValueError(f"{where}: expected the header {HEADER!r}, found {text!r}")
            continue
        fields = text.split("\t")
        if len(fields) != 2:
            raise ValueError(f"{where}: expected 2 columns, found {len(fields)}")
        if fields[0] != str(number - 2):
            raise ValueError(f"{where}: expected index {number - 2}, found {fields[0]!r}")
        values.append(glue.parse_label(fields[1], glue.TASKS[test.task].labels, where))
    if len(values) != test.rows:
        raise ValueError(f"{file.name}: expected {test.rows} rows, found {len(values)}")
    return values


def check_all(folder: Path) -> dict[str, list[float]]:
    """Read all eleven files; the keys are those of `FILES`, the values those of `check`.

    Raises:
        ValueError: lists what is wrong, one problem for each file at fault.
    """
    problems, values = [], {}
    for file in sorted(folder.iterdir()):
        if file.suffix.lower() == ".tsv" and file.name not in {f"{name}.tsv" for name in FILES}:
            problems.append(f"{file.name}: no such file belongs into a submission")
    for name in FILES:
        file = folder / f"{name}.tsv"
        try:
            values[name] = check(file, name)
        except FileNotFoundError:
            problems.append(f"{file.name} is missing")
        except ValueError as error:
            problems.append(str(error))
    if problems:
        raise ValueError(f"{folder} is no submission: {'; '.join(problems)}")
    return values


def pack(folder: Path, output_file: Path) -> dict[str, list[float]]:
    """Check all files and write their zip; the same files give the same bytes, on any machine.

    Returns:
        What `check_all` does.

    Raises:
        ValueError: the files are not those that the leaderboard takes; lists what is wrong.
    """
    values = check_all(folder)
    output_file.parent.mkdir(parents=True, exist_ok=True)
    aside = output_file.with_name(f".{output_file.name}.{os.getpid()}")
    try:
        # Stored, not compressed: what compression gives depends on the version of zlib.
        with zipfile.ZipFile(aside, "w", zipfile.ZIP_STORED) as archive:
            for name in FILES:
                entry = zipfile.ZipInfo(f"{name}.tsv", date_time=(1980, 1, 1, 0, 0, 0))
                entry.external_attr, entry.create_system = 0o644 << 16, 3
                archive.writestr(entry, (folder / entry.filename).read_bytes())
        os.replace(aside, output_file)
    finally:
        aside.unlink(missing_ok=True)
    return values
