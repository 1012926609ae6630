"""The embedded sample: right bytes, right sets, and the same everywhere."""

import csv
import hashlib
import json
import os
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from convbert.data import sample, wikitext

pytest.importorskip("gensim", reason="needs the extra: sample")

MARKUP = re.compile(
    r"[\[\]{}|<>=*#_~\\^@\u00a0\ue000]|''|\s\s|https?:|www\.|&\w+;|Category:|File:|\bthumb\||^[:;!]"
)


@pytest.fixture(scope="module")
def built(tmp_path_factory) -> Path:
    directory = tmp_path_factory.mktemp("made") / "sample"
    sample.build(directory)
    return directory


def read_text(built: Path, split: str) -> list[list[str]]:
    """Return the articles of a text file."""
    text = (built / "text" / f"{split}.txt").read_bytes().decode()
    assert text.endswith(".\n") or text.endswith('"\n')
    return [article.split("\n") for article in text.rstrip("\n").split("\n\n")]


def read_tsv(built: Path, name: str) -> list[dict[str, str]]:
    with open(built / name, encoding="utf-8", newline="\n") as file:
        return list(csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE))


def read_cloze(built: Path, split: str) -> list[tuple[str, str, str, int]]:
    """Return context, question, answer and answer_start of each question."""
    data = json.loads((built / "cloze" / f"{split}.json").read_bytes())["data"]
    return [
        (paragraph["context"], qa["question"], answer["text"], answer["answer_start"])
        for article in data
        for paragraph in article["paragraphs"]
        for qa in paragraph["qas"]
        for answer in qa["answers"]
    ]


def exchanges(first: str, second: str) -> list[int]:
    """Return the place where two neighboring words are exchanged, or nothing."""
    a, b = first.split(" "), second.split(" ")
    differ = [i for i in range(len(a)) if a[i] != b[i]] if len(a) == len(b) else []
    if len(differ) == 2 and differ[1] == differ[0] + 1:
        i, j = differ
        return [i] if (a[i], a[j]) == (b[j], b[i]) else []
    return []


def test_checksums_and_manifest(built):
    manifest = json.loads((built / "manifest.json").read_bytes())
    assert set(manifest["files"]) == set(sample.EXPECTED_SHA256) == set(sample.CONTENT)
    for name, expected in sample.EXPECTED_SHA256.items():
        content = (built / name).read_bytes()
        assert hashlib.sha256(content).hexdigest() == expected, name
        assert manifest["files"][name]["sha256"] == expected
        assert manifest["files"][name]["bytes"] == len(content)
    rows = {name: entry["rows"] for name, entry in manifest["files"].items()}
    assert rows == {
        "text/train.txt": sum(map(len, read_text(built, "train"))),
        "text/valid.txt": sum(map(len, read_text(built, "valid"))),
        "swap/train.tsv": 8000,
        "swap/dev.tsv": 1000,
        "order/train.tsv": 8000,
        "order/dev.tsv": 880,
        "cloze/train.json": len(read_cloze(built, "train")),
        "cloze/dev.json": len(read_cloze(built, "dev")),
    }


def test_readme_says_what_it_is(built):
    text = (built / "README.md").read_text(encoding="utf-8")
    assert "not GLUE and not SQuAD" in text and "CC BY-SA" in text and "gensim" in text
    assert all(f"`{name}`" in text for name in sample.CONTENT)


@pytest.mark.parametrize("split", ["train", "valid"])
def test_text_is_clean(built, split):
    articles = read_text(built, split)
    assert all(len(article) >= wikitext.MIN_SENTENCES for article in articles)
    sentences = [sentence for article in articles for sentence in article]
    assert len(set(sentences)) == len(sentences)
    for sentence in sentences:
        assert not MARKUP.search(sentence), sentence
        assert re.search(r"[.!?][\"”’')]*$", sentence), sentence
        assert sentence == sentence.strip() and 4 <= len(sentence.split(" ")) <= 80, sentence
        assert sentence.count("(") == sentence.count(")"), sentence
        assert len(sentence.splitlines()) == 1, sentence


def test_text_size(built):
    words = {
        split: sum(len(s.split(" ")) for article in read_text(built, split) for s in article)
        for split in ("train", "valid")
    }
    assert words["train"] > 330_000
    assert 0.07 < words["valid"] / sum(words.values()) < 0.09
    assert len(read_text(built, "valid")) == 8 and len(read_text(built, "train")) == 87


