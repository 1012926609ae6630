"""Predictions: length-sorted batches, the leaderboard's files, files of texts, one text."""

from __future__ import annotations

import json
import random
from pathlib import Path

import numpy as np
import paddle
import pytest
from support import randomize, small_config

from convbert import ConvBertForSequenceClassification, ConvBertModel, ConvBertTokenizer
from convbert.data import glue, leaderboard
from convbert.data.glue import Example
from convbert.metrics import command
from convbert.tokenizer import SPECIAL_TOKENS
from convbert.train import classify
from convbert.train.predict import PredictConfig, predict
from convbert.train.submission import SubmissionConfig, submission

WORDS = ConvBertTokenizer([*SPECIAL_TOKENS, *(f"w{i}" for i in range(56))])


def sentence(rng: random.Random, most: int = 25) -> str:
    return " ".join(f"w{rng.randrange(56)}" for _ in range(rng.randint(1, most)))


def make_model(folder: Path, labels: int, seed: int = 0) -> Path:
    paddle.seed(seed)
    config = small_config(num_labels=labels)
    randomize(ConvBertForSequenceClassification(config), seed).save_pretrained(folder)
    WORDS.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of one model per task, as `submission --checkpoint_dir` wants it."""
    root = tmp_path_factory.mktemp("models")
    tasks = {test.task for test in leaderboard.FILES.values()} - {"ax"}
    for number, task in enumerate(sorted(tasks)):  # a set's order differs from run to run
        make_model(root / task / "best", len(glue.TASKS[task].labels or [0]), number)
        text = json.dumps({"task": task})
        (root / task / "results.json").write_text(text, encoding="utf-8")
    return root


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Test sets of five rows that count as whole, in a folder as CONVBERT_DATA names one."""
    rng, root = random.Random(0), tmp_path / "data"
    for test in leaderboard.FILES.values():
        layout = glue.TASKS[test.task].splits[test.split]
        monkeypatch.setitem(layout.__dict__, "rows", 5)
        file = root / "glue" / glue.TASKS[test.task].folder
        file.mkdir(parents=True, exist_ok=True)
        rows = [["index"] + ["h"] * (layout.columns - 1)]
        for number in range(5):
            row = [str(number), *("-" for _ in range(layout.columns - 1))]
            for place in (layout.text_a, layout.text_b):
                if place is not None:
                    row[place] = sentence(rng, 9)
            rows.append(row)
        text = "".join("\t".join(row) + "\n" for row in rows)
        name = glue.file_name(test.task, test.split)
        (file / name).write_text(text, encoding="utf-8")
    monkeypatch.setenv("CONVBERT_DATA", str(root))
    monkeypatch.setenv("CONVBERT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    return root


# --- Batches ----------------------------------------------------------------------------------


@pytest.mark.parametrize(("dtype", "tolerance"), [("float64", 1e-12), ("float32", 1e-5)])
@pytest.mark.parametrize("pairs", [False, True])
def test_sorting_by_length_changes_no_prediction(pairs: bool, dtype: str, tolerance: float):
    rng = random.Random(1)
    examples = [
        Example(sentence(rng), sentence(rng, 5) if pairs else None, None) for _ in range(50)
    ]
    model = randomize(ConvBertForSequenceClassification(small_config(num_labels=3)))
    model.to(dtype=dtype)
    options = dict(max_length=30, batch_size=8)
    as_given = classify.predict(model, WORDS, examples, **options, by_length=False)
    by_length = classify.predict(model, WORDS, examples, **options)
    alone = classify.predict(model, WORDS, examples, max_length=30, batch_size=1)
    shares = [classify.probabilities(logits) for logits in (as_given, by_length, alone)]
    assert np.abs(shares[0] - shares[1]).max() < tolerance
    assert np.abs(shares[0] - shares[2]).max() < tolerance
    assert np.abs(shares[0] - shares[0].mean(0)).max() > 0.01  # the examples do differ


def test_sorting_saves_padding():
    rng, sizes = random.Random(2), {}
    examples = [Example(sentence(rng), None, None) for _ in range(64)]
    model = randomize(ConvBertForSequenceClassification(small_config()))
    for by_length in (True, False):
        seen: list[int] = []
        hook = model.register_forward_pre_hook(
            lambda _, args, options, seen=seen: seen.append(options["input_ids"].size),
            with_kwargs=True,
        )
        classify.predict(model, WORDS, examples, 30, 8, by_length)
        hook.remove()
        sizes[by_length] = sum(seen)
    assert sizes[True] < 0.75 * sizes[False]


def test_decisions():
    ties = np.array([[1.0, 1.0, 0.5], [0.0, 2.0, 2.0]])
    assert classify.decide(ties).tolist() == [0, 1]
    assert classify.decide(np.array([[-1.0], [2.5], [7.0]])).tolist() == [0, 2.5, 5]
    shares = classify.probabilities(np.array([[1000.0, 0.0], [0.0, np.log(3)]]))
    assert shares == pytest.approx(np.array([[1, 0], [0.25, 0.75]]))


# --- Test sets --------------------------------------------------------------------------------


def test_predictions_of_mnli_bring_the_diagnostic_set(models: Path, data: Path, tmp_path: Path):
    out = tmp_path / "out"
    predict(PredictConfig("mnli", str(models / "mnli"), output_dir=str(out)))
    assert sorted(file.name for file in out.iterdir()) == ["AX.tsv", "MNLI-m.tsv", "MNLI-mm.tsv"]
    model = ConvBertForSequenceClassification.from_pretrained(models / "mnli" / "best")
    for name in ("AX", "MNLI-m", "MNLI-mm"):
        test = leaderboard.FILES[name]
        folder = data / "glue" / glue.TASKS[test.task].folder
        examples = glue.read(folder, test.task, test.split)
        logits = classify.predict(model, WORDS, examples, 32)
        assert leaderboard.check(out / f"{name}.tsv", name) == logits.argmax(1).tolist()
    (data / "glue" / "diagnostic" / "diagnostic.tsv").unlink()
    predict(PredictConfig("mnli", str(models / "mnli"), output_dir=str(tmp_path / "again")))
    assert len(list((tmp_path / "again").iterdir())) == 2
    assert (tmp_path / "again" / "MNLI-m.tsv").read_bytes() == (out / "MNLI-m.tsv").read_bytes()


def test_a_missing_diagnostic_set_is_said(models: Path, data: Path, tmp_path: Path, capsys):
    (data / "glue" / "diagnostic" / "diagnostic.tsv").unlink()
    predict(PredictConfig("mnli", str(models / "mnli"), output_dir=str(tmp_path)))
    assert "no AX.tsv: ax not found; looked in CONVBERT_DATA" in capsys.readouterr().out


def test_checkpoints_become_a_submission(models: Path, data: Path, tmp_path: Path, capsys):
    """AX comes from the model of mnli; a file that is there already is kept."""
    tables, output = tmp_path / "tables", tmp_path / "submission.zip"
    leaderboard.write(tables / "CoLA.tsv", "cola", [1, 0, 0, 0, 1])
    kept = (tables / "CoLA.tsv").read_bytes()
    options = dict(checkpoint_dir=str(models))
    submission(SubmissionConfig(str(tables), str(output), **options))
    assert output.is_file()
    assert (tables / "CoLA.tsv").read_bytes() == kept
    assert {file.stem for file in tables.iterdir()} == set(leaderboard.FILES)
    assert "WNLI: 5 predictions" in capsys.readouterr().out
    again = tmp_path / "again.zip"
    submission(SubmissionConfig(str(tables), str(again)))
    assert again.read_bytes() == output.read_bytes()


def test_missing_checkpoints_are_listed(models: Path, data: Path, tmp_path: Path):
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "mnli").symlink_to(models / "mnli")
    config = SubmissionConfig(
        str(tmp_path / "tables"),
        str(tmp_path / "submission.zip"),
        checkpoint_dir=str(tmp_path / "models"),
        wnli_majority=True,
    )
    with pytest.raises(ValueError, match=r"is no submission: CoLA\.tsv is missing; MRPC\.tsv"):
        submission(config)
    assert not (tmp_path / "submission.zip").exists()


