"""Several runs that differ in their seed only: what a single one does not tell."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np

from convbert.results import write_json
from convbert.train import parallel
from convbert.train.glue_config import GlueConfig

Results = dict[str, Any]


def run(config: GlueConfig, train: Callable[[GlueConfig], Results]) -> Results:
    """Train with several seeds, one after the other, and sum up.

    Args:
        config: `num_trials` runs, with the seeds `seed`, `seed + 1`, …
        train: takes the options of one run, returns what `train.glue.finetune` does.

    Returns:
        What `results.json` of the whole holds; see `train.glue.finetune`.
    """
    output = Path(config.output_dir)
    if parallel.rank() == 0:
        (output / "results.json").unlink(missing_ok=True)  # it says that everything has ended
    folders = [output / f"trial-{number + 1}" for number in range(config.num_trials)]
    runs = [
        train(replace(config, num_trials=1, seed=config.seed + number, output_dir=str(folder)))
        for number, folder in enumerate(folders)
    ]
    results, best = summarize(runs), _place_of_best(runs)
    results["options"] = asdict(config)
    if parallel.rank() == 0:
        for name in ("best", "last"):
            shutil.rmtree(output / name, ignore_errors=True)
            shutil.copytree(folders[best] / name, output / name)
        write_json(output / "results.json", results)
        print(json.dumps({name: results[name] for name in ("mean", "std", "best")}))
    return results


def summarize(runs: Sequence[Results]) -> Results:
    """Return mean, spread and best of several runs.

    Args:
        runs: what `train.glue.finetune` returns for each.

    Returns:
        `trials` (seed, last and best of each); `mean` and `std`, the standard deviation of the
        sample, of all metrics in `last` and in `best`; `last` and `best` of the best run.
    """
    mean: dict[str, dict[str, float]] = {"last": {}, "best": {}}
    std: dict[str, dict[str, float]] = {"last": {}, "best": {}}
    for which in mean:
        for name in (name for name in runs[0][which] if name != "step"):
            values = [trial[which][name] for trial in runs]
            mean[which][name] = float(np.mean(values))
            std[which][name] = float(np.std(values, ddof=1))
    trials = [
        {"seed": trial["options"]["seed"], "last": trial["last"], "best": trial["best"]}
        for trial in runs
    ]
    best = runs[_place_of_best(runs)]
    return {
        "task": best["task"],
        "steps": best["steps"],
        "trials": trials,
        "mean": mean,
        "std": std,
        "last": best["last"],
        "best": {**best["best"], "seed": best["options"]["seed"]},
    }


def _place_of_best(runs: Sequence[Results]) -> int:
    """Return which run has the best evaluation by the task's own metric, the first of equals."""
    metric = next(iter(runs[0]["best"]))
    return max(range(len(runs)), key=lambda number: float(runs[number]["best"][metric]))
