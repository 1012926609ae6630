"""Pretraining end to end on a made-up language, and each of its parts by hand."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import paddle
import pytest
from safetensors.numpy import load_file
from support import assert_close, randomize, small_config

from convbert import ConvBertForSequenceClassification, ConvBertModel, ConvBertTokenizer, cli
from convbert.data import corpus, shards
from convbert.data.corpus_job import CorpusConfig, make_corpus
from convbert.heads import ConvBertForPreTraining
from convbert.tokenizer import SPECIAL_TOKENS
from convbert.train import electra, loop, optim, pretrain
from convbert.train.pretrain import PretrainConfig, Trainer

# The text has some hundred distinct entries, fewer than convbert-tiny's vocabulary may hold.
pytestmark = pytest.mark.filterwarnings("ignore:vocab_size=4096")

NOUNS = "dog cat bird fish horse cow mouse lion tiger wolf".split()
VERBS = "sees hears likes follows finds meets".split()
COLORS = "big small old young red blue".split()


def write_text(folder: Path) -> Path:
    """Write train.txt and valid.txt: sentences in which the place of a word tells its kind."""
    rng = random.Random(0)

    def sentence() -> str:
        left, right = (f"the {rng.choice(COLORS)} {rng.choice(NOUNS)}" for _ in range(2))
        return f"{left} {rng.choice(VERBS)} {right} ."

    for name, count in (("train", 40), ("valid", 4)):
        documents = ("\n".join(sentence() for _ in range(40)) for _ in range(count))
        (folder / f"{name}.txt").write_text("\n\n".join(documents) + "\n", encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_text(tmp_path_factory.mktemp("text"))


def tiny(output: Path, text: Path, **changes) -> PretrainConfig:
    """Return the options of a run of a few seconds."""
    options = dict(
        model_name_or_path="convbert-tiny",
        max_seq_length=32,
        train_batch_size=16,
        eval_batch_size=20,  # 32 held-out examples are a full batch and a part of one
        eval_examples=32,
        learning_rate=2e-3,
        max_steps=20,
        warmup_steps=4,
        logging_steps=5,
        dropout=0.0,
        seed=1,
    )
    return PretrainConfig(output_dir=str(output), input_dir=str(text), **{**options, **changes})


def read_log(folder: Path) -> list[dict]:
    lines = (folder / "log.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


# --- A run ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def run(text: Path, tmp_path_factory: pytest.TempPathFactory) -> PretrainConfig:
    """Pretrain 20 steps; the tests below read what the run left."""
    config = tiny(tmp_path_factory.mktemp("run") / "new" / "folder", text, eval_steps=10)
    assert pretrain.pretrain(config) == Path(config.output_dir, "final")
    return config


def test_log(run: PretrainConfig):
    log = read_log(Path(run.output_dir))
    training = [line for line in log if "loss" in line]
    assert [line["step"] for line in training] == [1, 5, 10, 15, 20]
    for line in training:
        assert list(line) == [
            "step", "loss", "generator_loss", "discriminator_loss", "lr", "examples_per_s"
        ]  # fmt: skip
        total = line["generator_loss"] + 50 * line["discriminator_loss"]
        assert line["loss"] == pytest.approx(total, rel=1e-5)
        rate = run.learning_rate * optim.linear_warmup(line["step"] - 1, 20, 4)
        assert line["lr"] == pytest.approx(rate)
        assert line["examples_per_s"] > 0
    measured = [line for line in log if "loss" not in line]
    assert [line["step"] for line in measured] == [10, 20]
    assert {"mlm_loss", "mlm_accuracy", "rtd_auc", "rtd_auc_unigram"} < measured[0].keys()
    results = json.loads(Path(run.output_dir, "results.json").read_text(encoding="utf-8"))
    assert all(results[key] == measured[1][key] for key in measured[1].keys() & results.keys())


def test_loss_starts_undecided_and_falls(run: PretrainConfig):
    """At first the generator knows nothing (ln V nats), the discriminator tosses a coin (ln 2)."""
    words = ConvBertTokenizer.from_pretrained(Path(run.output_dir, "final")).vocab_size
    training = [line for line in read_log(Path(run.output_dir)) if "loss" in line]
    first, last = training[0], training[-1]
    assert abs(first["generator_loss"] - np.log(words)) < 0.4
    assert abs(first["discriminator_loss"] - np.log(2)) < 0.12
    assert abs(first["loss"] - np.log(words) - 50 * np.log(2)) < 6
    assert last["loss"] < first["loss"] - 20
    assert last["generator_loss"] < first["generator_loss"] - 1.5
    # Always saying "original" costs the entropy of the share of replaced tokens, about 0.4.
    assert last["discriminator_loss"] < 0.35


def test_results(run: PretrainConfig):
    results = json.loads(Path(run.output_dir, "results.json").read_text(encoding="utf-8"))
    assert results["steps"] == 20 and results["options"] == asdict(run)
    assert results["mlm_loss"] < results["null_mlm_loss"] < np.log(60)
    assert results["mlm_accuracy"] > results["null_mlm_accuracy"] > 0.15  # "the", 2 of 8 tokens
    assert 0.65 < results["rtd_auc"] < 1 and 0.6 < results["rtd_auc_unigram"] < 1


def test_final_is_read_by_every_class(run: PretrainConfig):
    final = Path(run.output_dir, "final")
    assert sorted(path.name for path in final.iterdir()) == [
        "config.json", "model.safetensors", "tokenizer_config.json", "vocab.txt"
    ]  # fmt: skip
    tokenizer = ConvBertTokenizer.from_pretrained(final)
    encoded = tokenizer("the old dog sees the cat .")
    assert tokenizer.unk_token_id not in encoded["input_ids"]
    ids = paddle.to_tensor([encoded["input_ids"]])
    whole = ConvBertForPreTraining.from_pretrained(final)
    encoder = ConvBertModel.from_pretrained(final)
    classifier = ConvBertForSequenceClassification.from_pretrained(final, num_labels=3)
    for model in (whole, encoder, classifier):
        model.eval()
    hidden = encoder(ids).numpy()
    assert (hidden == whole.discriminator.convbert(ids).numpy()).all()
    assert (hidden == classifier.convbert(ids).numpy()).all()
    assert classifier(ids).shape == [1, 3]
    # The generator is the narrower network, on the same embeddings.
    assert whole.generator.convbert.embeddings is whole.discriminator.convbert.embeddings
    assert whole.generator.config.hidden_size == 64


def test_final_is_the_model_that_was_measured(run: PretrainConfig):
    final = Path(run.output_dir, "final")
    tokenizer = ConvBertTokenizer.from_pretrained(final)
    train, valid = (
        corpus.pack_file(Path(run.input_dir, f"{name}.txt"), tokenizer, 32, run.seed)
        for name in ("train", "valid")
    )
    trainer = Trainer(
        ConvBertForPreTraining.from_pretrained(final), tokenizer, train, valid, run, 0
    )
    results = json.loads(Path(run.output_dir, "results.json").read_text(encoding="utf-8"))
    for name, value in trainer.evaluate().items():
        assert value == pytest.approx(results[name], abs=1e-4), name


SCRIPT = """
import sys
from pathlib import Path
sys.path.insert(0, {tests!r})
import test_pretrain
from convbert.train import pretrain
for seed in (2, 1):
    pretrain.pretrain(test_pretrain.tiny(Path({output!r}, f"again-{{seed}}"), Path({text!r}),
        seed=seed, max_steps=3, logging_steps=1, dropout=0.1, eval_examples=8))
