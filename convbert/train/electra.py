"""Pretraining as a job of the training loop: what is corrupted, judged, learned and measured.

Three objectives (section 3 of the ELECTRA paper has the first, its code the others):

* `electra`: a generator fills masked positions, a discriminator finds what it filled in;
* `mlm`: masked words only, one network of full size, no discriminator;
* `uniform`: a discriminator only; replacements are drawn evenly from the vocabulary.
"""

from __future__ import annotations

import re
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import paddle

from convbert import heads, runtime
from convbert.config import ConvBertConfig
from convbert.data import corpus
from convbert.tokenizer import ConvBertTokenizer
from convbert.train import checkpoint, loop, optim, parallel, validation

if TYPE_CHECKING:
    from convbert.train.pretrain import PretrainConfig

OBJECTIVES = ("electra", "mlm", "uniform")
MASK_SCHEMES = {
    "electra": {"visible": 0.15},  # 85 % [MASK], 15 % unchanged
    "bert": {"visible": 0.1, "scrambled": 0.1},  # 80 % [MASK], 10 % a random word, 10 % unchanged
}
# Key of the masks used for evaluation, the same at every evaluation; they are drawn for so many
# examples at a time, however many are then judged at a time.
_EVALUATION, _MASKED_AT_ONCE = 7, 96

# Options that a resumed run may change, and those that the fingerprint says better.
_FREE = (
    "output_dir model_type model_name_or_path input_dir vocab_file train_batch_size "
    "gradient_accumulation_steps num_train_epochs max_steps logging_steps save_steps eval_steps "
    "eval_batch_size keep_checkpoints resume init_from_ckpt seed device precision "
    "use_amp eager_run conv_kernel_size head_ratio init_weights"
).split()


class Output(NamedTuple):
    """What the networks of an objective say; None from one that it does not have."""

    guesses: Any  # logits of the words at the chosen positions [B, N, V]
    judged: Any  # logits, positive for "replaced" [B, L]
    replaced: Any  # 1 where a token was replaced [B, L], float


def make_model(config: PretrainConfig, shape: ConvBertConfig) -> Any:
    """Make the network or networks of an objective, `shape` being the main one's."""
    if config.objective == "mlm":
        return heads.ConvBertForMaskedLM(shape)
    if config.objective == "uniform":
        return heads.ConvBertDiscriminator(shape)
    shape = shape.replaced(generator_conv_type=config.generator_conv)  # config.json tells it
    return heads.ConvBertForPreTraining(shape, share=config.share)


