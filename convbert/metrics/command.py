"""`convbert score`: score files of predictions, print one JSON object."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from convbert.data import glue as data
from convbert.metrics import glue, squad


@dataclass(frozen=True)
class SquadScoreConfig:
    """Options of `convbert score squad`: the official evaluation of SQuAD 1.1 and 2.0."""

    data: str  # SQuAD file with the right answers; decides the version
    predictions: str  # JSON file: question's id -> answer
    na_probs: str | None = None  # JSON file: id -> how likely unanswerable; gives best thresholds
    na_prob_thresh: float = 1.0  # a question counts as unanswered if its na_probs is above this


@dataclass(frozen=True)
class GlueScoreConfig:
    """Options of `convbert score glue`."""

    task_name: str  # a GLUE task such as sst-2, or sample/swap, sample/order
    predictions: str  # the leaderboard's TSV (index, prediction), or one value per line
    labels: str  # the task's official dev.tsv, or a file like that of the predictions


def score_squad(config: SquadScoreConfig) -> None:
    """Print the official evaluation's keys and values."""
    files = (config.data, config.predictions, config.na_probs)
    print(json.dumps(squad.score(*files, na_prob_thresh=config.na_prob_thresh)))


def score_glue(config: GlueScoreConfig) -> None:
    """Print the task's metrics."""
    task = config.task_name.lower()
    if task not in glue.METRICS:
        raise ValueError(f"task_name={task!r}: choose one of {', '.join(glue.METRICS)}")
    columns = [read_column(Path(file), task) for file in (config.predictions, config.labels)]
    print(json.dumps(glue.score(task, *columns)))


def read_column(file: Path, task: str) -> list[float]:
    """Read classes or scores.

    Args:
        file: lines of a value, of index and value under the leaderboard's header, or the rows of
            the task's official files, which hold the labels in a column of their own.
        task: says how labels are written, and where the official files have them.

    Returns:
        The index of each label, or each score.

    Raises:
        ValueError: a line that does not fit; the message names file, line, expected and found.
    """
    table = data.TASKS[task]
    rows = [line.split("\t") for line in file.read_text(encoding="utf-8-sig").split("\n")]
    if rows[-1] == [""]:
        del rows[-1]
    width = len(rows[0]) if rows else 0
    layouts = [s for s in table.splits.values() if s.columns == width and s.label is not None]
    with_index = width == 2 and rows[0] == ["index", "prediction"]
    if layouts and not with_index:
        return [example.label or 0 for example in data.read_file(file, table, layouts[0])]
    values = []
    for number, row in enumerate(rows[with_index:], start=1 + with_index):
        where, expected = f"{file}, line {number}", 1 + with_index
        if len(row) != expected:
            raise ValueError(f"{where}: expected {expected} columns, found {len(row)}")
        values.append(data.parse_label(row[-1].strip(), table.labels, where))
    return values
