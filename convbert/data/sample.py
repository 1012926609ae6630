"""The embedded sample: clean Wikipedia text and three small labeled sets made from it.

Not in the paper. The sample lets every notebook train on real text without a download. Its
source is the Wikipedia extract that the gensim wheel carries for its own tests; gensim also
strips most of the wiki markup. The labeled sets have the shapes of GLUE and SQuAD and are neither.

* `swap`: one sentence; is it intact (1), or were two neighboring words exchanged (0)?
* `order`: a sentence twice, once with two neighboring words exchanged; is the first one intact
  (`first`), or the second (`second`)? Both have the same words, so only their order tells.
* `cloze`: a phrase of a passage with a blank for a name or a number, to be found in the passage.

Training and held-out data come from different articles.
"""

import hashlib
import json
import os
import random
import re
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import MappingProxyType

from convbert.data import wikitext
from convbert.data.wikitext import Article, Run

FOLDER = "sample-2"  # in the cache; a new number for new content, so that two versions share it
SEED = 2020  # the paper's year
HELD_OUT = (12, 5)  # article i is held out if i % 12 == 5: 8 % of the articles, 8 % of the words
BLANK = "…"  # one token, so that a convolution at the blank sees both of its sides

# --- Labeled sets -----------------------------------------------------------------------------

PASSAGE = (10, 30)  # words, at least and at most
PHRASE = 4  # words to each side of a blank

WORD = re.compile(r"[A-Za-z]+")
NAME = f"[A-Z][{wikitext.LETTERS}]+"
INSIDE = (
    f"{wikitext.LETTERS}0-9'’–\\-"  # touching one of these, a span is a part of something longer
)
SPAN = re.compile(  # a number, or capitalized words in a row
    rf"(?<![{INSIDE}.,\"“‘])(?:[0-9]+(?:[.,][0-9]+)*|{NAME}(?: {NAME})*)"
    rf"(?![{INSIDE}]|[.,][0-9]|\.[{wikitext.LETTERS}]| [A-Z])"
)


def make_swap(articles: Iterable[Article], limit: int, rng: random.Random) -> list[list[str]]:
    """Make rows of sentence and label: 1 intact, 0 two neighboring words exchanged.

    A sentence appears once, in one version; half the rows are intact.

    Args:
        articles: where the sentences come from.
        limit: the largest number of rows.
        rng: decides which sentences, which version, which words.
    """
    rows = []
    for number, pair in enumerate(_exchange_words(articles, 30, limit, rng)):
        label = number % 2
        rows.append([pair[1 - label], str(label)])
    rng.shuffle(rows)
    return rows


def make_order(articles: Iterable[Article], limit: int, rng: random.Random) -> list[list[str]]:
    """Make rows of index, two versions of a sentence, and which one is intact.

    Counting words, or the overlap of the two, tells nothing. A sentence makes one row; in half
    the rows the first version is the intact one. Arguments as in `make_swap`.
    """
    rows = []
    for number, (intact, exchanged) in enumerate(_exchange_words(articles, 24, limit, rng)):
        pair = [exchanged, intact] if number % 2 else [intact, exchanged]
        rows.append([*pair, ["first", "second"][number % 2]])
    rng.shuffle(rows)
    return [[str(index), *row] for index, row in enumerate(rows)]