"""


def test_a_run_depends_on_its_seed_and_on_nothing_before(text: Path, tmp_path: Path):
    """The command in one process, and the function after another run in a second process."""
    config = tiny(
        tmp_path / "first", text, max_steps=3, logging_steps=1, dropout=0.1, eval_examples=8
    )
    words = [f"--{name}={value}" for name, value in asdict(config).items() if value != ""]
    script = SCRIPT.format(tests=str(Path(__file__).parent), output=str(tmp_path), text=str(text))
    # One thread: the order of additions, and so the last digits, may depend on their number.
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    commands = (["-m", "convbert", "pretrain", *words], ["-c", script])
    for process in [
        subprocess.Popen([sys.executable, *command], env=environment, stderr=subprocess.PIPE)
        for command in commands
    ]:
        _, errors = process.communicate()
        assert process.returncode == 0, errors.decode()[-2000:]

    def trace(name: str) -> list[tuple]:
        lines = (line for line in read_log(tmp_path / name) if "loss" in line)
        return [(line["step"], line["loss"], line["generator_loss"]) for line in lines]

    assert len(trace("first")) == 3
    assert trace("first") == trace("again-1")
    pairs = zip(trace("first"), trace("again-2"), strict=True)
    assert all(one[1:] != other[1:] for one, other in pairs)
    one, other = (
        load_file(tmp_path / name / "final/model.safetensors") for name in ("first", "again-1")
    )
    assert one.keys() == other.keys()
    assert all((one[name] == other[name]).all() for name in one)


# --- Refusals ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("model_name_or_path", "convbert-huge", "'convbert-huge': choose one of convbert-small"),
        ("train_batch_size", 0, "train_batch_size=0: must be positive"),
        ("eval_batch_size", -1, "eval_batch_size=-1"),
        ("eval_examples", 0, "eval_examples=0"),
        ("logging_steps", 0, "logging_steps=0"),
        ("learning_rate", 0.0, "learning_rate=0.0"),
        ("max_seq_length", 7, "max_seq_length=7: must be at least 8"),
        ("mask_prob", 0.0, "mask_prob=0.0"),
        ("mask_prob", 1.0, "mask_prob=1.0"),
        ("device", "tpu", "device='tpu': choose"),
        ("precision", "float8", "precision='float8': choose"),
        ("dropout", 1.5, "hidden_dropout_prob=1.5"),
        ("conv_type", "conv", "conv_type='conv'"),
        ("warmup_steps", -1, "warmup=-1"),
        ("max_seq_length", 200, "200 tokens: this model takes 1 to 128"),
    ],
)
def test_values_without_meaning(option: str, value, message: str, text: Path, tmp_path: Path):
    config = replace(tiny(tmp_path / "out", text), **{option: value})
    with pytest.raises(ValueError, match=message):
        pretrain.pretrain(config)
    assert not (tmp_path / "out" / "results.json").exists()


@pytest.mark.parametrize("name", ["train.txt", "valid.txt"])
def test_missing_text_is_named(name: str, text: Path, tmp_path: Path):
    for other in {"train.txt", "valid.txt"} - {name}:
        (tmp_path / other).write_text((text / other).read_text(encoding="utf-8"), encoding="utf-8")
    with pytest.raises(FileNotFoundError, match=f"{name} not found"):
        pretrain.pretrain(tiny(tmp_path / "out", tmp_path))
    with pytest.raises(FileNotFoundError, match=r"nowhere/train\.txt"):
        pretrain.pretrain(tiny(tmp_path / "out", tmp_path / "nowhere"))
    assert not (tmp_path / "out").exists()


def test_other_forms_of_text(text: Path, tmp_path: Path):
    """A file with a text per line, and token shards with a vocabulary of their own."""
    (tmp_path / "in").mkdir()
    lines = [line for line in (text / "train.txt").read_text(encoding="utf-8").splitlines() if line]
    (tmp_path / "in" / "train.data").write_text("\n".join(lines), encoding="utf-8")
    config = tiny(tmp_path / "out", tmp_path / "in", max_steps=2)
    pretrain.pretrain(config)
    manifest = shards.read_manifest(tmp_path / "out" / "corpus")
    assert manifest["train"]["examples"] > 50 * manifest["valid"]["examples"] > 0
    with pytest.raises(ValueError, match=r"input_dir=.*: train\.data is not plain text"):
        pretrain.text_files(config)
    folder = make_corpus(
        CorpusConfig(
            str(tmp_path / "shards"), [str(text / "train.txt")], train_vocab=90, max_seq_length=32
        )
    )
    config = tiny(tmp_path / "out2", folder, max_steps=2)
    final = pretrain.pretrain(config)
    assert ConvBertTokenizer.from_pretrained(final).vocab_size == 90
    with pytest.raises(ValueError, match=r"max_seq_length=64: .* holds examples of 32"):
        pretrain.pretrain(replace(config, output_dir=str(tmp_path / "out3"), max_seq_length=64))


def test_published_sizes_need_a_vocabulary(text: Path, tmp_path: Path, monkeypatch):
    monkeypatch.delenv("CONVBERT_DATA", raising=False)
    config = tiny(tmp_path, text, model_name_or_path="convbert-small")
    with pytest.raises(FileNotFoundError, match=r"bert-base-uncased-vocab\.txt"):
        pretrain.pretrain(config)
    with pytest.raises(FileNotFoundError, match=r"no\.txt"):
        pretrain.pretrain(replace(config, vocab_file=str(tmp_path / "no.txt")))


def test_a_run_that_diverges_stops_and_leaves_no_results(text: Path, tmp_path: Path):
    config = tiny(tmp_path, text, learning_rate=1e30, warmup_steps=0, logging_steps=1)
    (tmp_path / "results.json").write_text("{}", encoding="utf-8")  # of an earlier run
    with pytest.raises(FloatingPointError, match=r"the loss is (nan|inf) at step \d+: look at"):
        pretrain.pretrain(config)
    assert not (tmp_path / "results.json").exists() and not (tmp_path / "final").exists()
    assert [line["step"] for line in read_log(tmp_path)] == [1]


# --- Options ----------------------------------------------------------------------------------


# Option, default and another value, as in the earlier Paddle reproduction's pretraining script.
EARLIER = {
    "model_type": ("convbert", "convbert"),
    "model_name_or_path": ("convbert-small", "convbert-base"),
    "max_seq_length": (128, 64),
    "mask_prob": (0.15, 0.2),
    "train_batch_size": (96, 8),
    "eval_batch_size": (96, 8),
    "learning_rate": (5e-4, 1e-4),
    "weight_decay": (0.01, 0.0),
    "adam_epsilon": (1e-6, 1e-8),
    "num_train_epochs": (4, 2),
    "max_steps": (-1, 5),
    "warmup_steps": (10000, 10),
    "logging_steps": (100, 5),
    "save_steps": (1000, 7),
    "init_from_ckpt": (False, True),
    "use_amp": (False, True),
    "seed": (42, 7),
}


def test_earlier_command_lines_keep_their_meaning():
    config = cli.parse("", PretrainConfig, ["--output_dir", "out", "--input_dir", "data"])
    assert (config.output_dir, config.input_dir) == ("out", "data")
    assert {name: (getattr(config, name), other) for name, (_, other) in EARLIER.items()} == EARLIER
    words = ["--output_dir", "out", "--input_dir", "data", "--device", "gpu", "--eager_run", "True"]
    for name, (_, value) in EARLIER.items():
        words += [f"--{name}"] if value is True else [f"--{name}", str(value)]  # switches
    config = cli.parse("", PretrainConfig, words)
    assert {name: (usual, getattr(config, name)) for name, (usual, _) in EARLIER.items()} == EARLIER
    assert config.device == "gpu" and config.precision_name == "float16"


def test_options_reach_the_model(text: Path, tmp_path: Path):
    words = ConvBertTokenizer([*SPECIAL_TOKENS, "the", "dog"])
    words.save_pretrained(tmp_path)
    options = tiny(
        tmp_path,
        text,
        conv_type="noconv",
        intermediate_size=40,
        conv_kernel_size=5,
        head_ratio=4,
        dropout=0.3,
        vocab_file=str(tmp_path / "vocab.txt"),
    )
    tokenizer = pretrain.make_tokenizer(options, text / "train.txt")
    assert tokenizer.vocabulary == words.vocabulary
    config = pretrain.model_config(options, tokenizer)
    assert (config.conv_type, config.vocab_size, config.hidden_size) == ("noconv", 7, 128)
    assert (config.intermediate_size, config.conv_kernel_size, config.head_ratio) == (40, 5, 4)
    assert config.hidden_dropout_prob == config.attention_probs_dropout_prob == 0.3


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
    trainer = make_trainer(learning_rate=0.02, adam_beta2=0.7, **values)
    found = two_steps(trainer.model, trainer.optimizer)
    twin = make_trainer().model
    expected = two_steps(twin, optim.adamw(twin, 0.02, beta2=0.7, **values))
    assert found.keys() == expected.keys()
    assert all((found[name] == expected[name]).all() for name in found)


# --- One step by hand -------------------------------------------------------------------------

WORDS = ConvBertTokenizer([*SPECIAL_TOKENS, *(f"w{i}" for i in range(56))])  # 61 entries
FIRST = len(SPECIAL_TOKENS)


def make_packed(lengths: list[int], seed: int = 0) -> corpus.Packed:
    """Draw texts of one segment, 20 tokens wide."""
    ids = np.zeros((len(lengths), 20), np.uint16)
    for row, n in enumerate(lengths):
        ids[row, :n] = np.random.default_rng([seed, row]).integers(FIRST, 61, n)
        ids[row, [0, n - 1]] = WORDS.cls_token_id, WORDS.sep_token_id
    return corpus.Packed(ids, np.zeros_like(ids, np.uint8), np.array(lengths, np.int32))


def make_trainer(dropout: float = 0.0, **options) -> Trainer:
    """Return a trainer with a small model of large weights; nothing was trained."""
    config = small_config(hidden_dropout_prob=dropout, attention_probs_dropout_prob=dropout)
    model = randomize(ConvBertForPreTraining(config))
    values = dict(output_dir="", train_batch_size=4, eval_batch_size=2, mask_prob=0.3, max_steps=6)
    options = PretrainConfig(**{**values, **options})
    lengths = [20, 12, 6, 20, 9, 3, 15, 20]
    return Trainer(model, WORDS, make_packed(lengths), make_packed(lengths[:3], 9), options, 6)


def batch_of(trainer: Trainer, step: int = 0) -> corpus.MaskedBatch:
    return corpus.mask_batch(trainer.train, trainer.rows(step), WORDS, (0, step), 0.3)


def log_softmax(logits: np.ndarray) -> np.ndarray:
    logits = logits.astype("float64") - logits.max(-1, keepdims=True)
    return logits - np.log(np.exp(logits).sum(-1, keepdims=True))


def test_every_epoch_sees_every_example_once():
    trainer = make_trainer(train_batch_size=3)
    rows = np.concatenate([trainer.rows(step) for step in range(8)])  # 24 rows of 8 examples
    epochs = rows.reshape(3, 8)
    assert (np.sort(epochs, 1) == np.arange(8)).all()
    assert len({tuple(epoch) for epoch in epochs}) == 3
    for epoch, order in enumerate(epochs):
        assert order.tolist() == corpus.epoch_order(8, trainer.config.seed, epoch).tolist()
    other = make_trainer(train_batch_size=3, seed=7)
    assert (np.concatenate([other.rows(step) for step in range(8)]) != rows).any()


def test_losses_are_means_over_chosen_positions_and_over_tokens():
    trainer = make_trainer()
    batch = batch_of(trainer)
    assert batch.weights.sum() < batch.weights.size and batch.mask.sum() < batch.mask.size
    output = trainer.forward(batch)
    chosen, inside = batch.weights > 0, batch.mask > 0
    logs = np.take_along_axis(
        log_softmax(output.generator_logits.numpy()), batch.labels[..., None], 2
    )
    scores = output.discriminator_logits.numpy().astype("float64")
    corrupted = output.corrupted_ids.numpy()
    right = np.where(corrupted != batch.ids, scores, -scores)
    generator, discriminator = trainer.losses(batch)
    assert generator.item() == pytest.approx(-logs[..., 0][chosen].mean(), rel=1e-5)
    assert discriminator.item() == pytest.approx(np.log1p(np.exp(-right))[inside].mean(), rel=1e-5)
    # Only chosen positions are corrupted, and none shows [MASK].
    changed = corrupted != batch.ids
    places = np.zeros_like(changed)
    for row, slot in zip(*np.nonzero(chosen), strict=True):
        places[row, batch.positions[row, slot]] = True
    assert changed.any() and not (changed & ~places).any()
    assert ((corrupted == batch.ids) & places).any() or changed.sum() == places.sum()


def gradients(trainer: Trainer, generator_weight: float, discriminator_weight: float) -> dict:
    generator, discriminator = trainer.losses(batch_of(trainer))
    trainer.model.clear_gradients()
    (generator_weight * generator + discriminator_weight * discriminator).backward()
    return {
        name: np.zeros(value.shape) if value.grad is None else value.grad.numpy()
        for name, value in trainer.model.named_parameters()
    }


def test_both_networks_teach_the_shared_embeddings():
    trainer = make_trainer()
    one, other = gradients(trainer, 1.0, 0.0), gradients(trainer, 0.0, 1.0)
    both = gradients(trainer, 2.0, 3.0)
    shared = [name for name in one if ".embeddings." in name]
    assert len(shared) == 5  # words, positions, types, LayerNorm's gain and bias: each once
    for name in shared:
        assert np.abs(one[name]).max() > 1e-5 and np.abs(other[name]).max() > 1e-5, name
    pairs = {name: (both[name], 2 * one[name] + 3 * other[name]) for name in one}
    assert_close("sum of both", pairs, 1e-4, floor=1e-3)


def test_no_gradient_through_sampling():
    """The discriminator's loss moves what it would move if the corrupted text were given."""
    trainer = make_trainer()
    found = gradients(trainer, 0.0, 1.0)
    for name, value in found.items():
        if name.startswith("generator.") and ".embeddings." not in name:
            assert not value.any(), name
    batch = batch_of(trainer)
    corrupted = trainer.forward(batch).corrupted_ids.numpy()
    mask = paddle.to_tensor(batch.mask)
    trainer.model.clear_gradients()
    logits = trainer.model.discriminator(
        paddle.to_tensor(corrupted), paddle.to_tensor(batch.types), mask
    )
    wrong = paddle.to_tensor((corrupted != batch.ids).astype("float32"))
    each = paddle.nn.functional.binary_cross_entropy_with_logits(logits, wrong, reduction="none")
    ((each * mask).sum() / mask.sum()).backward()
    pairs = {
        name: (found[name], value.grad.numpy())
        for name, value in trainer.model.named_parameters()
        if value.grad is not None
    }
    assert_close("given text", pairs, 1e-5, floor=1e-4)


