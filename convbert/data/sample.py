"""The embedded sample: clean Wikipedia text and three small labeled sets made from it.

Not in the paper. The sample lets every notebook train on real text without a download. Its
source is the Wikipedia extract that the gensim wheel carries for its own tests; gensim also
strips most of the wiki markup. The labeled sets have the shapes of GLUE and SQuAD and are neither.

* `swap`: one sentence; is it intact (1), or were two neighboring words exchanged (0)?
* `order`: two sentences; does the second follow the first in the article (1), or was the pair
  turned around (0)?
* `cloze`: a question with a blank, and a passage that holds the missing name or number.

Training and held-out data come from different articles.
"""

import bz2
import functools
import hashlib
import importlib.util
import json
import os
import random
import re
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

EXTRACT = "test/test_data/enwiki-latest-pages-articles1.xml-p000000010p000030302-shortened.bz2"
EXTRACT_SHA256 = "a53f4648dec40467ebdcbc7a1307eddb51fe6e28e9309f6ebde81ba0d04bea2d"
MISSING_GENSIM = 'the sample text needs gensim: pip install "convbert[sample]"'

SEED = 2020  # the paper's year
HELD_OUT = (12, 5)  # article i is held out if i % 12 == 5: 8 % of the articles, 8 % of the words
MIN_SENTENCES = 10  # shorter articles are lists and disambiguation pages
BLANK = "_____"

Run = list[str]  # sentences that follow one another in an article, nothing between them


class Article(NamedTuple):
    """A cleaned article."""

    title: str
    runs: list[Run]


# --- Wiki markup to sentences -----------------------------------------------------------------

HOLE = "\ue000"  # stands for markup whose text cannot be shown; a sentence with a hole is dropped
SILENT = re.compile(  # templates that show nothing in the running text
    r"citation needed|cn|fact|rp|sfnp?|efn|refn|#tag:ref|clarify|when|who|which|where|by whom"
    r"|vague|page needed|better source|failed verification|qualify evidence|unreliable source\?"
    r"|verify source|weasel-inline|according to whom|dubious|clear"
)
SHOWN = re.compile("lang|nowrap|transl|linktext")  # templates that show their last field

COMMENT = re.compile(r"<!--.*?-->", re.DOTALL)
REFERENCE = re.compile(r"<ref[^<>]*/>|<ref\b.*?</ref\s*>", re.DOTALL | re.IGNORECASE)
UNREADABLE = re.compile(
    r"<(gallery|math|code|source|tt|s|sup|timeline|pre|nowiki|imagemap|syntaxhighlight|poem)\b"
    r"[^<>]*>.*?</\1\s*>|<br[^<>]*>",
    re.DOTALL | re.IGNORECASE,
)
TEMPLATE = re.compile(r"\{\{([^{}]*)\}\}")  # innermost
TABLE = re.compile(r"\{\|(?:(?!\{\|).)*?\|\}", re.DOTALL)  # innermost
PICTURE = re.compile(
    r"\[\[(?:File|Image):(?:[^\[\]]|\[\[[^\[\]]*\]\]|\[[^\[\]]*\])*\]\]", re.IGNORECASE
)

LETTERS = "A-Za-z\u00c0-\u017f"  # the ranges are spelled out: \w changes with Python's Unicode
FOREIGN = re.compile(f"[^ !\"$%&'(),\\-./0-9:;?{LETTERS}£–—‘’“”…]")
ASIDE = re.compile(r"\s*\([^()]*\)")
DEBRIS = re.compile(
    r"https?:|www\.|Category|thumb\||\(\s|\(\W*\)|\s[,;.)]|  |\.\.|,,|;,"
    rf"|[{LETTERS}]{{3}}[.!?][A-Z][a-z]|-\."
)
OPENING = re.compile("[\"“‘'(]*[A-Z0-9\u00c0-\u00de]")
CLOSING = re.compile(r"[.!?][\"”’')]*$")
BOUNDARY = re.compile(r"[.!?][\"”’')]*\s+(?=[\"“‘'(]*[A-Z0-9])")
INITIAL = re.compile(r"(?:.*[.\-])?[A-Za-z]")  # "J", "J.-H", "U.S"
ABBREVIATION = re.compile(
    r"mrs?|ms|dr|st|vs|prof|gen|col|lt|capt|gov|sen|rep|rev|mt|ft|nos?|inc|co|ltd|cf|pp|vol|eds?"
    r"|approx|fl|ca|al|viz|sgt|brig|maj|adm|ave|hon|pres|jan|feb|mar|apr|jun|jul|aug|sept?|oct"
    r"|nov|dec",
    re.IGNORECASE,
)


