"""Question answering against other people's code: training by torch, scores by PaddleNLP."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from make_golden import fill
from support import small_config

from convbert import ConvBertForQuestionAnswering, ConvBertTokenizer
from convbert.data import squad as data
from convbert.data.squad import Features
from convbert.metrics import squad as metrics
from convbert.train import squad

DATA = os.environ.get("CONVBERT_DATA")
pytestmark = pytest.mark.skipif(not DATA, reason="needs CONVBERT_DATA")

STEPS, BATCH, PEAK, WARMUP, LAYERS, LAYER_DECAY = 100, 8, 2e-3, 0.1, 2, 0.8
LENGTH = dict(max_seq_length=96, doc_stride=32, max_query_length=16)


# --- Training ---------------------------------------------------------------------------------


def torch_rate(name: str) -> float:
    """The share of the learning rate of one of transformers' parameters, said in words."""
    if name.startswith("qa_outputs."):
        return 1.0
    if ".encoder.layer." in name:
        return LAYER_DECAY ** (LAYERS + 1 - int(name.split(".")[3]))
    return LAYER_DECAY ** (LAYERS + 2)  # embeddings and their projection


def torch_losses(model: Any, made: Features, rows: list, positions: list) -> list[float]:
    """Train with torch's AdamW on the same windows, one at a time, so that none is padded.

    Args:
        model: transformers' model.
        made: the windows.
        rows: their numbers, [B] for each step.
        positions: start and end, [B, 2] for each step.
    """
    import torch
    import transformers

    groups = [
        {
            "params": [parameter],
            "lr": PEAK * torch_rate(name),
            "weight_decay": 0.0 if name.endswith(("bias", "LayerNorm.weight")) else 0.01,
        }
        for name, parameter in model.named_parameters()
    ]
    adamw = torch.optim.AdamW(groups, betas=(0.9, 0.999), eps=1e-6)
    scheduler = transformers.get_linear_schedule_with_warmup(adamw, int(WARMUP * STEPS), STEPS)
    losses = []
    for step in range(STEPS):
        total = 0.0
        for row, (start, end) in zip(rows[step], positions[step], strict=True):
            inputs = {name: torch.from_numpy(x) for name, x in made.batch([row]).items()}
            labels = {
                "start_positions": torch.tensor([start]), "end_positions": torch.tensor([end])
            }  # fmt: skip
            loss = model(**inputs, **labels).loss / len(rows[step])
            loss.backward()
            total += loss.item()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        adamw.step()
        scheduler.step()
        adamw.zero_grad()
        losses.append(total)
    return losses