def test_loss_that_is_not_finite_leaves_weights_alone(tmp_path: Path):
    trainer = make_trainer(warmup_steps=0, output_dir=str(tmp_path))
    model = trainer.model
    model.discriminator.discriminator_predictions.dense_prediction.bias.set_value(
        np.array([np.nan], "float32")
    )
    before = {name: value.numpy() for name, value in model.named_parameters()}
    with pytest.raises(FloatingPointError, match="the loss is nan at step 0: look at the"):
        loop.train(trainer, trainer.plan())
    for name, value in model.named_parameters():
        assert np.array_equal(value.numpy(), before[name], equal_nan=True), name
    assert (tmp_path / "log.jsonl").read_text(encoding="utf-8") == ""


def test_a_checkpoint_must_agree_with_everything_that_changes_the_numbers():
    """Whoever lets another option change in a resumed run has to say so here, too."""
    assert set(make_trainer().fingerprint()) == {
        *"objective max_seq_length mask_prob mask_scheme share generator_conv temperature".split(),
        *"disallow_correct gen_weight disc_weight learning_rate schedule weight_decay".split(),
        *"adam_epsilon adam_beta2 max_grad_norm warmup_steps dropout conv_type".split(),
        *"intermediate_size eval_examples".split(),
        *"size model data vocabulary global_batch".split(),
    }
    plan = loop._Run(make_trainer(), make_trainer().plan())
    assert {"seed", "steps", "precision"} < set(plan.fingerprint())


