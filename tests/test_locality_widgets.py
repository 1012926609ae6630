"""The explorers without a browser: selections, fallbacks, errors, speed; see test_live_widgets."""

from __future__ import annotations

import asyncio
import html
import re

import numpy as np
import pytest
from support import randomize, small_config

from convbert import ConvBertTokenizer
from convbert.heads import ConvBertForMaskedLM
from convbert.locality import ablation, measure, record, widgets
from convbert.model import ConvBertModel
from convbert.tokenizer import SPECIAL_TOKENS

WORDS = ConvBertTokenizer([*SPECIAL_TOKENS, *(f"w{i}" for i in range(56))])  # 61 entries
TEXT = "w3 w14 w15 w9 w26 w5"


@pytest.fixture(autouse=True)
def live(monkeypatch):
    monkeypatch.delenv("CONVBERT_STATIC", raising=False)


def make_model(**changes) -> ConvBertForMaskedLM:
    return randomize(ConvBertForMaskedLM(small_config(**changes)))


def weights(picture, family: str) -> np.ndarray:
    return picture.data[picture.data.family.str.startswith(family)].weight.to_numpy()


def test_the_picture_is_of_the_selection():
    model = make_model()
    explorer = widgets.MixingExplorer(model, WORDS, TEXT)
    (made,) = record.record(model, WORDS, [TEXT])
    explorer.layer.value, explorer.attention.value, explorer.convolution.value = 2, 1, 2
    explorer.token.number.value = 5
    assert explorer.token.select.value == 4
    assert np.allclose(weights(explorer.picture, "attention"), made.attention[1, 0, 4])
    band = measure.expand_kernels(made.kernels[1, 1])
    assert np.allclose(weights(explorer.picture, "convolution"), band[4])
    explorer.token.select.value = 2
    assert explorer.token.number.value == 3
    assert np.allclose(weights(explorer.picture, "convolution"), band[2])
    explorer.text.value = "w1 w2"  # the chosen token is still there, the others are not
    assert explorer.token.number.max == 4 and "token 3:" in explorer.picture.alt


def test_all_matrices_share_a_scale_and_every_weight_of_the_row_is_named():
    other = "w3 w14 w40 w9 w26 w5"
    explorer = widgets.MixingExplorer(make_model(), WORDS, TEXT, other)
    (a, b) = record.record(make_model(), WORDS, [TEXT, other])
    figure = explorer.picture.figure
    maps = [axis for axis in figure.axes if axis.images]
    top = max(float(r.attention[0, 0].max()) for r in (a, b))
    top = max(top, *(float(r.kernels[0, 0].max()) for r in (a, b)))
    assert len(maps) == 4 and {axis.images[0].get_clim() for axis in maps} == {(0, top)}
    assert all(axis.get_title().endswith(f"weight 0 to {top:.2f}") for axis in maps)
    bars = [axis for axis in figure.axes if not axis.images]
    ledger = measure.ledger(measure.expand_kernels(a.kernels[0, 0]), a.content)
    parts = [f"{part} {row[1]:.2f}" for part, row in ledger.items() if row[1] > 0.005]
    assert bars[0].texts[1].get_text() == ", ".join(parts) and "outside" in parts[-1]


def test_a_model_without_convolution_shows_attention():
    explorer = widgets.MixingExplorer(make_model(conv_type="noconv"), WORDS, TEXT)
    assert explorer.convolution.disabled and explorer.attention.max == 4
    assert set(explorer.picture.data.family) == {"attention head 1"}


def test_errors_appear_inside_and_go_away():
    explorer = widgets.MixingExplorer(make_model(max_position_embeddings=128), WORDS, TEXT)
    before = explorer._shown.value
    explorer.text.value = "  "
    assert 'role="alert"' in explorer._message.value and "empty" in explorer._message.value
    explorer.text.value = " ".join(["w1"] * 80)
    assert "82 tokens" in explorer._message.value and not explorer.long.disabled
    assert explorer._shown.value == before
    explorer.long.click()
    assert explorer._message.value == "" and explorer.token.number.max == 82
    explorer.text.value = TEXT
    assert explorer._message.value == "" and explorer.long.disabled


