"""Fine-tuning on made-up questions in SQuAD's layout: learning, files, resuming, refusals."""

from __future__ import annotations

import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import paddle
import pytest
from support import randomize, small_config

from convbert import ConvBertForQuestionAnswering, ConvBertModel, ConvBertTokenizer, cli
from convbert.data import squad as data
from convbert.metrics import squad as metrics
from convbert.tokenizer import SPECIAL_TOKENS
from convbert.train import answering, squad
from convbert.train.squad import SquadConfig, Trainer

WORDS = ConvBertTokenizer([*SPECIAL_TOKENS, *(f"w{i}" for i in range(56))])  # 61 entries


def make_file(path: Path, count: int, version_2: bool, seed: int) -> Path:
    """The answer is the word after w0; in version 2.0 a third of the contexts have no w0.

    Contexts of up to 40 words make several windows; blanks and dropped characters vary.
    """
    rng, paragraphs = random.Random(seed), []
    for number in range(count):
        words = [f"w{rng.randrange(2, 56)}" for _ in range(rng.choice([6, 10, 40]))]
        place = rng.randrange(len(words) - 1)
        impossible = version_2 and number % 3 == 0
        if not impossible:
            words[place] = "w0"
        blanks = [rng.choice([" ", " ", "  ", "\n", " \u200b"]) for _ in words]
        context = "".join(blank + word for blank, word in zip(blanks, words, strict=True))
        start = sum(map(len, words[: place + 1])) + sum(map(len, blanks[: place + 2]))
        gold = {"text": words[place + 1], "answer_start": start}
        assert context[start:].startswith(gold["text"])
        qa = {"id": f"q{number}", "question": "w1", "answers": [] if impossible else [gold]}
        qa |= {"is_impossible": impossible} if version_2 else {}
        paragraphs.append({"context": context, "qas": [qa]})
    content = {"version": "made up", "data": [{"title": "t", "paragraphs": paragraphs}]}
    path.write_text(json.dumps(content), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("data")
    return {
        f"{split}-{version}": make_file(folder / f"{split}-{version}.json", count, version == 2, i)
        for i, (split, count) in enumerate((("train", 180), ("dev", 60)))
        for version in (1, 2)
    }


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An untrained encoder without a head, with its vocabulary."""
    folder = tmp_path_factory.mktemp("checkpoint")
    paddle.seed(0)
    ConvBertModel(small_config(initializer_range=0.1)).save_pretrained(folder)
    WORDS.save_pretrained(folder)
    return folder


def options(files: dict[str, Path], version: int, checkpoint: Path, output: Path, **changes):
    values = dict(
        do_train=True,
        do_predict=True,
        train_file=str(files[f"train-{version}"]),
        predict_file=str(files[f"dev-{version}"]),
        version_2_with_negative=version == 2,
        model_name_or_path=str(checkpoint),
        output_dir=str(output),
        max_seq_length=24,
        doc_stride=8,
        batch_size=16,
        learning_rate=1e-2,
        layer_lr_decay=0.9,
        max_steps=150,
        dropout=0.0,
        n_best_size=5,
        max_answer_length=3,
        logging_steps=10,
        save_steps=60,
        seed=3,
    )
    return SquadConfig(**{**values, **changes})


def read(folder: Path, name: str):
    return json.loads((folder / name).read_text(encoding="utf-8"))


def read_log(folder: Path) -> list[dict]:
    lines = (folder / "log.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


def evaluations(folder: Path) -> list[dict]:
    extra = ("examples_per_s",)
    lines = [line for line in read_log(folder) if "f1" in line]
    return [{key: value for key, value in line.items() if key not in extra} for line in lines]


# --- A run ------------------------------------------------------------------------------------


@pytest.fixture(scope="module", params=[1, 2], ids=["v1.1", "v2.0"])
def run(
    request, files: dict[str, Path], checkpoint: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[int, dict, Path]:
    """Fine-tune once for each version; the tests below read what the run left."""
    folder = tmp_path_factory.mktemp("run") / "new"
    return request.param, squad.squad(options(files, request.param, checkpoint, folder)), folder


def test_a_simple_rule_is_learned(run: tuple[int, dict, Path]):
    version, results, folder = run
    assert results["last"]["f1"] >= 90
    if version == 2:  # both kinds of questions
        assert min(results["last"]["HasAns_f1"], results["last"]["NoAns_f1"]) >= 80
    losses = [line["loss"] for line in read_log(folder) if "loss" in line]
    assert losses[-1] < losses[0] / 4


def test_evaluations_in_the_log_and_in_the_results(run: tuple[int, dict, Path]):
    """At intervals and on the last step, with the official keys."""
    version, results, folder = run
    found = evaluations(folder)
    assert [line["step"] for line in found] == [60, 120, 150]
    official = {"exact_match", "f1"} if version == 1 else {"exact", "f1", "total", "best_f1"}
    assert official <= results["last"].keys()
    assert found[-1] == {"step": 150, **results["last"]}
    assert results["best"] == max(found, key=lambda line: line["f1"])  # the first of equals
    assert read(folder, "results.json") == results


def test_the_official_score_of_the_written_file_is_that_of_training(
    run: tuple[int, dict, Path], files: dict[str, Path], capsys: pytest.CaptureFixture
):
    version, results, folder = run
    words = ["--data", str(files[f"dev-{version}"])]
    assert cli.main(["score", "squad", *words, "--predictions", f"{folder}/predictions.json"]) == 0
    scores = json.loads(capsys.readouterr().out)
    assert scores == {key: results["last"][key] for key in scores}
    if version == 2:  # thresholds need the answers that "" has replaced
        nbest = read(folder, "nbest_predictions.json")
        full = {name: next(a["text"] for a in found if a["text"]) for name, found in nbest.items()}
        odds = read(folder, "null_odds.json")
        official = metrics.score(files["dev-2"], full, odds, na_prob_thresh=0.0)
        assert official == {key: results["last"][key] for key in official}
        assert official["best_f1"] >= official["f1"]
        assert results["last"]["best_f1_attainable"] <= official["best_f1"]


def test_prediction_files(run: tuple[int, dict, Path], files: dict[str, Path]):
    version, _, folder = run
    predictions, odds = read(folder, "predictions.json"), read(folder, "null_odds.json")
    nbest = read(folder, "nbest_predictions.json")
    questions = data.read(files[f"dev-{version}"])
    assert list(predictions) == list(odds) == list(nbest) == [q.id for q in questions]
    for question in questions:
        answers = nbest[question.id]
        assert sum(answer["probability"] for answer in answers) == pytest.approx(1)
        scores = [answer["score"] for answer in answers]
        assert scores == sorted(scores, reverse=True)
        for answer in answers:
            assert question.context[answer["start"] : answer["end"]] == answer["text"]
        best = next(answer["text"] for answer in answers if answer["text"])
        blank = version == 2 and odds[question.id] > 0
        assert predictions[question.id] == ("" if blank else best)
        assert (answers[0]["text"] == "") == blank


def test_prediction_alone_repeats_the_evaluation(
    run: tuple[int, dict, Path], files: dict[str, Path], tmp_path: Path
):
    """From `last/` and from `best/`; other batches change the last digits of logits at most."""
    version, results, folder = run
    for kept, expected in (("last", results["last"]), ("best", results["best"])):
        config = options(files, version, folder / kept, tmp_path / kept, do_train=False)
        again = squad.squad(replace(config, train_file=None))
        assert again["last"] == {key: value for key, value in expected.items() if key != "step"}
        assert again["steps"] == 0
        names = {path.name for path in (tmp_path / kept).iterdir()}
        written = {"predictions.json", "nbest_predictions.json", "null_odds.json"}
        assert names == written | {"results.json"}
    predictions = read(folder, "predictions.json")
    assert read(tmp_path / "last", "predictions.json") == predictions
    odds = read(tmp_path / "last", "null_odds.json")
    assert odds == read(folder, "null_odds.json")
    squad.squad(options(files, version, folder / "last", tmp_path, do_train=False, batch_size=7))
    assert read(tmp_path, "predictions.json") == predictions
    assert read(tmp_path, "null_odds.json") == pytest.approx(odds, abs=1e-3)


def test_another_threshold_changes_the_written_answers(
    run: tuple[int, dict, Path], files: dict[str, Path], tmp_path: Path
):
    version, _, folder = run
    changes = dict(do_train=False, null_score_diff_threshold=-1e9)
    results = squad.squad(options(files, version, folder / "last", tmp_path, **changes))
    silent = set(read(tmp_path, "predictions.json").values()) == {""}
    assert silent == (version == 2)
    if silent:
        assert results["last"]["NoAns_exact"] == 100
        assert results["last"]["best_f1"] > 80


def test_own_questions_need_no_answers(run: tuple[int, dict, Path], tmp_path: Path):
    """And come back with the answer's place in the text; one at a time just as from a file."""
    version, _, folder = run
    contexts = ["w5  w0 \u200b w7 w9", " ".join(f"w{i}" for i in range(2, 50)) + " w0\tw33 w4"]
    rows = [
        {"context": context, "qas": [{"id": f"own{i}", "question": "w1"}]}
        for i, context in enumerate(contexts)
    ]
    own = tmp_path / "own.json"
    own.write_text(json.dumps({"data": [{"paragraphs": rows}]}), encoding="utf-8")
    words = f"squad --do_predict --predict_file {own} --model_name_or_path {folder}/last"
    words += f" --max_seq_length 24 --doc_stride 8 --output_dir {tmp_path}/out --verbose"
    words += " --version_2_with_negative" * (version == 2)
    assert cli.main(words.split()) == 0
    assert read(tmp_path / "out", "results.json")["last"] == {}
    assert list(read(tmp_path / "out", "predictions.json").values()) == ["w7", "w33"]
    model = ConvBertForQuestionAnswering.from_pretrained(folder / "last")
    tokenizer = ConvBertTokenizer.from_pretrained(folder / "last")
    for context, expected in zip(contexts, ("w7", "w33"), strict=True):
        threshold = 0.0 if version == 2 else None
        found = answering.answer(model, tokenizer, "w1", context, threshold)
        assert found.text == context[found.start : found.end] == expected
        assert 0.2 < found.probability <= 1
    if version == 2:
        assert answering.answer(model, tokenizer, "w1", "w5 w6 w7", 0.0)[:3] == ("", 0, 0)
        assert answering.answer(model, tokenizer, "w1", "w5 w6 w7").text != ""


# --- Its parts --------------------------------------------------------------------------------


def make_trainer(files: dict[str, Path], checkpoint: Path, **changes) -> Trainer:
    config = options(files, 2, checkpoint, Path("unused"), **changes)
    paths = {"train": files["train-2"], "dev": files["dev-2"]}
    model = randomize(ConvBertForQuestionAnswering(small_config()))
    return Trainer(model, WORDS, config, paths)


def test_the_loss_of_a_batch_is_that_of_its_parts(files: dict[str, Path], checkpoint: Path):
    """Windows of different lengths: padding takes no part."""
    trainer = make_trainer(files, checkpoint)
    batch = trainer.draw(0)
    lengths = trainer.train.lengths[batch.content]
    assert len(set(lengths.tolist())) > 1
    with paddle.no_grad():
        whole = float(trainer.sums(batch, np.arange(16))["loss"])
        alone = sum(float(trainer.sums(batch, np.array([i]))["loss"]) for i in range(16))
    assert batch.counts == {"loss": 16}
    assert alone == pytest.approx(whole, rel=1e-5)


def test_an_epoch_draws_every_window_once(files: dict[str, Path], checkpoint: Path):
    trainer = make_trainer(files, checkpoint, max_steps=-1, num_train_epochs=2)
    assert trainer.steps == 2 * trainer.per_epoch == 2 * -(-len(trainer.rows) // 16)
    for epoch in range(2):
        steps = range(epoch * trainer.per_epoch, (epoch + 1) * trainer.per_epoch)
        drawn = np.concatenate([trainer.draw(step).content for step in steps])
        assert sorted(drawn.tolist()) == trainer.rows.tolist()
    assert trainer.draw(0).content.tolist() != trainer.draw(trainer.per_epoch).content.tolist()


def test_layers_near_the_text_learn_slower(files: dict[str, Path], checkpoint: Path):
    trainer = make_trainer(files, checkpoint, layer_lr_decay=0.5)
    rates = {
        name: parameter.optimize_attr["learning_rate"]
        for name, parameter in trainer.model.named_parameters()
    }
    assert rates["classifier.weight"] == 1
    assert rates["convbert.encoder.layers.1.linear1.weight"] == 0.5**2
    assert rates["convbert.embeddings.word_embeddings.weight"] == 0.5**4


def test_a_subset_is_drawn_by_questions(files: dict[str, Path], checkpoint: Path):
    trainer = make_trainer(files, checkpoint, train_examples=20)
    assert len(trainer.train.questions) == 20
    other = make_trainer(files, checkpoint, train_examples=20, seed=4)
    assert trainer.train.questions != other.train.questions


# --- Interruption -----------------------------------------------------------------------------


def start_command(config: SquadConfig, *more: str, launch: Sequence[str] = ()) -> subprocess.Popen:
    words = [sys.executable, *launch, "-m", "convbert", "squad", *more]
    for name, value in asdict(config).items():
        if value is not None and value is not False:
            words += [f"--{name}"] if value is True else [f"--{name}", str(value)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(words, env=environment, stdout=subprocess.PIPE, text=True)


def outcome(folder: Path) -> dict:
    names = ("last/model.safetensors", "predictions.json", "nbest_predictions.json")
    hashes = {name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in names}
    losses = [(line["step"], line["loss"]) for line in read_log(folder) if "loss" in line]
    return {**hashes, "losses": losses, "evaluations": evaluations(folder)}


def test_a_killed_run_resumes_to_the_same_bytes(
    files: dict[str, Path], checkpoint: Path, tmp_path: Path
):
    changes = dict(max_steps=60, save_steps=10, logging_steps=1, dropout=0.1)
    whole = start_command(options(files, 2, checkpoint, tmp_path / "whole", **changes))
    config = options(files, 2, checkpoint, tmp_path / "killed", **changes)
    killed = start_command(config)
    limit = time.monotonic() + 120
    while not list((tmp_path / "killed").glob("step-*")) and time.monotonic() < limit:
        time.sleep(0.01)
    killed.send_signal(signal.SIGKILL)
    killed.communicate()
    assert not (tmp_path / "killed" / "results.json").exists()
    resumed = start_command(config, "--resume")
    out, _ = resumed.communicate(timeout=300)
    whole.communicate(timeout=300)
    assert (whole.returncode, resumed.returncode) == (0, 0)
    assert "resumed: " in out
    assert outcome(tmp_path / "killed") == outcome(tmp_path / "whole")


def test_two_processes_take_the_steps_of_one(
    files: dict[str, Path], checkpoint: Path, tmp_path: Path
):
    changes = dict(max_steps=8, save_steps=8, logging_steps=1, device="cpu")
    one = squad.squad(options(files, 2, checkpoint, tmp_path / "one", **changes))
    config = options(files, 2, checkpoint, tmp_path / "two", **changes)
    launch = ["-m", "paddle.distributed.launch", "--nproc_per_node", "2"]
    launch += ["--log_dir", str(tmp_path / "logs")]
    process = start_command(replace(config, batch_size=config.batch_size // 2), launch=launch)
    out, _ = process.communicate(timeout=120)
    assert process.returncode == 0, out
    losses = [
        [line["loss"] for line in read_log(tmp_path / name) if "loss" in line]
        for name in ("one", "two")
    ]
    assert len(losses[0]) == 8
    assert losses[1] == pytest.approx(losses[0], rel=1e-5)
    predictions = read(tmp_path / "two", "predictions.json")
    official = metrics.score(files["dev-2"], predictions)
    last = read(tmp_path / "two", "results.json")["last"]
    assert official == {key: last[key] for key in official}
    assert last.keys() == one["last"].keys()


def test_another_run_is_not_continued(
    run: tuple[int, dict, Path], files: dict[str, Path], checkpoint: Path, tmp_path: Path
):
    version, _, folder = run
    shutil.copytree(folder, tmp_path / "run")
    (tmp_path / "run" / "results.json").unlink()  # as if it had been interrupted
    config = options(files, version, checkpoint, tmp_path / "run")
    with pytest.raises(FileExistsError, match="add --resume to continue"):
        squad.squad(config)
    shutil.copytree(checkpoint, tmp_path / "other")
    wide = json.loads((checkpoint / "config.json").read_text("utf-8")) | {"conv_sees_padding": True}
    (tmp_path / "other" / "config.json").write_text(json.dumps(wide), "utf-8")
    changes = {
        "learning_rate was 0.01, is 0.1": {"learning_rate": 0.1},
        "doc_stride was 8": {"doc_stride": 4},
        "global_batch was 16": {"batch_size": 8},
        "data.dev.size was": {"predict_file": str(files[f"train-{version}"])},
        "conv_sees_padding was False": {"model_name_or_path": str(tmp_path / "other")},
    }
    for message, change in changes.items():
        with pytest.raises(ValueError, match=f"belongs to another run: .*{message}"):
            squad.squad(replace(config, resume=True, **change))
    again = squad.squad(replace(config, resume=True, verbose=True))  # all steps are done
    assert again["last"] == read(folder, "results.json")["last"]
    for name in ("predictions.json", "log.jsonl"):
        assert (tmp_path / "run" / name).read_bytes() == (folder / name).read_bytes()


# --- Refusals ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"do_train": False, "do_predict": False}, "nothing to do: give --do_train, --do_predict"),
        ({"model_type": "bert"}, "model_type='bert'"),
        ({"scheduler_type": "step"}, "scheduler_type='step'"),
        ({"batch_size": 0}, "batch_size=0: must be positive"),
        ({"layer_lr_decay": 1.5}, "layer_lr_decay=1.5"),
        ({"warmup_proportion": 2.0}, "warmup_proportion=2.0"),
        ({"max_seq_length": 64}, "max_seq_length=64: the model reads 32"),
        ({"max_seq_length": 4}, "leaves no room for its context"),
        ({"doc_stride": 0}, "doc_stride=0"),
        ({"version_2_with_negative": False}, "60 questions have no answer; add --version_2_with"),
    ],
)
def test_refusals(
    files: dict[str, Path], checkpoint: Path, tmp_path: Path, changes: dict, message: str
):
    with pytest.raises(ValueError, match=message):
        squad.squad(options(files, 2, checkpoint, tmp_path / "new", **changes))
    assert not (tmp_path / "new").exists()


def test_training_wants_answers_to_evaluate_with(
    files: dict[str, Path], checkpoint: Path, tmp_path: Path
):
    content = read(files["dev-1"].parent, "dev-1.json")
    for paragraph in content["data"][0]["paragraphs"]:
        paragraph["qas"][0]["answers"] = []
    dev = tmp_path / "dev.json"
    dev.write_text(json.dumps(content), encoding="utf-8")
    with pytest.raises(ValueError, match="has no answers to evaluate with"):
        squad.squad(options(files, 1, checkpoint, tmp_path / "new", predict_file=str(dev)))


def test_without_files_the_official_ones_are_looked_for(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("CONVBERT_DATA", str(tmp_path))
    monkeypatch.setenv("CONVBERT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    for version, name in ((False, "dev-v1.1.json"), (True, "dev-v2.0.json")):
        config = SquadConfig(
            do_predict=True,
            model_name_or_path=str(checkpoint),
            version_2_with_negative=version,
            output_dir=str(tmp_path / "new"),
        )
        with pytest.raises(FileNotFoundError, match=name):
            squad.squad(config)
