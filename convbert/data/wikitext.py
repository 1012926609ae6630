"""From the Wikipedia extracts inside the gensim wheel to clean text. Not in the paper.

gensim carries pieces of Wikipedia for its own tests, and strips most of the wiki markup. What
is added here: nested markup, sentence splitting, and the refusal of any sentence that shows a
trace of markup. Character ranges are spelled out instead of `\\w`, which changes with Python's
Unicode version.
"""

import bz2
import hashlib
import importlib.util
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

EXTRACT = "test/test_data/enwiki-latest-pages-articles1.xml-p000000010p000030302-shortened.bz2"
EXTRACT_SHA256 = "a53f4648dec40467ebdcbc7a1307eddb51fe6e28e9309f6ebde81ba0d04bea2d"
BULGARIAN = "test/test_data/bgwiki-latest-pages-articles-shortened.xml.bz2"
BULGARIAN_SHA256 = "8c67571ec18cb8f0f77a91ab2ee4a04c9368684358e40b94d95670f909210355"
MISSING_GENSIM = 'the sample text needs gensim: pip install "convbert[sample]"'
MIN_SENTENCES = 10  # shorter articles are lists and disambiguation pages

Run = list[str]  # sentences that follow one another in an article, nothing between them


class Article(NamedTuple):
    """A cleaned article."""

    title: str
    runs: list[Run]


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

LETTERS = "A-Za-z\u00c0-\u017f"
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


def find_extract(name: str = "", sha256: str = "") -> Path:
    """Return the path of a Wikipedia extract in the installed gensim, without importing it.

    Args:
        name: file in gensim; empty: the extract of the English Wikipedia.
        sha256: of the file; empty: the English extract's.

    Raises:
        ModuleNotFoundError: gensim is not installed.
        ValueError: the extract is missing or not the one the sample is made from.
    """
    name, sha256 = name or EXTRACT, sha256 or EXTRACT_SHA256
    spec = importlib.util.find_spec("gensim")
    if spec is None or not spec.submodule_search_locations:
        raise ModuleNotFoundError(MISSING_GENSIM)
    path = Path(next(iter(spec.submodule_search_locations))) / name
    if not path.is_file() or hashlib.sha256(path.read_bytes()).hexdigest() != sha256:
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


def _read_runs(text: str, seen: set[str]) -> list[Run]:
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
            else:  # what follows does not follow the last clean sentence
                runs.append([])
    return [run for run in runs if run]


def read_articles() -> list[Article]:
    """Return the cleaned articles of the extract, in its order; no sentence occurs twice.

    Raises:
        ModuleNotFoundError: gensim is not installed.
        ValueError: the extract is missing or not the expected one.
    """
    path = find_extract()
    from gensim.corpora.wikicorpus import extract_pages

    articles: list[Article] = []
    seen: set[str] = set()
    with bz2.open(path) as stream:
        for title, markup, _ in extract_pages(stream, filter_namespaces=("0",)):
            if markup[:9].lower() == "#redirect":
                continue
            runs = _read_runs(_strip_markup(markup), seen)
            if sum(map(len, runs)) >= MIN_SENTENCES:
                articles.append(Article(title, runs))
    return articles


def read_bulgarian() -> dict[str, list[str]]:
    """Return the pages of the Bulgarian extract: an article, a help page and an archive of talk.

    Returns:
        Title -> paragraphs of at least eight words, nearly all letters of which are Cyrillic.

    Raises:
        ModuleNotFoundError: gensim is not installed.
        ValueError: the extract is missing or not the expected one.
    """
    path = find_extract(BULGARIAN, BULGARIAN_SHA256)
    from gensim.corpora.wikicorpus import extract_pages

    with bz2.open(path) as stream:
        pages = [(title, _strip_markup(markup)) for title, markup, _ in extract_pages(stream)]
    return {title: _cyrillic_paragraphs(text) for title, text in pages}


def _cyrillic_paragraphs(text: str) -> list[str]:
    """Return the whole paragraphs of a page without markup, one a line."""
    found = []
    for line in text.split("\n"):
        line = re.sub(r"'{2,}", "", re.sub(r"[ \t\u00a0]+", " ", line)).strip()
        cyrillic = len(re.findall("[\u0400-\u04ff]", line))
        letters = cyrillic + len(re.findall(f"[{LETTERS}]", line))
        clean = not re.match(r"[=*#:;!]", line) and not re.search(rf"[\[\]{{}}|<>{HOLE}]|//", line)
        if clean and line.count(" ") >= 7 and cyrillic > 0.9 * letters:
            found.append(line)
    return found
