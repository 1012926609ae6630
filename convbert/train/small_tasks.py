"""`convbert tasks`: several GLUE tasks over several seeds, one table. No Paddle in this process.

Every task is learned from every seed's pretrained model, and by its twin with new weights. What is
recorded is the dev score of the last step; nothing is chosen on dev, and nothing is claimed.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from convbert import lab, results
from convbert.data import glue, sources
from convbert.metrics import baselines
from convbert.train import recipes

NAME = "glue_tasks"  # of the results file


@dataclass(frozen=True)
class TasksConfig:
    """Options of `convbert tasks`; how many seeds and examples there are, the scale says."""

    scale: str = "cpu"  # smoke, cpu or paper
    output_dir: str = "outputs"  # folder for runs and results; finished runs in it are found again
    tasks: str = "cola, rte, mrpc, sts-b, wnli, sst-2"  # separated by commas
    steps: int = 0  # updates of a tiny model; 0: half of the scale's; others: the task's recipe
    model: str = ""  # pretrained model folder; empty: one per seed, found or made now
    seed: int = 1  # the first


def run(config: TasksConfig) -> dict[str, Any]:
    """Fine-tune, and write `data/results/<scale>/glue_tasks.json`, which `convbert table` shows.

    Returns:
        What is in the file.

    Raises:
        ValueError: an unknown scale or task.
        FileNotFoundError: the files of a task are not found; nothing is trained then.
    """
    started, scale = time.monotonic(), lab.scale_row(config.scale)
    found = find_tasks(config.tasks)
    seeds = list(range(config.seed, config.seed + scale.seeds))
    if config.model:
        starts: dict[int, str | Path] = {seed: config.model for seed in seeds}
    else:
        made = recipes.checkpoints(scale, config.output_dir, seeds)
        starts = {seed: folder / "final" for seed, folder in made.items()}
    steps = config.steps or scale.finetune_steps // 2
    runs = recipes.finetuned(scale, config.output_dir, list(found), starts, steps)
    rows = {task: _row(task, found[task], runs, scale) for task in found}
    records = {"tasks": {"value": rows, "unit": "on dev, last step", "seeds": None}}
    content = results.blank(NAME, scale.name) | {"finished": True, "records": records}
    content["seconds"] = round(time.monotonic() - started, 1)
    file = results.path(config.output_dir, scale.name, NAME)
    results.write_json(file, content)
    for task, row in rows.items():
        shown = (f"{start} {results.format_value(row[start], True)}" for start in row["starts"])
        print(f"{task} ({row['metric']}): {', '.join(shown)}; {row['baselines']}")
    print(f"wrote {file}")
    return content


def find_tasks(names: str) -> dict[str, sources.Source]:
    """Return where the files of each task are; `names` are separated by commas.

    Raises:
        ValueError: there is no such task, or nothing to train on in it.
        FileNotFoundError: the files of a task are not found.
    """
    tasks = [name.strip().lower() for name in names.split(",")]
    for task in tasks:
        if task not in glue.TASKS or "train" not in glue.TASKS[task].splits:
            raise ValueError(f"tasks={names!r}: {task!r} is no task to train on")
    return {task: sources.find(task, allow_sample=False) for task in tasks}


def _row(task: str, source: sources.Source, runs: dict, scale: lab.Scale) -> dict[str, Any]:
    """Return a task's metric, its value of every seed, and those of the baselines."""
    metric = glue.TASKS[task].metrics[0]
    ends: dict[str, list[float]] = {}
    options: dict[str, Any] = {}
    seeds: dict[int, None] = {}
    for (name, start, seed), folder in runs.items():
        if name == task:
            ended = recipes.results(folder)
            ends.setdefault(start, []).append(ended["last"][metric])
            seeds[seed], options = None, ended["options"]
            steps = ended["steps_taken"]
    train, dev = (glue.read(source, task, split) for split in ("train", "dev"))
    order = np.random.default_rng(min(seeds)).permutation(len(train))[: scale.finetune_examples]
    nulls = baselines.scores(task, [train[i] for i in order], dev)
    return {
        "metric": metric,
        **ends,
        "starts": list(ends),
        "seeds": list(seeds),
        "steps": steps,
        "batch_size": options["batch_size"],
        "dev_examples": len(dev),
        "baselines": {name: value[metric] for name, value in nulls.items()},
    }
