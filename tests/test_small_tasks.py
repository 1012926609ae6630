"""Several tasks, one file of results, one table."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from support import small_config

from convbert import ConvBertModel, ConvBertTokenizer, cli, lab, results, tables
from convbert.tokenizer import SPECIAL_TOKENS
from convbert.train import recipes, small_tasks
from convbert.train.small_tasks import TasksConfig


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "data" / "glue" / "SST-2"
    folder.mkdir(parents=True)
    for name in ("train", "dev"):
        rows = "".join(f"w{i} w{i + 1}\t{i % 2}\n" for i in range(8))
        (folder / f"{name}.tsv").write_text(f"sentence\tlabel\n{rows}", encoding="utf-8")
    monkeypatch.setenv("CONVBERT_DATA", str(tmp_path / "data"))
    return tmp_path


@pytest.fixture
def model(tmp_path: Path) -> str:
    ConvBertModel(small_config()).save_pretrained(tmp_path / "model")
    words = [*SPECIAL_TOKENS, *(f"w{i}" for i in range(56))]
    ConvBertTokenizer(words).save_pretrained(tmp_path / "model")
    return str(tmp_path / "model")


def test_what_is_recorded_is_what_the_runs_ended_with(data: Path, model: str, capsys):
    config = TasksConfig("smoke", str(data), tasks="sst-2", steps=2, model=model, seed=7)
    small_tasks.run(config)
    content = json.loads(results.path(data, "smoke", small_tasks.NAME).read_text("utf-8"))
    row = content["records"]["tasks"]["value"]["sst-2"]
    for start in ("pretrained", "scratch"):
        run = (
            data / "tasks" / "smoke" / "finetuning" / "smoke" / f"sst-2-{start}-7" / "results.json"
        )
        ended = json.loads(run.read_text("utf-8"))
        assert row[start] == [ended["last"]["accuracy"]]
        assert (ended["steps"], ended["options"]["seed"]) == (row["steps"], 7) == (2, 7)
    assert (row["metric"], row["seeds"], row["dev_examples"]) == ("accuracy", [7], 8)
    assert row["baselines"]["majority"] == 0.5
    assert "sst-2 (accuracy): pretrained" in capsys.readouterr().out


def test_a_task_without_files_is_said_before_anything_is_trained(data: Path, model: str):
    with pytest.raises(FileNotFoundError, match="rte not found"):
        small_tasks.run(TasksConfig("smoke", str(data), tasks="sst-2, rte", model=model))
    assert not (data / "tasks").exists() and not (data / "data" / "results").exists()


@pytest.mark.parametrize("name", ["ax", "cloa", ""])
def test_unknown_tasks_are_named(data: Path, capsys, name: str):
    assert cli.main(["tasks", "--tasks", f"sst-2, {name}", "--output_dir", str(data)]) == 1
    assert f"{name!r} is no task to train on" in capsys.readouterr().err


def test_both_get_more_time_than_in_the_notebooks(tmp_path: Path, capsys):
    """At scale smoke, whose 20 and 10 updates become 80 and 15; one seed is not judged."""
    small_tasks.run(TasksConfig("smoke", str(tmp_path), tasks="sample/swap"))
    root, scale = tmp_path / "tasks" / "smoke", lab.SCALES["smoke"]
    made = recipes.results(root / "pretraining" / "smoke" / "seed-1")
    assert made["steps"] == 4 * scale.pretrain_steps == 80
    for start in recipes.STARTS:
        end = recipes.results(root / "finetuning" / "smoke" / f"sample-swap-{start}-1")
        assert end["steps_taken"] == end["options"]["max_steps"] == 15
    content = json.loads(results.path(tmp_path, "smoke", small_tasks.NAME).read_text("utf-8"))
    assert content["finished"]
    assert {name: c["verdict"] for name, c in content["claims"].items()} == {
        "gain_sample_swap": results.NOT_JUDGED
    }
    shown = tables.results_tables({small_tasks.NAME: content})
    assert "| `convbert tasks` | Pretraining, four times as long, improves sample/swap" in shown
    assert "| sample/swap | accuracy |" in shown and "| data | sample/swap |" not in shown


def rows(pretrained: list[float], task: str = "sample/order") -> dict:
    starts = {"pretrained": pretrained, "scratch": [0.5, 0.5, 0.5]}
    return {task: starts | {"starts": list(starts), "seeds": [1, 2, 3]}}


def test_a_gain_is_claimed_of_the_samples_tasks_only(tmp_path: Path):
    lab.begin(small_tasks.NAME, "cpu", tmp_path)
    small_tasks.claim(rows([0.7, 0.6, 0.5]) | rows([0.5, 0.5, 0.5], "rte"))
    alone = rows([0.5, 0.5, 0.5], "sample/swap")["sample/swap"] | {"starts": ["pretrained"]}
    small_tasks.claim({"sample/swap": alone})  # a published model has no twin
    content = json.loads(results.path(tmp_path, "cpu", small_tasks.NAME).read_text("utf-8"))
    (claimed,) = content["claims"].values()
    assert claimed["verdict"] == results.HOLDS
    assert claimed["observed"] == pytest.approx([0.2, 0.1, 0.0])
    with pytest.raises(lab.ClaimFailed, match="sample/order"):
        small_tasks.claim(rows([0.6, 0.5, 0.5]))


def test_the_table_keeps_quoted_results_apart():
    row = {
        "metric": "mcc",
        "pretrained": [0.1, 0.2, 0.3],
        "scratch": [0.0, 0.0, 0.3],
        "seeds": [1, 2, 3],
        "steps": 100,
        "baselines": {"majority": 0.0},
    }
    content = {
        **{"hardware": "toy", "versions": {"paddle": "3"}, "commit": None, "claims": {}},
        "records": {"tasks": {"value": {"cola": row}}},
    }
    own, quotations = tables.results_tables({"glue_tasks": content}).split("Quoted")
    assert "`python -m convbert tasks --scale cpu` on toy" in own
    scores = "0.2 ± 0.1 | 0.1 ± 0.17 | 0.1 ± 0.1 | majority 0.000"
    assert f"| cola | mcc | {scores} | [1, 2, 3] | 100 |" in own
    assert "67.8" in quotations and "67.8" not in own