# --- Evaluation -------------------------------------------------------------------------------


def area(truth: np.ndarray, scores: np.ndarray) -> float:
    """How often a positive scores above a negative; a tie counts half."""
    above = scores[truth][:, None] - scores[~truth][None, :]
    return float((above > 0).mean() + (above == 0).mean() / 2)


def test_evaluation_is_over_all_positions_of_all_batches(monkeypatch):
    """Three texts of very different length, masked and judged in batches of two and one."""
    monkeypatch.setattr(electra, "_MASKED_AT_ONCE", 2)
    trainer = make_trainer()
    logs, hits, truth, scores = [], [], [], []
    for start, rows in ((0, [0, 1]), (2, [2])):
        batch = corpus.mask_batch(
            trainer.valid, np.array(rows), WORDS, (electra._EVALUATION, start), 0.3, visible=0.0
        )
        output = trainer.forward(batch)
        chosen, inside = batch.weights > 0, batch.mask > 0
        guesses = log_softmax(output.generator_logits.numpy())
        logs.append(np.take_along_axis(guesses, batch.labels[..., None], 2)[..., 0][chosen])
        hits.append((guesses.argmax(-1) == batch.labels)[chosen])
        truth.append((output.corrupted_ids.numpy() != batch.ids)[inside])
        scores.append(output.discriminator_logits.numpy()[inside])
    found = trainer.evaluate()
    assert found["mlm_loss"] == pytest.approx(-np.concatenate(logs).mean(), rel=1e-5)
    assert found["mlm_accuracy"] == pytest.approx(np.concatenate(hits).mean())
    assert found["rtd_auc"] == pytest.approx(area(np.concatenate(truth), np.concatenate(scores)))


