"""`convbert search`: a GLUE task on which pretraining helps the tiny model, looked for honestly.

Whoever tries many things finds one that works by chance. So every trial is measured on training
examples that were set apart; the best one is made again with new seeds and measured on the dev
set, which no trial has seen. No Paddle in this process.
"""

from __future__ import annotations

import resource
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from convbert import lab, results
from convbert.data import glue, sources
from convbert.lab import Scale
from convbert.train import recipes, small_tasks

NAME = "glue_search"  # of the results file


class Trial(NamedTuple):
    """What is done differently, in the hope that pretraining then matters."""

    own_text: bool  # pretrain on the tasks' own sentences, too, and longer; or on the sample only
    objective: str  # of pretraining
    labels: int  # training examples of the task, at most
    updates: int  # of fine-tuning
    rate: float  # peak learning rate of fine-tuning


TRIALS: Mapping[str, Trial] = {
    "longer, at a higher rate": Trial(False, "electra", 8_000, 200, 3e-3),
    "few labels": Trial(False, "electra", 500, 100, 1e-3),
    "in-domain text": Trial(True, "electra", 8_000, 100, 1e-3),
    "in-domain text, masked words": Trial(True, "mlm", 8_000, 100, 1e-3),
}


@dataclass(frozen=True)
class SearchConfig:
    """Look for a GLUE task on which pretraining helps the tiny model, and confirm what is found."""

    scale: str = "cpu"  # smoke or cpu
    output_dir: str = "outputs"  # folder for runs and results; finished runs in it are found again
    tasks: str = "cola, rte, mrpc, sts-b, sst-2"  # separated by commas
    validation_examples: int = 500  # of each training set: to measure trials on
    seed: int = 1  # the first; as many again confirm


def search(config: SearchConfig) -> dict[str, Any]:
    """Make all trials, confirm the best, write `data/results/<scale>/glue_search.json`.

    Returns:
        What is in the file.

    Raises:
        ValueError: an unknown scale or task, or a scale of published models.
        FileNotFoundError: the files of a task are not found; nothing is trained then.
    """
    started, scale = time.monotonic(), lab.scale_row(config.scale)
    if scale.model != "convbert-tiny":
        raise ValueError(f"scale={config.scale!r}: the search is for the tiny model, smoke or cpu")
    found = small_tasks.find_tasks(config.tasks)
    tasks = list(found)
    seeds = range(config.seed, config.seed + scale.seeds)
    root = Path(config.output_dir, "search", scale.name)
    apart = config.validation_examples
    write_text(root / "text", found, apart)
    rows = []
    for name, trial in TRIALS.items():
        ends = _ends(scale, config.output_dir, name, tasks, seeds, apart)
        rows += [_row(task, name, trial, seeds, *ends[task]) for task in tasks]
    best = max(rows, key=lambda row: min(row["gain"]))
    confirmed = None
    if min(best["gain"]) > 0:
        new, task = range(seeds.stop, seeds.stop + scale.seeds), best["task"]
        ends = _ends(scale, config.output_dir, best["trial"], [task], new, 0)
        confirmed = _row(task, best["trial"], TRIALS[best["trial"]], new, *ends[task])
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    minutes = round((children.ru_utime + children.ru_stime) / 60, 1)
    records = {
        "trials": (rows, "on examples set apart, last step"),
        "confirmed": (confirmed, "on dev, last step"),
        "processor": (minutes, "minutes, without runs that were found"),
    }
    content = results.blank(NAME, scale.name) | {"finished": True}
    content["seconds"] = round(time.monotonic() - started, 1)
    for name, (value, unit) in records.items():
        content["records"][name] = {"value": value, "unit": unit, "seeds": None}
    file = results.path(config.output_dir, scale.name, NAME)
    results.write_json(file, content)
    for row in [*rows, *([confirmed] if confirmed else [])]:
        shown = (f"{start} {results.format_value(row[start], True)}" for start in recipes.STARTS)
        print(f"{row['task']}, {row['trial']}, seeds {row['seeds']}: {', '.join(shown)}")
    print(f"wrote {file}")
    return content


def write_text(folder: Path, found: Mapping[str, sources.Source], apart: int) -> None:
    """Write the sentences of tasks, without labels, and the sample's text behind them.

    The two sentences of a pair are a document of their own; twenty single ones are one.

    Args:
        folder: receives train.txt, and the sample's valid.txt.
        found: where each task's files are. Dev and test sets are not used.
        apart: how many training examples of each task are left out.
    """
    documents: list[str] = []
    for task, source in found.items():
        train, _ = glue.set_apart(glue.read(source, task, "train"), apart)
        pairs = [f"{each.text_a}\n{each.text_b}" for each in train if each.text_b is not None]
        single = list(dict.fromkeys(each.text_a for each in train if each.text_b is None))
        documents += pairs
        documents += ["\n".join(single[i : i + 20]) for i in range(0, len(single), 20)]
    order = np.random.default_rng(0).permutation(len(documents))
    sample = sources.find("sample/text").path
    texts = {
        "train.txt": "\n\n".join([*(documents[i] for i in order), _read(sample / "train.txt")]),
        "valid.txt": _read(sample / "valid.txt"),
    }
    for name, text in texts.items():
        results.write_atomically(folder / name, text.encode())


def _read(file: Path) -> str:
    return file.read_text(encoding="utf-8")


def _ends(
    scale: Scale, output_dir: str, name: str, tasks: Sequence[str], seeds: Sequence[int], apart: int
) -> dict[str, tuple[list[float], list[float]]]:
    """Return each task's values by seed, of pretrained models and of their twins.

    Args:
        scale: gives recipes.
        output_dir: receives the runs.
        name: of the trial.
        tasks: names.
        seeds: one pretrained model and one twin each.
        apart: training examples to measure on; 0: measure on dev.
    """
    trial, root = TRIALS[name], Path(output_dir, "search", scale.name)
    if trial.own_text:
        longer = {"input_dir": str(root / "text"), "max_steps": 3 * scale.pretrain_steps // 2}
        if trial.objective == "mlm":  # one network, which takes larger steps
            longer |= {"objective": "mlm", "learning_rate": 2e-3}
        made = recipes.checkpoints(scale, root / trial.objective, seeds, **longer)
    else:
        made = recipes.checkpoints(scale, output_dir, seeds)
    runs = recipes.finetuned(
        scale,
        root / name.replace(",", "").replace(" ", "-") / ("apart" if apart else "dev"),
        tasks,
        {seed: folder / "final" for seed, folder in made.items()},
        trial.updates if scale.name == "cpu" else 0,
        learning_rate=trial.rate,
        train_examples=min(trial.labels, scale.finetune_examples),
        validation_examples=apart,
    )
    metric = {task: glue.TASKS[task].metrics[0] for task in tasks}
    ends = {run: recipes.results(folder)["last"][metric[run[0]]] for run, folder in runs.items()}
    return {
        task: tuple([ends[task, start, seed] for seed in seeds] for start in recipes.STARTS)  # type: ignore[misc]
        for task in tasks
    }


def _row(
    task: str,
    name: str,
    trial: Trial,
    seeds: Sequence[int],
    pretrained: Sequence[float],
    scratch: Sequence[float],
) -> dict[str, Any]:
    """Return what a trial found on a task."""
    return {
        "task": task,
        "metric": glue.TASKS[task].metrics[0],
        "trial": name,
        **trial._asdict(),
        "seeds": list(seeds),
        "pretrained": list(pretrained),
        "scratch": list(scratch),
        "gain": [with_text - new for with_text, new in zip(pretrained, scratch, strict=True)],
    }
