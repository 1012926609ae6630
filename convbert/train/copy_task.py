"""Copy the previous token: a task that only needs to know where the left neighbor is.

Not in the paper. The tokens are random, so neither meaning nor frequency helps. It shows in
seconds what a convolution head knows before training and an attention head has to learn.

Shapes: B batch, L length, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import paddle

from convbert.config import ConvBertConfig
from convbert.heads import ConvBertForTokenClassification
from convbert.train.optim import adamw

IGNORED = -1  # label of the first token, which has no left neighbor


class CopyRun(NamedTuple):
    """What one training run gave."""

    steps: list[int]  # finished updates at each measurement
    accuracy: list[float]  # share of right guesses on unseen sequences, at each measurement
    model: ConvBertForTokenClassification  # after the last update

    def first_reaching(self, accuracy: float) -> int | None:
        """Return the updates after which an accuracy was first measured; None if it never was."""
        reached = (s for s, a in zip(self.steps, self.accuracy, strict=True) if a >= accuracy)
        return next(reached, None)


def draw_batch(rng: np.random.Generator, batch: int, length: int, tokens: int) -> np.ndarray:
    """Draw token ids [B, L], uniform over 1 … tokens; 0 is [PAD] and never occurs."""
    return rng.integers(1, tokens + 1, (batch, length))


def shift_right(ids: np.ndarray) -> np.ndarray:
    """Return the label of each position: the token before it, `IGNORED` at the first."""
    return np.concatenate([np.full_like(ids[:, :1], IGNORED), ids[:, :-1]], 1)


def measure_accuracy(model: ConvBertForTokenClassification, ids: np.ndarray) -> float:
    """Return the share of tokens [B, L] whose left neighbor the model names; chance is 1 / V."""
    model.eval()
    with paddle.no_grad():
        guesses = model(paddle.to_tensor(ids)).argmax(-1).numpy()  # [B, L]
    model.train()
    return float((guesses == shift_right(ids))[:, 1:].mean())


def train_copying(
    config: ConvBertConfig,
    steps: int,
    seed: int,
    *,
    batch: int = 16,
    length: int = 16,
    learning_rate: float = 2e-3,
    measure_every: int = 5,
) -> CopyRun:
    """Train a new model to name the token before each token.

    Weights and data follow from `seed`: two configurations with the same seed see the same
    sequences in the same order, and are judged on the same unseen ones.

    Args:
        config: the model; all ids but the padding's are used as tokens.
        steps: updates of AdamW at a constant rate.
        seed: of weights and data.
        batch: B, sequences in an update.
        length: L, tokens in a sequence.
        learning_rate: of AdamW, the same in every update.
        measure_every: updates between two measurements; the first is before any update.
    """
    unseen = draw_batch(np.random.default_rng([seed, 1]), 32, length, config.vocab_size - 1)
    paddle.seed(seed)
    model = ConvBertForTokenClassification(config, num_labels=config.vocab_size)
    optimizer = adamw(model, learning_rate, max_grad_norm=1.0)
    run = CopyRun([0], [measure_accuracy(model, unseen)], model)
    for step, ids in enumerate(_batches(config, steps, seed, batch, length), start=1):
        loss = model.loss(model(paddle.to_tensor(ids)), paddle.to_tensor(shift_right(ids)))
        loss.backward()
        optimizer.step()
        optimizer.clear_grad()
        if step % measure_every == 0 or step == steps:
            run.steps.append(step)
            run.accuracy.append(measure_accuracy(model, unseen))
    return run


def _batches(
    config: ConvBertConfig, steps: int, seed: int, batch: int, length: int
) -> Iterator[np.ndarray]:
    """Yield the training data [B, L] of each update."""
    rng = np.random.default_rng([seed, 0])
    for _ in range(steps):
        yield draw_batch(rng, batch, length, config.vocab_size - 1)