def test_how_many_are_judged_at_a_time_changes_no_number():
    """Otherwise a resumed run could take a worse model for the best."""
    whole, *others = (make_trainer(eval_batch_size=size).evaluate() for size in (3, 2, 1))
    for found in others:
        assert found == pytest.approx(whole, rel=1e-5)


def test_evaluation_without_dropout_restores_the_mode():
    trainer = make_trainer(dropout=0.5)
    without = make_trainer(dropout=0.0).evaluate()
    for mode in (True, False):
        trainer.model.train() if mode else trainer.model.eval()
        paddle.seed(int(mode))
        assert trainer.evaluate() == without
        layers = trainer.model.sublayers(include_self=True)
        assert {layer.training for layer in layers} == {mode}
    with pytest.raises(ZeroDivisionError):
        trainer.model.train()
        loop.evaluating(trainer.model, lambda: 1 / 0)
    assert trainer.model.training
    loss, _ = loop.evaluating(trainer.model, lambda: trainer.losses(batch_of(trainer)))
    assert loss.stop_gradient


def test_training_goes_on_with_dropout_after_an_evaluation(tmp_path: Path):
    trainer = make_trainer(dropout=0.5, eval_steps=1, logging_steps=1, output_dir=str(tmp_path))
    modes = []
    forward = trainer.forward

    def watch(batch: corpus.MaskedBatch):
        modes.append(trainer.model.training)
        return forward(batch)

    trainer.forward = watch
    loop.train(trainer, trainer.plan())
    assert modes == [True, False, False] * 6  # a step, then an evaluation of two batches