def test_held_out_is_disjoint(built):
    train = {s for article in read_text(built, "train") for s in article}
    held_out = {s for article in read_text(built, "valid") for s in article}
    assert not train & held_out
    for split, inside, outside in [("train", train, held_out), ("dev", held_out, train)]:
        intact = [r["sentence"] for r in read_tsv(built, f"swap/{split}.tsv") if r["label"] == "1"]
        for row in read_tsv(built, f"order/{split}.tsv"):
            intact.append(row["sentence1" if row["label"] == "first" else "sentence2"])
        assert set(intact) <= inside and not set(intact) & outside
        whole = " ".join(s for a in read_text(built, split.replace("dev", "valid")) for s in a)
        assert all(context in whole for context, *_ in read_cloze(built, split))


@pytest.mark.parametrize(("split", "text"), [("train", "train"), ("dev", "valid")])
def test_swap(built, split, text):
    rows = read_tsv(built, f"swap/{split}.tsv")
    counts = Counter(row["label"] for row in rows)
    assert counts["0"] == counts["1"] == len(rows) // 2

    by_words = {}
    for sentence in (s for article in read_text(built, text) for s in article):
        by_words.setdefault(tuple(sorted(sentence.split(" "))), []).append(sentence)
    sources = []
    for row in rows:
        sentence, same_words = row["sentence"], by_words[tuple(sorted(row["sentence"].split(" ")))]
        if row["label"] == "1":
            assert sentence in same_words
            sources.append(sentence)
        else:
            (source,) = [s for s in same_words if exchanges(s, sentence)]
            (place,) = exchanges(source, sentence)
            assert sentence not in same_words
            assert 0 < place < len(sentence.split(" ")) - 2
            sources.append(source)
    assert len(set(sources)) == len(rows), "a source sentence appears in one version only"


@pytest.mark.parametrize("split", ["train", "dev"])
def test_order(built, split):
    rows = read_tsv(built, f"order/{split}.tsv")
    assert [row["index"] for row in rows] == [str(i) for i in range(len(rows))]
    counts = Counter(row["label"] for row in rows)
    assert counts["first"] == counts["second"] == len(rows) // 2
    assert all(exchanges(row["sentence1"], row["sentence2"]) for row in rows)


@pytest.mark.parametrize("split", ["train", "dev"])
def test_length_tells_nothing(built, split):
    for name, field in [("swap", "sentence"), ("order", "sentence1")]:
        lengths: dict[str, list[int]] = {}
        for row in read_tsv(built, f"{name}/{split}.tsv"):
            lengths.setdefault(row["label"], []).append(len(row[field]))
        means = [sum(values) / len(values) for values in lengths.values()]
        assert abs(means[0] - means[1]) < 0.5


@pytest.mark.parametrize("split", ["train", "dev"])
def test_cloze(built, split):
    questions = read_cloze(built, split)
    assert len({(context, question) for context, question, *_ in questions}) == len(questions)
    for context, question, answer, start in questions:
        assert context[start : start + len(answer)] == answer
        assert context.count(answer) == 1 and answer not in question
        assert question.count(sample.BLANK) == 1
        assert question.replace(sample.BLANK, answer) in context
        assert answer[0].isdigit() or answer[0].isupper()
        spans = set(sample.SPAN.findall(context))
        assert len({s for s in spans if s[0].isdigit() == answer[0].isdigit()}) >= 2
        assert 10 <= len(context.split(" ")) <= 30
        sides = question.split(sample.BLANK)
        assert all(len(side.split()) <= sample.PHRASE + 1 for side in sides) and any(sides)


def test_cloze_has_the_layout_of_squad(built):
    content = json.loads((built / "cloze/dev.json").read_bytes())
    ids = [
        qa["id"]
        for a in content["data"]
        for paragraph in a["paragraphs"]
        for qa in paragraph["qas"]
    ]
    assert set(content) == {"version", "data"} and len(set(ids)) == len(ids)
    assert "squad" not in content["version"].lower()


def test_same_bytes_with_another_hash_seed_and_locale(tmp_path):
    """`build` compares with `EXPECTED_SHA256` itself: it is enough that it succeeds."""
    code = "import sys; from convbert.data import sample; sample.build(sys.argv[1])"
    environment = {**os.environ, "PYTHONHASHSEED": "77", "LC_ALL": "C", "PYTHONUTF8": "0"}
    command = [sys.executable, "-c", code, str(tmp_path / "sample")]
    subprocess.run(command, env=environment, check=True, timeout=300)
    assert sample.is_complete(tmp_path / "sample")


def test_build_leaves_a_complete_sample_alone(built, monkeypatch):
    monkeypatch.setattr(sample, "_make_files", lambda: pytest.fail("made again"))
    assert sample.build(built)["files"].keys() == sample.CONTENT.keys()


@pytest.fixture
def ready(built, monkeypatch):
    """Serve the finished files, so that a build takes no time."""
    manifest = json.loads((built / "manifest.json").read_bytes())
    names = [*sample.CONTENT, "README.md", "manifest.json"]
    files = {name: (built / name).read_bytes() for name in names}
    monkeypatch.setattr(sample, "_make_files", lambda: (dict(files), manifest))
    return files, manifest


