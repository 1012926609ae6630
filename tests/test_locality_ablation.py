"""What a prediction loses without a head."""

from __future__ import annotations

import numpy as np
import paddle
import pytest
from support import randomize, small_config

from convbert import ConvBertModel, ConvBertTokenizer
from convbert.heads import (
    ConvBertForMaskedLM,
    ConvBertForPreTraining,
    ConvBertForSequenceClassification,
)
from convbert.locality import ablation
from convbert.tokenizer import SPECIAL_TOKENS

WORDS = ConvBertTokenizer([*SPECIAL_TOKENS, *(f"w{i}" for i in range(56))])  # 61 entries
IDS = np.array(WORDS("w3 w14 w15 w9 w26")["input_ids"])
MODELS = {
    "masked LM": lambda: ConvBertForMaskedLM(small_config()),
    "pretraining": lambda: ConvBertForPreTraining(small_config()),
    "classifier": lambda: ConvBertForSequenceClassification(small_config(num_labels=3)),
    "attention only": lambda: ConvBertForMaskedLM(small_config(conv_type="noconv")),
}


@pytest.mark.parametrize("name", MODELS)
def test_one_silenced_head_is_its_entry_in_the_ranking(name: str):
    model = randomize(MODELS[name]())
    ranking = ablation.rank(model, WORDS, IDS, 3)
    assert ranking.shape == ablation.head_shape(model) == (2, 4)
    plain = ablation.predict(model, WORDS, IDS, 3)
    assert 0 < plain[0] < 1 and np.abs(ranking).max() > 1e-4
    for layer, head in ((0, 1), (1, 0), (1, 3)):
        keep = np.ones((1, 2, 4))
        keep[0, layer, head] = 0
        change = ablation.predict(model, WORDS, IDS, 3, keep) - plain
        assert change[0] == pytest.approx(ranking[layer, head], abs=1e-6)


def test_many_variants_run_in_parts():
    model = randomize(MODELS["masked LM"]())
    keep = (np.random.default_rng(0).random((150, 2, 4)) < 0.7).astype(float)
    found = ablation.predict(model, WORDS, IDS, 3, keep)
    assert found.shape == (150,)
    for row in (0, 70, 149):
        assert found[row] == pytest.approx(
            ablation.predict(model, WORDS, IDS, 3, keep[row : row + 1])[0], abs=1e-6
        )


def test_a_masked_lm_sees_the_mask_and_not_the_word():
    model = randomize(MODELS["masked LM"]())
    other = IDS.copy()
    other[3] = 40
    shown = IDS.copy()
    shown[3] = WORDS.mask_token_id
    with paddle.no_grad():
        logits = model(paddle.to_tensor(shown[None])).numpy()[0, 3].astype(float)
    chances = np.exp(logits) / np.exp(logits).sum()
    for ids in (IDS, other):
        assert ablation.predict(model, WORDS, ids, 3)[0] == pytest.approx(chances[ids[3]], rel=1e-4)


def test_a_discriminator_says_how_likely_the_token_is_original():
    model = randomize(MODELS["pretraining"]())
    with paddle.no_grad():
        logit = float(model.discriminator(paddle.to_tensor(IDS[None]))[0, 2])
    assert ablation.predict(model, WORDS, IDS, 2)[0] == pytest.approx(
        1 / (1 + np.exp(logit)), rel=1e-4
    )


def test_a_classifier_keeps_its_class():
    model = randomize(MODELS["classifier"]())
    assert ablation.predict(model, WORDS, IDS, 0)[0] >= 1 / 3
    silent = ablation.predict(model, WORDS, IDS, 0, np.zeros((1, 2, 4)))
    assert 0 < silent[0] < 1


def test_refusals():
    model = randomize(MODELS["masked LM"]())
    with pytest.raises(ValueError, match="position=7: the sentence has tokens 0 to 6"):
        ablation.predict(model, WORDS, IDS, 7)
    with pytest.raises(ValueError, match="ConvBertModel predicts nothing to lose"):
        ablation.predict(ConvBertModel(small_config()), WORDS, IDS, 1)
    assert "MASK" in ablation.describe_prediction(model)
