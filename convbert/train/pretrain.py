"""Pretraining as ELECTRA does it: a generator corrupts text, a discriminator finds what it did."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import paddle
from sklearn.metrics import roc_auc_score

from convbert import runtime
from convbert.config import SIZES, ConvBertConfig
from convbert.data import corpus, sources
from convbert.heads import ConvBertForPreTraining
from convbert.tokenizer import ConvBertTokenizer
from convbert.train import loop, optim

_EVALUATION = 7  # key of the masks used for evaluation, the same at every evaluation


@dataclass(frozen=True)
class PretrainConfig:
    """Options of `convbert pretrain`; names as in earlier ConvBERT reproductions on Paddle."""

    output_dir: str  # folder for log.jsonl, results.json and final/
    model_name_or_path: str = (
        "convbert-small"  # a size: convbert-tiny, -small, -medium-small, -base
    )
    input_dir: str = ""  # folder with train.txt and valid.txt; empty: found as the data README says
    vocab_file: str = ""  # vocab.txt; empty: BERT's, or for convbert-tiny one trained on the text
    max_seq_length: int = 128  # tokens of an example
    mask_prob: float = 0.15  # share of the tokens that the generator replaces
    train_batch_size: int = 96  # examples of one step
    eval_batch_size: int = 96  # examples of one evaluation batch
    eval_examples: int = 512  # held-out examples to evaluate on
    learning_rate: float = 5e-4  # peak
    weight_decay: float = 0.01  # not on biases and LayerNorms
    adam_epsilon: float = 1e-6  # added to the root of Adam's second moment
    adam_beta2: float = 0.999  # decay of Adam's second moment
    max_grad_norm: float = 1.0  # clip the global gradient norm; 0: do not clip
    num_train_epochs: float = 4.0  # passes over the text, unless max_steps is given
    max_steps: int = -1  # > 0 overrides epochs
    warmup_steps: int = 10000  # steps of rising learning rate
    logging_steps: int = 100  # log the loss every so many steps
    eval_steps: int = 0  # evaluate every so many steps; 0: at the end only
    gen_weight: float = 1.0  # weight of the generator's loss
    disc_weight: float = 50.0  # weight of the discriminator's loss
    dropout: float = 0.1  # of hidden states and attention, in both networks
    conv_type: str = "sdconv"  # "noconv": the same model with attention heads only
    seed: int = 42  # of weights, order, masks, samples and dropout
    device: str = "auto"  # auto, cpu or gpu
    precision: str = "auto"  # auto (bfloat16 where a GPU has it), float32, bfloat16, float16


def pretrain(config: PretrainConfig) -> Path:
    """Pretrain and write `log.jsonl`, `results.json` and `final/` under the output folder.

    Returns:
        `final/`, a directory that `from_pretrained` reads.

    Raises:
        ValueError: an option without meaning.
        FileNotFoundError: text or vocabulary is missing.
    """
    _check(config)
    output, device = Path(config.output_dir), runtime.set_device(config.device)
    train_file, valid_file = text_files(config)
    tokenizer = make_tokenizer(config, train_file)
    length = config.max_seq_length
    train, valid = (
        corpus.pack_file(file, tokenizer, length, config.seed) for file in (train_file, valid_file)
    )
    per_epoch = len(train) / config.train_batch_size
    steps = (
        config.max_steps
        if config.max_steps > 0
        else max(1, round(config.num_train_epochs * per_epoch))
    )
    loop.announce(
        text=f"{train_file}: {len(train)} examples of {length} tokens; {len(valid)} held out",
        vocabulary=f"{tokenizer.vocab_size} entries",
        steps=f"{steps} of {config.train_batch_size} examples, {steps / per_epoch:.2f} epochs",
        device=f"{device}, {runtime.choose_precision(config.precision).name}",
    )
    (output / "results.json").unlink(missing_ok=True)  # its presence says that a run ended
    paddle.seed(config.seed)
    model = ConvBertForPreTraining(model_config(config, tokenizer))
    trainer = Trainer(model, tokenizer, train, valid, config, steps)
    with loop.Log(output, steps, "pretrain") as log:
        trainer.run(log)
    results = {"steps": steps, "options": asdict(config), **trainer.evaluate(), **trainer.nulls()}
    model.save_pretrained(output / "final")
    tokenizer.save_pretrained(output / "final")
    (output / "results.json").write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    return output / "final"


class Trainer:
    """One pretraining run: model, data, optimizer, and the steps."""

    def __init__(
        self,
        model: ConvBertForPreTraining,
        tokenizer: ConvBertTokenizer,
        train: corpus.Examples,
        valid: corpus.Examples,
        config: PretrainConfig,
        steps: int,
    ) -> None:
        """Keep everything and make the optimizer."""
        self.model, self.tokenizer, self.config, self.steps = model, tokenizer, config, steps
        self.train, self.valid = train, valid
        self.precision = runtime.choose_precision(config.precision)
        self.scaler = runtime.grad_scaler(self.precision)
        self.optimizer = optim.adamw(
            model,
            config.learning_rate,
            config.weight_decay,
            adam_epsilon=config.adam_epsilon,
            max_grad_norm=config.max_grad_norm,
            beta2=config.adam_beta2,
        )

    def run(self, log: loop.Log) -> None:
        """Take all steps."""
        config, warmup = self.config, min(self.config.warmup_steps, self.steps)
        self.model.train()
        for step in range(self.steps):
            runtime.seed_step(config.seed, step)
            rows = self.rows(step)
            batch = corpus.mask_batch(
                self.train, rows, self.tokenizer, (config.seed, step), config.mask_prob
            )
            with runtime.autocast(self.precision):
                generator, discriminator = self.losses(batch)
            loss = config.gen_weight * generator + config.disc_weight * discriminator
            rate = config.learning_rate * optim.linear_warmup(step, self.steps, warmup)
            value = loop.update(loss, self.optimizer, rate, step, self.scaler)
            log.advance(len(rows))
            done = step + 1
            if done == 1 or done % config.logging_steps == 0 or done == self.steps:
                parts = {
                    "generator_loss": float(generator),
                    "discriminator_loss": float(discriminator),
                }
                log.write(done, loss=value, **parts, lr=rate)
            if config.eval_steps and done % config.eval_steps == 0 and done < self.steps:
                log.write(done, **self.evaluate())

    def rows(self, step: int) -> np.ndarray:
        """Return the examples of one step: a slice of the endless sequence of shuffled epochs."""
        size, count = self.config.train_batch_size, len(self.train)
        places = np.arange(step * size, (step + 1) * size)
        orders = {
            e: corpus.epoch_order(count, self.config.seed, e)
            for e in set((places // count).tolist())
        }
        return np.array([orders[place // count][place % count] for place in places])

    def losses(self, batch: corpus.MaskedBatch) -> tuple[paddle.Tensor, paddle.Tensor]:
        """Return the generator's mean loss per position, the discriminator's per token."""
        output = self.forward(batch)
        labels, weights = paddle.to_tensor(batch.labels), paddle.to_tensor(batch.weights)
        sums = self.model.loss(output, labels, weights)
        return (
            sums.generator_sum / paddle.clip(sums.generator_count, min=1.0),
            sums.discriminator_sum / paddle.clip(sums.discriminator_count, min=1.0),
        )

    def forward(self, batch: corpus.MaskedBatch):
        """Run both networks on a batch of arrays."""
        ids, types, mask, masked, positions, weights, uniform = map(paddle.to_tensor, batch)
        return self.model(ids, masked, positions, weights, uniform, types, mask)

    def evaluate(self) -> dict[str, float]:
        """Measure on held-out text, with every chosen position masked.

        Returns:
            mlm_loss (nats) and mlm_accuracy of the generator; rtd_auc of the discriminator on the
            generator's replacements, and rtd_auc_unigram on replacements drawn from the words'
            frequencies, which are the same for every model.
        """
        return loop.evaluating(self.model, self._evaluate)

    def _evaluate(self) -> dict[str, float]:
        size = self.config.eval_batch_size
        rows = np.arange(min(self.config.eval_examples, len(self.valid)))
        loss, right, count = 0.0, 0.0, 0.0
        own: list[tuple[np.ndarray, np.ndarray]] = []
        unigram: list[tuple[np.ndarray, np.ndarray]] = []
        for start in range(0, len(rows), size):
            batch = corpus.mask_batch(
                self.valid,
                rows[start : start + size],
                self.tokenizer,
                (_EVALUATION, start),
                self.config.mask_prob,
                visible=0.0,
            )
            output = self.forward(batch)
            sums = self.model.loss(
                output, paddle.to_tensor(batch.labels), paddle.to_tensor(batch.weights)
            )
            guesses = output.generator_logits.argmax(-1).numpy()
            loss += float(sums.generator_sum)
            right += float(((guesses == batch.labels) * batch.weights).sum())
            count += float(batch.weights.sum())
            own.append(_judged(output.discriminator_logits, output.replaced, batch.mask))
            unigram.append(self._judge_unigram(batch))
        return {
            "mlm_loss": loss / count,
            "mlm_accuracy": right / count,
            "rtd_auc": _auc(own),
            "rtd_auc_unigram": _auc(unigram),
        }

    def _judge_unigram(self, batch: corpus.MaskedBatch) -> tuple[np.ndarray, np.ndarray]:
        """Judge text in which chosen positions hold words drawn by frequency."""
        fakes = np.searchsorted(np.cumsum(self.frequencies()), batch.uniform, "right")  # [B, N]
        fakes = np.where(batch.weights > 0, fakes, batch.labels)
        corrupted = batch.ids.copy()
        np.put_along_axis(corrupted, batch.positions, fakes, 1)
        types, mask = paddle.to_tensor(batch.types), paddle.to_tensor(batch.mask)
        logits = self.model.discriminator(paddle.to_tensor(corrupted), types, mask)
        return _judged(logits, paddle.to_tensor(corrupted != batch.ids), batch.mask)

    def frequencies(self) -> np.ndarray:
        """Return each word's share of the training text [V], special tokens and [PAD] at 0."""
        counts = self.train.token_counts(self.tokenizer.vocab_size)
        special = ("pad", "cls", "sep", "mask", "unk")
        counts[[getattr(self.tokenizer, f"{name}_token_id") for name in special]] = 0
        return counts / counts.sum()

    def nulls(self) -> dict[str, float]:
        """Return what a guesser by word frequency alone reaches on the held-out text."""
        share = np.maximum(self.frequencies(), 1e-6)
        rows = np.arange(min(self.config.eval_examples, len(self.valid)))
        key = (_EVALUATION, 0)
        batch = corpus.mask_batch(self.valid, rows, self.tokenizer, key, self.config.mask_prob)
        labels = batch.labels[batch.weights > 0]
        return {
            "null_mlm_loss": float(-np.log(share[labels]).mean()),
            "null_mlm_accuracy": float((labels == share.argmax()).mean()),
        }


