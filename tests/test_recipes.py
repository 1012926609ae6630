"""Recipes of the scales, and runs that notebooks share: made once, found again, never mistaken."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import asdict, fields, replace
from pathlib import Path

import pytest
from support import small_config

from convbert import ConvBertConfig, ConvBertModel, ConvBertTokenizer, budget, lab
from convbert.heads import ConvBertForPreTraining
from convbert.tokenizer import SPECIAL_TOKENS
from convbert.train import recipes
from convbert.train.glue import GlueConfig
from convbert.train.pretrain import PretrainConfig, _check, model_config
from convbert.train.squad import SquadConfig
from convbert.train.squad import _check as check_squad

SCALE = replace(
    lab.SCALES["smoke"], name="least", pretrain_steps=2, pretrain_batch=2, pretrain_length=16
)
OPTIONS = {**recipes.pretraining(SCALE), "eval_batch_size": 4, "eval_examples": 8}
EXTRA = {"eval_batch_size": 4, "eval_examples": 8}


@pytest.fixture(autouse=True)
def data(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Name a folder of text and of a task in CONVBERT_DATA, where the jobs look first."""
    root = tmp_path_factory.mktemp("data")
    for folder in ("text", "glue/SST-2"):
        (root / folder).mkdir(parents=True)
    for name, count in (("train", 60), ("valid", 20)):
        lines = (f"line {i} tells of {i * i} and of {i * 7 % 11} ." for i in range(count))
        (root / "text" / f"{name}.txt").write_text("\n".join(lines), encoding="utf-8")
    for name in ("train", "dev"):
        rows = "".join(f"w{i} w{i + 1}\t{i % 2}\n" for i in range(8))
        (root / "glue/SST-2" / f"{name}.tsv").write_text(f"sentence\tlabel\n{rows}", "utf-8")
    monkeypatch.setenv("CONVBERT_DATA", str(root))


@pytest.fixture
def states(capsys: pytest.CaptureFixture):
    """Return what `checkpoints` said of each seed since the last call."""

    def read() -> list[str]:
        lines = capsys.readouterr().out.splitlines()
        return [line.split(" in ")[0] for line in lines if line.startswith("pretraining, seed")]

    return read


def test_runs_are_made_once_and_changed_options_again(tmp_path: Path, states):
    runs = recipes.checkpoints(SCALE, tmp_path, (5,), **EXTRA)
    folder = tmp_path / "pretraining" / "least" / "seed-5"
    assert runs == {5: folder}
    assert states() == ["pretraining, seed 5: training"]
    found = recipes.results(folder)
    assert found["steps"] == 2
    assert found["options"] | OPTIONS | {"seed": 5} == found["options"]
    assert [row["step"] for row in recipes.history(folder) if "loss" in row] == [1, 2]
    ConvBertForPreTraining.from_pretrained(folder / "final")
    made = (folder / "results.json").stat().st_mtime_ns

    assert recipes.checkpoints(SCALE, tmp_path, [5], **EXTRA) == runs
    assert states() == ["pretraining, seed 5: found"]
    assert (folder / "results.json").stat().st_mtime_ns == made

    recipes.checkpoints(SCALE, tmp_path, [5], **EXTRA, conv_type="noconv")
    assert states() == ["pretraining, seed 5: training"]
    config = json.loads((folder / "final" / "config.json").read_text(encoding="utf-8"))
    assert config["conv_type"] == "noconv"


def test_controlled_pairs_differ_in_convolution_alone(tmp_path: Path, capsys):
    scale = replace(SCALE, control_steps=2)

    def run() -> tuple[dict, str]:
        runs = recipes.controlled(scale, tmp_path, [4])
        lines = capsys.readouterr().out.splitlines()
        return runs, next(line for line in lines if line.startswith("comparison"))

    runs, said = run()
    assert said == "comparison: 2 runs to do, 0 found"
    assert list(runs) == [("with convolution", 4), ("attention only", 4)]
    ours, theirs = (recipes.results(folder)["options"] for folder in runs.values())
    different = {key for key in ours if ours[key] != theirs[key]}
    assert different == {"conv_type", "intermediate_size", "output_dir"}
    assert (ours["conv_type"], theirs["conv_type"], ours["seed"]) == ("sdconv", "noconv", 4)
    sizes = []
    for folder in runs.values():
        model = ConvBertModel.from_pretrained(folder / "final")
        sizes.append(sum(parameter.size for parameter in model.parameters()))
        assert (folder / "step-000001" / "model.safetensors").is_file()  # half-way
    assert abs(sizes[0] - sizes[1]) < 3 * 257  # a unit of each layer's feed-forward part
    assert run() == (runs, "comparison: 0 runs to do, 2 found")


def test_variants_differ_in_one_thing_and_cost_the_same():
    model = ConvBertConfig.named("convbert-tiny")
    size = sum(budget.model_parameters(model).values())
    differs = {"convolution": "conv_type", "kernel size": "conv_kernel_size"}
    differs["head ratio"] = "head_ratio"
    found = recipes.variants(model)
    assert found.keys() == differs.keys()
    for question, answers in found.items():
        assert list(answers.values()).count(model) == 1
        values = [getattr(shape, differs[question]) for shape in answers.values()]
        assert len(set(values)) == len(values) >= 3
        for shape in answers.values():
            own = {name: getattr(model, name) for name in (differs[question], "intermediate_size")}
            assert shape.replaced(**own) == model
            unit = (2 * model.hidden_size + 1) * model.num_hidden_layers
            assert abs(sum(budget.model_parameters(shape).values()) - size) < unit


