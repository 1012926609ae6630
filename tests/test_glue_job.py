"""Fine-tuning on made-up tasks in GLUE's file layout: learning, selection, refusals."""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import paddle
import pytest
from safetensors.numpy import load_file
from support import randomize, small_config

from convbert import ConvBertForSequenceClassification, ConvBertModel, ConvBertTokenizer
from convbert.data.glue import Example
from convbert.metrics import glue as metrics
from convbert.tokenizer import SPECIAL_TOKENS
from convbert.train import glue, loop, optim
from convbert.train.glue import GlueConfig, Trainer

# The files made here are short, and `data.glue.read` says so.
pytestmark = pytest.mark.filterwarnings(r"ignore:.*expected \d+ rows, found")
WORDS = ConvBertTokenizer([*SPECIAL_TOKENS, *(f"w{i}" for i in range(56))])  # 61 entries
Files = dict[str, list[list[str]]]


def sentence(rng: random.Random, length: int = 0) -> str:
    return " ".join(f"w{rng.randrange(2, 56)}" for _ in range(length or rng.randint(2, 9)))


def make_sst(count: int, rng: random.Random) -> list[list[str]]:
    """Sentence and label: 1 if w1 is in it, else w0 is. A rule that any encoder can learn."""
    rows = []
    for number in range(count):
        words = sentence(rng).split()
        words.insert(rng.randint(0, len(words)), f"w{number % 2}")
        rows.append([" ".join(words), str(number % 2)])
    return [["sentence", "label"], *rows]


def make_sts(count: int, rng: random.Random) -> list[list[str]]:
    """Ten columns; the score is 5 if the second text repeats the first, else 0 or 1.5."""
    rows = [["index", *"abcdef", "sentence1", "sentence2", "score"]]
    for number in range(count):
        first, other = sentence(rng, 4), sentence(rng, 4)
        second, score = [(first, "5.0"), (other, "0.0"), (other, "1.5")][number % 3]
        rows.append([str(number), *("-" * 6), first, second, score])
    return rows


def make_rte(count: int, rng: random.Random) -> list[list[str]]:
    rows = [["index", "sentence1", "sentence2", "label"]]
    for number in range(count):
        label = ["entailment", "not_entailment"][number % 2]
        rows.append([str(number), sentence(rng, 3), sentence(rng, 2), label])
    return rows


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as CONVBERT_DATA names one."""
    root, rng = tmp_path_factory.mktemp("data"), random.Random(0)
    makers: dict[str, Callable] = {"SST-2": make_sst, "STS-B": make_sts, "RTE": make_rte}
    for folder, make in makers.items():
        (root / "glue" / folder).mkdir(parents=True)
        for split, count in (("train", 97), ("dev", 60)):
            text = "".join("\t".join(row) + "\n" for row in make(count, rng))
            (root / "glue" / folder / f"{split}.tsv").write_text(text, encoding="utf-8")
    return root


@pytest.fixture(autouse=True)
def places(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CONVBERT_DATA", str(data))
    monkeypatch.setenv("CONVBERT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An untrained encoder without a head, with its vocabulary."""
    folder = tmp_path_factory.mktemp("checkpoint")
    paddle.seed(0)
    ConvBertModel(small_config(initializer_range=0.1)).save_pretrained(folder)
    WORDS.save_pretrained(folder)
    return folder


def options(checkpoint: Path, output: Path, **changes) -> GlueConfig:
    values = dict(
        task_name="sst-2",
        batch_size=16,
        learning_rate=1e-2,
        layer_lr_decay=1.0,
        max_steps=60,
        logging_steps=10,
        save_steps=20,
        seed=3,
    )
    return GlueConfig(
        model_name_or_path=str(checkpoint), output_dir=str(output), **{**values, **changes}
    )


