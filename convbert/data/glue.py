"""GLUE's files, and the sample sets of the same shape, as lists of examples."""

from __future__ import annotations

import math
import os
import warnings
from collections.abc import Mapping
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


@dataclass(frozen=True)
class Task:
    """A task: its folder, its files, and what its labels mean."""

    folder: str  # in the official layout, such as SST-2
    splits: Mapping[str, Split]  # by file name without .tsv
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
                test=Split(1_725, 5, text_a=3, text_b=4),
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


def read(source: Source | str | os.PathLike, task: str, split: str) -> list[Example]:
    """Read one split of a task.

    Args:
        source: what `sources.find` returned, or the folder that holds the task's files.
        task: a key of `TASKS`.
        split: train, dev or test; mnli has dev_matched, dev_mismatched (dev means dev_matched)
            and likewise for test.

    Returns:
        The rows in the file's order.

    Raises:
        FileNotFoundError: the file does not exist.
        ValueError: unknown task or split, a source of another task, or a line that does not fit;
            the message names file, line, expected and found.
    """
    if task not in TASKS:
        raise ValueError(f"task={task!r}: choose one of {', '.join(TASKS)}")
    if isinstance(source, str | os.PathLike):
        folder = Path(source)
    elif source.name == task:
        folder = source.path
    else:
        raise ValueError(f"the source holds {source.name}, not {task}")
    split = resolve_split(task, split)
    file = folder / f"{split}.tsv"
    return read_file(file, TASKS[task], TASKS[task].splits[split])


def resolve_split(task: str, split: str) -> str:
    """Return the file name, without .tsv, of a split: dev of mnli is dev_matched."""
    splits = TASKS[task].splits
    for name in (split, f"{split}_matched"):
        if name in splits:
            return name
    raise ValueError(f"split={split!r}: {task} has {', '.join(splits)}")


def read_file(file: Path, task: Task, layout: Split) -> list[Example]:
    """Read a file in a split's layout: UTF-8, no quoting, only the line end is stripped."""
    examples, broken = [], []
    with open(file, encoding="utf-8-sig", newline="\n") as lines:
        for number, line in enumerate(lines, start=1):
            fields = line.removesuffix("\n").removesuffix("\r").split("\t")
            if len(fields) == layout.columns:
                if number > layout.header:
                    examples.append(_example(fields, task, layout, f"{file}, line {number}"))
            elif task.skips_broken_lines and number > layout.header:
                broken.append(number)
            else:
                raise ValueError(
                    f"{file}, line {number}: expected {layout.columns} columns, found {len(fields)}"
                )
    if broken:
        warnings.warn(f"{file}: skipped {len(broken)} broken lines {broken[:5]}", stacklevel=3)
    if not examples:
        raise ValueError(f"{file}: expected rows, found none")
    return examples


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
