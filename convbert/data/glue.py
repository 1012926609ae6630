"""GLUE's files, and the sample sets of the same shape, as lists of examples."""

from __future__ import annotations

import hashlib
import math
import os
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from convbert.data.sources import Source


class Example(NamedTuple):
    """One row."""

    text_a: str
    text_b: str | None  # None for tasks on single sentences
    label: int | float | None  # index into the task's labels, or a score; None in test files


@dataclass(frozen=True)
class Split:
    """Where a file keeps what; columns count from 0."""

    rows: int  # in the official file, without header
    columns: int  # tab-separated fields of a line
    text_a: int
    text_b: int | None = None
    label: int | None = None
    header: bool = True
    file: str = ""  # its name, where it is not the split's
    raw_file: str = ""  # another file with the same rows in the same columns


@dataclass(frozen=True)
class Task:
    """A task: its folder, its files, and what its labels mean."""

    folder: str  # in the official layout, such as SST-2
    splits: Mapping[str, Split]  # by file name without .tsv, see `file_name`
    labels: tuple[str, ...] | None  # as written in the files, in index order; None: score 0 to 5
    metrics: tuple[str, ...]
    skips_broken_lines: bool = False  # the official file has lines that do not fit


def _splits(**splits: Split) -> Mapping[str, Split]:
    return MappingProxyType(splits)


BINARY, ENTAILMENT = ("0", "1"), ("entailment", "not_entailment")

TASKS: Mapping[str, Task] = MappingProxyType(
    {
        "cola": Task(
            "CoLA",
            _splits(
                train=Split(8_551, 4, text_a=3, label=1, header=False),
                dev=Split(1_043, 4, text_a=3, label=1, header=False),
                test=Split(1_063, 2, text_a=1),
            ),
            labels=BINARY,
            metrics=("mcc",),
        ),
        "sst-2": Task(
            "SST-2",
            _splits(
                train=Split(67_349, 2, text_a=0, label=1),
                dev=Split(872, 2, text_a=0, label=1),
                test=Split(1_821, 2, text_a=1),
            ),
            labels=BINARY,
            metrics=("accuracy",),
        ),
        "mrpc": Task(
            "MRPC",
            _splits(
                train=Split(3_668, 5, text_a=3, text_b=4, label=0),
                dev=Split(408, 5, text_a=3, text_b=4, label=0),
                test=Split(1_725, 5, text_a=3, text_b=4, raw_file="msr_paraphrase_test.txt"),
            ),
            labels=BINARY,
            metrics=("accuracy", "f1"),
        ),
        "sts-b": Task(
            "STS-B",
            _splits(
                train=Split(5_749, 10, text_a=7, text_b=8, label=9),
                dev=Split(1_500, 10, text_a=7, text_b=8, label=9),
                test=Split(1_379, 9, text_a=7, text_b=8),
            ),
            labels=None,
            metrics=("pearson", "spearman"),
        ),
        "qqp": Task(
            "QQP",
            _splits(
                train=Split(363_846, 6, text_a=3, text_b=4, label=5),
                dev=Split(40_430, 6, text_a=3, text_b=4, label=5),
                test=Split(390_965, 3, text_a=1, text_b=2),
            ),
            labels=BINARY,
            metrics=("accuracy", "f1"),
            skips_broken_lines=True,
        ),
        "mnli": Task(
            "MNLI",
            _splits(
                train=Split(392_702, 12, text_a=8, text_b=9, label=11),
                dev_matched=Split(9_815, 16, text_a=8, text_b=9, label=15),
                dev_mismatched=Split(9_832, 16, text_a=8, text_b=9, label=15),
                test_matched=Split(9_796, 10, text_a=8, text_b=9),
                test_mismatched=Split(9_847, 10, text_a=8, text_b=9),
            ),
            labels=("contradiction", "entailment", "neutral"),
            metrics=("accuracy",),
        ),
        "qnli": Task(
            "QNLI",
            _splits(
                train=Split(104_743, 4, text_a=1, text_b=2, label=3),
                dev=Split(5_463, 4, text_a=1, text_b=2, label=3),
                test=Split(5_463, 3, text_a=1, text_b=2),
            ),
            labels=ENTAILMENT,
            metrics=("accuracy",),
        ),
        "rte": Task(
            "RTE",
            _splits(
                train=Split(2_490, 4, text_a=1, text_b=2, label=3),
                dev=Split(277, 4, text_a=1, text_b=2, label=3),
                test=Split(3_000, 3, text_a=1, text_b=2),
            ),
            labels=ENTAILMENT,
            metrics=("accuracy",),
        ),
        "wnli": Task(
            "WNLI",
            _splits(
                train=Split(635, 4, text_a=1, text_b=2, label=3),
                dev=Split(71, 4, text_a=1, text_b=2, label=3),
                test=Split(146, 3, text_a=1, text_b=2),
            ),
            labels=BINARY,
            metrics=("accuracy",),
        ),
        "ax": Task(  # diagnostic sentences for a model of mnli
            "diagnostic",
            _splits(test=Split(1_104, 3, text_a=1, text_b=2, file="diagnostic.tsv")),
            labels=("contradiction", "entailment", "neutral"),
            metrics=("mcc",),
        ),
        "sample/swap": Task(
            "swap",
            _splits(
                train=Split(8_000, 2, text_a=0, label=1),
                dev=Split(1_000, 2, text_a=0, label=1),
            ),
            labels=BINARY,
            metrics=("accuracy",),
        ),
        "sample/order": Task(
            "order",
            _splits(
                train=Split(8_000, 4, text_a=1, text_b=2, label=3),
                dev=Split(880, 4, text_a=1, text_b=2, label=3),
            ),
            labels=("first", "second"),
            metrics=("accuracy",),
        ),
    }
)