def read_log(folder: Path) -> list[dict]:
    lines = (folder / "log.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


def make_trainer(output: Path | str = "", train: Sequence[Example] = (), **changes) -> Trainer:
    """Return a trainer with a small model of large weights, for ten steps."""
    labels = changes.pop("labels", 2)
    paddle.seed(0)
    model = randomize(ConvBertForSequenceClassification(small_config(num_labels=labels)))
    config = GlueConfig("sst-2", "", str(output), from_scratch=True)
    return Trainer(model, WORDS, replace(config, **changes), 10, train, train)


@pytest.mark.parametrize("layout", ["huggingface", "paddlenlp"])
def test_starts_in_any_layout(checkpoint: Path, tmp_path: Path, layout: str):
    """Neither a published name nor PaddleNLP's folder holds a model.safetensors of that path."""
    ConvBertModel.from_pretrained(checkpoint).save_pretrained(tmp_path / "start", format=layout)
    WORDS.save_pretrained(tmp_path / "start")
    found = glue.finetune(options(tmp_path / "start", tmp_path / "out", max_steps=1))
    same = glue.finetune(options(checkpoint, tmp_path / "same", max_steps=1))
    assert found["last"] == same["last"]
    prints = [
        json.loads((tmp_path / out / "step-000001" / "state.json").read_text("utf-8"))[
            "fingerprint"
        ]
        for out in ("out", "same")
    ]
    assert prints[0]["start"] == prints[1]["start"]


def test_a_changed_weight_is_another_start():
    trainer = make_trainer(from_scratch=False)
    before = trainer.fingerprint()["start"]
    assert trainer.fingerprint()["start"] == before
    head = next(iter(trainer.model.classifier.parameters()))  # new for every task
    head.set_value(head.numpy() + 1)
    assert trainer.fingerprint()["start"] == before
    weight = trainer.model.convbert.embeddings.word_embeddings.weight
    changed = weight.numpy()
    changed[3, 2] += 1e-3
    weight.set_value(changed)
    assert trainer.fingerprint()["start"] != before


# --- A run ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def run(data: Path, checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> dict:
    """Fine-tune once; the tests below read what the run left."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CONVBERT_DATA", str(data))
        return glue.finetune(options(checkpoint, tmp_path_factory.mktemp("run") / "new"))


def test_a_simple_rule_is_learned(run: dict):
    assert run["last"]["accuracy"] >= 0.95  # chance is 0.5
    losses = [
        line["loss"] for line in read_log(Path(run["options"]["output_dir"])) if "loss" in line
    ]
    assert losses[-1] < min(0.2, losses[0] / 2)


def test_log_and_results(run: dict):
    folder = Path(run["options"]["output_dir"])
    assert json.loads((folder / "results.json").read_text(encoding="utf-8")) == run
    assert run["task"] == "sst-2" and run["steps"] == 60
    assert run["options"] == asdict(GlueConfig(**run["options"]))
    log = read_log(folder)
    training = [line for line in log if "loss" in line]
    assert [line["step"] for line in training] == [10, 20, 30, 40, 50, 60]
    for line in training:
        assert list(line) == ["step", "loss", "lr", "examples_per_s"]
        assert line["lr"] == pytest.approx(1e-2 * optim.linear_warmup(line["step"] - 1, 60, 6))
    measured = [line for line in log if "loss" not in line]
    assert [line["step"] for line in measured] == [20, 40, 60]
    assert {key: measured[-1][key] for key in run["last"]} == run["last"]
    best = max(measured, key=lambda line: line["accuracy"])  # the first of equals
    assert {key: best[key] for key in run["best"]} == run["best"]


@pytest.mark.parametrize("which", ["best", "last"])
def test_saved_models_are_those_that_were_measured(run: dict, which: str):
    config = GlueConfig(**run["options"])
    folder = Path(config.output_dir, which)
    model = ConvBertForSequenceClassification.from_pretrained(folder)
    tokenizer = ConvBertTokenizer.from_pretrained(folder)
    assert tokenizer.vocabulary == WORDS.vocabulary
    dev = make_sst_dev(config)
    found = Trainer(model, tokenizer, config, 1).evaluate(dev)
    for name, value in found.items():
        assert value == pytest.approx(run[which][name], abs=1e-5), name


def make_sst_dev(config: GlueConfig) -> list[Example]:
    source = glue.sources.find("sst-2")
    return glue.glue.read(source, config.task_name, "dev")


def test_a_run_depends_on_its_seed_only(checkpoint: Path, tmp_path: Path):
    """Head, order and dropout, whatever ran in the process before."""

    def trace(name: str, seed: int) -> list[tuple]:
        config = options(checkpoint, tmp_path / name, max_steps=3, logging_steps=1, seed=seed)
        glue.finetune(config)
        return [(line["step"], line.get("loss")) for line in read_log(tmp_path / name)]

    first = trace("first", 0)
    other = trace("other", 1)
    paddle.rand([7])
    assert trace("again", 0) == first
    assert all(a[1] != b[1] for a, b in zip(first[:3], other[:3], strict=True))


def test_from_scratch_keeps_the_shape_and_nothing_else(checkpoint: Path, tmp_path: Path):
    """At a rate of almost zero, what is saved is where the run started from."""
    weights = {}
    for scratch in (False, True):
        config = options(
            checkpoint, tmp_path, from_scratch=scratch, max_steps=1, learning_rate=1e-9
        )
        glue.finetune(config)
        weights[scratch] = load_file(tmp_path / "last" / "model.safetensors")
    start = load_file(checkpoint / "model.safetensors")
    assert weights[False].keys() == weights[True].keys()
    for name, value in start.items():
        kept, drawn = (weights[scratch]["convbert." + name] for scratch in (False, True))
        assert np.allclose(kept, value, atol=1e-7), name
        assert drawn.shape == value.shape
        if "LayerNorm" not in name and "bias" not in name:  # these start at 1 and 0 always
            assert np.abs(drawn - value).mean() > 0.3 * np.abs(value).mean(), name
    assert ConvBertTokenizer.from_pretrained(tmp_path / "last").vocabulary == WORDS.vocabulary


def test_regression(checkpoint: Path, tmp_path: Path):
    result = glue.finetune(options(checkpoint, tmp_path, task_name="sts-b", max_steps=40))
    assert list(result["last"]) == ["pearson", "spearman", "eval_loss"]
    assert (
        ConvBertForSequenceClassification.from_pretrained(tmp_path / "last").config.num_labels == 1
    )
    losses = [line["loss"] for line in read_log(tmp_path) if "loss" in line]
    # Squared error on raw scores: a constant guess reaches their variance, 4.4.
    assert losses[-1] < 5.5 < np.mean([5.0**2, 0, 1.5**2])
    assert result["last"]["eval_loss"] < 6


def test_pairs(checkpoint: Path, tmp_path: Path):
    """Labels that are words, and a text that is random: what is left is to run through."""
    result = glue.finetune(options(checkpoint, tmp_path, task_name="rte", max_steps=2))
    assert list(result["last"]) == ["accuracy", "eval_loss"]
    assert (
        ConvBertForSequenceClassification.from_pretrained(tmp_path / "best").config.num_labels == 2
    )


# --- Options of a run -------------------------------------------------------------------------


def test_the_recipe_and_what_differs_from_it_are_printed(checkpoint: Path, tmp_path: Path, capsys):
    glue.finetune(options(checkpoint, tmp_path, max_steps=1, num_train_epochs=2.0))
    printed = capsys.readouterr().out
    (line,) = [line for line in printed.splitlines() if line.startswith("recipe: ")]
    assert line.startswith("recipe: published run of sst-2; ")
    for change in (
        "num_train_epochs 2.0 instead of 3.0",
        "max_steps 1 instead of -1",
        "learning_rate 0.01 instead of 0.0001",
        "save_steps 20 instead of 400",
        "seed 3 instead of 42",
        "max_grad_norm 1.0 instead of 0.0",
    ):
        assert change in line
    assert "adam_epsilon" not in line and "logging_steps" not in line
    assert "not the official bytes: train.tsv, dev.tsv" in printed


def test_unordered_pairs_in_both_orders(checkpoint: Path, data: Path):
    config = options(checkpoint, Path("out"), task_name="sts-b", train_examples=10)
    once = glue.read_data(config)
    twice = glue.read_data(replace(config, double_unordered=True))
    assert twice.train[:10] == once.train and len(twice.train) == 20
    swapped = [Example(e.text_b, e.text_a, e.label) for e in once.train]
    assert twice.train[10:] == swapped != once.train
    assert twice.dev == once.dev  # what is measured stays as it is


def test_mnli_is_measured_on_both_of_its_sets(checkpoint: Path, tmp_path: Path, monkeypatch):
    rng, folder = random.Random(5), tmp_path / "data" / "glue" / "MNLI"
    folder.mkdir(parents=True)
    for split, columns, count in (
        ("train", 12, 40),
        ("dev_matched", 16, 20),
        ("dev_mismatched", 16, 30),
    ):
        rows = ["\t".join("h" * columns)]
        for number in range(count):
            row = ["-"] * columns
            row[8], row[9] = sentence(rng, 3), sentence(rng, 2)
            row[-1] = ("contradiction", "entailment", "neutral")[number % 3]
            rows.append("\t".join(row))
        (folder / f"{split}.tsv").write_text("\n".join(rows) + "\n", encoding="utf-8")
    monkeypatch.setenv("CONVBERT_DATA", str(tmp_path / "data"))
    config = options(checkpoint, tmp_path / "out", task_name="mnli", max_steps=2)
    found = glue.finetune(config)["last"]
    assert list(found) == ["accuracy", "eval_loss", "accuracy_mm", "eval_loss_mm"]
    model = ConvBertForSequenceClassification.from_pretrained(tmp_path / "out" / "last")
    trainer, examples = Trainer(model, WORDS, config, 1), glue.read_data(config)
    for dev, suffix, count in (
        (examples.dev, "", 20),
        (examples.dev_mismatched, "_mm", 30),
    ):
        assert len(dev) == count
        for name, value in trainer.evaluate(dev).items():
            assert found[name + suffix] == pytest.approx(value, abs=1e-5)
    (folder / "dev_mismatched.tsv").unlink()
    with pytest.raises(FileNotFoundError, match=r"mnli not found; .* lacks dev_mismatched\.tsv"):
        glue.finetune(config)


def test_trials_differ_in_their_seed_only(checkpoint: Path, tmp_path: Path):
    config = options(checkpoint, tmp_path / "all", num_trials=2, max_steps=4, save_steps=2)
    found = glue.finetune(config)
    for number, trial in enumerate(found["trials"]):
        alone = replace(
            config, num_trials=1, seed=3 + number, output_dir=str(tmp_path / f"{number}")
        )
        single = glue.finetune(alone)
        assert trial == {"seed": 3 + number, "last": single["last"], "best": single["best"]}
    first, second = (trial["last"]["eval_loss"] for trial in found["trials"])
    assert first != second
    assert found["mean"]["last"]["eval_loss"] == pytest.approx((first + second) / 2)
    assert found["std"]["last"]["eval_loss"] == pytest.approx(abs(first - second) / 2**0.5)
    chosen = found["best"]["seed"] - 3
    for name in ("best", "last"):
        weights = [
            load_file(tmp_path / place / name / "model.safetensors")
            for place in ("all", str(chosen))
        ]
        assert all((weights[0][key] == weights[1][key]).all() for key in weights[1])


# --- Selection --------------------------------------------------------------------------------


class Scripted(Trainer):
    """A trainer whose evaluations come from a list, to see what is kept."""

    def evaluate(self, dev: list[Example] | None = None) -> dict[str, float]:
        state = self.model.classifier.out_proj.weight.numpy()
        self.seen = [*getattr(self, "seen", []), state]
        return {"accuracy": self.script[len(self.seen) - 1], "eval_loss": 9.0 - len(self.seen)}


@pytest.mark.parametrize(
    ("script", "best"),
    [([0.5, 0.8, 0.8, 0.6], 1), ([0.1, 0.2, 0.3, 0.4], 3), ([-0.1, -0.2, -0.1, -0.3], 0)],
)
def test_best_is_the_first_highest_evaluation(script: list, best: int, tmp_path: Path):
    """By the task's own metric, which need not be positive; later equals do not replace it."""
    train = [Example(f"w{i} w2", None, i % 2) for i in range(10)]
    trainer = make_trainer(tmp_path, train, batch_size=4, save_steps=3, logging_steps=100)
    trainer.__class__ = Scripted
    trainer.script = script
    found = loop.train(trainer, trainer.plan())
    steps = [3, 6, 9, 10]  # every third, and the last
    expected = {"accuracy": script[best], "eval_loss": 8.0 - best, "step": steps[best]}
    assert found.best == expected
    assert found.last == {"accuracy": script[3], "eval_loss": 5.0, "step": 10}
    assert found.step == 10
    saved = load_file(tmp_path / "best" / "model.safetensors")["classifier.out_proj.weight"]
    assert (saved.T == trainer.seen[best]).all()
    last = load_file(tmp_path / "step-000010" / "model.safetensors")["classifier.out_proj.weight"]
    assert (last == trainer.seen[3]).all()
    assert not (trainer.seen[0] == trainer.seen[1]).all()


@pytest.mark.parametrize(
    ("patience", "script", "end", "best"),
    [
        (0, [0.5, 0.4, 0.3, 0.2], 10, 3),
        (1, [0.5, 0.4, 0.3, 0.2], 6, 3),
        (2, [0.5, 0.5, 0.5, 0.2], 9, 3),  # an equal one is no better
        (2, [0.5, 0.4, 0.6, 0.2], 10, 9),
        (3, [0.5, 0.4, 0.3, 0.2], 10, 3),
    ],
)
def test_early_stopping(patience: int, script: list, end: int, best: int, tmp_path: Path):
    train = [Example(f"w{i} w2", None, i % 2) for i in range(10)]
    changes = dict(batch_size=4, save_steps=3, early_stopping_patience=patience)
    trainer = make_trainer(tmp_path, train, **changes)
    trainer.__class__, trainer.script = Scripted, script
    progress = loop.train(trainer, trainer.plan())
    assert (progress.step, progress.last["step"], progress.best["step"]) == (end, end, best)
    assert (tmp_path / f"step-{end:06d}").is_dir()
    # The same command again finds that nothing is left to do.
    again = make_trainer(tmp_path, train, **changes, resume=True)
    assert loop.train(again, again.plan()) == progress


# --- Batches ----------------------------------------------------------------------------------


@pytest.mark.parametrize(("epochs", "steps"), [(3.0, 9), (0.5, 2), (0.01, 1)])
def test_epochs_count_their_short_batches(
    epochs: float, steps: int, checkpoint: Path, tmp_path: Path
):
    """Five examples in batches of two are three steps, as in the published runs."""
    config = options(
        checkpoint, tmp_path, max_steps=-1, num_train_epochs=epochs, batch_size=2, train_examples=5
    )
    assert glue.finetune(config)["steps"] == steps


def test_an_epoch_visits_every_example_once():
    ten = [Example(f"w{i}", None, 0) for i in range(10)]

    def draw(**changes) -> list[list[int]]:
        trainer = make_trainer(train=ten, batch_size=4, **changes)
        return [trainer.draw(step).examples.tolist() for step in range(10)]

    batches = draw()
    assert [len(batch) for batch in batches] == [4, 4, 2, 4, 4, 2, 4, 4, 2, 4]  # ten steps
    epochs = [[row for batch in batches[i : i + 3] for row in batch] for i in (0, 3, 6)]
    assert all(sorted(epoch) == list(range(10)) for epoch in epochs)
    assert epochs[0] != epochs[1] != epochs[2] != epochs[0]
    assert draw() == batches != draw(seed=1)


def test_a_subset_is_drawn_by_the_seed(checkpoint: Path, tmp_path: Path, capsys, monkeypatch):
    seen = []
    original = loop.train

    def watch(job, plan):
        seen.append([example.text_a for example in job.train])
        return original(job, plan)

    monkeypatch.setattr(loop, "train", watch)
    for seed in (0, 0, 1):
        config = options(checkpoint, tmp_path, train_examples=16, max_steps=1, seed=seed)
        glue.finetune(config)
        assert "sst-2: 16 training examples, 60 dev" in capsys.readouterr().out
    glue.finetune(options(checkpoint, tmp_path, train_examples=1000, max_steps=1))
    assert seen[0] == seen[1] != seen[2]
    assert set(seen[0]) < set(seen[3]) and len(seen[3]) == 97


def test_examples_are_set_apart_from_training(checkpoint: Path, tmp_path: Path):
    """The same for all seeds and subsets, and never trained on; dev is left alone."""
    everything = glue.read_data(options(checkpoint, tmp_path))
    apart = []
    for seed, subset in ((1, -1), (2, 16)):
        given = options(checkpoint, tmp_path, seed=seed, train_examples=subset)
        data = glue.read_data(replace(given, validation_examples=20))
        assert not set(data.train) & set(data.dev)
        assert Counter(data.train + data.dev) <= Counter(everything.train)
        assert data.note.startswith(f"sst-2: {len(data.train)} training examples, 20 set apart")
        apart.append(data.dev)
    assert apart[0] == apart[1] and len(apart[0]) == 20 and len(data.train) == 16
    too_many = replace(options(checkpoint, tmp_path), validation_examples=len(everything.train))
    with pytest.raises(ValueError, match="cannot be set apart"):
        glue.read_data(too_many)


@pytest.mark.parametrize(
    ("scheduler", "expected"),
    [
        (dict(), (10, 1)),
        (dict(warmup_proportion=0.39), (10, 3)),  # rounded down, as the published runs did
        (dict(warmup_proportion=0.0), (10, 0)),
        (dict(warmup_steps=4, warmup_proportion=0.9), (10, 4)),
        (dict(warmup_steps=40), (10, 10)),
    ],
)
@pytest.mark.parametrize("name", ["linear", "cosine"])
def test_learning_rates_of_a_run(name: str, scheduler: dict, expected: tuple, tmp_path: Path):
    train = [Example("w1 w2", None, 1), Example("w3", None, 0)]
    changes = dict(scheduler_type=name, logging_steps=1, learning_rate=1e-3, batch_size=1)
    trainer = make_trainer(tmp_path, train, **changes, **scheduler)
    loop.train(trainer, trainer.plan())
    rates = [line["lr"] for line in read_log(tmp_path) if "lr" in line]
    factor = optim.SCHEDULES[name]
    assert rates == pytest.approx([1e-3 * factor(step, *expected) for step in range(10)])


def two_steps(model, optimizer) -> dict[str, np.ndarray]:
    """Return weights after two updates, by gradients that each option of AdamW works on."""
    for step in range(2):
        for number, parameter in enumerate(model.parameters()):
            parameter.grad = paddle.full_like(parameter, 0.02 * (number + 1) * (1 - 3 * step))
        optimizer.step()
        optimizer.clear_grad()
    return {name: parameter.numpy() for name, parameter in model.named_parameters()}


def test_options_reach_the_optimizer():
    """Set every option, and compare with an optimizer that got them by name."""
    values = dict(weight_decay=0.3, adam_epsilon=0.1, max_grad_norm=2.0)
    trainer = make_trainer(learning_rate=0.02, layer_lr_decay=0.6, **values)
    found = two_steps(trainer.model, trainer.optimizer)
    twin = make_trainer().model
    expected = two_steps(twin, optim.adamw(twin, 0.02, layer_lr_decay=0.6, **values))
    assert found.keys() == expected.keys()
    assert all((found[name] == expected[name]).all() for name in found)


def test_padding_of_a_batch_changes_no_prediction():
    rng = random.Random(1)
    examples = [Example(sentence(rng, n), None, 0) for n in (2, 9, 1, 17, 5, 3, 12)]
    alone = make_trainer(batch_size=1).predict(examples)
    for size in (2, 3, 7, 100):
        together = make_trainer(batch_size=size).predict(examples)
        assert together.shape == (7, 2)
        assert np.abs(together - alone).max() < 1e-5, size
    assert np.abs(alone - alone.mean(0)).max() > 1e-2  # the examples do differ


def test_inputs():
    trainer = make_trainer(max_seq_length=9)
    inputs, labels = trainer.encode([Example("w1 w2", "w3", 1), Example("w1", "w2 w3 w4 w5", 0)])
    assert labels.tolist() == [1, 0] and labels.dtype == paddle.int64
    cls, sep, w0 = WORDS.cls_token_id, WORDS.sep_token_id, len(SPECIAL_TOKENS)
    assert inputs["input_ids"].tolist() == [
        [cls, w0 + 1, w0 + 2, sep, w0 + 3, sep, 0, 0],
        [cls, w0 + 1, sep, w0 + 2, w0 + 3, w0 + 4, w0 + 5, sep],
    ]
    assert inputs["token_type_ids"].tolist() == [[0] * 4 + [1] * 2 + [0] * 2, [0] * 3 + [1] * 5]
    assert inputs["attention_mask"].tolist() == [[1] * 6 + [0] * 2, [1] * 8]
    inputs, _ = trainer.encode([Example(" ".join(["w1"] * 30), None, 0)])
    assert inputs["input_ids"].shape == [1, 9]
    assert trainer.encode([Example("w1", None, None)])[1].tolist() == [0]  # of a test file
    _, scores = make_trainer(labels=1).encode([Example("w1", "w2", 2.5)])
    assert scores.dtype == paddle.float32 and scores.tolist() == [2.5]


# --- Evaluation -------------------------------------------------------------------------------


def test_evaluation_by_hand():
    rng = random.Random(2)
    dev = [Example(sentence(rng), None, rng.randrange(2)) for _ in range(11)]
    trainer = make_trainer(batch_size=4)
    logits = trainer.predict(dev).astype("float64")
    labels = np.array([example.label for example in dev])
    logs = logits - np.log(np.exp(logits).sum(1, keepdims=True))
    assert trainer.evaluate(dev) == {
        "accuracy": pytest.approx((logits.argmax(1) == labels).mean()),
        "eval_loss": pytest.approx(-logs[np.arange(11), labels].mean(), rel=1e-5),
    }


def test_scores_are_clipped_to_their_range():
    rng = random.Random(3)
    trainer = make_trainer(labels=1, task_name="sts-b")
    head = trainer.model.classifier.out_proj
    head.weight.set_value(head.weight.numpy() * 20)
    dev = [Example(sentence(rng), sentence(rng), rng.uniform(0, 5)) for _ in range(20)]
    middle = float(np.median(trainer.predict(dev)))
    head.bias.set_value(head.bias.numpy() + np.float32(2.5 - middle))  # some above, some below
    raw = trainer.predict(dev)[:, 0]
    assert raw.min() < 0 and raw.max() > 5 and ((raw > 0) & (raw < 5)).sum() > 2
    labels = [example.label for example in dev]
    found = trainer.evaluate(dev)
    clipped = metrics.score("sts-b", np.clip(raw, 0, 5), labels)
    assert {key: found[key] for key in clipped} == pytest.approx(clipped)
    assert found["pearson"] != pytest.approx(metrics.score("sts-b", raw, labels)["pearson"])
    assert found["eval_loss"] == pytest.approx(np.mean((raw - labels) ** 2), rel=1e-5)


def test_evaluation_without_dropout_restores_the_mode():
    trainer = make_trainer()
    for layer in trainer.model.sublayers():
        if isinstance(layer, paddle.nn.Dropout):
            layer.p = 0.5
    examples = [Example("w1 w2 w3", None, 1), Example("w4", None, 0)]
    for training in (True, False):
        trainer.model.train() if training else trainer.model.eval()
        first = trainer.predict(examples)
        assert (trainer.predict(examples) == first).all()
        assert trainer.model.training == training
        assert trainer.model.classifier.dropout.training == training


# --- Refusals ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("task_name", "sst2", "task_name='sst2': choose one of cola, sst-2"),
        ("scheduler_type", "constant", "scheduler_type='constant': choose one of linear, cosine"),
        ("batch_size", 0, "batch_size=0: must be positive"),
        ("logging_steps", 0, "logging_steps=0"),
        ("save_steps", -5, "save_steps=-5"),
        ("learning_rate", 0.0, "learning_rate=0.0"),
        ("max_seq_length", 0, "max_seq_length=0"),
        ("layer_lr_decay", 0.0, "layer_lr_decay=0.0: must be above 0 and at most 1"),
        ("layer_lr_decay", 1.1, "layer_lr_decay=1.1"),
        ("device", "tpu", "device='tpu'"),
        ("precision", "float8", "precision='float8': choose"),
        ("dropout", 1.0, "hidden_dropout_prob=1.0"),
    ],
)
def test_values_without_meaning(option: str, value, message: str, checkpoint: Path, tmp_path: Path):
    with pytest.raises(ValueError, match=message):
        glue.finetune(replace(options(checkpoint, tmp_path / "out"), **{option: value}))
    assert not (tmp_path / "out" / "results.json").exists()


