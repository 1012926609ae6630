"""Fine-tuning on SQuAD 1.1 and 2.0, and answering the questions of a file."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import paddle

from convbert import runtime
from convbert.data import corpus, sources
from convbert.data import squad as data
from convbert.data.answers import Predictions
from convbert.heads import ConvBertForQuestionAnswering
from convbert.results import write_json
from convbert.tokenizer import ConvBertTokenizer
from convbert.train import answering, checkpoint, loop, optim, parallel
from convbert.train.log import announce


@dataclass(frozen=True)
class SquadConfig:
    """Options of `convbert squad`; names as in earlier ConvBERT reproductions on Paddle."""

    do_train: bool = False  # train; evaluate at intervals and at the end
    do_predict: bool = False  # write the answers to predict_file, after training or without
    train_file: str | None = None  # SQuAD file; none: the official one, where data are found
    predict_file: str | None = None  # likewise; needs no answers when there is no training
    version_2_with_negative: bool = False  # some questions have no answer
    model_name_or_path: str = "convbert-base"  # directory with config, weights and vocab.txt
    model_type: str = "convbert"  # the only one there is
    output_dir: str = "outputs"  # folder for log, results, predictions and checkpoints
    from_scratch: bool = False  # keep the checkpoint's shape and vocabulary, draw new weights
    train_examples: int = -1  # train on so many randomly chosen questions; -1: all
    max_seq_length: int = 512  # tokens of question and window together
    doc_stride: int = 128  # tokens from one window's start to the next's
    max_query_length: int = 64  # longer questions lose their end
    no_max_context: bool = False  # let every window decide about all its answers
    do_lower_case: bool | None = None  # none: as the vocabulary's folder says
    batch_size: int = 32  # windows of one step on each device
    gradient_accumulation_steps: int = 1  # compute a batch in so many parts, to save memory
    learning_rate: float = 1e-4  # peak
    layer_lr_decay: float = 0.8  # factor of the learning rate per layer, from the top down
    num_train_epochs: float = 2.0  # passes over the data, unless max_steps is given
    max_steps: int = -1  # > 0 overrides epochs
    scheduler_type: str = "linear"  # linear or cosine
    warmup_proportion: float = 0.1  # part of all steps in which the learning rate rises
    weight_decay: float = 0.01  # not on biases and LayerNorms
    adam_epsilon: float = 1e-6  # added to the root of Adam's second moment
    max_grad_norm: float = 1.0  # clip the global gradient norm; 0: do not clip
    dropout: float = 0.1  # of hidden states and attention
    n_best_size: int = 20  # starts and ends to combine, and answers to keep of each question
    max_answer_length: int = 30  # in tokens
    null_score_diff_threshold: float = 0.0  # no answer if the null odds are above this
    logging_steps: int = 500  # log the loss every so many steps
    save_steps: int = 500  # evaluate, and write checkpoints, every so many steps
    keep_checkpoints: int = 2  # newest checkpoints to keep, at least 2
    resume: bool = False  # continue the newest checkpoint of output_dir, if there is one
    verbose: bool = False  # print some answers after each evaluation
    seed: int = 42  # of the head, the subset, the order and dropout
    device: str = "auto"  # auto, cpu or gpu
    precision: str = "auto"  # auto (bfloat16 where a GPU has it), float32, bfloat16, float16

    @property
    def threshold(self) -> float | None:
        """Null odds above which a question has no answer; None: all have one."""
        return self.null_score_diff_threshold if self.version_2_with_negative else None


# Options that a resumed run may change, and those that the fingerprint says better.
_FREE = (
    "do_train do_predict train_file predict_file model_name_or_path output_dir batch_size "
    "gradient_accumulation_steps num_train_epochs max_steps logging_steps save_steps "
    "keep_checkpoints resume verbose seed device precision"
).split()


def squad(config: SquadConfig) -> dict[str, Any]:
    """Train, predict, or both; write the results.

    Returns:
        What `results.json` holds: the official scores of the last step (`last`), which are those
        of predictions.json too, of the best evaluation by F1 (`best`, chosen on the dev set
        itself), and the options.

    Raises:
        ValueError: an option without meaning, or files that do not fit.
        FileNotFoundError: data or checkpoint is missing.
        FileExistsError: the output folder holds an unfinished run, and `resume` is off.
    """
    _check(config)
    output, device = Path(config.output_dir), runtime.set_device(config.device)
    if config.do_train:
        loop.refuse_unfinished(output, config.resume)
    case = {} if config.do_lower_case is None else {"do_lower_case": config.do_lower_case}
    tokenizer = ConvBertTokenizer.from_pretrained(config.model_name_or_path, **case)
    files = {"dev": _find(config, "dev")}
    if config.do_train:
        files["train"] = _find(config, "train")
    paddle.seed(config.seed)
    model = _model(config)
    trainer = Trainer(model, tokenizer, config, files)
    announce(
        data=", ".join(f"{name}: {text}" for name, text in trainer.summary().items()),
        start="new weights" if config.from_scratch else config.model_name_or_path,
        steps=f"{trainer.steps} of {config.batch_size * parallel.world()} windows",
        device=f"{device}, {trainer.precision.name}",
    )
    progress = loop.Progress()
    if config.do_train:
        progress = loop.train(trainer, trainer.plan())
        last = {name: value for name, value in progress.last.items() if name != "step"}
    else:
        last = trainer.evaluate()
    results = {
        "data": {name: str(file) for name, file in files.items()},
        "steps": trainer.steps,
        "last": last,
        "best": progress.best,
        "options": asdict(config),
    }
    if parallel.rank() == 0:
        if config.do_train:
            trainer.save(output / "last")
        if config.do_predict:
            answering.write(output, trainer.predictions or trainer.predict(), config.threshold)
        write_json(output / "results.json", results)
        print(json.dumps({"last": last, "best": progress.best}))
    return results


def _find(config: SquadConfig, split: str) -> Path:
    """Return the file that was given, or the official one."""
    given = config.train_file if split == "train" else config.predict_file
    if given is not None:
        return Path(given)
    name = "squad-v2.0" if config.version_2_with_negative else "squad-v1.1"
    return sources.find(name, [split], allow_sample=False).file(split)


def _model(config: SquadConfig) -> ConvBertForQuestionAnswering:
    model = ConvBertForQuestionAnswering.from_pretrained(
        config.model_name_or_path,
        hidden_dropout_prob=config.dropout,
        attention_probs_dropout_prob=config.dropout,
    )
    longest = model.config.max_position_embeddings
    if config.max_seq_length > longest:
        raise ValueError(f"max_seq_length={config.max_seq_length}: the model reads {longest}")
    return ConvBertForQuestionAnswering(model.config) if config.from_scratch else model


class Trainer:
    """Fine-tuning as a job of the training loop."""

    def __init__(
        self,
        model: ConvBertForQuestionAnswering,
        tokenizer: ConvBertTokenizer,
        config: SquadConfig,
        files: dict[str, Path],
    ) -> None:
        """Read the files (`train`, if there is training, and `dev`) and make the optimizer."""
        self.model, self.tokenizer, self.config, self.files = model, tokenizer, config, files
        self.weights = {"loss": 1.0}
        self.precision = runtime.choose_precision(config.precision)
        self.predictions: Predictions | None = None  # of the last evaluation
        self.dev, self.steps = self.windows(data.read(files["dev"])), 0
        questions = self.dev.questions
        self.can_score = any(q.annotations or q.is_impossible for q in questions)
        if "train" not in files:
            return
        if not self.can_score:
            raise ValueError(f"{files['dev']} has no answers to evaluate with")
        self.read_training(files["train"])
        self.optimizer = optim.adamw(
            model,
            config.learning_rate,
            config.weight_decay,
            config.layer_lr_decay,
            config.adam_epsilon,
            config.max_grad_norm,
        )

    def windows(self, questions: list[data.Question]) -> data.Features:
        """Cut questions into windows by the options."""
        config = self.config
        return data.Features(
            questions,
            self.tokenizer,
            config.max_seq_length,
            config.doc_stride,
            config.max_query_length,
            max_context=not config.no_max_context,
        )

    def read_training(self, file: Path) -> None:
        """Read the training questions, their labels, and count the steps."""
        config, questions = self.config, data.read(file)
        impossible = sum(question.is_impossible for question in questions)
        if impossible and not config.version_2_with_negative:
            raise ValueError(
                f"{file}: {impossible} questions have no answer; add --version_2_with_negative"
            )
        if config.train_examples > 0:
            chosen = corpus.generator(config.seed).permutation(len(questions))
            questions = [questions[i] for i in chosen[: config.train_examples]]
        self.train = self.windows(questions)
        self.rows, self.positions = self.train.training_labels()
        if not len(self.rows):
            raise ValueError(f"{file}: no answer stands where its answer_start says")
        self.epoch_order = lru_cache(2)(partial(corpus.epoch_order, len(self.rows), config.seed))
        self.per_epoch = math.ceil(len(self.rows) / self.global_batch)  # the last may be short
        whole = max(1, round(config.num_train_epochs * self.per_epoch))
        self.steps = config.max_steps if config.max_steps > 0 else whole

    @property
    def global_batch(self) -> int:
        """Windows of a step, on all devices together."""
        return self.config.batch_size * parallel.world()

    def summary(self) -> dict[str, str]:
        """Describe the data, one line each."""
        sets = {"train": self.train, "dev": self.dev} if self.steps else {"dev": self.dev}
        return {
            name: f"{len(made.questions)} questions in {len(made)} windows, "
            f"{data.count_misaligned(made.questions)} misplaced answers"
            for name, made in sets.items()
        }

    def plan(self) -> loop.Plan:
        """Say how long to train and what to do on the way."""
        config, steps = self.config, self.steps
        factor, warmup = (
            optim.schedule(config.scheduler_type),
            int(config.warmup_proportion * steps),
        )
        return loop.Plan(
            name="squad",
            output=Path(config.output_dir),
            steps=steps,
            seed=config.seed,
            rate=lambda step: config.learning_rate * factor(step, steps, warmup),
            value=lambda measured: measured["f1"],
            fingerprint=self.fingerprint(),
            logging_steps=config.logging_steps,
            eval_steps=config.save_steps,
            save_steps=config.save_steps,
            keep=config.keep_checkpoints,
            accumulation=config.gradient_accumulation_steps,
            precision=self.precision,
            resume=config.resume,
        )

    def fingerprint(self) -> dict[str, Any]:
        """Return what a checkpoint must agree with."""
        is_new = self.config.from_scratch
        return checkpoint.fingerprint(
            self.config,
            _FREE,
            model=self.model.config.to_dict(),
            start="new" if is_new else checkpoint.hash_weights(self.model.convbert),
            data={name: checkpoint.describe_file(file) for name, file in self.files.items()},
            vocabulary=self.tokenizer.fingerprint,
            global_batch=self.global_batch,
        )

    def draw(self, step: int) -> loop.Batch:
        """Return the batch of a step: shuffled epochs, the last batch of each may be short."""
        epoch, place = divmod(step, self.per_epoch)
        order = self.epoch_order(epoch)
        chosen = order[place * self.global_batch : (place + 1) * self.global_batch]
        return loop.Batch(chosen, {"loss": len(chosen)}, self.rows[chosen])

    def sums(self, batch: loop.Batch, part: np.ndarray) -> dict[str, paddle.Tensor]:
        """Return the loss summed over a part of the batch.

        The softmax runs over the window. (BERT's also runs over padding, so that its loss depends
        on the length of the batch.)
        """
        inputs = {
            name: paddle.to_tensor(x) for name, x in self.train.batch(batch.content[part]).items()
        }
        padding = (1 - inputs["attention_mask"]).astype("float32") * -1e9  # [B, L]
        start, end = (scores.astype("float32") + padding for scores in self.model(**inputs))
        first, last = paddle.to_tensor(self.positions[batch.examples[part]]).unbind(-1)
        return {"loss": self.model.loss((start, end), (first, last)) * len(part)}

    def describe(self, batch: loop.Batch) -> list[str]:
        """Return the examples as text."""
        numbers = self.train.question[batch.content]
        return [str(self.train.questions[number]) for number in numbers]

    def predict(self) -> Predictions:
        """Answer the questions of the dev set."""
        config = self.config
        self.predictions = answering.predict(
            self.model,
            self.dev,
            config.version_2_with_negative,
            config.n_best_size,
            config.max_answer_length,
            config.batch_size,
            self.precision,
            show=not self.steps and parallel.rank() == 0,
        )
        return self.predictions

    def evaluate(self) -> dict[str, float]:
        """Return the official scores; nothing if the file has no answers."""
        found = self.predict()
        if self.config.verbose and parallel.rank() == 0:
            for question in self.dev.questions[:5]:
                print(f"{question.text} -> {found.nbest[question.id][0]}", flush=True)
        if not self.can_score:
            return {}
        return answering.measure(self.files["dev"], found, self.config.threshold)

    def save(self, directory: Path) -> None:
        """Write model and tokenizer."""
        self.model.save_pretrained(directory)
        self.tokenizer.save_pretrained(directory)


def _check(config: SquadConfig) -> None:
    """Raise a ValueError for an option without meaning."""
    if not config.do_train and not config.do_predict:
        raise ValueError("nothing to do: give --do_train, --do_predict or both")
    if config.model_type != "convbert":
        raise ValueError(f"model_type={config.model_type!r}: only convbert is here")
    optim.schedule(config.scheduler_type)
    for name in (
        "batch_size",
        "gradient_accumulation_steps",
        "logging_steps",
        "save_steps",
        "learning_rate",
        "num_train_epochs",
    ):
        if getattr(config, name) <= 0:
            raise ValueError(f"{name}={getattr(config, name)}: must be positive")
    loop.check_options(
        config.keep_checkpoints, config.gradient_accumulation_steps, config.batch_size
    )
    if not 0 < config.layer_lr_decay <= 1:
        raise ValueError(f"layer_lr_decay={config.layer_lr_decay}: must be above 0 and at most 1")
    if not 0 <= config.warmup_proportion <= 1:
        raise ValueError(f"warmup_proportion={config.warmup_proportion}: must be from 0 to 1")