def test_build_replaces_a_damaged_sample(tmp_path, ready):
    sample.build(tmp_path / "s")
    (tmp_path / "s/swap/dev.tsv").write_text("cut")
    (tmp_path / "s/text/train.txt").unlink()
    assert not sample.is_complete(tmp_path / "s")
    sample.build(tmp_path / "s")
    assert sample.is_complete(tmp_path / "s")
    assert [path.name for path in tmp_path.iterdir()] == ["s"], "no temporary folder is left"


def test_build_touches_no_foreign_directory(tmp_path, ready):
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(FileExistsError, match="holds other files"):
        sample.build(tmp_path)
    assert (tmp_path / "thesis.tex").read_text() == "years of work"


def test_build_refuses_other_bytes(tmp_path, ready):
    _, manifest = ready
    manifest["files"]["swap/dev.tsv"]["sha256"] = "0" * 64
    with pytest.raises(RuntimeError, match=r"swap/dev\.tsv"):
        sample.build(tmp_path / "s")
    assert not any(tmp_path.iterdir()), "nothing is written"


def test_a_failure_leaves_nothing(tmp_path, ready, monkeypatch):
    monkeypatch.setattr(Path, "write_bytes", lambda *_: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        sample.build(tmp_path / "s")
    assert not any(tmp_path.iterdir())


def test_another_process_was_faster(tmp_path, ready):
    files, _ = ready
    for name, content in files.items():
        for folder in ("new", "s"):
            (tmp_path / folder / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / folder / name).write_bytes(content)
    sample._move(tmp_path / "new", tmp_path / "s", tmp_path / "old")
    assert sample.is_complete(tmp_path / "s")


def test_missing_gensim_names_the_extra(tmp_path, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ModuleNotFoundError, match=r'pip install "convbert\[sample\]"'):
        sample.build(tmp_path / "s")


def test_another_extract_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(wikitext, "EXTRACT_SHA256", "0" * 64)
    with pytest.raises(ValueError, match=r"not the extract of gensim 4\.4\.0"):
        sample.build(tmp_path / "s")


@pytest.mark.parametrize(
    ("paragraph", "sentences"),
    [
        ("One is here. Two is there.", ["One is here.", "Two is there."]),
        ("Dr. J. Smith has a U.S. visa. He left.", ["Dr. J. Smith has a U.S. visa.", "He left."]),
        ('He said "Go!" Then he left.', ['He said "Go!"', "Then he left."]),
        ("It costs 3.5 dollars. e.g. this", ["It costs 3.5 dollars. e.g. this"]),
        ("", []),
    ],
)
def test_split_sentences(paragraph, sentences):
    assert list(wikitext.split_sentences(paragraph)) == sentences


def test_markup_is_removed_or_the_sentence_dropped():
    markup = (
        "{{Infobox|a={{nested|b}}}}\n[[File:x.jpg|thumb|A [[linked]] caption.]]\n"
        "'''Tin''' ({{lang|la|stannum}}) is a [[metal|soft metal]].<ref name=\"a\">Book.</ref> "
        "It weighs {{convert|5|kg|lb}} at least here. It melts early.{{citation needed}}\n"
        '{| class="wikitable"\n| cell || cell\n|}\n== Heading ==\n'
        "* A list entry is here. It has two sentences.\n"
        "It was known (Greek: κασσίτερος) long ago. It has 10<sup>5</sup> uses today. "
        "It melts at low heat.{{citation needed|date=May}} [[Category:Metals]]\n"
    )
    assert wikitext._read_runs(wikitext._strip_markup(markup), set()) == [
        ["Tin (stannum) is a soft metal."],
        ["It was known long ago."],
        ["It melts at low heat."],
    ]


def test_bulgarian_is_clean_text_in_cyrillic():
    pages = wikitext.read_bulgarian()
    assert [len(paragraphs) for paragraphs in pages.values()] == [17, 10, 96]
    article, *_ = pages.values()
    assert article[0].startswith("Григорианският календар (понякога наричан и Грегориански")
    for paragraph in (line for page in pages.values() for line in page):
        assert len(paragraph.split(" ")) >= 8
        assert not re.search(r"[\[\]{}|<>\ue000]|//|''", paragraph), paragraph
        assert len(re.findall("[а-яА-Я]", paragraph)) > 0.5 * len(paragraph), paragraph
    opening = "„нов стил“) е съвременният международно признат светски календар, на"
    assert opening in article[0], "links and references are gone, their words are not"
    with pytest.raises(ValueError, match="not the extract"):
        wikitext.find_extract(wikitext.BULGARIAN, "0" * 64)
