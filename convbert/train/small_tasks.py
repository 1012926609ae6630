"""`convbert tasks`: does pretraining help the tiny model? No Paddle in this process.

Every task is learned from every seed's pretrained model, and by its twin with new weights. Both get
more time than in the notebooks: four times the updates of pretraining, and enough of fine-tuning
that neither is behind only because it started later. What is recorded is the dev score of the last
step; nothing is chosen on dev. Claimed is a gain on the sample's tasks, about the order of words.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from convbert import lab, results
from convbert.data import glue, sources
from convbert.metrics import baselines
from convbert.train import recipes

NAME = "glue_tasks"  # of the results file
GAINS = {"sample/swap": 0.05, "sample/order": 0.05}  # claimed: means above this accuracy


@dataclass(frozen=True)
class TasksConfig:
    """Options of `convbert tasks`; how many seeds and examples there are, the scale says."""

    scale: str = "cpu"  # smoke, cpu or paper
    output_dir: str = "outputs"  # folder for runs and results; finished runs in it are found again
    # separated by commas
    tasks: str = "sample/swap, sample/order, cola, rte, mrpc, sts-b, wnli, sst-2"
    pretrain_steps: int = 0  # updates of a tiny model's pretraining; 0: four times the scale's
    # updates of fine-tuning it; 0: one and a half times the scale's; others: the task's recipe
    steps: int = 0
    model: str = ""  # pretrained model folder; empty: one per seed, found or made now
    seed: int = 1  # the first


def run(config: TasksConfig) -> dict[str, Any]:
    """Fine-tune, and write `data/results/<scale>/glue_tasks.json`, which `convbert table` shows.

    With other numbers of updates or another model than its own it claims nothing.

    Returns:
        What is in the file.

    Raises:
        ValueError: an unknown scale or task, or a claim does not hold (it is kept as failed).
        FileNotFoundError: the files of a task are not found; nothing is trained then.
    """
    found = find_tasks(config.tasks)
    scale = lab.begin(NAME, config.scale, config.output_dir)
    seeds = list(range(config.seed, config.seed + scale.seeds))
    root = Path(config.output_dir, "tasks", scale.name)
    starts = _pretrain(config, scale, root, seeds)
    steps = config.steps or 3 * scale.finetune_steps // 2
    runs = recipes.finetuned(scale, root, list(found), starts, steps)
    rows = {task: _row(task, found[task], runs, scale) for task in found}
    lab.record("tasks", rows, unit="on dev, last step")
    file = results.path(config.output_dir, scale.name, NAME)
    if not (config.pretrain_steps or config.steps or config.model):
        try:
            claim(rows)
        except lab.ClaimFailed as error:
            raise ValueError(f"{error}; all numbers are in {file}") from error
    content = json.loads(file.read_text(encoding="utf-8")) | {"finished": True}
    results.write_json(file, content)
    for task, row in rows.items():
        shown = (f"{start} {results.format_value(row[start], True)}" for start in row["starts"])
        print(f"{task} ({row['metric']}): {', '.join(shown)}; {row['baselines']}")
    print(f"wrote {file}")
    return content


def claim(rows: Mapping[str, Mapping[str, Any]]) -> None:
    """Claim a gain on each of the sample's tasks that was learned from both starts.

    Args:
        rows: task -> "pretrained" and "scratch", a score per seed; "seeds".

    Raises:
        lab.ClaimFailed: a claim does not hold.
    """
    for task, least in GAINS.items():
        if task in rows and set(rows[task]["starts"]) == set(recipes.STARTS):
            pretrained, scratch = (rows[task][start] for start in recipes.STARTS)
            gain = [a - b for a, b in zip(pretrained, scratch, strict=True)]
            text = f"Pretraining, four times as long, improves {task} over the same model without."
            options = dict(kind="statistical", observed=gain, null=0.0, seeds=rows[task]["seeds"])
            bound, name = f"mean > {least}", task.replace("/", "_")
            lab.claim(f"gain_{name}", text, float(np.mean(gain)) > least, bound=bound, **options)


def _pretrain(
    config: TasksConfig, scale: lab.Scale, root: Path, seeds: list[int]
) -> dict[int, str | Path]:
    """Return the pretrained model of each seed: the one that is given, or made here, and longer."""
    if config.model:
        return dict.fromkeys(seeds, config.model)
    if scale.model == "convbert-tiny":
        steps = config.pretrain_steps or 4 * scale.pretrain_steps
        scale = replace(scale, pretrain_steps=steps)
    made = recipes.checkpoints(scale, root, seeds)
    return {seed: folder / "final" for seed, folder in made.items()}


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