def test_nulls_by_hand():
    """Words by frequency: w0 three times, w1 once; a word never seen counts as one in a million."""
    trainer = make_trainer(mask_prob=0.99)
    ids = np.zeros((2, 20), np.uint16)
    cls, sep, unk = WORDS.cls_token_id, WORDS.sep_token_id, WORDS.unk_token_id
    ids[0, :6] = cls, FIRST, unk, FIRST, unk, sep
    ids[1, :4] = cls, FIRST, FIRST + 1, sep
    trainer.train = corpus.Packed(ids, np.zeros_like(ids), np.array([6, 4]))
    share = trainer.frequencies()
    assert share[FIRST] == 0.75 and share[FIRST + 1] == 0.25 and share.sum() == 1
    ids = np.zeros((1, 20), np.uint16)
    ids[0, :6] = cls, FIRST, FIRST + 1, FIRST, FIRST + 2, sep
    trainer.valid = corpus.Packed(ids, np.zeros_like(ids), np.array([6]))
    expected = -(np.log(0.75) * 2 + np.log(0.25) + np.log(1e-6)) / 4
    found = trainer.evaluate()
    assert found["null_mlm_loss"] == pytest.approx(expected)
    assert found["null_mlm_accuracy"] == 0.5


def test_words_by_frequency_replace_chosen_positions_only():
    trainer = make_trainer()
    batch = batch_of(trainer)
    truth, scores = trainer._judge_unigram(batch)
    assert len(truth) == len(scores) == batch.mask.sum()
    assert 0 < truth.sum() <= batch.weights.sum()
    # The lowest and the highest number draw the first and the last word that occurs.
    seen = np.flatnonzero(trainer.frequencies())
    for number, word in ((0.0, seen[0]), (np.nextafter(np.float32(1), np.float32(0)), seen[-1])):
        edge = batch._replace(uniform=np.full_like(batch.uniform, number))
        truth, _ = trainer._judge_unigram(edge)
        assert truth.sum() == ((edge.labels != word) & (edge.weights > 0)).sum()