def find_extract() -> Path:
    """Return the path of the Wikipedia extract in the installed gensim, without importing it.

    Raises:
        ModuleNotFoundError: gensim is not installed.
        ValueError: the extract is missing or not the one the sample is made from.
    """
    spec = importlib.util.find_spec("gensim")
    if spec is None or not spec.submodule_search_locations:
        raise ModuleNotFoundError(MISSING_GENSIM)
    path = Path(next(iter(spec.submodule_search_locations))) / EXTRACT
    if not path.is_file() or _sha256(path.read_bytes()) != EXTRACT_SHA256:
        raise ValueError(f"{path} is not the extract of gensim 4.4.0 that the sample is made from")
    return path


def _strip_markup(markup: str) -> str:
    """Return an article's text, one paragraph per line; gensim does what does not nest."""
    from gensim.corpora.wikicorpus import filter_wiki

    def show(match: re.Match) -> str:
        name, _, fields = match.group(1).partition("|")
        name = name.strip().lower()
        if SHOWN.fullmatch(name):
            return fields.rpartition("|")[2]
        return "" if SILENT.fullmatch(name) else HOLE

    text = REFERENCE.sub("", COMMENT.sub("", markup))
    text = UNREADABLE.sub(HOLE, text)
    text = _replace_innermost(TEMPLATE, show, text)
    text = _replace_innermost(TABLE, "\n", text)
    return filter_wiki(PICTURE.sub("", text))


def _replace_innermost(pattern: re.Pattern, new: str | Callable[[re.Match], str], text: str) -> str:
    """Replace nested markup from the inside out until nothing changes."""
    while (replaced := pattern.sub(new, text)) != text:
        text = replaced
    return text


def split_sentences(paragraph: str) -> Iterator[str]:
    """Yield the sentences of a paragraph; abbreviations and initials do not end one."""
    start = 0
    for boundary in BOUNDARY.finditer(paragraph):
        before = paragraph[start : boundary.start()].split(" ")[-1].lstrip("\"“‘'(")
        if ABBREVIATION.fullmatch(before) or INITIAL.fullmatch(before):
            continue
        yield paragraph[start : boundary.end()].strip()
        start = boundary.end()
    if paragraph[start:].strip():
        yield paragraph[start:].strip()


def _is_clean(sentence: str) -> bool:
    """True if the sentence is whole: opened, closed, 4 to 80 words, no trace of markup."""
    return (
        4 <= sentence.count(" ") + 1 <= 80
        and OPENING.match(sentence) is not None
        and CLOSING.search(sentence) is not None
        and FOREIGN.search(sentence) is None
        and DEBRIS.search(sentence) is None
        and sentence.count("(") == sentence.count(")")
    )


def _drop_foreign_aside(match: re.Match) -> str:
    """Drop a parenthesis that is empty, has a hole, or is in another script."""
    aside = match.group()
    return "" if FOREIGN.search(aside) or not re.search(f"[{LETTERS}0-9]", aside) else aside


def read_runs(text: str, seen: set[str]) -> list[Run]:
    """Return the runs of clean sentences in an article; a dropped sentence ends a run.

    Args:
        text: the article without markup, one paragraph per line.
        seen: the sentences used so far; no sentence is used twice. Changed in place.
    """
    runs: list[Run] = []
    for line in text.split("\n"):
        line = re.sub(r"'{2,}", "", re.sub(r"[ \t\u00a0]+", " ", line)).strip()
        if not line or line[0] in "=*#:;|!{}":  # headings, lists, leftovers of tables
            continue
        runs.append([])
        for sentence in split_sentences(ASIDE.sub(_drop_foreign_aside, line)):
            if _is_clean(sentence) and sentence not in seen:
                seen.add(sentence)
                runs[-1].append(sentence)
            else:
                runs.append([])
    return [run for run in runs if run]


def read_articles() -> tuple[list[Article], list[Article]]:
    """Return the training and the held-out articles, in the order of the extract."""
    path = find_extract()
    from gensim.corpora.wikicorpus import extract_pages

    articles, seen = [], set[str]()
    with bz2.open(path) as stream:
        for title, markup, _ in extract_pages(stream, filter_namespaces=("0",)):
            if markup[:9].lower() == "#redirect":
                continue
            runs = read_runs(_strip_markup(markup), seen)
            if sum(map(len, runs)) >= MIN_SENTENCES:
                articles.append(Article(title, runs))
    every, offset = HELD_OUT
    train = [a for i, a in enumerate(articles) if i % every != offset]
    return train, articles[offset::every]


# --- Labeled sets -----------------------------------------------------------------------------

