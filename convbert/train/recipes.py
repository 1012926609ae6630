"""The options behind each scale, and the runs that several notebooks share. No Paddle."""

from __future__ import annotations

import itertools
import json
import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any, TypeVar

from convbert import budget, jobs
from convbert.config import ConvBertConfig
from convbert.data.sources import Source
from convbert.lab import Scale

Key = TypeVar("Key", bound=tuple)
STARTS = ("pretrained", "scratch")  # a model to fine-tune, and its twin with new weights
# What shapes that are compared may differ in; options of `convbert pretrain`.
_SHAPE = ("conv_type", "conv_kernel_size", "head_ratio", "intermediate_size")


def pretraining(scale: Scale) -> dict[str, Any]:
    """Return the options of `convbert pretrain` at a scale.

    The paper's recipe (ELECTRA's: learning rate 5e-4 small, 2e-4 base, 10,000 warm-up steps) is
    made for a million steps. A tiny model with some thousand steps needs a higher rate, a short
    warm-up, no dropout, many small batches, and a smaller epsilon: clipping to norm 1 leaves
    gradients so small that 1e-6 would keep the discriminator from learning. Its weight of 50 stays.
    Guesses are drawn at temperature 1.
    """
    tiny = scale.model == "convbert-tiny"
    steps = scale.pretrain_steps
    return {
        "model_name_or_path": scale.model,
        "max_steps": steps,
        "train_batch_size": scale.pretrain_batch,
        "max_seq_length": scale.pretrain_length,
        "learning_rate": 1e-3 if tiny else 2e-4,
        "warmup_steps": round(0.1 * steps) if tiny else 10_000,
        "adam_epsilon": 1e-8 if tiny else 1e-6,
        "adam_beta2": 0.98 if tiny else 0.999,
        "dropout": 0.0 if tiny else 0.1,
        "logging_steps": max(1, steps // 30),
        "eval_steps": max(1, steps // 6),
        "eval_examples": min(512, 4 * steps),
    }


def finetuning(scale: Scale, steps: int = 0) -> dict[str, Any]:
    """Return the options of `convbert glue` at a scale, for the tiny model or the published ones.

    `steps` are the tiny model's updates; 0: those of the scale.

    A published model has the published recipe of its task, which is the command's default. Its
    layer-wise decay of 0.8 is for models worth preserving; a tiny one learns with 1. Its few
    dimensions cannot spare any to dropout: with 0.1 it does not learn word order in time. The more
    updates there are, the lower their rate: a high one gets somewhere in a hundred of them, and
    overwrites what pretraining taught in five hundred.
    """
    if scale.model != "convbert-tiny":
        return {}
    steps = steps or scale.finetune_steps
    return {
        "max_steps": steps,
        "train_examples": scale.finetune_examples,
        "max_seq_length": scale.pretrain_length,
        "batch_size": 32,
        "learning_rate": min(1e-3, 0.15 / steps),
        "layer_lr_decay": 1.0,
        "dropout": 0.0,
        "logging_steps": max(1, steps // 20),
        "save_steps": max(10, steps // 2),
    }


def controlled(
    scale: Scale, output_dir: str | Path, seeds: Sequence[int]
) -> dict[tuple[str, int], Path]:
    """Return pairs of pretrained models that differ in convolution heads alone; see `compared`.

    Returns:
        ("with convolution" or "attention only", seed) -> folder of the run.
    """
    shape = ConvBertConfig.named(scale.model)
    arms = {"with convolution": shape, "attention only": budget.attention_only(shape)}
    runs = compared(scale, output_dir, arms.values(), seeds)
    return {(arm, seed): runs[arms[arm], seed] for arm, seed in itertools.product(arms, seeds)}


def variants(model: ConvBertConfig) -> dict[str, dict[str, ConvBertConfig]]:
    """Return what the paper's parts are compared with, all with as many parameters as the model.

    Returns:
        Question -> answer -> configuration. Each question has the model itself as one answer.
    """
    questions: dict[str, tuple[str, dict[str, Any]]] = {
        "convolution": (
            "conv_type",
            {
                "none": "noconv",
                "depthwise": "depthwise",
                "light": "static",
                "dynamic": "dynamic",
                "span-based": "sdconv",
            },
        ),
        "kernel size": ("conv_kernel_size", {str(taps): taps for taps in (3, 5, 9, 15)}),
        "head ratio": ("head_ratio", {str(ratio): ratio for ratio in (1, 2, 4)}),
    }
    return {
        question: {
            answer: budget.with_parameters_of(model, model.replaced(**{field: value}))
            for answer, value in answers.items()
        }
        for question, (field, answers) in questions.items()
    }


def compared(
    scale: Scale,
    output_dir: str | Path,
    shapes: Iterable[ConvBertConfig],
    seeds: Sequence[int],
) -> dict[tuple[ConvBertConfig, int], Path]:
    """Return pretrained models that differ in their shape alone.

    Text, order, masks and updates are equal. All learn by masked words (one network, no
    discriminator), which shows the most in a few hundred updates. One checkpoint is kept
    half-way. Finished runs are used again.

    Args:
        scale: gives the recipe.
        output_dir: runs lie in `controlled/<scale>` below it.
        shapes: differ from the scale's model in convolution, head ratio or feed-forward width.
        seeds: one run of each shape for each.

    Returns:
        (shape, seed) -> folder of the run.
    """
    root, steps = Path(output_dir, "controlled", scale.name), scale.control_steps
    tiny = scale.model == "convbert-tiny"
    options = pretraining(scale) | {
        "objective": "mlm",
        "max_steps": steps,
        "max_seq_length": min(32, scale.pretrain_length) if tiny else scale.pretrain_length,
        "learning_rate": 2e-3 if tiny else 2e-4,
        "warmup_steps": max(1, steps // 10),
        "logging_steps": max(1, steps // 20),
        "eval_steps": steps,
        "save_steps": max(1, steps // 2),
    }
    folders, commands = {}, {}
    from convbert.train.pretrain import PretrainConfig  # brings Paddle, so not before it is needed

    for shape, seed in itertools.product(dict.fromkeys(shapes), seeds):
        own = {name: getattr(shape, name) for name in _SHAPE} | {"seed": seed}
        name = "-".join(str(value) for value in own.values())
        folders[shape, seed] = root / name
        if not _is_finished(root / name, PretrainConfig("", **options, **own), "final"):
            commands[name] = _command("pretrain", root / name, **options, **own)
    print(f"comparison: {len(commands)} runs to do, {len(folders) - len(commands)} found")
    if commands:
        jobs.run(commands, root / "logs")
    return folders


def answering(scale: Scale) -> dict[str, Any]:
    """Return the options of `convbert squad` at a scale; for the tiny one, as in `finetuning`.

    Nearly all passages of the sample fit with their question into 96 tokens. The tiny model idles
    for some hundred updates before it finds the trick of aligning question and passage; with a
    lower rate it finds it later, with a higher one it does not get as far. The published models get
    the recipe with which ConvBERT-base was fine-tuned on Paddle before.
    """
    tiny = scale.model == "convbert-tiny"
    return {
        "do_train": True,
        "do_predict": True,
        "max_steps": 5 * scale.finetune_steps // 2 if tiny else -1,
        "train_examples": scale.finetune_examples,
        "max_seq_length": 96 if tiny else 512,
        "batch_size": 32 if tiny else 16,
        "learning_rate": 1.5e-3 if tiny else 1e-4,
        "warmup_proportion": 0.06 if tiny else 0.1,
        "layer_lr_decay": 1.0 if tiny else 0.8,
        "adam_epsilon": 1e-8 if tiny else 1e-6,
        "dropout": 0.0 if tiny else 0.1,
        "logging_steps": max(1, scale.finetune_steps // 20),
        "save_steps": 5 * scale.finetune_steps if tiny else 500,  # a tiny one: at the end only
    }


def checkpoints(
    scale: Scale, output_dir: str | Path, seeds: Sequence[int], **overrides: Any
) -> dict[int, Path]:
    """Return one pretrained checkpoint per seed, training those that are not there yet.

    A finished run with the same options is used again, so notebooks share runs, and a notebook
    that runs alone makes its own.

    Args:
        scale: gives the recipe.
        output_dir: runs lie in `pretraining/<scale>/seed-<seed>` below it.
        seeds: one run each.
        **overrides: options that differ from the recipe.

    Returns:
        Seed -> folder of the run, which holds `log.jsonl`, `results.json` and `final/`.
    """
    root = Path(output_dir, "pretraining", scale.name)
    options = {**pretraining(scale), **overrides}
    folders = {seed: root / f"seed-{seed}" for seed in seeds}
    from convbert.train.pretrain import PretrainConfig  # brings Paddle, so not before it is needed

    commands = {
        f"pretrain-{seed}": _command("pretrain", folder, **options, seed=seed)
        for seed, folder in folders.items()
        if not _is_finished(folder, PretrainConfig("", **options, seed=seed), "final")
    }
    for seed, folder in folders.items():
        state = "training" if f"pretrain-{seed}" in commands else "found"
        print(f"pretraining, seed {seed}: {state} in {folder}")
    if commands:
        jobs.run(commands, root / "logs")
    return folders


def finetuned(
    scale: Scale,
    output_dir: str | Path,
    tasks: Sequence[str],
    starts: Mapping[int, str | Path],
    steps: int = 0,
    **overrides: Any,
) -> dict[tuple[str, str, int], Path]:
    """Fine-tune every pretrained model, a tiny one's twin from scratch as well, on every task.

    Finished runs with the same options are used again.

    Args:
        scale: gives the recipe.
        output_dir: runs lie in `finetuning/<scale>/<task>-<start>-<seed>` below it.
        tasks: names of tasks.
        starts: seed -> folder of a pretrained model.
        steps: the tiny model's updates; 0: those of the scale.
        **overrides: options that differ from the recipe.

    Returns:
        (task, "pretrained" or "scratch", seed) -> folder of the run.
    """
    from convbert.train.glue import GlueConfig  # brings Paddle, so not before it is needed

    root = Path(output_dir, "finetuning", scale.name)
    kinds = STARTS if scale.model == "convbert-tiny" else STARTS[:1]
    options = finetuning(scale, steps) | overrides
    wanted = {
        (task, start, seed): options | {"task_name": task} | _start(start, seed, starts)
        for task, start, seed in itertools.product(tasks, kinds, starts)
    }
    return _tune("glue", GlueConfig, root, wanted)


def answered(
    scale: Scale,
    output_dir: str | Path,
    source: Source,
    starts: Mapping[int, str | Path],
    kinds: Sequence[str] = STARTS,
    **overrides: Any,
) -> dict[tuple[str, int], Path]:
    """Train every pretrained model, and its twin from scratch, to mark answers in passages.

    Finished runs with the same options are used again.

    Args:
        scale: gives the recipe.
        output_dir: runs lie in `answering/<scale>/<source>/<start>-<seed>` below it.
        source: questions in SQuAD's layout.
        starts: seed -> folder of a pretrained model.
        kinds: "pretrained", "scratch", or both.
        **overrides: options that differ from the recipe.

    Returns:
        ("pretrained" or "scratch", seed) -> folder of the run.
    """
    from convbert.train.squad import SquadConfig  # brings Paddle, so not before it is needed

    root = Path(output_dir, "answering", scale.name, source.name.replace("/", "-"))
    files = {"train_file": str(source.file("train")), "predict_file": str(source.file("dev"))}
    options = answering(scale) | files | overrides
    wanted = {
        (start, seed): options | _start(start, seed, starts)
        for start, seed in itertools.product(kinds, starts)
    }
    return _tune("squad", SquadConfig, root, wanted)


def results(folder: str | Path) -> dict[str, Any]:
    """Read a run's `results.json`."""
    return dict(json.loads(Path(folder, "results.json").read_text(encoding="utf-8")))


def history(folder: str | Path) -> list[dict[str, float]]:
    """Read a run's `log.jsonl`, one dictionary per logged step."""
    lines = Path(folder, "log.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


def parity_curves() -> dict[str, dict[str, Any]]:
    """Return losses of 200 steps here ("ours") and with transformers and torch, by task.

    `make parity` computes both from the same weights, each with its own tokenizer, model, gradients
    and optimizer, and fails if the stored numbers are not what it finds.
    """
    file = Path(__file__).with_name("finetuning_curves.json")
    return dict(json.loads(file.read_text(encoding="utf-8")))


def _start(start: str, seed: int, starts: Mapping[int, str | Path]) -> dict[str, Any]:
    """Return the options that tell a pretrained model's run from its twin's."""
    model = str(starts[seed])
    return {"model_name_or_path": model, "from_scratch": start == "scratch", "seed": seed}


def _tune(
    job: str, make_config: Callable[..., Any], root: Path, wanted: Mapping[Key, dict[str, Any]]
) -> dict[Key, Path]:
    """Do the runs that are not there yet; return every run's folder, named after its key."""
    folders, commands = dict[Key, Path](), dict[str, list[str]]()
    for key, options in wanted.items():
        name = "-".join(map(str, key)).replace("/", "-")
        folders[key] = root / name
        file = Path(options["model_name_or_path"], "model.safetensors")
        if not _is_finished(root / name, make_config(output_dir="", **options), "last", file):
            commands[name] = _command(job, root / name, **options)
    print(f"fine-tuning: {len(commands)} runs to do, {len(folders) - len(commands)} found")
    if commands:
        jobs.run(commands, root / "logs")
    for name in commands:  # two checkpoints of each of many runs would fill a disk
        for checkpoint in (root / name).glob("step-*"):
            shutil.rmtree(checkpoint)
    return folders


def _command(name: str, folder: Path, **options: Any) -> list[str]:
    """Write a command that continues what was interrupted, and starts over what had ended."""
    ended = (folder / "results.json").is_file()  # with other options, or it were not run again
    return jobs.command(name, **options, resume=not ended, output_dir=folder)


def _is_finished(folder: Path, config: Any, weights: str, start: Path | None = None) -> bool:
    """Whether a run ended with this config, its weights are there, and its start is not newer.

    A start that is no file is a published name, or in another format.
    """
    files = (folder / "results.json", folder / weights / "model.safetensors")
    if not all(file.is_file() for file in files):
        return False
    if start and start.is_file() and start.stat().st_mtime > files[0].stat().st_mtime:
        return False
    wanted = json.loads(json.dumps(asdict(config), default=str))
    same = {"output_dir": "", "resume": False}  # say nothing about the result
    # An option younger than the run had no other effect on it than its default has.
    defaults = {field.name: field.default for field in fields(config)}
    return defaults | results(folder)["options"] | same == wanted | same
