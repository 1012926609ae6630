"""Fine-tuning on a GLUE task, or on a sample task of the same shape."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import paddle

from convbert import runtime
from convbert.data import corpus, glue, sources
from convbert.heads import ConvBertForSequenceClassification
from convbert.metrics import glue as metrics
from convbert.results import write_json
from convbert.tokenizer import ConvBertTokenizer
from convbert.train import checkpoint, loop, optim, parallel
from convbert.train.log import announce


@dataclass(frozen=True)
class GlueConfig:
    """Options of `convbert glue`; names as in earlier ConvBERT reproductions on Paddle."""

    task_name: str  # a GLUE task such as sst-2, or sample/swap, sample/order
    model_name_or_path: str  # checkpoint directory with config.json, model.safetensors, vocab.txt
    output_dir: str  # folder for log.jsonl, results.json, step-…/, best/ and last/
    from_scratch: bool = False  # keep the checkpoint's shape and vocabulary, draw new weights
    train_examples: int = -1  # train on so many randomly chosen examples; -1: all
    max_seq_length: int = 128  # longer inputs are truncated
    batch_size: int = 32  # examples of one step on each device
    gradient_accumulation_steps: int = 1  # compute a batch in so many parts, to save memory
    learning_rate: float = 1e-4  # peak
    layer_lr_decay: float = 0.8  # factor of the learning rate per layer, from the top down
    num_train_epochs: float = 3.0  # passes over the data, unless max_steps is given
    max_steps: int = -1  # > 0 overrides epochs
    scheduler_type: str = "linear"  # linear, cosine or linear_tf
    warmup_steps: int = 0  # > 0 wins over warmup_proportion
    warmup_proportion: float = 0.1  # part of all steps in which the learning rate rises
    weight_decay: float = 0.01  # not on biases and LayerNorms
    adam_epsilon: float = 1e-6  # added to the root of Adam's second moment
    max_grad_norm: float = 1.0  # clip the global gradient norm; 0: do not clip
    dropout: float = 0.1  # of hidden states, attention and head
    logging_steps: int = 100  # log the loss every so many steps
    save_steps: int = 100  # evaluate, and write checkpoints, every so many steps
    keep_checkpoints: int = 2  # newest checkpoints to keep, at least 2
    resume: bool = False  # continue the newest checkpoint of output_dir, if there is one
    seed: int = 42  # of the head, the subset, the order and dropout
    device: str = "auto"  # auto, cpu or gpu
    precision: str = "auto"  # auto (bfloat16 where a GPU has it), float32, bfloat16, float16


# Options that a resumed run may change, and those that the fingerprint says better.
_FREE = (
    "model_name_or_path output_dir batch_size gradient_accumulation_steps num_train_epochs "
    "max_steps logging_steps save_steps keep_checkpoints resume seed device precision"
).split()


def finetune(config: GlueConfig) -> dict:
    """Fine-tune, evaluate on the dev set, write the results.

    Returns:
        What `results.json` holds: the dev metrics of the last step (`last`) and of the best
        evaluation (`best`, selected on the dev set itself), and the options.

    Raises:
        ValueError: an option without meaning, or a checkpoint that does not fit.
        FileNotFoundError: data or checkpoint is missing.
        FileExistsError: the output folder holds an unfinished run, and `resume` is off.
    """
    _check(config)
    output, device = Path(config.output_dir), runtime.set_device(config.device)
    loop.refuse_unfinished(output, config.resume)
    source = sources.find(config.task_name, allow_sample=False)
    tokenizer = ConvBertTokenizer.from_pretrained(config.model_name_or_path)
    train = glue.read(source, config.task_name, "train")
    if config.train_examples > 0:
        chosen = corpus.generator(config.seed).permutation(len(train))[: config.train_examples]
        train = [train[i] for i in chosen]
    dev = glue.read(source, config.task_name, "dev")
    batch = config.batch_size * parallel.world()
    per_epoch = math.ceil(len(train) / batch)  # the last batch may be short
    steps = (
        config.max_steps
        if config.max_steps > 0
        else max(1, round(config.num_train_epochs * per_epoch))
    )
    announce(
        task=f"{source.name}: {len(train)} training and {len(dev)} dev examples",
        start="new weights" if config.from_scratch else config.model_name_or_path,
        steps=f"{steps} of {batch} examples",
        device=f"{device}, {runtime.choose_precision(config.precision).name}",
    )
    paddle.seed(config.seed)
    model = _model(config, labels=len(glue.TASKS[config.task_name].labels or [None]))
    trainer = Trainer(model, tokenizer, config, steps, train, dev)
    progress = loop.train(trainer, trainer.plan())
    last = {name: value for name, value in progress.last.items() if name != "step"}
    results = {
        "task": source.name,
        "steps": steps,
        "last": last,
        "best": progress.best,
        "options": asdict(config),
    }
    if parallel.rank() == 0:
        trainer.save(output / "last")
        write_json(output / "results.json", results)
        print(json.dumps({"last": last, "best": progress.best}))
    return results


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
    ) -> None:
        """Keep everything and make the optimizer."""
        self.model, self.tokenizer, self.config, self.steps = model, tokenizer, config, steps
        self.train, self.dev = list(train), list(dev)
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
        )

    def fingerprint(self) -> dict[str, Any]:
        """Return what a checkpoint must agree with."""
        start = Path(self.config.model_name_or_path, "model.safetensors")
        is_new = self.config.from_scratch
        return checkpoint.fingerprint(
            self.config,
            _FREE,
            model=self.model.config.to_dict(),
            start="new" if is_new else checkpoint.describe_file(start)["sha256"],
            data=checkpoint.hash_text(repr((self.train, self.dev))),
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
        seconds = [example.text_b for example in examples if example.text_b is not None]
        encoded = self.tokenizer(
            [example.text_a for example in examples],
            seconds or None,
            max_length=self.config.max_seq_length,
            padding="longest",
        )
        names = ("input_ids", "token_type_ids", "attention_mask")
        inputs = {name: paddle.to_tensor(np.array(encoded[name], np.int64)) for name in names}
        dtype = np.float32 if self.model.config.num_labels == 1 else np.int64
        labels = np.array([example.label or 0 for example in examples], dtype)
        return inputs, paddle.to_tensor(labels)

    def predict(self, examples: list[glue.Example]) -> np.ndarray:
        """Return logits [n, C], one batch after the other."""

        def run() -> np.ndarray:
            size = self.config.batch_size
            parts = [examples[i : i + size] for i in range(0, len(examples), size)]
            return np.concatenate([self.model(**self.encode(part)[0]).numpy() for part in parts])

        return loop.evaluating(self.model, run)

    def evaluate(self, dev: list[glue.Example] | None = None) -> dict[str, float]:
        """Return the task's metrics and the mean loss on labeled examples.

        The task's own metric comes first. Predicted scores (sts-b) are clipped to [0, 5].

        Args:
            dev: the examples; None: those of the run.
        """
        dev = self.dev if dev is None else dev
        logits, labels = self.predict(dev), np.array([example.label for example in dev])
        regression = logits.shape[1] == 1
        guesses = np.clip(logits[:, 0], 0, 5) if regression else logits.argmax(1)
        loss = self.model.loss(paddle.to_tensor(logits), paddle.to_tensor(labels))
        return {**metrics.score(self.config.task_name, guesses, labels), "eval_loss": float(loss)}

    def save(self, directory: Path) -> None:
        """Write model and tokenizer."""
        self.model.save_pretrained(directory)
        self.tokenizer.save_pretrained(directory)


def _check(config: GlueConfig) -> None:
    """Raise a ValueError for an option without meaning."""
    if config.task_name not in glue.TASKS:
        raise ValueError(f"task_name={config.task_name!r}: choose one of {', '.join(glue.TASKS)}")
    optim.schedule(config.scheduler_type)
    for name in (
        "batch_size",
        "gradient_accumulation_steps",
        "logging_steps",
        "save_steps",
        "learning_rate",
        "num_train_epochs",
        "max_seq_length",
    ):
        if getattr(config, name) <= 0:
            raise ValueError(f"{name}={getattr(config, name)}: must be positive")
    loop.check_options(
        config.keep_checkpoints, config.gradient_accumulation_steps, config.batch_size
    )
    if not 0 < config.layer_lr_decay <= 1:
        raise ValueError(f"layer_lr_decay={config.layer_lr_decay}: must be above 0 and at most 1")