def _exchange_words(
    articles: Iterable[Article], longest: int, limit: int, rng: random.Random
) -> list[tuple[str, str]]:
    """Return an even number of sentences of 8 to `longest` words, intact and exchanged.

    The exchanged words are plain words inside the sentence, so that neither a capital nor a
    period gives the exchange away. Sorted by length: labels given in turn are independent of it.
    """
    pairs = []
    for sentence in (s for article in articles for run in article.runs for s in run):
        words = sentence.split(" ")
        plain = [WORD.fullmatch(word) is not None for word in words]
        where = [
            i
            for i in range(1, len(words) - 2)
            if plain[i] and plain[i + 1] and words[i].lower() != words[i + 1].lower()
        ]
        if 8 <= len(words) <= longest and where:
            i = rng.choice(where)
            exchanged = [*words[:i], words[i + 1], words[i], *words[i + 2 :]]
            pairs.append((sentence, " ".join(exchanged)))
    rng.shuffle(pairs)
    chosen = pairs[: min(limit, len(pairs)) // 2 * 2]
    return sorted(chosen, key=lambda pair: (len(pair[0]), pair))


def make_cloze(articles: Iterable[Article], rng: random.Random) -> list[dict]:
    """Make questions in SQuAD's shape: a phrase with a blank, and the passage it is from.

    The answer is a capitalized span or a number that occurs once in the passage, which holds
    at least two other spans, one of them of the same kind. Around the blank stand up to
    `PHRASE` words of its sentence on each side.

    Args:
        articles: where the passages come from.
        rng: decides which spans of a sentence are asked for.

    Returns:
        SQuAD's `data`: a list of articles with paragraphs, questions and answers.
    """
    data = []
    for article in articles:
        paragraphs: list[dict] = []
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
    """Cut a run into passages of 1 to 3 sentences and `PASSAGE` words; none shares a sentence."""
    shortest, longest = PASSAGE
    passage: Run = []
    for sentence in [*run, ""]:  # the empty one ends the last passage
        if len(passage) == 3 or not sentence or _count_words([*passage, sentence]) > longest:
            if shortest <= _count_words(passage) <= longest:
                yield passage
            passage = []
        passage.append(sentence)


def _count_words(sentences: Run) -> int:
    return sum(sentence.count(" ") + 1 for sentence in sentences)


def _ask(passage: Run, context: str, name: str, rng: random.Random) -> list[dict]:
    """Return at most three questions for each sentence of a passage."""
    questions: list[dict] = []
    spans, start = _find_spans(passage), 0
    for sentence in passage:
        choices = [
            (at, text)
            for at, text in spans
            if start <= at < start + len(sentence)
            and context.lower().count(text.lower()) == 1
            and any(t != text and t[0].isdigit() == text[0].isdigit() for _, t in spans)
        ]
        if len({text for _, text in spans}) < 3 or BLANK in context:
            choices = []
        for at, text in rng.sample(choices, min(3, len(choices))):
            before = sentence[: at - start].split(" ")[-PHRASE - 1 :]  # its last part touches text
            after = sentence[at - start + len(text) :].split(" ")[: PHRASE + 1]
            phrase = " ".join(before) + BLANK + " ".join(after)
            answer = {"text": text, "answer_start": at}
            questions.append(
                {"id": f"{name}-{len(questions)}", "question": phrase, "answers": [answer]}
            )
        start += len(sentence) + 1
    return questions


def _find_spans(passage: Run) -> list[tuple[int, str]]:
    """Return position and text of the candidate spans; none opens a sentence."""
    spans, start = [], 0
    for sentence in passage:
        for match in SPAN.finditer(sentence):
            opens = not re.search(f"[{wikitext.LETTERS}0-9]", sentence[: match.start()])
            if not opens and not wikitext.ABBREVIATION.fullmatch(match.group()):
                spans.append((start + match.start(), match.group()))
        start += len(sentence) + 1
    return spans


# --- Files ------------------------------------------------------------------------------------

README = """\
# Sample text and labeled sets

Made by `convbert.data.sample` from the Wikipedia extract in the gensim 4.4.0 wheel
(`gensim/{extract}`).
The text is by Wikipedia's authors, licensed CC BY-SA 3.0 and GFDL; each article's history on
en.wikipedia.org names them. Changes: markup, tables, lists and incomplete sentences are removed,
and the labeled sets alter sentences on purpose. The sample stays under CC BY-SA.

This is not GLUE and not SQuAD. The sets only have their shapes.

| file | content | rows |
|---|---|---|
{table}

Text: one sentence per line, a blank line ends an article. Held out: {titles}.
Every dev row comes from a held-out article, every train row from another article; training
text and labeled training rows share articles.
"""

CONTENT = MappingProxyType(
    {
        "text/train.txt": "sentences to pretrain on",
        "text/valid.txt": "held-out sentences",
        "swap/train.tsv": "sentence, label: 1 intact, 0 two neighboring words exchanged",
        "swap/dev.tsv": "the same, held out",
        "order/train.tsv": "a sentence intact and with words exchanged; which is intact?",
        "order/dev.tsv": "the same, held out",
        "cloze/train.json": "phrases with a blank on short passages, SQuAD v1.1 layout",
        "cloze/dev.json": "the same, held out",
    }
)

EXPECTED_SHA256 = MappingProxyType(
    {
        "text/train.txt": "4219532648cca27279479f76cddf8eceaf375993694b3ee66596ca713a6eb000",
        "text/valid.txt": "3dd79ba0c82d9e7e9d5e1eeb52335a53ea63792d05064cfc1e6a54224f8de708",
        "swap/train.tsv": "9cc9f963f5380f33aaea99d377cafda782ab3d65e5c1e5f9087caea066490b2f",
        "swap/dev.tsv": "812a8e3088f0ebabe0b63e67576d57d1a4446b98ac1b76adba879dde18b81c15",
        "order/train.tsv": "d2de3e5f0219b4a8ba4df0210a445f290d5d4ae7c8926a63b2c5a4eaf94a01dc",
        "order/dev.tsv": "ef9e18da47b778b63c217499e8d1078fc826f0a8f69978523219ca6517192851",
        "cloze/train.json": "1e0ba5223715fcf0ab96af1814fe92d3c7a2307e0cd50073bfcc57943eac1f82",
        "cloze/dev.json": "0276cb804c45109ecadc6326eed5c5d81f3bef6691993b8ce1e6eb78ec8b9d87",
    }
)


def build(directory: str | Path) -> dict:
    """Make the sample in a directory, all of it or nothing.

    A directory that holds the complete sample is left alone; one that holds an older sample is
    replaced.

    Args:
        directory: where the sample goes; new, empty, or an earlier sample.

    Returns:
        The manifest: `source` (path and sha256 of the extract) and `files` (sha256, bytes and
        rows of each).

    Raises:
        ModuleNotFoundError: gensim is not installed.
        FileExistsError: the directory holds something else.
        RuntimeError: a file came out different from what it must be.
    """
    directory = Path(directory)
    if is_complete(directory):
        return json.loads((directory / "manifest.json").read_text(encoding="utf-8"))
    if directory.exists() and any(directory.iterdir()) and not _is_sample(directory):
        raise FileExistsError(f"{directory} holds other files; give a new or empty directory")
    files, manifest = _make_files()
    wrong = [n for n, v in EXPECTED_SHA256.items() if manifest["files"][n]["sha256"] != v]
    if wrong:
        raise RuntimeError(f"the sample came out different from what is expected: {wrong}")
    directory.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=directory.parent, prefix=".sample-") as temporary:
        new = Path(temporary) / "new"
        for name, content in files.items():
            (new / name).parent.mkdir(parents=True, exist_ok=True)
            (new / name).write_bytes(content)
        _move(new, directory, aside=Path(temporary) / "old")
    return manifest