WORD = re.compile(r"[A-Za-z]+")
INSIDE = f"{LETTERS}0-9'’–\\-"  # what must not touch a span: it would be a part of something longer
SPAN = re.compile(  # a number, or capitalized words in a row
    rf"(?<![{INSIDE}.,\"“‘])(?:[0-9]+(?:[.,][0-9]+)*|[A-Z][{LETTERS}]+(?: [A-Z][{LETTERS}]+)*)"
    rf"(?![{INSIDE}]|[.,][0-9]|\.[{LETTERS}]| [A-Z])"
)


def _count_words(sentence: str) -> int:
    return sentence.count(" ") + 1


def make_swap(articles: Iterable[Article], limit: int, rng: random.Random) -> list[list[str]]:
    """Make rows of sentence and label: 1 intact, 0 two neighboring words exchanged.

    The exchanged words are plain words inside the sentence, so that neither a capital nor a
    period gives the answer away. A sentence appears once, in one version.

    Args:
        articles: where the sentences come from.
        limit: the largest number of rows.
        rng: decides which sentences, which version, which words.
    """
    places = []
    for sentence in (s for article in articles for run in article.runs for s in run):
        words = sentence.split(" ")
        plain = [bool(WORD.fullmatch(w)) for w in words]
        where = [
            i
            for i in range(1, len(words) - 2)
            if plain[i] and plain[i + 1] and words[i].lower() != words[i + 1].lower()
        ]
        if 8 <= len(words) <= 30 and where:
            places.append((words, where))
    rng.shuffle(places)
    places = places[: min(limit, len(places)) // 2 * 2]
    rows = []
    for number, (words, where) in enumerate(places):
        label, i = number % 2, rng.choice(where)
        if label == 0:
            words = [*words[:i], words[i + 1], words[i], *words[i + 2 :]]
        rows.append([" ".join(words), str(label)])
    rng.shuffle(rows)
    return rows


def make_cloze(articles: Iterable[Article], rng: random.Random) -> list[dict]:
    """Make questions in SQuAD's shape: a sentence with a blank, and the passage around it.

    The answer is a capitalized span or a number that occurs once in the passage, which holds
    at least three other spans, one of them of the same kind.

    Args:
        articles: where the passages come from.
        rng: decides which span of a sentence is asked for.

    Returns:
        SQuAD's `data`: a list of articles with paragraphs, questions and answers.
    """
    data = []
    for article in articles:
        paragraphs = []
        for passage in (p for run in article.runs for p in _cut_passages(run)):
            name = f"{article.title.replace(' ', '_')}-{len(paragraphs)}"
            context = " ".join(passage)
            questions = _ask(passage, context, name, rng)
            if questions:
                paragraphs.append({"context": context, "qas": questions})
        if paragraphs:
            data.append({"title": article.title.replace(" ", "_"), "paragraphs": paragraphs})
    return data


def _cut_passages(run: Run) -> Iterator[Run]:
    """Cut a run into passages of 2 to 4 sentences and at most 54 words; none shares a sentence."""
    passage: Run = []
    for sentence in run:
        if len(passage) == 4 or sum(map(_count_words, [*passage, sentence])) > 54:
            if len(passage) > 1:
                yield passage
            passage = []
        passage.append(sentence)
    if len(passage) > 1 and sum(map(_count_words, passage)) <= 54:
        yield passage


def _ask(passage: Run, context: str, name: str, rng: random.Random) -> list[dict]:
    """Return at most two questions for each sentence of a passage."""
    questions, start = [], 0
    spans = _find_spans(passage)
    for sentence in passage:
        end = start + len(sentence)
        choices = [
            (at, text)
            for at, text in spans
            if start <= at < end
            and context.lower().count(text.lower()) == 1
            and any(t != text and t[0].isdigit() == text[0].isdigit() for _, t in spans)
        ]
        if _count_words(sentence) > 22 or len({text for _, text in spans}) < 4:
            choices = []
        for at, text in rng.sample(choices, min(2, len(choices))):
            blank = sentence[: at - start] + BLANK + sentence[at - start + len(text) :]
            answer = {"text": text, "answer_start": at}
            questions.append(
                {"id": f"{name}-{len(questions)}", "question": blank, "answers": [answer]}
            )
        start = end + 1
    return questions


def _find_spans(passage: Run) -> list[tuple[int, str]]:
    """Return position and text of the candidate spans; none opens a sentence."""
    spans, start = [], 0
    for sentence in passage:
        for match in SPAN.finditer(sentence):
            opens = not re.search(f"[{LETTERS}0-9]", sentence[: match.start()])
            if not opens and not ABBREVIATION.fullmatch(match.group()):
                spans.append((start + match.start(), match.group()))
        start += len(sentence) + 1
    return spans


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
