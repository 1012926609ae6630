"""What pretraining can be asked to learn: objectives, masking schemes, sharing, validation."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import paddle
import pytest
from sklearn import metrics
from support import randomize, small_config
from test_pretrain import tiny, write_text

from convbert import ConvBertForSequenceClassification, ConvBertModel, ConvBertTokenizer
from convbert.data import corpus
from convbert.heads import ConvBertForPreTraining
from convbert.tokenizer import SPECIAL_TOKENS
from convbert.train import electra, loop, pretrain, validation
from convbert.train.pretrain import PretrainConfig

# The text has some hundred distinct entries, fewer than convbert-tiny's vocabulary may hold.
pytestmark = pytest.mark.filterwarnings("ignore:vocab_size=4096")

UNUSED = [f"[unused{i}]" for i in range(7)]
WORDS = ConvBertTokenizer([*SPECIAL_TOKENS, *UNUSED, *(f"w{i}" for i in range(49))])  # 61 entries
FIRST = len(SPECIAL_TOKENS) + len(UNUSED)


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_text(tmp_path_factory.mktemp("text"))


def make_packed(lengths: list[int]) -> corpus.Packed:
    ids = np.zeros((len(lengths), 20), np.uint16)
    for row, n in enumerate(lengths):
        ids[row, :n] = np.random.default_rng(row).integers(FIRST, 61, n)
        ids[row, [0, n - 1]] = WORDS.cls_token_id, WORDS.sep_token_id
    return corpus.Packed(ids, np.zeros_like(ids, np.uint8), np.array(lengths, np.int32))


def make_trainer(output: Path | str = "", lengths: tuple = (20, 12, 6, 20, 9, 3), **options):
    """Return a trainer with a small model of large weights; nothing was trained."""
    values = dict(train_batch_size=4, eval_batch_size=2, mask_prob=0.3, max_steps=6)
    config = PretrainConfig(output_dir=str(output), **{**values, **options})
    model = randomize(electra.make_model(config, small_config()))
    packed = make_packed(list(lengths))
    return electra.Trainer(model, WORDS, packed, packed, config, 6)


def draw(trainer: electra.Trainer, step: int = 0) -> corpus.MaskedBatch:
    return trainer.draw(step).content


# --- Objectives -------------------------------------------------------------------------------

LOSSES = {
    "electra": ["generator_loss", "discriminator_loss"],
    "mlm": ["generator_loss"],
    "uniform": ["discriminator_loss"],
}


@pytest.mark.parametrize("objective", LOSSES)
def test_objectives_end_to_end(objective: str, text: Path, tmp_path: Path):
    """Each trains, learns, measures what it has, and leaves an encoder that others read."""
    config = tiny(tmp_path, text, objective=objective, max_steps=12, logging_steps=1)
    final = pretrain.pretrain(config)
    log = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text("utf-8").splitlines()]
    training = [row for row in log if "loss" in row]
    assert training[-1]["loss"] < training[0]["loss"] - 0.2
    parts = LOSSES[objective] if len(LOSSES[objective]) > 1 else []
    assert [key for key in training[0] if key.endswith("_loss")] == parts
    results = json.loads((tmp_path / "results.json").read_text(encoding="utf-8"))
    assert ("mlm_loss" in results) == ("generator_loss" in LOSSES[objective])
    assert ("rtd_auc" in results) == ("discriminator_loss" in LOSSES[objective])
    ids = paddle.to_tensor([[2, 7, 8, 3]])
    encoder = ConvBertModel.from_pretrained(final)
    classifier = ConvBertForSequenceClassification.from_pretrained(final)
    for model in (encoder, classifier):
        model.eval()
    assert (encoder(ids).numpy() == classifier.convbert(ids).numpy()).all()


def test_losses_of_the_objectives_by_hand():
    """Masked words of one network; evenly drawn words found by another."""
    trainer = make_trainer(objective="mlm")
    batch = draw(trainer)
    logits = trainer.model(
        paddle.to_tensor(batch.masked_ids),
        paddle.to_tensor(batch.types),
        paddle.to_tensor(batch.mask),
    )
    logs = paddle.nn.functional.log_softmax(logits, -1).numpy()
    rows, slots = np.nonzero(batch.weights)
    places = batch.positions[rows, slots]
    expected = -logs[rows, places, batch.ids[rows, places]].mean()
    (found,) = trainer.losses(batch)
    assert found.item() == pytest.approx(expected, rel=1e-5)

    trainer = make_trainer(objective="uniform")
    even = np.zeros(61)
    even[FIRST:] = 1 / 49
    corrupted = electra.replace_by_share(batch, even)
    changed = corrupted != batch.ids
    rows, columns = np.nonzero(changed)
    assert len(rows) and all(c in batch.positions[r] for r, c in zip(rows, columns, strict=True))
    scores = trainer.model(
        paddle.to_tensor(corrupted), paddle.to_tensor(batch.types), paddle.to_tensor(batch.mask)
    ).numpy()
    losses = np.logaddexp(0, np.where(changed, -scores, scores))[batch.mask > 0]
    (found,) = trainer.losses(batch)
    assert found.item() == pytest.approx(losses.mean(), rel=1e-5)


def test_uniform_replacements_are_even_and_never_special():
    trainer = make_trainer(objective="uniform")
    assert trainer.words.tolist() == list(range(FIRST, 61))
    batch = draw(trainer)
    even = np.zeros(61)
    even[trainer.words] = 1 / 49
    counts = np.zeros(61)
    for numbers in np.linspace(0, 1, 491, endpoint=False):
        drawn = electra.replace_by_share(
            batch._replace(uniform=np.full_like(batch.uniform, numbers)), even
        )
        chosen = batch.positions[0, 0]
        counts[drawn[0, chosen]] += 1
    assert counts[:FIRST].sum() == 0 and (np.abs(counts[FIRST:] - 10) <= 2).all()


@pytest.mark.parametrize("share", ["all", "words", "none"])
def test_sharing_reaches_the_model(share: str):
    model = make_trainer(share=share).model
    ours, theirs = model.generator.convbert.embeddings, model.discriminator.convbert.embeddings
    assert (ours is theirs) == (share == "all")
    assert (ours.word_embeddings is theirs.word_embeddings) == (share != "none")


def test_the_generator_s_own_kind_of_convolution(tmp_path: Path):
    model = make_trainer(generator_conv="noconv", share="words").model
    model.save_pretrained(tmp_path)
    again = ConvBertForPreTraining.from_pretrained(tmp_path)
    for network in (model, again):
        ours, theirs = (
            part.convbert.embeddings for part in (network.generator, network.discriminator)
        )
        assert ours is not theirs and ours.word_embeddings is theirs.word_embeddings
    assert again.generator.config == model.generator.config
    assert again.generator.config.generator_conv_type == ""
    both = zip(model.state_dict().items(), again.state_dict().items(), strict=True)
    assert all(a == b and (x.numpy() == y.numpy()).all() for (a, x), (b, y) in both)
    assert model.generator.config.conv_type == "noconv"
    assert model.discriminator.config.conv_type == "sdconv"
    assert make_trainer().model.generator.config.conv_type == "sdconv"


# --- Sampling ---------------------------------------------------------------------------------


def test_the_correct_word_is_never_sampled_if_disallowed():
    """Then every chosen token is replaced; otherwise a sure generator replaces none."""
    for disallow in (False, True):
        trainer = make_trainer(disallow_correct=disallow, temperature=1e-3)
        batch = draw(trainer)
        # A table of words far from each other makes the generator copy what it sees.
        output = trainer.forward(batch._replace(masked_ids=batch.ids))
        best = output.generator_logits.argmax(-1).numpy()
        sure = batch._replace(ids=batch.ids.copy())
        np.put_along_axis(sure.ids, batch.positions, np.where(batch.weights > 0, best, 2), 1)
        sure = sure._replace(masked_ids=batch.ids)
        replaced = trainer.forward(sure).replaced.numpy()
        assert replaced.sum() == (batch.weights.sum() if disallow else 0)


def test_temperature_reaches_the_generator():
    batch = draw(make_trainer())
    cold = make_trainer(temperature=1e-4).forward(batch)
    samples = np.take_along_axis(cold.corrupted_ids.numpy(), batch.positions, 1)
    best = cold.generator_logits.argmax(-1).numpy()
    chosen = batch.weights > 0
    assert (samples == best)[chosen].all()
    hot = make_trainer(temperature=1e4).forward(batch)
    samples = np.take_along_axis(hot.corrupted_ids.numpy(), batch.positions, 1)
    assert (samples != best)[chosen].mean() > 0.5


# --- Masking ----------------------------------------------------------------------------------


def test_bert_s_scheme_in_numbers():
    """80 % [MASK], 10 % a random word that is neither special nor unused, 10 % unchanged."""
    trainer = make_trainer(lengths=(20,) * 600, mask_scheme="bert", train_batch_size=600)
    batch = draw(trainer)
    rows, slots = np.nonzero(batch.weights)
    shown = batch.masked_ids[rows, batch.positions[rows, slots]]
    labels = batch.labels[rows, slots]
    count = len(rows)
    assert count == 600 * 6
    masked, kept = shown == WORDS.mask_token_id, shown == labels
    # A random word is the original in one of 49 cases; four standard deviations of a binomial.
    assert abs(masked.mean() - 0.8) < 4 * np.sqrt(0.16 / count)
    assert abs(kept.mean() - 0.1 - 0.1 / 49) < 4 * np.sqrt(0.09 / count)
    random = shown[~masked & ~kept]
    assert random.min() >= FIRST and len(np.unique(random)) == 49
    assert (batch.masked_ids == batch.ids)[batch.mask > 0].mean() > 0.5  # the rest is the text


def test_the_authors_scheme_has_no_random_words():
    batch = draw(make_trainer(lengths=(20,) * 600, train_batch_size=600))
    rows, slots = np.nonzero(batch.weights)
    shown = batch.masked_ids[rows, batch.positions[rows, slots]]
    masked = shown == WORDS.mask_token_id
    assert (shown == batch.labels[rows, slots])[~masked].all()
    assert abs(masked.mean() - 0.85) < 4 * np.sqrt(0.85 * 0.15 / len(rows))


# --- Small batches ----------------------------------------------------------------------------


@pytest.mark.parametrize("objective", LOSSES)
def test_a_batch_of_one_trains(objective: str, tmp_path: Path):
    trainer = make_trainer(tmp_path, objective=objective, train_batch_size=1, logging_steps=1)
    loop.train(trainer, trainer.plan())
    assert all(np.isfinite(value.numpy()).all() for value in trainer.model.parameters())


@pytest.mark.parametrize("objective", LOSSES)
def test_a_batch_without_masked_tokens_trains(objective: str, tmp_path: Path):
    """Examples of [CLS] [SEP] alone: nothing to choose, so nothing to guess or to replace."""
    trainer = make_trainer(tmp_path, lengths=(2, 2, 2, 2), objective=objective, logging_steps=1)
    assert draw(trainer).weights.sum() == 0
    done = loop.train(trainer, trainer.plan())
    assert all(np.isfinite(value.numpy()).all() for value in trainer.model.parameters())
    assert all(np.isfinite(value) for value in done.last.values())
    if objective != "uniform":
        assert done.last["mlm_loss"] == done.last["mlm_accuracy"] == 0.0
    if objective != "mlm":
        assert done.last["rtd_auc"] == 0.5 and done.last["rtd_recall"] == 0.0


# --- Validation -------------------------------------------------------------------------------


def test_replaced_tokens_are_measured_as_scikit_learn_does():
    rng = np.random.default_rng(0)
    truth, scores = rng.random(500) < 0.15, rng.normal(-1, 1, 500)
    scores[truth] += 1.5
    found = validation.replaced_tokens(truth, scores)
    odds = 1 / (1 + np.exp(-scores))
    assert found == pytest.approx(
        {
            "rtd_loss": metrics.log_loss(truth, odds),
            "rtd_precision": metrics.precision_score(truth, scores > 0),
            "rtd_recall": metrics.recall_score(truth, scores > 0),
            "rtd_auc": metrics.roc_auc_score(truth, scores),
            "null_rtd_loss": metrics.log_loss(truth, np.full(500, truth.mean())),
            "null_rtd_precision": truth.mean(),
            "null_rtd_recall": (scores > 0).mean(),
            "null_rtd_auc": 0.5,
        }
    )
    # The baselines are what a guesser who ignores the text reaches.
    guesses = [rng.random(500) < (scores > 0).mean() for _ in range(60)]
    precisions = [metrics.precision_score(truth, guess) for guess in guesses]
    assert np.mean(precisions) == pytest.approx(found["null_rtd_precision"], abs=0.03)
    recalls = [metrics.recall_score(truth, guess) for guess in guesses]
    assert np.mean(recalls) == pytest.approx(found["null_rtd_recall"], abs=0.03)


@pytest.mark.parametrize("replaced", [False, True])
def test_one_kind_of_token_only(replaced: bool):
    found = validation.replaced_tokens(np.full(9, replaced), np.linspace(-1, 1, 9))
    assert found["rtd_auc"] == 0.5 and found["null_rtd_loss"] == 0.0
    assert found["rtd_precision"] == (1.0 if replaced else 0.0)


def test_the_objective_on_held_out_text_selects_the_best():
    trainer = make_trainer(gen_weight=2.0, disc_weight=7.0)
    found = trainer.evaluate()
    assert found["eval_loss"] == pytest.approx(2 * found["mlm_loss"] + 7 * found["rtd_loss"])
    assert trainer.plan().value({"eval_loss": 3.0}) > trainer.plan().value({"eval_loss": 4.0})


# --- Options ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (dict(model_type="bert"), "model_type='bert': choose one of convbert"),
        (dict(objective="electric"), "objective='electric': choose one of electra, mlm, uniform"),
        (dict(mask_scheme="span"), "mask_scheme='span': choose one of electra, bert"),
        (dict(share="some"), "share='some': choose one of all, words, none"),
        (dict(schedule="constant"), "schedule='constant': choose one of linear"),
        (dict(generator_conv="conv"), "conv_type='conv'"),
        (dict(temperature=0.0), "temperature=0.0: must be positive"),
        (dict(save_steps=0), "save_steps=0: must be positive"),
        (dict(keep_checkpoints=1), "keep_checkpoints=1: must be at least 2"),
        (dict(gradient_accumulation_steps=17), "gradient_accumulation_steps=17: must be from 1"),
        (dict(device="xpu"), "device='xpu': choose auto, cpu or gpu"),
        (dict(use_amp=True), "the CPU computes in float32 only"),
        (dict(use_amp=True, precision="bfloat16"), "contradicts use_amp"),
        (dict(init_from_ckpt=True), "'convbert-tiny' is no checkpoint's folder"),
    ],
)
def test_values_without_meaning(changes: dict, message: str, text: Path, tmp_path: Path):
    with pytest.raises(ValueError, match=message):
        pretrain.pretrain(replace(tiny(tmp_path / "out", text), **changes))
    assert not (tmp_path / "out" / "step-000020").exists()


def test_an_old_option_is_accepted_with_a_note(text: Path, tmp_path: Path, capsys):
    pretrain.pretrain(tiny(tmp_path, text, eager_run="False", max_steps=1))
    assert "eager_run: ignored; training is always eager" in capsys.readouterr().out
