"""The search for a task on which pretraining helps: what is measured on what, and what is kept."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest

from convbert import cli, results, tables
from convbert.data import glue, held_out, sources
from convbert.train import search
from convbert.train.search import SearchConfig, Trial

pytestmark = pytest.mark.filterwarnings(r"ignore:.*expected \d+ rows, found")


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two small tasks, one of single sentences and one of pairs; every sentence has its number."""
    rng = random.Random(0)
    for task, header in (
        ("SST-2", "sentence\tlabel"),
        ("RTE", "index\tsentence1\tsentence2\tlabel"),
    ):
        folder = tmp_path / "data" / "glue" / task
        folder.mkdir(parents=True)
        for split in ("train", "dev"):
            rows = [header]
            for i in range(30):
                text = " ".join(rng.choices(["good", "bad", "film", "plot", "the", "a"], k=6))
                text = f"{task} {split} {i} {text}".lower()
                pair = f"{i}\t{text}\tsecond {text}\t{glue.ENTAILMENT[i % 2]}"
                rows.append(f"{text}\t{i % 2}" if task == "SST-2" else pair)
            (folder / f"{split}.tsv").write_text("\n".join(rows) + "\n", encoding="utf-8")
    monkeypatch.setenv("CONVBERT_DATA", str(tmp_path / "data"))
    return tmp_path


def test_the_text_holds_training_sentences_only(data: Path):
    found = {task: sources.find(task, allow_sample=False) for task in ("sst-2", "rte")}
    search.write_text(data / "text", found, apart=10)
    sample = sources.find("sample/text").path
    written = (data / "text" / "train.txt").read_text("utf-8")
    assert written.endswith((sample / "train.txt").read_text("utf-8"))
    assert (data / "text" / "valid.txt").read_bytes() == (sample / "valid.txt").read_bytes()
    documents = written.split("\n\n")
    for task, source in found.items():
        rest, apart = held_out.set_apart(glue.read(source, task, "train"), 10)
        assert len(apart) == 10 and not any(each.text_a in written for each in apart)
        assert not any(each.text_a in written for each in glue.read(source, task, "dev"))
        if task == "rte":
            assert all(f"{each.text_a}\n{each.text_b}" in documents for each in rest)
        else:
            assert any(sorted(d.split("\n")) == sorted(r.text_a for r in rest) for d in documents)


def test_trials_are_measured_apart_and_the_best_again_on_dev(data: Path, monkeypatch):
    """At scale smoke, with one trial of each kind of text and a choice that is made for it."""
    trials = {"few": Trial(False, 8, 0.5), "own": Trial(True, 8_000, 0.8)}
    monkeypatch.setattr(search, "TRIALS", trials)
    monkeypatch.setattr(search, "choose", lambda rows: rows[-1])
    config = SearchConfig("smoke", str(data), tasks="sst-2", validation_examples=10, seed=5)
    search.search(config)
    content = json.loads(results.path(data, "smoke", search.NAME).read_text("utf-8"))
    trials, confirmed = (content["records"][name]["value"] for name in ("trials", "confirmed"))
    assert [(row["trial"], row["seeds"]) for row in trials] == [("few", [5]), ("own", [5])]
    assert (confirmed["trial"], confirmed["seeds"]) == ("own", [6])
    for row, kind, apart in zip(
        [*trials, confirmed],
        ("8-sample-5", "8000-in-domain-8", "8000-in-domain-8"),
        (10, 10, 0),
        strict=True,
    ):
        for start in ("pretrained", "scratch"):
            folder = data / "search" / "smoke" / kind / "finetuning" / "smoke"
            end = json.loads(
                (folder / f"sst-2-{start}-{row['seeds'][0]}" / "results.json").read_text()
            )
            assert end["options"]["validation_examples"] == apart
            assert str(end["steps_taken"]) == str(row["steps"]) == kind.split("-")[-1]
            assert row[start] == [end["last"]["accuracy"]]
        assert row["gain"] == [row["pretrained"][0] - row["scratch"][0]]
    made = json.loads((data / "search/smoke/pretraining/smoke/seed-5/results.json").read_text())
    assert made["options"]["objective"] == "mlm" and made["steps"] == 40
    tables_of = tables.results_tables({search.NAME: content})
    assert "| sst-2 | accuracy | own | 8 |" in tables_of and "on the dev set" in tables_of


def test_only_a_gain_with_every_seed_is_worth_confirming():
    def row(*gain: float) -> dict:
        return {"gain": list(gain)}

    assert search.choose([row(0.5, -0.01), row(-0.3, 0.9)]) is None
    assert search.choose([row(0.5, 0.01), row(0.1, 0.02), row(0.9, -0.9)]) == row(0.1, 0.02)


def test_published_models_are_refused(data: Path, capsys):
    assert cli.main(["search", "--scale", "paper", "--output_dir", str(data)]) == 1
    assert "scale='paper': the search is for the tiny model" in capsys.readouterr().err


def test_the_table_says_when_nothing_was_found():
    row = {"task": "rte", "metric": "accuracy", "trial": "few labels", "seeds": [1, 2, 3]}
    row |= {
        "steps": 9,
        "pretrained": [0.5, 0.6, 0.7],
        "scratch": [0.6, 0.6, 0.6],
        "gain": [-0.1, 0.0, 0.1],
    }
    values = {"trials": [row], "confirmed": None}
    content = {"hardware": "toy", "versions": {"paddle": "3"}, "commit": None, "claims": {}}
    content["records"] = {name: {"value": value} for name, value in values.items()}
    shown = tables.results_tables({search.NAME: content})
    assert (
        "| rte | accuracy | few labels | 9 | 0.6 ± 0.1 | 0.6 ± 0 | 0 ± 0.1 | [1, 2, 3] |" in shown
    )
    assert "No trial was ahead with every seed" in shown