# MD5 of the official files. GLUE has been distributed with other line ends and columns as well.
MD5: Mapping[str, Mapping[str, str]] = MappingProxyType(
    {
        "cola": {
            "train": "c79d4693b8681800338aa044bf9e797b",
            "dev": "c5475ccefc9e7ca0917294b8bbda783c",
            "test": "d8721b7dedda0dcca73cebb2a9f4259f",
        },
        "sst-2": {
            "train": "da409a0a939379ed32a470bc0f7fe99a",
            "dev": "268856b487b2a31a28c0a93daaff7288",
            "test": "3230e4efec76488b87877a56ae49675a",
        },
        "mrpc": {
            "train": "dc2dac669a113866a6480a0b10cd50bf",
            "dev": "185958e46ba556b38c6a7cc63f3a2135",
            "test": "4825dab4b4832f81455719660b608de5",
        },
        "sts-b": {
            "train": "4f7a86dde15fe4832c18e5b970998672",
            "dev": "5f4d6b0d2a5f268b1b56db773ab2f1fe",
            "test": "339b5817e414d19d9bb5f593dd94249c",
        },
        "qqp": {
            "train": "e003db73d277d38bbd83a2ef15beb442",
            "dev": "cff6a448d1580132367c22fc449ec214",
            "test": "73de726db186b1b08f071364b2bb96d0",
        },
        "mnli": {
            "train": "220192295e23b6705f3545168272c740",
            "dev_matched": "c3fa2817007f4cdf1a03663611a8ad23",
            "dev_mismatched": "b219e6fe74e4aa779e2f417ffe713053",
            "test_matched": "33ea0389aedda8a43dabc9b3579684d9",
            "test_mismatched": "7d2f60a73d54f30d8a65e474b615aeb6",
        },
        "qnli": {
            "train": "5e6063f407b08d1f7c7074d049ace94a",
            "dev": "1e81e211959605f144ba6c0ad7dc948b",
            "test": "f2a29f83f3fe1a9c049777822b7fa8b0",
        },
        "rte": {
            "train": "d2844f558d111a16503144bb37a8165f",
            "dev": "973cb4178d4534cf745a01c309d4a66c",
            "test": "6041008f3f3e48704f57ce1b88ad2e74",
        },
        "wnli": {
            "train": "5cdc5a87b7be0c87a6363fa6a5481fc1",
            "dev": "a79a6dd5d71287bcad6824c892e517ee",
            "test": "a18789ba4f60f6fdc8cb4237e4ba24b5",
        },
    }
)
# Rows of the first QNLI, whose questions are split otherwise between train, dev and test.
FIRST_QNLI = MappingProxyType({"train": 108_436, "dev": 5_732, "test": 5_740})


def read(
    source: Source | str | os.PathLike, task: str, split: str, whole: bool = False
) -> list[Example]:
    """Read one split of a task.

    Args:
        source: what `sources.find` returned, or the folder that holds the task's files.
        task: a key of `TASKS`.
        split: train, dev or test; mnli has dev_matched, dev_mismatched (dev means dev_matched)
            and likewise for test.
        whole: refuse a file that has not as many rows as the official one; otherwise only warn.

    Returns:
        The rows in the file's order.

    Raises:
        FileNotFoundError: the file does not exist.
        ValueError: unknown task or split, a source of another task, the first version of QNLI, or
            a line that does not fit; the message names file, line, expected and found.
    """
    file, split = find_file(source, task, split), resolve_split(task, split)
    layout = TASKS[task].splits[split]
    examples = read_file(file, TASKS[task], layout)
    if len(examples) == layout.rows:
        return examples
    message = f"{file}: expected {layout.rows} rows, found {len(examples)}"
    if task == "qnli" and len(examples) == FIRST_QNLI[split]:
        raise ValueError(f"{message}: QNLI's first version, of no use today; fetch QNLIv2")
    if whole:
        raise ValueError(message)
    warnings.warn(message, stacklevel=2)
    return examples