def is_complete(directory: str | Path) -> bool:
    """True if the directory holds every file of the sample, unchanged."""
    directory = Path(directory)
    return (directory / "manifest.json").is_file() and all(
        (directory / name).is_file() and _sha256((directory / name).read_bytes()) == expected
        for name, expected in EXPECTED_SHA256.items()
    )


def _is_sample(directory: Path) -> bool:
    """True if the directory holds nothing but an earlier or damaged sample."""
    ours = {name.split("/")[0] for name in CONTENT} | {"README.md", "manifest.json"}
    return {path.name for path in directory.iterdir()} <= ours


def _move(new: Path, directory: Path, aside: Path) -> None:
    """Put a finished sample in place; keep the one that another process made meanwhile."""
    try:
        if directory.exists() and not is_complete(directory):
            os.replace(directory, aside)
        os.replace(new, directory)
    except OSError:
        if not is_complete(directory):
            raise


def _make_files() -> tuple[dict[str, bytes], dict]:
    """Make the content of every file, and the manifest."""
    content, rows = {}, {}
    articles = wikitext.read_articles()
    every, offset = HELD_OUT
    train = [article for i, article in enumerate(articles) if i % every != offset]
    held_out = articles[offset::every]

    def put(name: str, text: str, count: int) -> None:
        content[name], rows[name] = text.encode(), count

    for text_split, split, chosen, limit in [
        ("train", "train", train, 8000),
        ("valid", "dev", held_out, 1000),
    ]:
        documents = [[s for run in article.runs for s in run] for article in chosen]
        text = "\n\n".join("\n".join(document) for document in documents) + "\n"
        put(f"text/{text_split}.txt", text, sum(map(len, documents)))
        swap = make_swap(chosen, limit, random.Random(f"{SEED} swap {split}"))
        put(f"swap/{split}.tsv", _to_tsv(["sentence", "label"], swap), len(swap))
        order = make_order(chosen, limit, random.Random(f"{SEED} order {split}"))
        header = ["index", "sentence1", "sentence2", "label"]
        put(f"order/{split}.tsv", _to_tsv(header, order), len(order))
        cloze = make_cloze(chosen, random.Random(f"{SEED} cloze {split}"))
        count = sum(len(p["qas"]) for article in cloze for p in article["paragraphs"])
        put(f"cloze/{split}.json", _to_json({"version": "cloze-2", "data": cloze}), count)

    table = "\n".join(f"| `{n}` | {what} | {rows[n]:,} |" for n, what in CONTENT.items())
    titles = ", ".join(article.title for article in held_out)
    content["README.md"] = README.format(
        extract=wikitext.EXTRACT, table=table, titles=titles
    ).encode()
    manifest = {
        "source": {"path": f"gensim/{wikitext.EXTRACT}", "sha256": wikitext.EXTRACT_SHA256},
        "files": {
            name: {"sha256": _sha256(content[name]), "bytes": len(content[name]), "rows": count}
            for name, count in rows.items()
        },
    }
    content["manifest.json"] = _to_json(manifest, indent=1).encode()
    return content, manifest


def _to_tsv(header: list[str], rows: list[list[str]]) -> str:
    return "".join("\t".join(row) + "\n" for row in [header, *rows])


def _to_json(value: dict, indent: int | None = None) -> str:
    return json.dumps(value, ensure_ascii=False, indent=indent) + "\n"


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
