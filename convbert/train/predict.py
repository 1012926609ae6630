"""`convbert predict`: a fine-tuned model on a task's test set, on a file, or on one text."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from safetensors import safe_open

from convbert import runtime
from convbert.data import glue, leaderboard, sources
from convbert.heads import ConvBertForSequenceClassification
from convbert.tokenizer import ConvBertTokenizer
from convbert.train import classify


@dataclass(frozen=True)
class PredictConfig:
    """Options of `convbert predict`; names as in earlier ConvBERT reproductions on Paddle."""

    task_name: str  # a GLUE task, ax (with a model of mnli), or sample/swap, sample/order
    model_name_or_path: str = ""  # fine-tuned model: a folder that `convbert glue` wrote
    ckpt_path: str = ""  # its weights, if they are elsewhere; vocab.txt may be in either place
    split: str = "test"  # of the task: test, dev or train
    input_file: str = ""  # your own texts in place of a split: one per line, a tab between two
    text: str = ""  # one text of your own; its label and probabilities are printed
    text_pair: str = ""  # the second text, of tasks on pairs
    output_dir: str = "predictions"  # folder for the TSV files
    max_seq_length: int = 128  # longer inputs are truncated
    batch_size: int = 32  # inputs at a time
    device: str = "auto"  # auto, cpu or gpu

    def __post_init__(self) -> None:
        """Write the task's name as this package does."""
        object.__setattr__(self, "task_name", self.task_name.lower())


def predict(config: PredictConfig) -> None:
    """Predict.

    Of a test set this writes the leaderboard's file; of mnli one for each of its test sets, and
    AX, if that is found. Of another split `task-split.tsv`, which `convbert score glue` reads. Of
    a file `name.tsv` with a probability per label. A text's result is printed as JSON.

    Raises:
        ValueError: an option without meaning, a model of another task, data that do not fit.
        FileNotFoundError: model or data are missing.
    """
    _check(config)
    runtime.set_device(config.device)
    model = Predictor(config)
    if config.text:
        print(json.dumps(model.one(glue.Example(config.text, config.text_pair or None, None))))
    elif config.input_file:
        model.file(Path(config.input_file))
    else:
        model.split(config.task_name)
        if (config.task_name, config.split) == ("mnli", "test"):
            try:
                model.split("ax")
            except FileNotFoundError as error:
                print(f"no AX.tsv: {error}")


