"""The options of `convbert glue`, and the published run of every task as their defaults. No Paddle.

The published runs are those of the earlier Paddle reproduction, read from its logs; it used
`convbert-base` on one GPU, in float32. One thing is not taken over by default: it did not clip
gradients. And its cosine, of qnli, was a full wave, back up to the peak: ours is half a wave.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from types import MappingProxyType
from typing import Any

from convbert.data import glue

RECIPE: Any = None  # default of an option that the task's recipe decides
SYMMETRIC = ("mrpc", "sts-b")  # tasks on pairs without an order


@dataclass(frozen=True)
class GlueConfig:
    """Options of `convbert glue`; names as in earlier ConvBERT reproductions on Paddle.

    The defaults are the published recipe of the task; what differs from it is printed.
    """

    task_name: str  # a GLUE task such as sst-2, or sample/swap, sample/order
    model_name_or_path: str = "convbert-base"  # published name, or folder with config and weights
    # folder for log.jsonl, results.json, step-…/, best/ and last/; empty: the task's name
    output_dir: str = ""
    model_type: str = "convbert"  # the only one there is
    from_scratch: bool = False  # keep the checkpoint's shape and vocabulary, draw new weights
    # measure on so many training examples, set apart, instead of on dev; 0: on dev
    validation_examples: int = 0
    train_examples: int = -1  # train on so many randomly chosen examples; -1: all
    double_unordered: bool = False  # mrpc and sts-b: train on each pair in both orders
    max_seq_length: int = 128  # longer inputs are truncated
    batch_size: int = 32  # examples of one step on each device
    gradient_accumulation_steps: int = 1  # compute a batch in so many parts, to save memory
    learning_rate: float = 1e-4  # peak; small and medium-small were tuned with 3e-4
    layer_lr_decay: float = 0.8  # factor of the learning rate per layer, from the top down
    num_train_epochs: float = RECIPE  # passes over the data: 3, of sts-b, rte and wnli 10
    max_steps: int = -1  # > 0 overrides epochs
    scheduler_type: str = RECIPE  # linear, cosine or linear_tf: linear, of qnli cosine
    warmup_steps: int = 0  # > 0 wins over warmup_proportion
    warmup_proportion: float = 0.1  # part of all steps in which the learning rate rises
    weight_decay: float = 0.01  # not on biases and LayerNorms
    adam_epsilon: float = 1e-6  # added to the root of Adam's second moment
    max_grad_norm: float = 1.0  # clip the global gradient norm; 0: do not clip, as published
    dropout: float = 0.1  # of hidden states, attention and head
    logging_steps: int = RECIPE  # log the loss every so many steps: as save_steps
    save_steps: int = RECIPE  # evaluate, and write checkpoints, every so many: 20 to 1000
    keep_checkpoints: int = 2  # newest checkpoints to keep, at least 2
    # stop after so many evaluations without a better one; 0: never
    early_stopping_patience: int = 0
    num_trials: int = 1  # runs that differ in their seed, in trial-1/ and so on
    resume: bool = False  # continue the newest checkpoint of output_dir, if there is one
    seed: int = RECIPE  # of head, subset, order and dropout: 42, of cola 6666; then +1 a trial
    device: str = "auto"  # auto, cpu or gpu
    precision: str = "auto"  # auto (bfloat16 where a GPU has it), float32, bfloat16, float16

    def __post_init__(self) -> None:
        """Write the task's name as this package does, and fill in what its recipe decides."""
        object.__setattr__(self, "task_name", self.task_name.lower())
        object.__setattr__(self, "output_dir", self.output_dir or self.task_name)
        for name, value in recipe(self.task_name).items():
            if name in _BY_TASK and getattr(self, name) is RECIPE:
                object.__setattr__(self, name, value)