def test_missing_data_and_checkpoints(checkpoint: Path, tmp_path: Path):
    config = options(checkpoint, tmp_path)
    with pytest.raises(FileNotFoundError, match=r"mrpc not found; looked in CONVBERT_DATA"):
        glue.finetune(replace(config, task_name="mrpc"))  # and no sample stands in
    for broken in ("config.json", "model.safetensors", "vocab.txt"):
        folder = tmp_path / f"without-{broken}"
        folder.mkdir()
        for path in checkpoint.iterdir():
            if path.name != broken:
                (folder / path.name).write_bytes(path.read_bytes())
        with pytest.raises(FileNotFoundError, match=broken):
            glue.finetune(replace(config, model_name_or_path=str(folder)))


def test_a_head_for_other_labels_is_refused(tmp_path: Path):
    ConvBertForSequenceClassification(small_config(num_labels=3)).save_pretrained(tmp_path)
    WORDS.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"classifier\.out_proj\.weight has shape \[24, 3\]"):
        glue.finetune(options(tmp_path, tmp_path / "out"))


def test_a_run_that_diverges_leaves_no_results(checkpoint: Path, tmp_path: Path):
    (tmp_path / "results.json").write_text("{}", encoding="utf-8")  # of an earlier run
    config = options(checkpoint, tmp_path, learning_rate=1e30, warmup_proportion=0.0)
    with pytest.raises(FloatingPointError, match="so lower the learning rate, in a new output_dir"):
        glue.finetune(config)
    assert not (tmp_path / "results.json").exists()
