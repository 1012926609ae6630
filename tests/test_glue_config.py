"""The published recipe of every task as a default, and what is said about changes."""

from __future__ import annotations

import math
import subprocess
import sys
from dataclasses import asdict, fields, replace

import pytest

from convbert.cli import parse
from convbert.data import glue
from convbert.train import glue_config
from convbert.train.glue_config import GlueConfig

# Task: epochs, schedule, evaluation interval, seed, total steps and warm-up steps,
# as the earlier Paddle reproduction logged them.
LOGGED = {
    "cola": (3, "linear", 40, 6666, 804, 80),
    "sst-2": (3, "linear", 400, 42, 6315, 631),
    "mrpc": (3, "linear", 40, 42, 345, 34),
    "sts-b": (10, "linear", 100, 42, 1800, 180),
    "qqp": (3, "linear", 1000, 42, 34113, 3411),
    "mnli": (3, "linear", 1000, 42, 36816, 3681),
    "qnli": (3, "cosine", 100, 42, 9822, 982),
    "rte": (10, "linear", 40, 42, 780, 78),
    "wnli": (10, "linear", 20, 42, 200, 20),
}


@pytest.mark.parametrize("task", LOGGED)
def test_nine_recipes_need_no_option(task: str):
    epochs, schedule, every, seed, steps, warmup = LOGGED[task]
    config = GlueConfig(task, "model", "out")
    found = (config.num_train_epochs, config.scheduler_type, config.save_steps, config.seed)
    assert found == (epochs, schedule, every, seed)
    assert config.logging_steps == every
    rows = glue.TASKS[task].splits["train"].rows
    total = round(config.num_train_epochs * math.ceil(rows / config.batch_size))
    assert (total, int(config.warmup_proportion * total)) == (steps, warmup)
    common = (config.learning_rate, config.layer_lr_decay, config.weight_decay, config.adam_epsilon)
    assert common == (1e-4, 0.8, 0.01, 1e-6)
    assert (config.batch_size, config.max_seq_length, config.dropout) == (32, 128, 0.1)
    glue_config.check(config)


@pytest.mark.parametrize("task", LOGGED)
def test_the_only_difference_by_default_is_clipping(task: str):
    config = GlueConfig(task, "model", "out")
    assert glue_config.overrides(config) == {"max_grad_norm": (0.0, 1.0)}
    published = replace(config, max_grad_norm=0.0)
    assert glue_config.overrides(published) == {}
    assert glue_config.describe(published) == f"published run of {task}"


def test_overrides_are_named_with_both_values():
    config = GlueConfig("cola", "m", "out", max_grad_norm=0.0, seed=1, learning_rate=3e-4)
    assert glue_config.overrides(config) == {"learning_rate": (1e-4, 3e-4), "seed": (6666, 1)}
    assert glue_config.describe(config) == (
        "published run of cola; learning_rate 0.0003 instead of 0.0001, seed 1 instead of 6666"
    )
    elsewhere = replace(config, output_dir="x", device="cpu", precision="float32", num_trials=3)
    assert glue_config.describe(elsewhere) == glue_config.describe(config)
    assert glue_config.describe(GlueConfig("sample/swap", "m", "o")).startswith("usual values; max")


def test_every_option_overrides_the_recipe():
    """From the command line too, and a resolved config is the same again."""
    words = ["--task_name", "qnli", "--model_name_or_path", "m", "--output_dir", "o"]
    config = parse("glue", GlueConfig, words)
    assert config == GlueConfig("qnli", "m", "o") and config.scheduler_type == "cosine"
    more = ["--scheduler_type", "linear", "--seed", "7", "--num_train_epochs", "1.5"]
    config = parse("glue", GlueConfig, [*words, *more, "--save_steps", "9", "--logging_steps", "3"])
    values = (config.scheduler_type, config.seed, config.num_train_epochs)
    assert values == ("linear", 7, 1.5) and (config.save_steps, config.logging_steps) == (9, 3)
    assert GlueConfig(**asdict(config)) == config
    assert all(getattr(config, field.name) is not None for field in fields(config))


def test_one_option_is_enough():
    """And a task's name may be written as its folder is."""
    config = parse("glue", GlueConfig, ["--task_name", "SST-2", "--model_type", "convbert"])
    assert config == GlueConfig("sst-2", "convbert-base", "sst-2")


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("model_type", "bert", "model_type='bert': only convbert is here"),
        ("task_name", "ax", "task_name='ax': choose one of cola, .*; train mnli for ax"),
        ("num_trials", 0, "num_trials=0: must be positive"),
        ("early_stopping_patience", -1, "early_stopping_patience=-1: must not be negative"),
        ("max_grad_norm", -1.0, "max_grad_norm=-1.0: must not be negative"),
        ("weight_decay", math.nan, "weight_decay=nan"),
        ("learning_rate", math.inf, "learning_rate=inf"),
        ("learning_rate", math.nan, "learning_rate=nan"),
        ("adam_epsilon", 0.0, "adam_epsilon=0.0"),
        ("warmup_proportion", 1.5, "warmup_proportion=1.5: must be from 0 to 1"),
        ("warmup_steps", -3, "warmup_steps=-3"),
        ("double_unordered", True, "double_unordered: .* it is for mrpc and sts-b"),
    ],
)
def test_values_without_meaning(option: str, value, message: str):
    with pytest.raises(ValueError, match=message):
        glue_config.check(replace(GlueConfig("rte", "m", "o"), **{option: value}))


def test_options_bring_no_paddle():
    code = "import sys, convbert.train.glue_config; sys.exit('paddle' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
