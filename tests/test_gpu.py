"""What only a GPU can show: 16-bit steps, the loss scaler, resuming, memory.

Written where there was none, and never run there: whoever runs it first is also testing the tests.
"""

from __future__ import annotations

import json
import random
import shutil
from pathlib import Path

import numpy as np
import paddle
import pytest

from convbert import ConvBertConfig, cost
from convbert.train import pretrain
from convbert.train.pretrain import PretrainConfig

pytestmark = pytest.mark.skipif(
    not paddle.device.is_compiled_with_cuda() or not paddle.device.cuda.device_count(),
    reason="needs a GPU",
)


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Sentences of words in which each is followed by one of two others: there is much to learn."""
    folder, rng = tmp_path_factory.mktemp("text"), random.Random(0)
    for name, count in (("train", 400), ("valid", 40)):
        lines = []
        for _ in range(count):
            words = [rng.randrange(40)]
            while len(words) < 24:
                words.append((2 * words[-1] + rng.randrange(2)) % 40)
            lines.append(" ".join(f"word{number}" for number in words))
        (folder / f"{name}.txt").write_text("\n\n".join(lines) + "\n", encoding="utf-8")
    return folder


def options(text: Path, output: Path, precision: str, **changes: object) -> PretrainConfig:
    values = dict(
        input_dir=str(text),
        model_name_or_path="convbert-tiny",
        max_seq_length=32,
        train_batch_size=16,
        learning_rate=1e-3,
        adam_epsilon=1e-8,
        max_steps=60,
        warmup_steps=6,
        logging_steps=1,
        save_steps=20,
        dropout=0.0,
        device="gpu",
        precision=precision,
    )
    return PretrainConfig(str(output), **{**values, **changes})


def losses(output: Path) -> np.ndarray:
    lines = (output / "log.jsonl").read_text(encoding="utf-8").splitlines()
    return np.array([row["loss"] for row in map(json.loads, lines) if "loss" in row])


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_16_bits_learn_as_32_do(precision: str, text: Path, tmp_path: Path):
    for name in ("float32", precision):
        pretrain.pretrain(options(text, tmp_path / name, name))
    full, half = losses(tmp_path / "float32"), losses(tmp_path / precision)
    assert half[0] == pytest.approx(full[0], rel=0.02)
    assert half[-10:].mean() < 0.95 * half[:10].mean()
    assert half[-10:].mean() == pytest.approx(full[-10:].mean(), rel=0.05)


@pytest.mark.parametrize("precision", ["float32", "bfloat16", "float16"])
def test_a_resumed_run_goes_on_where_it_was(precision: str, text: Path, tmp_path: Path):
    pretrain.pretrain(options(text, tmp_path / "whole", precision))
    shutil.copytree(tmp_path / "whole", tmp_path / "half")
    (tmp_path / "half" / "results.json").unlink()
    shutil.rmtree(tmp_path / "half" / "step-000060")
    pretrain.pretrain(options(text, tmp_path / "half", precision, resume=True))
    whole, half = losses(tmp_path / "whole"), losses(tmp_path / "half")
    assert half == pytest.approx(whole, rel=0.05)  # no promise of bits on a GPU


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_accumulation_takes_the_same_steps(precision: str, text: Path, tmp_path: Path):
    for parts in (1, 4):
        changes = dict(gradient_accumulation_steps=parts, max_steps=10)
        pretrain.pretrain(options(text, tmp_path / str(parts), precision, **changes))
    assert losses(tmp_path / "4") == pytest.approx(losses(tmp_path / "1"), rel=0.02)


def test_memory_is_about_what_the_calculator_says(text: Path, tmp_path: Path):
    """In float32 and with BERT's vocabulary size; a factor of 1.5 is what a plan needs."""
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *(f"word{i}" for i in range(30517))]
    (tmp_path / "vocab.txt").write_text("\n".join(vocabulary) + "\n", encoding="utf-8")
    changes = dict(model_name_or_path="convbert-small", vocab_file=str(tmp_path / "vocab.txt"))
    changes |= dict(max_steps=3, train_batch_size=32, dropout=0.1, eval_examples=8)
    paddle.device.cuda.reset_max_memory_allocated()
    pretrain.pretrain(options(text, tmp_path / "run", "float32", **changes))
    expected = sum(cost.training_memory(ConvBertConfig.named("convbert-small"), 32, 32).values())
    assert expected / 1.5 < paddle.device.cuda.max_memory_allocated() < 1.5 * expected
