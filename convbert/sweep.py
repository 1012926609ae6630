"""The command `sweep`: what each part of the convolution is worth, at equal parameters.

The paper compares kinds of convolution, kernel sizes and head ratios by GLUE scores after long
pretraining. Here tiny models guess masked words for some hundred updates: enough to see which one
learns sooner, and no more than that. Imports no Paddle.
"""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from convbert import budget, lab, results
from convbert.config import ConvBertConfig
from convbert.lab import Scale
from convbert.train import recipes

if TYPE_CHECKING:
    import pandas as pd

NAME = "sweep"  # of its results file and of the folder of its figures
APART = 0.15  # nats between what is claimed to differ and what is not; twice the noise of a mean


@dataclass
class SweepConfig:
    """Pretrain variants of the convolution with equal parameters, several seeds, and compare."""

    scale: str = "cpu"  # smoke, cpu (about 10 minutes on two idle cores) or paper
    question: str = ""  # convolution, kernel size or head ratio; empty: all three
    control_steps: int = 0  # updates of each model; 0: the scale's own
    seeds: int = 0  # runs of each model; 0: the scale's own
    output_dir: str = "outputs"  # folder for runs, results and figures

    def __post_init__(self) -> None:
        lab.scale_row(self.scale)
        known = recipes.variants(ConvBertConfig.named("convbert-tiny"))
        if self.question and self.question not in known:
            raise ValueError(f"question={self.question!r}: choose one of {', '.join(known)}")
        for name in ("control_steps", "seeds"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name}={getattr(self, name)}: give 0 for the scale's own")


def sweep(config: SweepConfig) -> pd.DataFrame:
    """Run the command; runs that are in the output folder already are used again.

    Claims are made about all questions at the scale's own number of updates; anything else is
    recorded only.

    Returns:
        One row per question, answer and seed; see `measure`.

    Raises:
        ValueError: a claim does not hold; it is kept as failed, and everything else, too.
    """
    scale = lab.begin(NAME, config.scale, config.output_dir)
    asked = {name: getattr(config, name) for name in ("seeds", "control_steps")}
    own = replace(scale, **{name: value for name, value in asked.items() if value})
    found = measure(own, config.output_dir, config.question)
    report(found)
    file = results.path(config.output_dir, scale.name, NAME)
    if not (config.question or config.control_steps):
        try:
            claim(found)
        except lab.ClaimFailed as error:
            raise ValueError(f"{error}; all numbers are in {file}") from error
    content = json.loads(file.read_text(encoding="utf-8"))
    results.write_json(file, content | {"finished": True})
    print(f"results: {file}")
    return found


def measure(scale: Scale, output_dir: str | Path, question: str = "") -> pd.DataFrame:
    """Pretrain every variant with every seed, and collect what they reach.

    Args:
        scale: gives model, updates and seeds.
        output_dir: receives the runs.
        question: a key of `recipes.variants`; empty: all.

    Returns:
        Columns question, answer, seed, parameters (of the encoder), mlm_loss (nats, held-out
        text), null_mlm_loss (of a guesser by word frequency), and gain: by how much the loss is
        below that of the model itself with the same seed, which has the same text and masks.
    """
    import pandas as pd

    model = ConvBertConfig.named(scale.model)
    asked = recipes.variants(model)
    asked = {question: asked[question]} if question else asked
    seeds = list(range(1, scale.seeds + 1))
    shapes = [shape for answers in asked.values() for shape in answers.values()]
    runs = recipes.compared(scale, output_dir, shapes, seeds)
    shared = (model, budget.attention_only(model))  # whose checkpoints notebook 06 looks at
    for (shape, _), folder in runs.items():  # those of all others would fill a disk
        for checkpoint in [] if shape in shared else [*folder.glob("step-*"), folder / "best"]:
            shutil.rmtree(checkpoint, ignore_errors=True)
    ends = {run: recipes.results(folder) for run, folder in runs.items()}
    rows = [
        {
            "question": name,
            "answer": answer,
            "seed": seed,
            "parameters": sum(budget.model_parameters(shape).values()),
            "mlm_loss": ends[shape, seed]["mlm_loss"],
            "null_mlm_loss": ends[shape, seed]["null_mlm_loss"],
            "gain": ends[model, seed]["mlm_loss"] - ends[shape, seed]["mlm_loss"],
        }
        for name, answers in asked.items()
        for answer, shape in answers.items()
        for seed in seeds
    ]
    return pd.DataFrame(rows)


def report(found: pd.DataFrame) -> None:
    """Record every loss and difference, and draw them."""
    from convbert import charts

    table = found.groupby(["question", "answer"], sort=False)
    for (question, answer), rows in table:
        name = re.sub(r"\W+", "_", f"{question} {answer}")
        seeds = rows.seed.tolist()
        lab.record(f"{name}_loss", rows.mlm_loss.tolist(), unit="nats", seeds=seeds)
        if rows.gain.any():
            lab.record(f"{name}_gain", rows.gain.tolist(), unit="nats", seeds=seeds)
    alt = "Held-out masked-word loss, mean over seeds: "
    alt += "; ".join(f"{' '.join(key)} {mean:.2f}" for key, mean in table.mlm_loss.mean().items())
    fig, data = charts.variants(found)
    lab.figure(fig, "variants", f"{alt}. Word frequencies: {found.null_mlm_loss.mean():.2f}.", data)


def claim(found: pd.DataFrame) -> None:
    """Claim what is larger than the seeds' noise, and that the rest is not.

    Fewer than three seeds say nothing about noise, so they claim nothing.

    Args:
        found: what `measure` returns for all questions.

    Raises:
        lab.ClaimFailed: a claim does not hold.
    """
    seeds = sorted(found.seed.unique().tolist())
    if len(seeds) < lab.MIN_SEEDS:
        return
    worse = {
        "none": "Span-based convolution learns masked words sooner than attention alone.",
        "light": "Span-based convolution learns them sooner than light convolution (eq. 2).",
    }
    for answer, text in worse.items():
        behind = (-found[found.answer == answer].gain).tolist()
        name, holds = f"sooner_than_{answer}", sum(behind) / len(behind) > APART
        options = dict(kind="statistical", observed=behind, null=0.0, seeds=seeds)
        lab.claim(name, text, holds, bound=f"mean > {APART} nats", **options)
    others = found[~found.answer.isin(worse)].groupby(["question", "answer"]).gain.mean()
    text = "Depthwise or dynamic kernels, 3 to 15 taps, head ratios 1 to 4: no clear difference."
    lab.claim(
        "no_clear_difference",
        text,
        float(others.abs().max()) < APART,
        kind="statistical",
        observed=float(others.abs().max()),
        null=0.0,
        bound=f"largest mean < {APART} nats",
        seeds=seeds,
    )