def _run(evaluate: int, **different: Any) -> Mapping[str, Any]:
    """Return what the recipe of a task decides; `evaluate`: every so many steps."""
    usual = {"num_train_epochs": 3.0, "scheduler_type": "linear", "seed": 42}
    steps = {"logging_steps": evaluate, "save_steps": evaluate}
    return MappingProxyType({**usual, **steps, **different})


_RUNS = MappingProxyType(
    {
        "cola": _run(40, seed=6666),
        "sst-2": _run(400),
        "mrpc": _run(40),
        "sts-b": _run(100, num_train_epochs=10.0),
        "qqp": _run(1000),
        "mnli": _run(1000),
        "qnli": _run(100, scheduler_type="cosine"),
        "rte": _run(40, num_train_epochs=10.0),
        "wnli": _run(20, num_train_epochs=10.0),
    }
)
_USUAL = _run(100)
_BY_TASK = tuple(_USUAL)
# Options that say where and how to compute, not what.
OUTSIDE = (
    "task_name model_name_or_path output_dir model_type keep_checkpoints resume device precision "
    "gradient_accumulation_steps num_trials logging_steps"
).split()


def recipe(task: str) -> dict[str, Any]:
    """Return the published recipe of a task, option by option; of others the usual one."""
    common = {field.name: field.default for field in fields(GlueConfig)}
    chosen = {**common, "max_grad_norm": 0.0, **_RUNS.get(task, _USUAL)}
    return {name: value for name, value in chosen.items() if name not in OUTSIDE[:4]}


def overrides(config: GlueConfig) -> dict[str, tuple[Any, Any]]:
    """Return what differs from the published recipe: name -> (published, given)."""
    published = recipe(config.task_name)
    given = {name: getattr(config, name) for name in published if name not in OUTSIDE}
    return {
        name: (published[name], value) for name, value in given.items() if value != published[name]
    }


def describe(config: GlueConfig) -> str:
    """Return one line that says which recipe is used, and what is different."""
    name = f"published run of {config.task_name}" if config.task_name in _RUNS else "usual values"
    changes = [
        f"{option} {given} instead of {published}"
        for option, (published, given) in overrides(config).items()
    ]
    return f"{name}; {', '.join(changes)}" if changes else name


def check(config: GlueConfig) -> None:
    """Raise a ValueError for an option without meaning."""
    trainable = [name for name, task in glue.TASKS.items() if "train" in task.splits]
    if config.task_name not in trainable:
        what = f"task_name={config.task_name!r}: choose one of {', '.join(trainable)}"
        raise ValueError(f"{what}; train mnli for ax" if config.task_name == "ax" else what)
    if config.model_type != "convbert":
        raise ValueError(f"model_type={config.model_type!r}: only convbert is here")
    for name in (
        "batch_size",
        "gradient_accumulation_steps",
        "logging_steps",
        "save_steps",
        "learning_rate",
        "adam_epsilon",
        "num_train_epochs",
        "max_seq_length",
        "num_trials",
    ):
        if not 0 < getattr(config, name) < math.inf:
            raise ValueError(f"{name}={getattr(config, name)}: must be positive")
    for name in (
        "weight_decay",
        "max_grad_norm",
        "warmup_steps",
        "early_stopping_patience",
        "validation_examples",
    ):
        if not 0 <= getattr(config, name) < math.inf:
            raise ValueError(f"{name}={getattr(config, name)}: must not be negative")
    if not 0 <= config.warmup_proportion <= 1:
        raise ValueError(f"warmup_proportion={config.warmup_proportion}: must be from 0 to 1")
    if not 0 < config.layer_lr_decay <= 1:
        raise ValueError(f"layer_lr_decay={config.layer_lr_decay}: must be above 0 and at most 1")
    if config.double_unordered and config.task_name not in SYMMETRIC:
        raise ValueError(
            f"double_unordered: the pairs of {config.task_name} have an order, or there are none; "
            f"it is for {' and '.join(SYMMETRIC)}"
        )