def test_one_toggle_is_its_row_of_the_ranking():
    model = make_model()
    explorer = widgets.HeadAblation(model, WORDS, TEXT)
    assert explorer.token.value == 4 and explorer.picture.alt.endswith("a change of +0.0000.")
    explorer.heads[1][3].value = False
    values = explorer.picture.data.probability
    change = values[1] - values[0]
    explorer.rank.click()
    table = explorer.picture.data
    assert len(table) == 8 and (table.change.abs().diff().dropna() <= 0).all()
    every = {(at, h, f) for at in (1, 2) for h in (1, 2) for f in ("attention", "convolution")}
    assert set(zip(table.layer, table["head"], table.family, strict=True)) == every
    row = table[(table.layer == 2) & (table["head"] == 2) & (table.family == "convolution")]
    assert row.change.iloc[0] == pytest.approx(change, abs=1e-6)
    ids = np.array(WORDS(TEXT)["input_ids"])
    assert table.change.iloc[0] == pytest.approx(
        ablation.rank(model, WORDS, ids, 4).ravel()[
            np.abs(ablation.rank(model, WORDS, ids, 4)).argmax()
        ]
    )
    explorer.heads[0][0].value = False  # a toggle leaves the ranking
    assert "2 silenced" in str(explorer.picture.data.heads.tolist())
    with pytest.raises(ValueError, match="predicts nothing"):
        widgets.HeadAblation(model.convbert, WORDS, TEXT)


def test_the_slider_is_the_index_of_the_checkpoint():
    histories = {
        step: record.record(randomize(ConvBertModel(small_config()), seed=step), WORDS, [TEXT])
        for step in (20, 0, 10)
    }
    explorer = widgets.CheckpointScrubber(histories, reach=4)
    assert explorer.steps == [0, 10, 20] and set(explorer.picture.data.step) == {20}
    for place, step in enumerate(explorer.steps):
        explorer.place.value = place
        assert explorer.number.value == place and set(explorer.picture.data.step) == {step}
        (made,) = histories[step]
        profile, _ = measure.offset_profile(made.attention.mean((0, 1)), made.content, 4)
        shown = explorer.picture.data[explorer.picture.data.family == "attention"]
        assert np.allclose(shown.weight, profile)
    with pytest.raises(ValueError, match="no checkpoints"):
        widgets.CheckpointScrubber({})


def everyone(model):
    history = {0: record.record(model, WORDS, [TEXT]), 5: record.record(model, WORDS, [TEXT])}
    return [
        widgets.MixingExplorer(model, WORDS, TEXT),
        widgets.HeadAblation(model, WORDS, TEXT),
        widgets.CheckpointScrubber(history),
    ]


@pytest.mark.parametrize("static", [False, True])
def test_every_explorer_brings_its_picture(static: bool, monkeypatch):
    if static:
        monkeypatch.setenv("CONVBERT_STATIC", "1")
    for explorer in everyone(make_model()):
        bundle = explorer._repr_mimebundle_()
        view = "application/vnd.jupyter.widget-view+json"
        assert (view in bundle) is not static
        (alt,) = re.findall(
            r'<img alt="([^"]+)"[^>]* src="data:image/png;base64,', bundle["text/html"]
        )
        assert re.search(r"\d", alt) and type(explorer).__name__ in bundle["text/plain"]


def test_svg_takes_its_colors_from_the_page_and_leaves_the_page_alone():
    for explorer in everyone(make_model()):
        svg = explorer._shown.value
        (alt,) = re.findall(r'^<svg role="img" aria-label="([^"]+)"', svg)
        assert html.unescape(alt) == explorer.picture.alt and re.search(r"\d", alt)
        assert "currentColor" in svg and "#010203" not in svg
        assert "<style" not in svg and "<metadata" not in svg
        assert not re.findall(r'(?:href|src)="https?:', svg)
        assert "fill: #ffffff" not in svg.split("<defs")[0]  # no white canvas


def test_of_many_requests_the_last_is_drawn_once():
    explorer = widgets.MixingExplorer(make_model(), WORDS, TEXT)
    drawn = []
    real = explorer.draw
    explorer.draw = lambda: drawn.append(explorer.text.value) or real()  # type: ignore[method-assign]

    async def type_quickly():
        for end in ("w1", "w1 w2", "w1 w2 w3"):
            explorer.text.value = end
            await asyncio.sleep(0.01)
        assert drawn == []
        await asyncio.sleep(0.6)

    asyncio.run(type_quickly())
    assert drawn == ["w1 w2 w3"] and explorer.token.number.max == 5
