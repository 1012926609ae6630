"""Answers that take no model, and the widget that asks one."""

from __future__ import annotations

import threading
import time

import browser
import pytest
from nbformat.v4 import new_code_cell, new_notebook, new_output
from support import small_config

from convbert import ConvBertForQuestionAnswering, ConvBertTokenizer, runner
from convbert.data.glue import Example
from convbert.metrics import baselines, glue
from convbert.tokenizer import SPECIAL_TOKENS
from convbert.train import asking

CONTEXT = "In 1969 Anna Smith went to Rome. Later, in 1975, Bob <x> left for Paris."


def test_word_counts_learn_words_and_bigrams_learn_neighbors():
    """Which of two words comes first: only neighbors tell. Which word occurs: any of them do."""
    ordered = [Example(text, None, label) for text, label in (("a b", 0), ("b a", 1))] * 20
    found = baselines.scores("sst-2", ordered, ordered)
    assert found["majority"] == {"accuracy": 0.5}
    assert found["bag of words"] == {"accuracy": 0.5}
    assert found["with bigrams"] == {"accuracy": 1.0}
    named = [Example(text, None, label) for text, label in (("a c", 0), ("b c", 1))] * 20
    assert baselines.scores("sst-2", named, named)["bag of words"] == {"accuracy": 1.0}


def test_the_majority_is_that_of_the_training_labels():
    train = [Example("x", "x", 1)] * 3 + [Example("x", "y", 0)] * 2
    dev = [Example("x", "y", 0)] * 3 + [Example("x", "x", 1)]
    found = baselines.scores("mrpc", train, dev)
    assert found["majority"] == glue.score("mrpc", [1] * 4, [0, 0, 0, 1])


def test_overlap_of_pairs_predicts_scores_that_counted_words_do_not():
    def pairs(words: str) -> list[Example]:
        return [
            Example(f"{x} {y}", f"{x} {z}" if same else f"{z} {w}", 5.0 if same else 0.0)
            for x, y, z, w in zip(words, words[1:], words[2:], words[3:], strict=False)
            for same in (True, False)
        ]

    found = baselines.scores("sts-b", pairs("abcdefgh"), pairs("ijklmnop"))
    assert found["majority"] == {"pearson": 0.0, "spearman": 0.0}
    assert found["word overlap"]["pearson"] > 0.999
    assert abs(found["bag of words"]["pearson"]) < 0.5


def test_answers_without_a_model():
    asked = [("Later, in …, Bob <x> left for Paris.", CONTEXT), ("Who?", "nobody at all")]
    found = baselines.extracted(asked, seed=1, reach=2)
    assert found["word overlap"] == ["1975", ""]
    assert found["string search"] == ["1975", ""]
    assert found["random candidate"][0] in ("1969", "Anna Smith", "Rome", "1975", "In")
    chosen = {baselines.extracted(asked, seed)["random candidate"][0] for seed in range(30)}
    assert len(chosen) > 2


@pytest.fixture
def widget() -> asking.AskWidget:
    words = [*SPECIAL_TOKENS, *"abcdefghijklmnopqrstuvwxyz0123456789.,<>?"]
    words += [f"##{letter}" for letter in "abcdefghijklmnopqrstuvwxyz0123456789"]
    config = small_config(vocab_size=len(words), max_position_embeddings=128)
    model = ConvBertForQuestionAnswering(config)
    return asking.AskWidget(model, ConvBertTokenizer(words), "who?", CONTEXT)


def test_the_widget_marks_an_answer_and_says_what_is_wrong(widget, monkeypatch):
    before, rest = widget.shown.value.split("<mark>")
    inside, after = rest.split("</mark>")
    shown = (before.removeprefix("<p>") + inside + after.split("</p>")[0]).replace("&lt;", "<")
    assert inside and shown.replace("&gt;", ">") == CONTEXT
    widget.context.value = " "
    widget.button.click()
    assert "the text is empty" in widget.shown.value
    widget.context.value = "Anna slept"  # no click: it may have come before the words did
    assert "the text is empty" not in widget.shown.value


def test_the_last_words_are_answered_last(widget, monkeypatch):
    """A click and the words that were typed ahead of it may reach two threads of a kernel."""
    asked, quick = threading.Event(), asking.answer_as_html

    def slow(model, tokenizer, question, context):
        shown = quick(model, tokenizer, question, context)
        if not asked.is_set():  # the first to ask takes its time
            asked.set()
            time.sleep(0.5)
        return shown

    monkeypatch.setattr(asking, "answer_as_html", slow)
    click = threading.Thread(target=widget.button.click)
    click.start()
    assert asked.wait(10)
    widget.context.value = " "
    click.join(10)
    assert "the text is empty" in widget.shown.value


def test_without_a_kernel_the_first_answer_stays(widget, monkeypatch, tmp_path):
    """In an executed notebook's page the question and the marked answer are there to read."""
    view = "application/vnd.jupyter.widget-view+json"
    assert view in widget._repr_mimebundle_()
    monkeypatch.setenv("CONVBERT_STATIC", "1")
    bundle = widget._repr_mimebundle_()
    assert set(bundle) == {"text/plain", "text/html"}
    cell = new_code_cell("ask", outputs=[new_output("display_data", data=bundle)])
    page = tmp_path / "page.html"
    page.write_text(runner._page(new_notebook(cells=[cell]), "page"), encoding="utf-8")
    with browser.open_page(offline=True) as opened:
        watcher = browser.Watcher(opened, "file://")
        opened.goto(page.as_uri())
        marked, shown = opened.locator("mark").inner_text(), opened.inner_text("body")
        assert marked in CONTEXT and "who?" in shown and CONTEXT in shown
        assert (watcher.outside, watcher.errors) == ([], [])
