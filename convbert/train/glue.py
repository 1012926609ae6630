"""Fine-tuning on a GLUE task, or on a sample task of the same shape."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import paddle

from convbert import runtime
from convbert.data import corpus, glue, held_out, sources
from convbert.heads import ConvBertForSequenceClassification
from convbert.metrics import glue as metrics
from convbert.results import write_json
from convbert.tokenizer import ConvBertTokenizer
from convbert.train import checkpoint, classify, glue_config, loop, optim, parallel, trials
from convbert.train.glue_config import GlueConfig
from convbert.train.log import announce

# Options that a resumed run may change, and those that the fingerprint says better.
_FREE = (
    "model_name_or_path output_dir batch_size gradient_accumulation_steps num_train_epochs "
    "max_steps logging_steps save_steps keep_checkpoints resume seed device precision num_trials"
).split()


def finetune(config: GlueConfig) -> dict[str, Any]:
    """Fine-tune, evaluate on the dev set, write the results; several times if asked to.

    Returns:
        What `results.json` holds: the dev metrics of the last step (`last`) and of the best
        evaluation (`best`, selected on the dev set itself), and the options. Of several trials
        `last` and `best` are those of the trial with the best evaluation; `mean` and `std` (of
        the sample) are over all trials.

    Raises:
        ValueError: an option without meaning, or a checkpoint that does not fit.
        FileNotFoundError: data or checkpoint is missing.
        FileExistsError: the output folder holds an unfinished run, and `resume` is off.
    """
    glue_config.check(config)
    optim.schedule(config.scheduler_type)
    loop.check_options(
        config.keep_checkpoints, config.gradient_accumulation_steps, config.batch_size
    )
    return _run(config) if config.num_trials == 1 else trials.run(config, _run)


def _run(config: GlueConfig) -> dict[str, Any]:
    """Fine-tune once."""
    output, device = Path(config.output_dir), runtime.set_device(config.device)
    loop.refuse_unfinished(output, config.resume)
    data = read_data(config)
    tokenizer = ConvBertTokenizer.from_pretrained(config.model_name_or_path)
    batch = config.batch_size * parallel.world()
    per_epoch = math.ceil(len(data.train) / batch)  # the last batch may be short
    steps = (
        config.max_steps
        if config.max_steps > 0
        else max(1, round(config.num_train_epochs * per_epoch))
    )
    announce(
        task=data.note,
        recipe=glue_config.describe(config),
        start="new weights" if config.from_scratch else config.model_name_or_path,
        steps=f"{steps} of {batch} examples, seed {config.seed}",
        device=f"{device}, {runtime.choose_precision(config.precision).name}",
    )
    paddle.seed(config.seed)
    model = _model(config, labels=len(glue.TASKS[config.task_name].labels or [None]))
    trainer = Trainer(model, tokenizer, config, steps, data.train, data.dev, data.dev_mismatched)
    progress = loop.train(trainer, trainer.plan())
    last = {name: value for name, value in progress.last.items() if name != "step"}
    results = {
        "task": config.task_name,
        "steps": steps,
        "steps_taken": progress.step,
        "last": last,
        "best": progress.best,
        "options": asdict(config),
    }
    if parallel.rank() == 0:
        trainer.save(output / "last")
        write_json(output / "results.json", results)
        print(json.dumps({"last": last, "best": progress.best}))
    return results


class Data(NamedTuple):
    """The examples of a run."""

    train: list[glue.Example]
    dev: list[glue.Example]  # or training examples that were set apart
    dev_mismatched: list[glue.Example]  # mnli only
    note: str  # what they are


def read_data(config: GlueConfig) -> Data:
    """Find and read the examples of a run, as its options choose them."""
    task = config.task_name
    splits = ["train", *glue.resolve_splits(task, "dev")]
    source = sources.find(task, splits, allow_sample=False)
    train, dev, *rest = (glue.read(source, task, split) for split in splits)
    measured_on = "dev"
    if config.validation_examples:
        train, dev = held_out.set_apart(train, config.validation_examples)
        rest, measured_on = [], "set apart"
    if config.train_examples > 0:
        chosen = corpus.generator(config.seed).permutation(len(train))[: config.train_examples]
        train = [train[i] for i in chosen]
    if config.double_unordered:
        train += [glue.Example(e.text_b or "", e.text_a, e.label) for e in train]
    note = f"{task}: {len(train)} training examples, {len(dev)} {measured_on}"
    if rest:
        note += f", {len(rest[0])} mismatched"
    files = {split: glue.find_file(source, task, split) for split in splits}
    other = [file.name for split, file in files.items() if not glue.is_official(file, task, split)]
    if task in glue.MD5:
        note += f"; not the official bytes: {', '.join(other)}" if other else "; official files"
    return Data(train, dev, rest[0] if rest else [], note)


def _model(config: GlueConfig, labels: int) -> ConvBertForSequenceClassification:
    overrides = {
        "num_labels": labels,
        "hidden_dropout_prob": config.dropout,
        "attention_probs_dropout_prob": config.dropout,
    }
    model = ConvBertForSequenceClassification.from_pretrained(
        config.model_name_or_path, **overrides
    )
    return ConvBertForSequenceClassification(model.config) if config.from_scratch else model


class Trainer:
    """Fine-tuning as a job of the training loop."""

    def __init__(
        self,
        model: ConvBertForSequenceClassification,
        tokenizer: ConvBertTokenizer,
        config: GlueConfig,
        steps: int,
        train: Sequence[glue.Example] = (),
        dev: Sequence[glue.Example] = (),
        dev_mismatched: Sequence[glue.Example] = (),
    ) -> None:
        """Keep everything and make the optimizer."""
        self.model, self.tokenizer, self.config, self.steps = model, tokenizer, config, steps
        self.train, self.dev, self.dev_mismatched = list(train), list(dev), list(dev_mismatched)
        self.weights = {"loss": 1.0}
        self.optimizer = optim.adamw(
            model,
            config.learning_rate,
            config.weight_decay,
            config.layer_lr_decay,
            config.adam_epsilon,
            config.max_grad_norm,
        )
        self.epoch_order = lru_cache(2)(partial(corpus.epoch_order, len(self.train), config.seed))

    def plan(self) -> loop.Plan:
        """Say how long to train and what to do on the way."""
        config, steps = self.config, self.steps
        factor = optim.schedule(config.scheduler_type)
        warmup = min(config.warmup_steps or int(config.warmup_proportion * steps), steps)
        return loop.Plan(
            name=config.task_name,
            output=Path(config.output_dir),
            steps=steps,
            seed=config.seed,
            rate=lambda step: config.learning_rate * factor(step, steps, warmup),
            value=lambda measured: next(iter(measured.values())),  # the task's own metric
            fingerprint=self.fingerprint(),
            logging_steps=config.logging_steps,
            eval_steps=config.save_steps,
            save_steps=config.save_steps,
            keep=config.keep_checkpoints,
            accumulation=config.gradient_accumulation_steps,
            precision=runtime.choose_precision(config.precision),
            resume=config.resume,
            patience=config.early_stopping_patience,
        )

    def fingerprint(self) -> dict[str, Any]:
        """Return what a checkpoint must agree with."""
        is_new = self.config.from_scratch
        return checkpoint.fingerprint(
            self.config,
            _FREE,
            model=self.model.config.to_dict(),
            start="new" if is_new else checkpoint.hash_weights(self.model.convbert),
            data=checkpoint.hash_text(repr((self.train, self.dev, self.dev_mismatched))),
            vocabulary=self.tokenizer.fingerprint,
            global_batch=self.config.batch_size * parallel.world(),
        )

    def draw(self, step: int) -> loop.Batch:
        """Return the batch of a step: shuffled epochs, the last batch of each may be short."""
        size = self.config.batch_size * parallel.world()
        epoch, place = divmod(step, math.ceil(len(self.train) / size))
        rows = self.epoch_order(epoch)[place * size : (place + 1) * size]
        return loop.Batch(rows, {"loss": len(rows)}, [self.train[row] for row in rows])

    def sums(self, batch: loop.Batch, part: np.ndarray) -> dict[str, paddle.Tensor]:
        """Return the loss summed over a part of the batch."""
        inputs, labels = self.encode([batch.content[place] for place in part])
        return {"loss": self.model.loss(self.model(**inputs), labels) * len(part)}

    def describe(self, batch: loop.Batch) -> list[str]:
        """Return the examples as text."""
        return [str(example) for example in batch.content]

    def encode(
        self, examples: list[glue.Example]
    ) -> tuple[dict[str, paddle.Tensor], paddle.Tensor]:
        """Return model inputs, padded to the longest of the batch, and labels (0 if unknown)."""
        inputs = classify.encode(self.tokenizer, examples, self.config.max_seq_length)
        dtype = np.float32 if self.model.config.num_labels == 1 else np.int64
        labels = np.array([example.label or 0 for example in examples], dtype)
        return inputs, paddle.to_tensor(labels)

    def predict(self, examples: list[glue.Example]) -> np.ndarray:
        """Return logits [n, C]."""
        length, size = self.config.max_seq_length, self.config.batch_size
        return classify.predict(self.model, self.tokenizer, examples, length, size)

    def evaluate(self, dev: list[glue.Example] | None = None) -> dict[str, float]:
        """Return the task's metrics and the mean loss on labeled examples.

        The task's own metric comes first. Of mnli the mismatched set's are added as `…_mm`.

        Args:
            dev: the examples; None: those of the run.
        """
        if dev is not None:
            return self.measure(dev)
        found = self.measure(self.dev)
        if self.dev_mismatched:
            other = self.measure(self.dev_mismatched)
            found |= {f"{name}_mm": value for name, value in other.items()}
        return found

    def measure(self, dev: list[glue.Example]) -> dict[str, float]:
        """Return metrics and mean loss; of regression scores are clipped for the metrics only."""
        logits, labels = self.predict(dev), np.array([example.label for example in dev])
        loss = self.model.loss(paddle.to_tensor(logits), paddle.to_tensor(labels))
        scores = metrics.score(self.config.task_name, classify.decide(logits), labels)
        return {**scores, "eval_loss": float(loss)}

    def save(self, directory: Path) -> None:
        """Write model and tokenizer."""
        self.model.save_pretrained(directory)
        self.tokenizer.save_pretrained(directory)
