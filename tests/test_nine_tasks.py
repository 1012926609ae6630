"""Each of GLUE's nine tasks from its files to a score, on made files in the official layout."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from support import small_config

from convbert import ConvBertModel, ConvBertTokenizer, cli
from convbert.data import glue, leaderboard
from convbert.tokenizer import SPECIAL_TOKENS

TASKS = [name for name in glue.TASKS if not name.startswith("sample/") and name != "ax"]
ROWS = 12


def make_file(root: Path, task: str, split: str) -> None:
    """Write a split's file with texts, labels and columns where the task has them."""
    table = glue.TASKS[task]
    layout, labels = table.splits[split], table.labels or ("0.0", "2.5", "5.0")
    rows = [["column"] * layout.columns] if layout.header else []
    for number in range(ROWS):
        row = [str(number)] * layout.columns
        row[layout.text_a] = f'"w{number} w{number + 1}'  # an opening quote is text
        if layout.text_b is not None:
            row[layout.text_b] = f"w{number + 2} w{number % 3}"
        if layout.label is not None:
            row[layout.label] = labels[number % len(labels)]
        rows.append(row)
    file = root / "glue" / table.folder / glue.file_name(task, split)
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("".join("\t".join(row) + "\n" for row in rows), encoding="utf-8")


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("start")
    words = ConvBertTokenizer([*SPECIAL_TOKENS, '"', *(f"w{i}" for i in range(55))])
    ConvBertModel(small_config(vocab_size=len(words))).save_pretrained(folder)
    words.save_pretrained(folder)
    return str(folder)


@pytest.mark.filterwarnings("ignore:.*expected .* rows, found", "ignore:constant values")
@pytest.mark.parametrize("task", TASKS)
def test_from_files_to_a_score(task: str, start: str, tmp_path: Path, monkeypatch, capsys):
    """Fine-tune, predict dev, score it: the command line's three answers are one number."""
    for split in glue.TASKS[task].splits:
        make_file(tmp_path / "data", task, split)
    monkeypatch.setenv("CONVBERT_DATA", str(tmp_path / "data"))
    monkeypatch.chdir(tmp_path)

    def call(*words: str) -> str:
        assert cli.main(words) == 0, capsys.readouterr().err
        return capsys.readouterr().out

    name = glue.TASKS[task].folder  # SST-2, as people write it; the folder's default is sst-2
    said = call("glue", "--task_name", name, "--model_name_or_path", start, "--max_steps", "2")
    assert f"published run of {task}; max_steps 2 instead of -1" in said
    results = json.loads(Path(task, "results.json").read_text("utf-8"))
    call("predict", "--task_name", name, "--model_name_or_path", f"{task}/last", "--split", "dev")
    for split in glue.resolve_splits(task, "dev"):
        labels = f"data/glue/{name}/{split}.tsv"
        predictions = f"predictions/{task}-{split}.tsv"
        words = ("--predictions", predictions, "--labels", labels)
        scores = json.loads(call("score", "glue", "--task_name", name, *words))
        suffix = "_mm" if split == "dev_mismatched" else ""
        for metric, value in scores.items():
            # Scores are written with six digits, of which a model that hardly learned uses few.
            near = 1e-9 if glue.TASKS[task].labels else 5e-3
            assert results["last"][f"{metric}{suffix}"] == pytest.approx(value, abs=near)
    assert list(scores) == list(glue.TASKS[task].metrics)


def test_the_leaderboard_has_a_file_for_every_task():
    assert {test.task for test in leaderboard.FILES.values()} == {*TASKS, "ax"}