class Predictor:
    """A fine-tuned model, and what to do with it."""

    def __init__(self, config: PredictConfig) -> None:
        """Load the model."""
        self.config, self.task = config, glue.TASKS[config.task_name]
        self.is_pair = any(split.text_b is not None for split in self.task.splits.values())
        weights = find_model(config.ckpt_path or config.model_name_or_path)
        _check_model(weights, config.task_name)
        vocabulary = weights
        if config.model_name_or_path and not (weights / "vocab.txt").exists():
            vocabulary = find_model(config.model_name_or_path)
        self.model = ConvBertForSequenceClassification.from_pretrained(weights)
        self.tokenizer = ConvBertTokenizer.from_pretrained(vocabulary)
        expected = len(self.task.labels or [None])
        if self.model.config.num_labels != expected:
            raise ValueError(
                f"{weights} has {self.model.config.num_labels} labels, {config.task_name} has "
                f"{expected}: give a model fine-tuned on {config.task_name}"
            )

    def logits(self, examples: list[glue.Example]) -> np.ndarray:
        """Return logits [n, C]."""
        length = min(self.config.max_seq_length, self.model.config.max_position_embeddings)
        return classify.predict(
            self.model, self.tokenizer, examples, length, self.config.batch_size
        )

    def one(self, example: glue.Example) -> dict:
        """Return the label and the probability of every label, or the score."""
        logits = self.logits([example])
        guess = classify.decide(logits)[0]
        if self.task.labels is None:
            return {"score": float(guess)}
        shares = classify.probabilities(logits)[0].tolist()
        odds = dict(zip(self.task.labels, shares, strict=True))
        return {"label": self.task.labels[guess], "probabilities": odds}

    def file(self, path: Path) -> None:
        """Write index, prediction and probabilities for the lines of a file."""
        columns = 2 if self.is_pair else 1
        layout = glue.Split(0, columns, 0, 1 if self.is_pair else None, header=False)
        logits = self.logits(glue.read_file(path, self.task, layout))
        guesses, labels = classify.decide(logits), self.task.labels
        rows = [["index", "prediction", *(f"p({label})" for label in labels or ())]]
        for index, guess in enumerate(guesses):
            rows.append([str(index), f"{guess:.6f}" if labels is None else labels[guess]])
        if labels is not None:
            for row, shares in zip(rows[1:], classify.probabilities(logits), strict=True):
                row += [f"{share:.6f}" for share in shares]
        self.write(f"{path.stem}.tsv", "".join("\t".join(row) + "\n" for row in rows))

    def split(self, task: str) -> None:
        """Write the predictions for a split: of a test set as the leaderboard wants them."""
        splits = glue.resolve_splits(task, self.config.split) or [self.config.split]
        source = sources.find(task, splits, allow_sample=False)
        official = {test: name for name, test in leaderboard.FILES.items()}
        for split in splits:
            test = leaderboard.TestSet(task, split)
            examples = glue.read(source, task, split, whole=test in official)
            name = official.get(test, f"{task.replace('/', '-')}-{split}")
            file = Path(self.config.output_dir, f"{name}.tsv")
            leaderboard.write(file, task, classify.decide(self.logits(examples)).tolist())
            print(f"wrote {file}: {len(examples)} predictions")

    def write(self, name: str, text: str) -> None:
        """Write a file of results."""
        file = Path(self.config.output_dir, name)
        leaderboard.write_aside(file, text.encode())
        print(f"wrote {file}")


def find_model(path: str) -> Path:
    """Return the folder of weights: `path` itself, or the best model of a run in it."""
    folder = Path(path)
    is_run = not (folder / "config.json").exists() and (folder / "best").is_dir()
    return folder / "best" if is_run else folder


def _check_model(folder: Path, task: str) -> None:
    """Refuse a model that has learned another task, or none."""
    weights, run = folder / "model.safetensors", folder.parent / "results.json"
    if weights.is_file():
        with safe_open(weights, framework="numpy") as file:
            if not any(name.startswith("classifier.") for name in file.keys()):
                raise ValueError(f"{weights} has no classifier: fine-tune it with convbert glue")
    if folder.name in ("best", "last") and run.is_file():
        learned = json.loads(run.read_text(encoding="utf-8")).get("task")
        if learned not in (None, "mnli" if task == "ax" else task):
            raise ValueError(f"{folder} has learned {learned}, not {task}")


def _check(config: PredictConfig) -> None:
    """Raise a ValueError for options without meaning."""
    if config.task_name not in glue.TASKS:
        raise ValueError(f"task_name={config.task_name!r}: choose one of {', '.join(glue.TASKS)}")
    if not (config.ckpt_path or config.model_name_or_path):
        raise ValueError("model_name_or_path or ckpt_path: give a fine-tuned model")
    for name in ("max_seq_length", "batch_size"):
        if getattr(config, name) <= 0:
            raise ValueError(f"{name}={getattr(config, name)}: must be positive")
    if config.text and config.input_file:
        raise ValueError("text and input_file: give one of them")
    is_pair = any(s.text_b is not None for s in glue.TASKS[config.task_name].splits.values())
    if config.text_pair and not (config.text and is_pair):
        what = "give text as well" if is_pair else f"{config.task_name} is a task on single texts"
        raise ValueError(f"text_pair: {what}")
    if config.text and is_pair and not config.text_pair:
        raise ValueError(f"text: {config.task_name} is a task on pairs, give text_pair as well")