def guess_word(
    model: ConvBertForPreTraining, tokenizer: ConvBertTokenizer, sentence: str, guesses: int = 5
) -> dict[str, object]:
    """Hide the middle word of a sentence and let the generator guess it.

    Args:
        model: in evaluation mode.
        tokenizer: its tokenizer.
        sentence: some words of text.
        guesses: how many of the most probable words to return.

    Returns:
        The sentence with the blank, the hidden word, the guesses, and the hidden word's rank.
    """
    ids = np.array(tokenizer(sentence)["input_ids"])
    place = len(ids) // 2
    masked = ids.copy()
    masked[place] = tokenizer.mask_token_id
    position = paddle.to_tensor([[place]])
    with paddle.no_grad():
        logits = model.generator(paddle.to_tensor(masked[None]), positions=position).numpy()[0, 0]
    order = np.argsort(-logits)
    return {
        "sentence": tokenizer.decode(masked[1:-1].tolist()),
        "hidden": tokenizer.convert_ids_to_tokens(int(ids[place])),
        "guesses": ", ".join(tokenizer.convert_ids_to_tokens(order[:guesses].tolist())),
        "rank": int(np.flatnonzero(order == ids[place])[0]) + 1,
    }


def _judged(
    logits: paddle.Tensor, replaced: paddle.Tensor, mask: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    inside = mask > 0
    return replaced.numpy()[inside] > 0, logits.numpy()[inside]


def _auc(judged: list[tuple[np.ndarray, np.ndarray]]) -> float:
    """Area under the ROC curve: how often a replaced token scores above an original one."""
    truth, scores = (np.concatenate(part) for part in zip(*judged, strict=True))
    return float(roc_auc_score(truth, scores))


def text_files(config: PretrainConfig) -> tuple[Path, Path]:
    """Return the training and the held-out text."""
    if not config.input_dir:
        folder = sources.find("text").path
    else:
        folder = Path(config.input_dir)
    for name in ("train.txt", "valid.txt"):
        if not (folder / name).is_file():
            raise FileNotFoundError(
                f"{folder / name} not found: one sentence per line, blank line between documents"
            )
    return folder / "train.txt", folder / "valid.txt"


def make_tokenizer(config: PretrainConfig, train_file: Path) -> ConvBertTokenizer:
    """Return the tokenizer of a run: a given vocabulary, BERT's, or one trained on the text."""
    if config.vocab_file:
        return ConvBertTokenizer(config.vocab_file)
    if config.model_name_or_path != "convbert-tiny":
        return ConvBertTokenizer.from_pretrained(config.model_name_or_path)
    size = ConvBertConfig.named(config.model_name_or_path).vocab_size
    return ConvBertTokenizer.train([train_file], vocab_size=size)


def model_config(config: PretrainConfig, tokenizer: ConvBertTokenizer) -> ConvBertConfig:
    """Return the discriminator's configuration of a run."""
    return ConvBertConfig.named(
        config.model_name_or_path,
        vocab_size=tokenizer.vocab_size,
        hidden_dropout_prob=config.dropout,
        attention_probs_dropout_prob=config.dropout,
        conv_type=config.conv_type,
    )


def _check(config: PretrainConfig) -> None:
    """Raise a ValueError for an option without meaning."""
    if config.model_name_or_path not in SIZES:
        raise ValueError(
            f"model_name_or_path={config.model_name_or_path!r}: choose one of {', '.join(SIZES)}"
        )
    for name in (
        "train_batch_size",
        "eval_batch_size",
        "eval_examples",
        "logging_steps",
        "learning_rate",
        "num_train_epochs",
    ):
        if getattr(config, name) <= 0:
            raise ValueError(f"{name}={getattr(config, name)}: must be positive")
    if config.max_seq_length < 8:
        raise ValueError(f"max_seq_length={config.max_seq_length}: must be at least 8")
    if not 0 < config.mask_prob < 1:
        raise ValueError(f"mask_prob={config.mask_prob}: must be between 0 and 1")
