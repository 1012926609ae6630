"""Fine-tuning on a GLUE task, or on a sample task of the same shape."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import paddle

from convbert import runtime
from convbert.data import corpus, glue, sources
from convbert.heads import ConvBertForSequenceClassification
from convbert.metrics import glue as metrics
from convbert.tokenizer import ConvBertTokenizer
from convbert.train import loop, optim


@dataclass(frozen=True)
class GlueConfig:
    """Options of `convbert glue`; names as in earlier ConvBERT reproductions on Paddle."""

    task_name: str  # a GLUE task such as sst-2, or sample/swap, sample/order
    model_name_or_path: str  # checkpoint directory with config.json, model.safetensors, vocab.txt
    output_dir: str  # folder for log.jsonl, results.json, best/ and last/
    from_scratch: bool = False  # keep the checkpoint's shape and vocabulary, draw new weights
    train_examples: int = -1  # train on so many randomly chosen examples; -1: all
    max_seq_length: int = 128  # longer inputs are truncated
    batch_size: int = 32  # examples of one step
    learning_rate: float = 1e-4  # peak
    layer_lr_decay: float = 0.8  # factor of the learning rate per layer, from the top down
    num_train_epochs: float = 3.0  # passes over the data, unless max_steps is given
    max_steps: int = -1  # > 0 overrides epochs
    scheduler_type: str = "linear"  # linear or cosine
    warmup_steps: int = 0  # > 0 wins over warmup_proportion
    warmup_proportion: float = 0.1  # part of all steps in which the learning rate rises
    weight_decay: float = 0.01  # not on biases and LayerNorms
    adam_epsilon: float = 1e-6  # added to the root of Adam's second moment
    max_grad_norm: float = 1.0  # clip the global gradient norm; 0: do not clip
    dropout: float = 0.1  # of hidden states, attention and head
    logging_steps: int = 100  # log the loss every so many steps
    save_steps: int = 100  # evaluate, and keep the best checkpoint, every so many steps
    seed: int = 42  # of the head, the subset, the order and dropout
    device: str = "auto"  # auto, cpu or gpu
    precision: str = "auto"  # auto (bfloat16 where a GPU has it), float32, bfloat16, float16


def finetune(config: GlueConfig) -> dict:
    """Fine-tune, evaluate on the dev set, write the results.

    Returns:
        What `results.json` holds: the dev metrics of the last step (`last`) and of the best
        evaluation (`best`, selected on the dev set itself), and the options.

    Raises:
        ValueError: an option without meaning, or a checkpoint that does not fit.
        FileNotFoundError: data or checkpoint is missing.
    """
    _check(config)
    output, device = Path(config.output_dir), runtime.set_device(config.device)
    source = sources.find(config.task_name, allow_sample=False)
    tokenizer = ConvBertTokenizer.from_pretrained(config.model_name_or_path)
    train = glue.read(source, config.task_name, "train")
    if config.train_examples > 0:
        chosen = corpus.generator(config.seed).permutation(len(train))[: config.train_examples]
        train = [train[i] for i in chosen]
    dev = glue.read(source, config.task_name, "dev")
    per_epoch = math.ceil(len(train) / config.batch_size)  # the last batch may be short
    steps = (
        config.max_steps
        if config.max_steps > 0
        else max(1, round(config.num_train_epochs * per_epoch))
    )
    loop.announce(
        task=f"{source.name}: {len(train)} training and {len(dev)} dev examples",
        start="new weights" if config.from_scratch else config.model_name_or_path,
        steps=f"{steps} of {config.batch_size} examples",
        device=f"{device}, {runtime.choose_precision(config.precision).name}",
    )
    (output / "results.json").unlink(missing_ok=True)  # its presence says that a run ended
    paddle.seed(config.seed)
    model = _model(config, labels=len(glue.TASKS[config.task_name].labels or [None]))
    trainer = Trainer(model, tokenizer, config, steps)
    with loop.Log(output, steps, source.name) as log:
        best, last = trainer.run(train, dev, log, output)
    results = {
        "task": source.name,
        "steps": steps,
        "last": last,
        "best": best,
        "options": asdict(config),
    }
    (output / "results.json").write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    print(json.dumps({"last": last, "best": best}))
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
    """One fine-tuning run."""

    def __init__(
        self,
        model: ConvBertForSequenceClassification,
        tokenizer: ConvBertTokenizer,
        config: GlueConfig,
        steps: int,
    ) -> None:
        """Keep everything and make the optimizer."""
        self.model, self.tokenizer, self.config, self.steps = model, tokenizer, config, steps
        self.precision = runtime.choose_precision(config.precision)
        self.scaler = runtime.grad_scaler(self.precision)
        self.optimizer = optim.adamw(
            model,
            config.learning_rate,
            config.weight_decay,
            config.layer_lr_decay,
            config.adam_epsilon,
            config.max_grad_norm,
        )

    def run(
        self, train: list[glue.Example], dev: list[glue.Example], log: loop.Log, output: Path
    ) -> tuple[dict[str, float], dict[str, float]]:
        """Take all steps; return the best and the last dev metrics."""
        config, factor = self.config, optim.schedule(self.config.scheduler_type)
        warmup = config.warmup_steps or int(config.warmup_proportion * self.steps)
        best: dict[str, float] = {}
        self.model.train()
        for step, rows in enumerate(self.batches(len(train))):
            runtime.seed_step(config.seed, step)
            inputs, labels = self.encode([train[i] for i in rows])
            with runtime.autocast(self.precision):
                loss = self.model.loss(self.model(**inputs), labels)
            rate = config.learning_rate * factor(step, self.steps, min(warmup, self.steps))
            value = loop.update(loss, self.optimizer, rate, step, self.scaler)
            log.advance(len(rows))
            done = step + 1
            if done % config.logging_steps == 0 or done == self.steps:
                log.write(done, loss=value, lr=rate)
            if done % config.save_steps == 0 or done == self.steps:
                last = self.evaluate(dev)
                log.write(done, **last)
                metric = next(iter(last))
                if not best or last[metric] > best[metric]:
                    best = {**last, "step": done}
                    self.save(output / "best")
        self.save(output / "last")
        return best, last

    def batches(self, count: int) -> Iterator[list[int]]:
        """Yield the examples of each step: shuffled epochs, the last batch of each may be short."""
        size, step, epoch = self.config.batch_size, 0, 0
        while step < self.steps:
            order = corpus.epoch_order(count, self.config.seed, epoch)
            for start in range(0, count, size):
                if step < self.steps:
                    yield order[start : start + size].tolist()
                    step += 1
            epoch += 1

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

    def evaluate(self, dev: list[glue.Example]) -> dict[str, float]:
        """Return the task's metrics and the mean loss on labeled examples.

        The task's own metric comes first. Predicted scores (sts-b) are clipped to [0, 5].
        """
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
    positive = ("batch_size", "logging_steps", "save_steps", "learning_rate", "num_train_epochs")
    for name in (*positive, "max_seq_length"):
        if getattr(config, name) <= 0:
            raise ValueError(f"{name}={getattr(config, name)}: must be positive")
    if not 0 < config.layer_lr_decay <= 1:
        raise ValueError(f"layer_lr_decay={config.layer_lr_decay}: must be above 0 and at most 1")
