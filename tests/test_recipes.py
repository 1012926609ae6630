"""Recipes of the scales, and runs that notebooks share: made once, found again, never mistaken."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import fields, replace
from pathlib import Path

import pytest

from convbert import lab
from convbert.heads import ConvBertForPreTraining
from convbert.train import recipes
from convbert.train.glue import GlueConfig
from convbert.train.pretrain import PretrainConfig, _check, model_config

SCALE = replace(
    lab.SCALES["smoke"], name="least", pretrain_steps=2, pretrain_batch=2, pretrain_length=16
)
OPTIONS = {**recipes.pretraining(SCALE), "eval_batch_size": 4, "eval_examples": 8}
EXTRA = {"eval_batch_size": 4, "eval_examples": 8}


@pytest.fixture(autouse=True)
def text(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Name a folder of text in CONVBERT_DATA, where the jobs look first."""
    folder = tmp_path_factory.mktemp("data") / "text"
    folder.mkdir()
    for name, count in (("train", 60), ("valid", 20)):
        lines = (f"line {i} tells of {i * i} and of {i * 7 % 11} ." for i in range(count))
        (folder / f"{name}.txt").write_text("\n".join(lines), encoding="utf-8")
    monkeypatch.setenv("CONVBERT_DATA", str(folder.parent))


@pytest.fixture
def states(capsys: pytest.CaptureFixture):
    """Return what `checkpoints` said of each seed since the last call."""

    def read() -> list[str]:
        lines = capsys.readouterr().out.splitlines()
        return [line.split(" in ")[0] for line in lines if line.startswith("pretraining, seed")]

    return read


def test_runs_are_made_once_and_changed_options_again(tmp_path: Path, states):
    runs = recipes.checkpoints(SCALE, tmp_path, (0, 5), **EXTRA)
    assert runs == {seed: tmp_path / "pretraining/least" / f"seed-{seed}" for seed in (0, 5)}
    assert states() == ["pretraining, seed 0: training", "pretraining, seed 5: training"]
    for seed, folder in runs.items():
        found = recipes.results(folder)
        assert found["steps"] == 2
        assert found["options"] | OPTIONS | {"seed": seed} == found["options"]
        assert [row["step"] for row in recipes.history(folder) if "loss" in row] == [1, 2]
        ConvBertForPreTraining.from_pretrained(folder / "final")
    made = {seed: (folder / "results.json").stat().st_mtime_ns for seed, folder in runs.items()}

    assert recipes.checkpoints(SCALE, tmp_path, [5, 0], **EXTRA) == runs
    assert states() == ["pretraining, seed 5: found", "pretraining, seed 0: found"]
    again = {seed: (folder / "results.json").stat().st_mtime_ns for seed, folder in runs.items()}
    assert again == made

    recipes.checkpoints(SCALE, tmp_path, [5], **EXTRA, conv_type="noconv")
    assert states() == ["pretraining, seed 5: training"]
    config = json.loads((runs[5] / "final" / "config.json").read_text(encoding="utf-8"))
    assert config["conv_type"] == "noconv"

    # The recipe itself does not name `conv_type`: a run without convolutions must not pass for it.
    assert not recipes._is_finished(runs[5], {**OPTIONS, "seed": 5})
    assert recipes._is_finished(runs[5], {**OPTIONS, "seed": 5, "conv_type": "noconv"})


@pytest.fixture
def finished(tmp_path: Path) -> Path:
    """What a finished run with `OPTIONS` and seed 0 leaves, as far as `_is_finished` looks."""
    (tmp_path / "final").mkdir()
    (tmp_path / "final" / "model.safetensors").touch()
    options = PretrainConfig(str(tmp_path), **OPTIONS, seed=0).__dict__
    text = json.dumps({"options": options})
    (tmp_path / "results.json").write_text(text, encoding="utf-8")
    return tmp_path


@pytest.mark.parametrize(
    ("changes", "is_finished"),
    [
        ({}, True),
        ({"mask_prob": 0.15}, True),  # the default, said aloud
        ({"gen_weight": 1}, True),
        ({"seed": 1}, False),
        ({"max_steps": 3}, False),
        ({"dropout": 0.1}, False),
        ({"input_dir": "elsewhere"}, False),
        ({"disc_weight": 1.0}, False),
    ],
)
def test_which_runs_are_found(finished: Path, changes: dict, is_finished: bool):
    assert recipes._is_finished(finished, {**OPTIONS, "seed": 0, **changes}) is is_finished


@pytest.mark.parametrize("missing", ["results.json", "final/model.safetensors"])
def test_half_a_run_is_not_found(finished: Path, missing: str):
    (finished / missing).unlink()
    assert not recipes._is_finished(finished, {**OPTIONS, "seed": 0})


def test_a_path_is_an_option_like_its_text(finished: Path):
    found = json.loads((finished / "results.json").read_text(encoding="utf-8"))
    found["options"]["input_dir"] = "some/where"
    (finished / "results.json").write_text(json.dumps(found), encoding="utf-8")
    wanted = {**OPTIONS, "seed": 0, "input_dir": Path("some/where")}
    assert recipes._is_finished(finished, wanted)


@pytest.mark.parametrize("name", lab.SCALES)
def test_recipes_are_options_of_the_jobs(name: str):
    """Unknown names raise; the values are usable."""
    scale = lab.SCALES[name]
    config = PretrainConfig("out", **recipes.pretraining(scale))
    _check(config)
    assert config.max_steps == scale.pretrain_steps > 2 * config.warmup_steps
    assert config.max_steps >= 6 * config.eval_steps >= config.eval_steps > 0

    class Words:
        vocab_size = 100

    assert model_config(config, Words).max_position_embeddings >= config.max_seq_length
    options = recipes.finetuning(scale)
    assert options.keys() < {field.name for field in fields(GlueConfig)}
    config = GlueConfig("sst-2", "", "out", **options)
    assert (config.max_steps == -1) == (scale.model != "convbert-tiny")


def test_published_recipe():
    """ELECTRA's base: a million steps of 256 sequences of 128 tokens at 2e-4."""
    recipe = recipes.pretraining(lab.SCALES["paper"])
    config = PretrainConfig("out", **recipe)
    assert (config.max_steps, config.train_batch_size, config.max_seq_length) == (10**6, 256, 128)
    assert (config.learning_rate, config.warmup_steps, config.weight_decay) == (2e-4, 10_000, 0.01)
    assert (config.adam_epsilon, config.adam_beta2, config.max_grad_norm) == (1e-6, 0.999, 1.0)
    assert (config.gen_weight, config.disc_weight, config.mask_prob) == (1.0, 50.0, 0.15)
    tuning = GlueConfig("sst-2", "", "out", **recipes.finetuning(lab.SCALES["paper"]))
    assert (tuning.learning_rate, tuning.layer_lr_decay, tuning.batch_size) == (1e-4, 0.8, 32)
    assert (tuning.max_steps, tuning.num_train_epochs, tuning.warmup_proportion) == (-1, 3.0, 0.1)


def test_recipes_bring_no_paddle():
    code = "import sys, convbert.train.recipes as r; from convbert.lab import SCALES\n"
    code += "r.pretraining(SCALES['cpu']); sys.exit('paddle' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
