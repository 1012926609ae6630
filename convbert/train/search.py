"""`convbert search`: a GLUE task on which pretraining helps the tiny model, looked for honestly.

Whoever tries many things finds one that works by chance. So every trial is measured on training
examples that were set apart; the best one is made again with new seeds and measured on the dev
set, which no trial has seen. No Paddle in this process.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from convbert import lab, results
from convbert.data import glue, held_out, sources
from convbert.lab import Scale
from convbert.train import recipes, small_tasks

NAME = "glue_search"  # of the results file


class Trial(NamedTuple):
    """What is done differently, in the hope that pretraining then matters."""

    in_domain: bool  # pretrain longer, on the tasks' own sentences, too; see `_pretrain`
    labels: int  # training examples of the task, at most
    steps: float  # updates of fine-tuning, in those of the scale


TRIALS: Mapping[str, Trial] = {
    "few labels": Trial(False, 500, 0.5),
    "in-domain text, longer": Trial(True, 8_000, 0.5),
    "the same, fine-tuned longer": Trial(True, 8_000, 1.5),
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
    seeds = range(config.seed, config.seed + scale.seeds)
    write_text(_root(config, scale) / "text", found, config.validation_examples)
    rows = [row for name in TRIALS for row in _try(config, scale, name, list(found), seeds)]
    best, confirmed = choose(rows), None
    if best:
        new = range(seeds.stop, seeds.stop + scale.seeds)
        (confirmed,) = _try(config, scale, best["trial"], [best["task"]], new, on_dev=True)
    records = {
        "trials": (rows, "on examples set apart, last step"),
        "confirmed": (confirmed, "on dev, last step"),
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


def choose(rows: Sequence[dict[str, Any]]) -> dict[str, Any] | None:
    """Return the trial whose smallest gain over seeds is the largest; None if that is no gain."""
    best = max(rows, key=lambda row: min(row["gain"]))
    return best if min(best["gain"]) > 0 else None


def write_text(folder: Path, found: Mapping[str, sources.Source], apart: int) -> None:
    """Write the sentences of tasks, without labels, and the sample's text behind them.

    The two sentences of a pair are a document of their own; twenty single ones are one.

    Args:
        folder: receives train.txt, and the sample's valid.txt.
        found: where each task's files are. Dev and test sets are not used.
        apart: how many training examples of each task are left out.
    """
    documents: list[list[str]] = []
    for task, source in found.items():
        train, _ = held_out.set_apart(glue.read(source, task, "train"), apart)
        whole = [train[i] for i in held_out.find_whole(train)]
        single = [each.text_a for each in whole if each.text_b is None]
        documents += [[each.text_a, each.text_b] for each in whole if each.text_b is not None]
        documents += [single[i : i + 20] for i in range(0, len(single), 20)]
    order = np.random.default_rng(0).permutation(len(documents))
    own = "".join("\n".join(documents[i]) + "\n\n" for i in order)
    sample = sources.find("sample/text").path
    for name, before in (("train.txt", own), ("valid.txt", "")):
        text = before.encode() + (sample / name).read_bytes()
        results.write_atomically(folder / name, text)


def _root(config: SearchConfig, scale: Scale) -> Path:
    return Path(config.output_dir, "search", scale.name)


def _try(
    config: SearchConfig,
    scale: Scale,
    name: str,
    tasks: Sequence[str],
    seeds: Sequence[int],
    on_dev: bool = False,
) -> list[dict[str, Any]]:
    """Make a trial on some tasks, with each seed once pretrained and once from new weights."""
    trial, apart = TRIALS[name], 0 if on_dev else config.validation_examples
    text = "in-domain" if trial.in_domain else "sample"
    steps = int(trial.steps * scale.finetune_steps)
    runs = recipes.finetuned(
        scale,
        _root(config, scale) / f"{trial.labels}-{text}-{steps}",
        tasks,
        _pretrain(config, scale, trial, seeds),
        steps,
        train_examples=min(trial.labels, scale.finetune_examples),
        validation_examples=apart,
    )
    rows = []
    for task in tasks:
        metric = glue.TASKS[task].metrics[0]
        pretrained, scratch = (
            [recipes.results(runs[task, start, seed])["last"][metric] for seed in seeds]
            for start in recipes.STARTS
        )
        gain = [ours - new for ours, new in zip(pretrained, scratch, strict=True)]
        scores = {"pretrained": pretrained, "scratch": scratch, "gain": gain}
        row = {"task": task, "metric": metric, "trial": name, "steps": steps, "seeds": list(seeds)}
        rows.append(row | scores)
    return rows


def _pretrain(
    config: SearchConfig, scale: Scale, trial: Trial, seeds: Sequence[int]
) -> dict[int, Path]:
    """Return the pretrained model of each seed.

    On the sample it is the one that notebook 04 starts from. In-domain it learns masked words
    (one network, no discriminator: updates cost less, and the rate can be higher), twice as many
    updates on about twice as much text.
    """
    options: dict[str, Any] = {}
    output = Path(config.output_dir)
    if trial.in_domain:
        output = _root(config, scale)
        options = {
            "input_dir": str(output / "text"),
            "objective": "mlm",
            "learning_rate": 2e-3,
            "max_steps": 2 * scale.pretrain_steps,
            "warmup_steps": scale.pretrain_steps // 5,
        }
    made = recipes.checkpoints(scale, output, seeds, **options)
    return {seed: folder / "final" for seed, folder in made.items()}