def test_guess_word():
    trainer = make_trainer()
    guess = pretrain.guess_word(trainer.model, WORDS, "w1 w2 w3 w4", guesses=61)
    assert guess["sentence"] == "w1 w2 [MASK] w4" and guess["hidden"] == "w3"
    guesses = guess["guesses"].split(", ")
    assert sorted(guesses) == sorted(WORDS.vocabulary)
    assert guesses.index("w3") + 1 == guess["rank"]
    logits = trainer.model.generator(
        paddle.to_tensor([[2, FIRST + 1, FIRST + 2, WORDS.mask_token_id, FIRST + 4, 3]])
    ).numpy()[0, 3]
    assert guesses[0] == WORDS.vocabulary[logits.argmax()]


def test_judge_words():
    """Chosen as in training, replaced by the generator, judged by the discriminator."""
    trainer, text = make_trainer(), " ".join(f"w{i}" for i in range(20))
    judged = pretrain.judge_words(trainer.model, WORDS, text, seed=3)
    assert judged["original"] == text.split()
    chosen = np.array(judged["chosen"])
    changed = np.array(judged["shown"]) != np.array(judged["original"])
    assert chosen.sum() == 3 and changed.any() and not changed[~chosen].any()  # 15 % of 22
    shown = WORDS(" ".join(judged["shown"]))["input_ids"]
    logits = trainer.model.discriminator(paddle.to_tensor([shown])).numpy()[0, 1:-1]
    np.testing.assert_allclose(judged["replaced"], 1 / (1 + np.exp(-logits)), atol=1e-5)
    assert judged == pretrain.judge_words(trainer.model, WORDS, text, seed=3)
    others = [pretrain.judge_words(trainer.model, WORDS, text, seed)["chosen"] for seed in range(4)]
    assert any(other != judged["chosen"] for other in others)