def test_fine_tuned_runs_and_their_twins(tmp_path: Path, capsys: pytest.CaptureFixture):
    start = tmp_path / "start"
    ConvBertModel(small_config()).save_pretrained(start)
    ConvBertTokenizer([*SPECIAL_TOKENS, *(f"w{i}" for i in range(56))]).save_pretrained(start)
    scale = replace(SCALE, finetune_steps=2, finetune_examples=6)

    def run() -> tuple[dict, str]:
        runs = recipes.finetuned(scale, tmp_path, ["sst-2"], {4: start})
        lines = capsys.readouterr().out.splitlines()
        return runs, next(line for line in lines if line.startswith("fine-tuning"))

    runs, said = run()
    assert said == "fine-tuning: 2 runs to do, 0 found"
    root = tmp_path / "finetuning" / "least"
    assert runs == {
        ("sst-2", kind, 4): root / f"sst-2-{kind}-4" for kind in ("pretrained", "scratch")
    }
    for (_, kind, _), folder in runs.items():
        found = recipes.results(folder)
        options = recipes.finetuning(scale) | {"seed": 4, "from_scratch": kind == "scratch"}
        assert found["options"] | options == found["options"]
        assert found["steps"] == 2 and (folder / "last" / "model.safetensors").is_file()
    assert run() == (runs, "fine-tuning: 0 runs to do, 2 found")
    # Runs that started from weights which were trained anew since are not those of these weights.
    config = GlueConfig(**recipes.results(runs["sst-2", "scratch", 4])["options"])
    weights = start / "model.safetensors"
    assert recipes._is_finished(runs["sst-2", "scratch", 4], config, "last", weights)
    os.utime(weights)
    assert not recipes._is_finished(runs["sst-2", "scratch", 4], config, "last", weights)


@pytest.fixture
def finished(tmp_path: Path) -> Path:
    """What a finished run with `OPTIONS` and seed 0 leaves, as far as it is looked at."""
    (tmp_path / "final").mkdir()
    (tmp_path / "final" / "model.safetensors").touch()
    options = asdict(PretrainConfig(str(tmp_path), **OPTIONS, seed=0))
    text = json.dumps({"options": options})
    (tmp_path / "results.json").write_text(text, encoding="utf-8")
    return tmp_path


def is_found(folder: Path, **changes) -> bool:
    config = PretrainConfig("another/folder", **{**OPTIONS, "seed": 0, **changes})
    return recipes._is_finished(folder, config, "final")


@pytest.mark.parametrize(
    ("changes", "found"),
    [
        ({}, True),
        ({"mask_prob": 0.15}, True),  # the default, said aloud
        ({"gen_weight": 1}, True),
        ({"seed": 1}, False),
        ({"max_steps": 3}, False),
        ({"dropout": 0.1}, False),
        ({"input_dir": "elsewhere"}, False),
        ({"conv_type": "noconv"}, False),
    ],
)
def test_which_runs_are_found(finished: Path, changes: dict, found: bool):
    assert is_found(finished, **changes) is found


def test_a_run_with_an_option_that_the_recipe_does_not_name_is_not_found(finished: Path):
    """A run without convolutions must not pass for one with them."""
    content = json.loads((finished / "results.json").read_text(encoding="utf-8"))
    content["options"]["conv_type"] = "noconv"
    (finished / "results.json").write_text(json.dumps(content), encoding="utf-8")
    assert is_found(finished, conv_type="noconv") and not is_found(finished)


def test_a_run_older_than_an_option_had_its_default(finished: Path):
    content = json.loads((finished / "results.json").read_text(encoding="utf-8"))
    del content["options"]["conv_kernel_size"], content["options"]["gen_weight"]
    (finished / "results.json").write_text(json.dumps(content), encoding="utf-8")
    assert is_found(finished) and not is_found(finished, conv_kernel_size=5)


def test_a_start_by_its_published_name_is_never_newer(finished: Path):
    """There is no such file here; the weights lie elsewhere, or on the hub."""
    config = PretrainConfig("another/folder", **{**OPTIONS, "seed": 0})
    assert recipes._is_finished(finished, config, "final", Path("convbert-base/model.safetensors"))


def test_steps_are_those_of_the_tiny_model_only():
    short = recipes.finetuning(lab.SCALES["cpu"], 40)
    assert (short["max_steps"], short["save_steps"], short["logging_steps"]) == (40, 20, 2)
    assert recipes.finetuning(lab.SCALES["paper"], 40) == {}


@pytest.mark.parametrize("missing", ["results.json", "final/model.safetensors"])
def test_half_a_run_is_not_found(finished: Path, missing: str):
    (finished / missing).unlink()
    assert not is_found(finished)


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
    squad = SquadConfig(**recipes.answering(scale))
    check_squad(squad)
    assert (squad.max_steps == -1) == (scale.model != "convbert-tiny")


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