def test_too_few_rows_in_a_test_set_are_refused(models: Path, data: Path, tmp_path: Path):
    file = data / "glue" / "RTE" / "test.tsv"
    file.write_text("".join(file.read_text(encoding="utf-8").splitlines(True)[:-1]), "utf-8")
    with pytest.raises(ValueError, match=r"test\.tsv: expected 5 rows, found 4"):
        predict(PredictConfig("rte", str(models / "rte"), output_dir=str(tmp_path / "out")))
    assert not (tmp_path / "out").exists()


def test_other_splits_can_be_scored(models: Path, data: Path, tmp_path: Path, capsys):
    rows = ["sentence\tlabel", *(f"w{i} w{i + 1}\t{i % 2}" for i in range(6))]
    folder = data / "glue" / "SST-2"
    (folder / "dev.tsv").write_text("\n".join(rows) + "\n", encoding="utf-8")
    options = dict(split="dev", output_dir=str(tmp_path / "out"))
    with pytest.warns(UserWarning, match="expected 872 rows, found 6"):
        predict(PredictConfig("sst-2", str(models / "sst-2"), **options))
    guesses = command.read_column(tmp_path / "out" / "sst-2-dev.tsv", "sst-2")
    assert len(guesses) == 6
    with pytest.raises(ValueError, match="split='validation': sst-2 has train, dev, test"):
        predict(PredictConfig("sst-2", str(models / "sst-2"), split="validation"))