class Trainer:
    """One pretraining run: model, data, optimizer, and the steps."""

    def __init__(
        self,
        model: Any,
        tokenizer: ConvBertTokenizer,
        train: corpus.Examples,
        valid: corpus.Examples,
        config: PretrainConfig,
        steps: int,
    ) -> None:
        """Keep everything and make the optimizer; `model` as `make_model` makes it."""
        self.model, self.tokenizer, self.config, self.steps = model, tokenizer, config, steps
        self.train, self.valid = train, valid
        self.optimizer = optim.adamw(
            model,
            config.learning_rate,
            config.weight_decay,
            adam_epsilon=config.adam_epsilon,
            max_grad_norm=config.max_grad_norm,
            beta2=config.adam_beta2,
        )
        weights = {"generator_loss": config.gen_weight, "discriminator_loss": config.disc_weight}
        if config.objective == "mlm":
            del weights["discriminator_loss"]
        elif config.objective == "uniform":
            del weights["generator_loss"]
        self.weights = weights

    def plan(self) -> loop.Plan:
        """Say how long to train and what to do on the way."""
        config, steps = self.config, self.steps
        factor, warmup = optim.schedule(config.schedule), min(config.warmup_steps, steps)
        return loop.Plan(
            name="pretrain",
            output=Path(config.output_dir),
            steps=steps,
            seed=config.seed,
            rate=lambda step: config.learning_rate * factor(step, steps, warmup),
            value=lambda measured: -measured["eval_loss"],
            fingerprint=self.fingerprint(),
            logging_steps=config.logging_steps,
            eval_steps=config.eval_steps,
            save_steps=config.save_steps,
            keep=config.keep_checkpoints,
            accumulation=config.gradient_accumulation_steps,
            precision=runtime.choose_precision(config.precision_name),
            resume=config.resume,
            start=config.checkpoint,
            log_first=True,
        )

    def fingerprint(self) -> dict[str, Any]:
        """Return what a checkpoint must agree with."""
        return checkpoint.fingerprint(
            self.config,
            _FREE,
            size=self.config.size,
            **self._origin(),
            model=self.model.config.to_dict(),
            data=self.train.fingerprint,
            vocabulary=self.tokenizer.fingerprint,
            global_batch=self.config.train_batch_size * parallel.world(),
        )

    def _origin(self) -> dict[str, str]:
        """Return what tells weights to start from, if they are not new."""
        if not self.config.init_weights:
            return {}
        file = Path(self.config.init_weights, checkpoint.MODEL)
        return {"start": checkpoint.describe_file(file)["sha256"]}

    def rows(self, step: int) -> np.ndarray:
        """Return the examples of one step: a slice of the endless sequence of shuffled epochs."""
        size, count = self.config.train_batch_size * parallel.world(), len(self.train)
        epochs, places = np.divmod(np.arange(step * size, (step + 1) * size), count)
        rows = [
            corpus.epoch_rows(count, self.config.seed, epoch, places[epochs == epoch])
            for epoch in np.unique(epochs).tolist()  # rising, as the places of a step
        ]
        return np.concatenate(rows)

    def draw(self, step: int) -> loop.Batch:
        """Return the masked examples of a step."""
        rows, config = self.rows(step), self.config
        batch = corpus.mask_batch(
            self.train,
            rows,
            self.tokenizer,
            (config.seed, step),
            config.mask_prob,
            **MASK_SCHEMES[config.mask_scheme],
            words=self.words if config.mask_scheme == "bert" else None,
        )
        counts = {
            "generator_loss": float(batch.weights.sum()),
            "discriminator_loss": float(batch.mask.sum()),
        }
        return loop.Batch(rows, counts, batch)

    def sums(self, batch: loop.Batch, part: np.ndarray) -> dict[str, paddle.Tensor]:
        """Return each loss summed over a part of the batch."""
        return self.judge(corpus.MaskedBatch(*(array[part] for array in batch.content)))[0]

    def judge(self, batch: corpus.MaskedBatch) -> tuple[dict[str, paddle.Tensor], Output]:
        """Run the objective on a batch of arrays; return each loss summed, and the output."""
        ids, types, mask, masked, positions, weights, _ = map(paddle.to_tensor, batch)
        guesses: Any = None
        judged: Any = None
        replaced: Any = None
        if self.config.objective == "electra":
            both = self.forward(batch)
            guesses, judged = both.generator_logits, both.discriminator_logits
            replaced = both.replaced
        elif self.config.objective == "mlm":
            guesses = self.model(masked, types, mask, positions=positions)
        else:
            even = np.zeros(self.tokenizer.vocab_size)
            even[self.words] = 1 / len(self.words)
            corrupted = paddle.to_tensor(replace_by_share(batch, even))
            judged = self.model(corrupted, types, mask)
            replaced = (corrupted != ids).astype(judged.dtype)
        sums = {}
        if guesses is not None:
            labels = paddle.to_tensor(batch.labels)
            sums["generator_loss"] = heads.masked_word_sum(guesses, labels, weights)
        if judged is not None:
            tokens = mask.astype(judged.dtype)
            sums["discriminator_loss"] = heads.replaced_token_sum(judged, replaced, tokens)
        return sums, Output(guesses, judged, replaced)

    def forward(self, batch: corpus.MaskedBatch) -> heads.PreTrainingOutput:
        """Run generator and discriminator on a batch of arrays."""
        ids, types, mask, masked, positions, weights, uniform = map(paddle.to_tensor, batch)
        return self.model(
            ids,
            masked,
            positions,
            weights,
            uniform,
            types,
            mask,
            temperature=self.config.temperature,
            disallow_correct=self.config.disallow_correct,
        )

    def losses(self, batch: corpus.MaskedBatch) -> tuple[paddle.Tensor, ...]:
        """Return the generator's mean loss per position, the discriminator's per token."""
        sums, _ = self.judge(batch)
        counts = {
            "generator_loss": max(float(batch.weights.sum()), 1.0),
            "discriminator_loss": float(batch.mask.sum()),
        }
        return tuple(total / counts[name] for name, total in sums.items())

    def evaluate(self) -> dict[str, float]:
        """Measure on held-out text, with every chosen position masked.

        Returns:
            mlm_loss (nats) and mlm_accuracy of the generator; rtd_loss, precision, recall and
            AUC of the discriminator on the generator's replacements; rtd_auc_unigram on
            replacements drawn from the words' frequencies, which are the same for every model;
            eval_loss, the objective; and under null_… what is reached without knowing the text.
        """
        return loop.evaluating(self.model, self._evaluate)

    def _evaluate(self) -> dict[str, float]:
        size = self.config.eval_batch_size
        masked = self.masked_for_evaluation()
        loss, right, labels = 0.0, 0.0, []
        own: list[tuple[np.ndarray, np.ndarray]] = []
        unigram: list[tuple[np.ndarray, np.ndarray]] = []
        for start in range(0, len(masked.ids), size):
            batch = corpus.MaskedBatch(*(array[start : start + size] for array in masked))
            sums, output = self.judge(batch)
            labels.append(batch.labels[batch.weights > 0])
            if output.guesses is not None:
                guesses = output.guesses.argmax(-1).numpy()
                right += float(((guesses == batch.labels) * batch.weights).sum())
                loss += float(sums["generator_loss"])
            if output.judged is not None:
                own.append(_judged(output.judged, output.replaced, batch.mask))
                unigram.append(self._judge_unigram(batch))
        words = np.concatenate(labels)
        found: dict[str, float] = {}
        if "generator_loss" in self.weights:
            found |= validation.masked_words(loss, right, len(words), words, self.frequencies())
        if "discriminator_loss" in self.weights:
            found |= validation.replaced_tokens(*_joined(own))
            found["rtd_auc_unigram"] = validation.auc(*_joined(unigram))
        parts = {"generator_loss": "mlm_loss", "discriminator_loss": "rtd_loss"}
        return found | {"eval_loss": sum(w * found[parts[n]] for n, w in self.weights.items())}

    def masked_for_evaluation(self) -> corpus.MaskedBatch:
        """Mask the held-out examples, always in the same way."""
        rows = np.arange(min(self.config.eval_examples, len(self.valid)))
        parts = []
        for start in range(0, len(rows), _MASKED_AT_ONCE):
            some, key = rows[start : start + _MASKED_AT_ONCE], (_EVALUATION, start)
            share, tokenizer = self.config.mask_prob, self.tokenizer
            parts.append(corpus.mask_batch(self.valid, some, tokenizer, key, share, visible=0.0))
        return corpus.MaskedBatch(*map(np.concatenate, zip(*parts, strict=True)))

    def _judge_unigram(self, batch: corpus.MaskedBatch) -> tuple[np.ndarray, np.ndarray]:
        """Judge text in which chosen positions hold words drawn by frequency."""
        corrupted = replace_by_share(batch, self.frequencies())
        types, mask = paddle.to_tensor(batch.types), paddle.to_tensor(batch.mask)
        discriminator = getattr(self.model, "discriminator", self.model)
        logits = discriminator(paddle.to_tensor(corrupted), types, mask)
        return _judged(logits, paddle.to_tensor(corrupted != batch.ids), batch.mask)

    def frequencies(self) -> np.ndarray:
        """Return each word's share of the training text [V], special tokens and [PAD] at 0."""
        counts = self._token_counts.copy()
        special = ("pad", "cls", "sep", "mask", "unk")
        counts[[getattr(self.tokenizer, f"{name}_token_id") for name in special]] = 0
        return counts / max(counts.sum(), 1)

    @cached_property
    def _token_counts(self) -> np.ndarray:
        return self.train.token_counts(self.tokenizer.vocab_size)

    @cached_property
    def words(self) -> np.ndarray:
        """The ids that may replace a token: neither special nor unused."""
        odd = re.compile(r"\[(PAD|UNK|CLS|SEP|MASK|unused\d+)\]")
        names = enumerate(self.tokenizer.vocabulary)
        return np.array([number for number, name in names if not odd.fullmatch(name)])

    def save(self, directory: Path) -> None:
        """Write model and tokenizer."""
        self.model.save_pretrained(directory)
        self.tokenizer.save_pretrained(directory)

    def describe(self, batch: loop.Batch) -> list[str]:
        """Return the texts of a batch."""
        inside = zip(batch.content.ids, batch.content.mask > 0, strict=True)
        return [self.tokenizer.decode(ids[mask].tolist()) for ids, mask in inside]


def replace_by_share(batch: corpus.MaskedBatch, share: np.ndarray) -> np.ndarray:
    """Return the text with words drawn from a distribution [V] at the chosen positions [B, L]."""
    below = np.cumsum(share)
    fakes = np.searchsorted(below / (below[-1] or 1.0), batch.uniform, "right")  # [B, N]
    fakes = np.where(batch.weights > 0, fakes, batch.labels)
    corrupted = batch.ids.copy()  # unused slots write [CLS] at position 0, where it is anyway
    np.put_along_axis(corrupted, batch.positions, fakes, 1)
    return corrupted


def _judged(
    logits: paddle.Tensor, replaced: paddle.Tensor, mask: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    inside = mask > 0
    return replaced.numpy()[inside] > 0, logits.numpy()[inside]


def _joined(judged: list[tuple[np.ndarray, np.ndarray]]) -> tuple[np.ndarray, np.ndarray]:
    truth, scores = (np.concatenate(part) for part in zip(*judged, strict=True))
    return truth, scores