def test_span_losses_of_a_hundred_steps_are_those_of_torch(tmp_path: Path):
    """The whole job, from the file to the log: real text, padded batches, layer-wise rates."""
    import transformers

    vocabulary = ConvBertTokenizer.from_pretrained("convbert-base")
    config = small_config(vocab_size=len(vocabulary), max_position_embeddings=96)
    shape = {key: value for key, value in config.to_dict().items() if key != "conv_type"}
    theirs = transformers.ConvBertForQuestionAnswering(transformers.ConvBertConfig(**shape))
    fill(theirs, np.random.default_rng(0), std=0.1)
    theirs.save_pretrained(tmp_path)
    vocabulary.save_pretrained(tmp_path)
    sample = json.loads(Path(DATA or "", "squad", "train-v1.1.sample.json").read_text("utf-8"))
    sample["data"] = sample["data"][:3]
    for article in sample["data"]:
        article["paragraphs"] = article["paragraphs"][:10]
    (tmp_path / "train.json").write_text(json.dumps(sample), encoding="utf-8")
    options = squad.SquadConfig(
        do_train=True,
        train_file=str(tmp_path / "train.json"),
        predict_file=str(tmp_path / "train.json"),
        model_name_or_path=str(tmp_path),
        output_dir=str(tmp_path / "run"),
        batch_size=BATCH,
        learning_rate=PEAK,
        layer_lr_decay=LAYER_DECAY,
        warmup_proportion=WARMUP,
        max_steps=STEPS,
        dropout=0.0,
        logging_steps=1,
        **LENGTH,
    )
    model = ConvBertForQuestionAnswering.from_pretrained(tmp_path)
    dev = {name: tmp_path / "train.json" for name in ("train", "dev")}
    trainer = squad.Trainer(model, vocabulary, options, dev)
    batches = [trainer.draw(step) for step in range(STEPS)]
    rows = [batch.content for batch in batches]
    padded = np.mean([np.ptp(trainer.train.lengths[row]) > 0 for row in rows])
    assert padded > 0.5, "the test wants padded batches"
    positions = [trainer.positions[batch.examples] for batch in batches]
    without = (np.concatenate(positions) == 0).mean()
    assert 0.1 < without < 0.9, "windows with and without the answer"
    expected = torch_losses(theirs.eval(), trainer.train, rows, positions)
    squad.squad(options)
    log = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").open(encoding="utf-8")]
    ours = [line["loss"] for line in log if "loss" in line]
    off = np.abs(np.array(ours) / np.array(expected) - 1)
    print(f"worst of {STEPS} steps: {off.max():.1e}; loss {expected[0]:.3f} to {expected[-1]:.3f}")
    assert np.mean(expected[-10:]) < 0.9 * np.mean(expected[:10]), "nothing was learned"
    assert off.max() < 1e-4


# --- Scores -----------------------------------------------------------------------------------

# PaddleNLP drops some punctuation that is not ASCII, which the official script keeps.
DROPPED_TOO = set("，。：？！“”；’《》…·、「」（）－～『』")


def guess(question: data.Question, rng: np.random.Generator) -> str:
    """An annotation, a part of one, some words of the context, or nothing."""
    words = question.context.split()
    start = int(rng.integers(len(words)))
    choices = ["", " ".join(words[start : start + 4])]
    if question.annotations:
        text = question.annotations[int(rng.integers(len(question.annotations)))].text
        choices += [text, f"The {text}!", " ".join(text.split()[:2])]
    return choices[int(rng.integers(len(choices)))]


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("digits", [0, 9])  # odds: many ties, none
def test_scores_of_random_answers_are_those_of_paddlenlp(paddlenlp: Any, seed: int, digits: int):
    """All keys, on the real dev set of version 2.0, in which half the questions have no answer.

    transformers 5 has no copy of the official script any more. PaddleNLP's takes questions with
    `is_impossible` the wrong way round; without that key it asks for answers, as the script does.
    """
    import paddlenlp.metrics.squad as theirs

    rng = np.random.default_rng(seed)
    questions = [
        question
        for question in data.read(Path(DATA or "", "squad", "dev-v2.0.json"))
        if not any(DROPPED_TOO & set(gold.text) for gold in question.annotations)
    ]
    predictions = {question.id: guess(question, rng) for question in questions}
    questions = [q for q in questions if not DROPPED_TOO & set(predictions[q.id])]
    assert len(questions) > 11_000
    predictions = {question.id: predictions[question.id] for question in questions}
    odds = {name: round(float(rng.normal()), digits) for name in predictions}
    examples = [
        {
            "id": q.id,
            "answers": {
                "text": [gold.text for gold in q.annotations],
                "answer_start": [gold.start for gold in q.annotations],
            },
        }
        for q in questions
    ]
    qas = [
        {
            "id": q.id,
            "answers": [gold._asdict() for gold in q.annotations],
            "is_impossible": q.is_impossible,
        }
        for q in questions
    ]
    expected = theirs.squad_evaluate(examples, predictions, odds, na_prob_thresh=0.5)
    ours = metrics.score([{"paragraphs": [{"qas": qas}]}], predictions, odds, na_prob_thresh=0.5)
    assert list(ours) == list(expected)
    assert ours == dict(expected)