def find_file(source: Source | str | os.PathLike, task: str, split: str) -> Path:
    """Return the file of a split; the arguments are those of `read`."""
    if task not in TASKS:
        raise ValueError(f"task={task!r}: choose one of {', '.join(TASKS)}")
    if isinstance(source, str | os.PathLike):
        folder = Path(source)
    elif source.name == task:
        folder = source.path
    else:
        raise ValueError(f"the source holds {source.name}, not {task}")
    raw = TASKS[task].splits[resolve_split(task, split)].raw_file
    file = folder / file_name(task, split)
    return folder / raw if raw and not file.exists() and (folder / raw).exists() else file


def file_name(task: str, split: str) -> str:
    """Return the name of a split's file in the official layout."""
    split = resolve_split(task, split)
    return TASKS[task].splits[split].file or f"{split}.tsv"


def is_official(file: Path, task: str, split: str) -> bool:
    """Whether a file has the bytes of the official one."""
    expected = MD5.get(task, {}).get(resolve_split(task, split))
    return hashlib.md5(file.read_bytes(), usedforsecurity=False).hexdigest() == expected


def resolve_split(task: str, split: str) -> str:
    """Return the split's key in `Task.splits`: dev of mnli is dev_matched."""
    splits = TASKS[task].splits
    for name in (split, f"{split}_matched"):
        if name in splits:
            return name
    raise ValueError(f"split={split!r}: {task} has {', '.join(splits)}")


def resolve_splits(task: str, split: str) -> list[str]:
    """Return all keys that a split stands for: of mnli there is a matched and a mismatched one."""
    return [name for name in TASKS[task].splits if name.split("_")[0] == split]


def read_file(file: Path, task: Task, layout: Split) -> list[Example]:
    """Read a file in a split's layout: UTF-8, no quoting, only the line end is stripped."""
    examples, broken = [], []
    for number, line in _lines(file):
        fields = line.split("\t")
        where = f"{file}, line {number}"
        if len(fields) == layout.columns:
            if number > layout.header:
                examples.append(_example(fields, task, layout, where))
            elif _is_row(fields, task, layout):
                raise ValueError(f"{where}: expected a header, found a row; add a first line")
        elif task.skips_broken_lines and number > layout.header:
            broken.append(number)
        else:
            raise ValueError(f"{where}: expected {layout.columns} columns, found {len(fields)}")
    if broken:
        warnings.warn(f"{file}: skipped {len(broken)} broken lines {broken[:5]}", stacklevel=3)
    if not examples:
        raise ValueError(f"{file}: expected rows, found none")
    return examples


def _lines(file: Path) -> Iterator[tuple[int, str]]:
    """Yield numbered lines without their ends; a carriage return elsewhere is text."""
    with open(file, "rb") as lines:
        for number, line in enumerate(lines, start=1):
            try:
                text = line.decode("utf-8-sig" if number == 1 else "utf-8")
            except UnicodeDecodeError as error:
                found = f"found byte 0x{line[error.start]:02x} at {error.start}"
                raise ValueError(f"{file}, line {number}: expected UTF-8, {found}") from None
            yield number, text.removesuffix("\n").removesuffix("\r")


def _is_row(fields: list[str], task: Task, layout: Split) -> bool:
    """Whether a first line is no header: it has a label, or the first row's number."""
    if layout.label is None:
        return fields[0] == "0"
    try:
        parse_label(fields[layout.label], task.labels, "")
    except ValueError:
        return False
    return True


def _example(fields: list[str], task: Task, layout: Split, where: str) -> Example:
    text_b = None if layout.text_b is None else fields[layout.text_b]
    label = None if layout.label is None else parse_label(fields[layout.label], task.labels, where)
    return Example(fields[layout.text_a], text_b, label)


def parse_label(text: str, labels: tuple[str, ...] | None, where: str) -> int | float:
    """Return the index of a label as written in a file, or the score; `where` is for messages."""
    if labels is not None:
        if text not in labels:
            raise ValueError(f"{where}: expected a label of {', '.join(labels)}, found {text!r}")
        return labels.index(text)
    try:
        score = float(text)
    except ValueError:
        score = math.nan
    if not 0 <= score <= 5:
        raise ValueError(f"{where}: expected a score from 0 to 5, found {text!r}")
    return score


def format_label(label: int | float, labels: tuple[str, ...] | None) -> str:
    """Return a label as the task's files write it; of a score one digit after the point."""
    return f"{label:.1f}" if labels is None else labels[int(label)]
