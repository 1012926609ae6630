"""The copy task: its data, its labels, and that a model can learn it."""

from __future__ import annotations

import numpy as np
import pytest

from convbert import ConvBertConfig
from convbert.train import copy_task

CONFIG = ConvBertConfig(
    vocab_size=9, embedding_size=32, hidden_size=32, num_hidden_layers=1, num_attention_heads=2,
    intermediate_size=64, max_position_embeddings=8, initializer_range=0.05,
    hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0,
)  # fmt: skip
FAST = dict(batch=8, length=8, learning_rate=1e-2)


def test_labels_are_the_left_neighbors():
    ids = np.array([[3, 1, 2], [5, 5, 4]])
    assert copy_task.shift_right(ids).tolist() == [[-1, 3, 1], [-1, 5, 5]]


def test_tokens_are_uniform_and_never_padding():
    ids = copy_task.draw_batch(np.random.default_rng(0), 400, 50, 8)
    assert ids.shape == (400, 50)
    shares = np.bincount(ids.ravel(), minlength=9) / ids.size
    assert shares[0] == 0
    assert np.abs(shares[1:] - 1 / 8).max() < 0.01


def test_it_is_learned_from_chance():
    run = copy_task.train_copying(CONFIG, 80, seed=0, measure_every=40, **FAST)
    assert run.steps == [0, 40, 80]
    assert run.accuracy[0] < 0.3  # chance is 1/8
    assert run.accuracy[-1] > 0.9
    assert run.first_reaching(0.9) in (40, 80)
    assert run.first_reaching(1.1) is None


@pytest.mark.parametrize("conv_type", ["static", "dynamic", "noconv"])
def test_every_mixer_runs_on_the_same_data(conv_type, monkeypatch):
    seen: dict[str, list] = {"sdconv": [], conv_type: []}
    draw = copy_task.draw_batch
    for kind, batches in seen.items():
        monkeypatch.setattr(
            copy_task, "draw_batch", lambda *a, kept=batches: kept.append(draw(*a)) or kept[-1]
        )
        run = copy_task.train_copying(CONFIG.replaced(conv_type=kind), 3, seed=5, **FAST)
        assert run.steps == [0, 3]
    for ours, theirs in zip(seen["sdconv"], seen[conv_type], strict=True):
        assert (ours == theirs).all()
    assert len(seen["sdconv"]) == 4  # the unseen sequences, then three batches


def test_same_seed_same_curve():
    runs = [copy_task.train_copying(CONFIG, 6, seed=1, measure_every=3, **FAST) for _ in range(2)]
    assert runs[0].accuracy == runs[1].accuracy
    ours, theirs = (run.model.state_dict() for run in runs)
    assert all((ours[name].numpy() == theirs[name].numpy()).all() for name in ours)