# --- Texts of one's own -----------------------------------------------------------------------


def test_one_text(models: Path, capsys):
    predict(PredictConfig("cola", str(models / "cola"), text="w1 w2 w3"))
    found = json.loads(capsys.readouterr().out)
    model = ConvBertForSequenceClassification.from_pretrained(models / "cola" / "best")
    shares = classify.probabilities(
        classify.predict(model, WORDS, [Example("w1 w2 w3", None, None)])
    )[0]
    assert found["probabilities"] == pytest.approx({"0": shares[0], "1": shares[1]}, abs=1e-6)
    assert found["label"] == str(shares.argmax())


def test_one_pair_and_one_score(models: Path, capsys):
    predict(PredictConfig("rte", str(models / "rte"), text="w1 w2", text_pair="w3"))
    found = json.loads(capsys.readouterr().out)
    assert set(found["probabilities"]) == {"entailment", "not_entailment"}
    assert sum(found["probabilities"].values()) == pytest.approx(1)
    predict(PredictConfig("sts-b", str(models / "sts-b"), text="w1 w2", text_pair="w3"))
    assert 0 <= json.loads(capsys.readouterr().out)["score"] <= 5


def test_a_file_of_texts(models: Path, tmp_path: Path, capsys):
    file = tmp_path / "mine.txt"
    file.write_bytes('\ufeffw1 "w2\tw3\r\nw4\tw5 w6\r\n'.encode())
    out = tmp_path / "out"
    predict(PredictConfig("rte", str(models / "rte"), input_file=str(file), output_dir=str(out)))
    lines = (out / "mine.tsv").read_text(encoding="utf-8").splitlines()
    assert lines[0] == "index\tprediction\tp(entailment)\tp(not_entailment)"
    for number, line in enumerate(lines[1:]):
        index, label, *shares = line.split("\t")
        assert index == str(number) and sum(map(float, shares)) == pytest.approx(1, abs=2e-6)
        assert label == glue.ENTAILMENT[int(np.argmax([float(share) for share in shares]))]
    file.write_text("w1\tw2\nw3\n", encoding="utf-8")
    with pytest.raises(ValueError, match=r"mine\.txt, line 2: expected 2 columns, found 1"):
        predict(PredictConfig("rte", str(models / "rte"), input_file=str(file)))


def test_weights_and_vocabulary_may_lie_apart(models: Path, tmp_path: Path, capsys):
    weights = make_model(tmp_path / "weights", 2, seed=99)
    (weights / "vocab.txt").unlink()
    options = dict(ckpt_path=str(weights), text="w1 w2")
    predict(PredictConfig("cola", str(models / "cola"), **options))
    other = capsys.readouterr().out
    predict(PredictConfig("cola", str(models / "cola"), text="w1 w2"))
    assert capsys.readouterr().out != other  # the weights are those of ckpt_path
    with pytest.raises(FileNotFoundError, match=r"vocab\.txt"):
        predict(PredictConfig("cola", **options))


# --- Refusals ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("task", "options", "message"),
    [
        ("imdb", {}, "task_name='imdb': choose one of cola"),
        ("cola", dict(model_name_or_path=""), "give a fine-tuned model"),
        ("cola", dict(batch_size=0), "batch_size=0: must be positive"),
        ("cola", dict(text="a", input_file="b"), "text and input_file: give one of them"),
        ("cola", dict(text="a", text_pair="b"), "text_pair: cola is a task on single texts"),
        ("rte", dict(text="a"), "text: rte is a task on pairs, give text_pair as well"),
        ("rte", dict(text_pair="a"), "text_pair: give text as well"),
    ],
)
def test_options_without_meaning(task: str, options: dict, message: str):
    with pytest.raises(ValueError, match=message):
        predict(PredictConfig(**{"task_name": task, "model_name_or_path": "m", **options}))


def test_models_of_other_tasks_are_refused(models: Path, tmp_path: Path):
    with pytest.raises(ValueError, match=r"best has learned rte, not wnli"):
        predict(PredictConfig("wnli", str(models / "rte"), text="a", text_pair="b"))
    three = make_model(tmp_path / "three", 3)
    with pytest.raises(ValueError, match="has 3 labels, rte has 2"):
        predict(PredictConfig("rte", str(three), text="a", text_pair="b"))
    ConvBertModel(small_config()).save_pretrained(tmp_path / "bare")
    WORDS.save_pretrained(tmp_path / "bare")
    with pytest.raises(ValueError, match="has no classifier: fine-tune it with convbert glue"):
        predict(PredictConfig("cola", str(tmp_path / "bare"), text="a"))
