"""Downloads from the Hugging Face hub, at pinned revisions, written in the official file layout.

No machine of this project has reached the hub: these functions are tested with stand-ins for it.
Every file must have the official number of rows, or nothing is kept. Columns that no reader here
uses hold "-"; tabs and line ends inside a text become spaces.
"""

from __future__ import annotations

import functools
import hashlib
import itertools
import json
import os
import queue
import re
import tempfile
import threading
import urllib.error
import urllib.request
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from convbert.data import glue

if TYPE_CHECKING:
    from datasets import Dataset

PROBE_SECONDS = 3.0


class Repository(NamedTuple):
    """A repository on the hub, at a revision that never changes."""

    path: str
    revision: str


GLUE = Repository("nyu-mll/glue", "bcdcba79d07bc864c1c254ccfcedcce55bcc9a8c")
SQUAD = {
    "squad-v1.1": Repository("rajpurkar/squad", "7b6d24c440a36b6815f21b70d25016731768db1f"),
    "squad-v2.0": Repository("rajpurkar/squad_v2", "3ffb306f725f7d2ce8394bc1873b24868140c412"),
}
SQUAD_QUESTIONS = {"squad-v1.1": (87_599, 10_570), "squad-v2.0": (130_319, 11_873)}
VOCABULARY = Repository("google-bert/bert-base-uncased", "86b5e0934494bd15c9632b12f734a8a67f723594")
VOCABULARY_SHA256 = "07eced375cec144d27c900241f3e339478dec958f92fddbc551f295c992038a3"


def why_unusable() -> str | None:
    """Return why the hub cannot be used, or None; takes at most a few seconds, once."""
    for variable in ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE"):
        if os.environ.get(variable, "").lower() in ("1", "true", "yes", "on"):
            return f"{variable} is set"
    endpoint = os.environ.get("HF_ENDPOINT") or "https://huggingface.co"
    return None if _answers(endpoint) else f"{endpoint} does not answer"


@functools.cache
def _answers(endpoint: str) -> bool:
    """Ask once per process; a thread, because looking up a name knows no timeout."""
    answers: queue.SimpleQueue[bool] = queue.SimpleQueue()

    def ask() -> None:
        request = urllib.request.Request(endpoint, method="HEAD")
        try:
            urllib.request.urlopen(request, timeout=PROBE_SECONDS).close()
            answers.put(True)
        except urllib.error.HTTPError:
            answers.put(True)  # an error page, but from a server
        except Exception:  # no route, no name, refused, no HTTP, bad address: no answer
            answers.put(False)

    threading.Thread(target=ask, daemon=True).start()
    try:
        return answers.get(timeout=PROBE_SECONDS)
    except queue.Empty:
        return False


def download(name: str, folder: Path) -> None:
    """Fetch all files of a data set into a folder, each of them whole.

    Args:
        name: a GLUE task, squad-v1.1, squad-v2.0 or vocab.
        folder: gets the files; made if it does not exist.

    Raises:
        ValueError: what came is not what was expected.
        Exception: whatever the download raises.
    """
    make: Callable[[str, Path], None]
    if name == "vocab":
        make = _make_vocabulary
    else:
        make = _make_squad if name in SQUAD else _make_glue
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder, prefix=".download-") as temporary:
        make(name, Path(temporary))
        for file in sorted(Path(temporary).iterdir()):
            os.replace(file, folder / file.name)


def _make_glue(name: str, folder: Path) -> None:
    from datasets import load_dataset

    task = glue.TASKS[name]
    config = name.replace("-", "")
    splits = load_dataset(GLUE.path, config, revision=GLUE.revision)
    for split, layout in task.splits.items():
        rows = splits[split.replace("dev", "validation")]
        lines = _to_lines(rows, task, layout)
        _expect(f"{name} {split}", layout.rows, len(lines) - layout.header)
        _write(folder / glue.file_name(name, split), "\n".join(lines) + "\n")


def _to_lines(rows: Dataset, task: glue.Task, layout: glue.Split) -> list[str]:
    """Return the lines of a TSV: the texts come first in the hub's rows, then the label."""
    to_word: Callable[[float], str] = str
    if task.labels is None:
        to_word = "{:.3f}".format
    elif task.labels != glue.BINARY:
        to_word = rows.features["label"].int2str
    places = [place for place in (layout.text_a, layout.text_b) if place is not None]
    lines = []
    if layout.header:
        titles = ["-"] * layout.columns
        for number, place in enumerate(places, start=1):
            titles[place] = f"sentence{number}" if len(places) > 1 else "sentence"
        if layout.label is not None:
            titles[layout.label] = "label"
        lines.append("\t".join(titles))
    for row in rows:
        fields = ["-"] * layout.columns
        texts = [value for key, value in row.items() if key not in ("label", "idx")]
        for place, text in zip(places, texts, strict=True):
            fields[place] = re.sub(r"[\t\r\n]", " ", text)
        if layout.label is not None:
            fields[layout.label] = to_word(row["label"])
        lines.append("\t".join(fields))
    return lines


def _make_squad(name: str, folder: Path) -> None:
    from datasets import load_dataset

    version = name.removeprefix("squad-")
    label = {"v1.1": "1.1", "v2.0": "v2.0"}[version]  # as the official files have it
    splits = load_dataset(SQUAD[name].path, revision=SQUAD[name].revision)
    files = {"train": splits["train"], "dev": splits["validation"]}
    for (split, rows), questions in zip(files.items(), SQUAD_QUESTIONS[name], strict=True):
        _expect(f"{name} {split}", questions, len(rows))
        content = {"version": label, "data": _nest(rows, version == "v2.0")}
        _write(folder / f"{split}-{version}.json", json.dumps(content, ensure_ascii=False))


def _nest(rows: Iterable[dict], may_be_impossible: bool) -> list[dict]:
    """Gather the hub's flat rows into articles, paragraphs and questions."""
    data = []
    for title, article in itertools.groupby(rows, key=lambda row: row["title"]):
        paragraphs = []
        for context, questions in itertools.groupby(article, key=lambda row: row["context"]):
            qas = [_question(row, may_be_impossible) for row in questions]
            paragraphs.append({"context": context, "qas": qas})
        data.append({"title": title, "paragraphs": paragraphs})
    return data


def _question(row: dict, may_be_impossible: bool) -> dict:
    found = zip(row["answers"]["text"], row["answers"]["answer_start"], strict=True)
    answers = [{"text": text, "answer_start": start} for text, start in found]
    question = {"id": row["id"], "question": row["question"], "answers": answers}
    return {**question, "is_impossible": not answers} if may_be_impossible else question


def _make_vocabulary(_: str, folder: Path) -> None:
    from huggingface_hub import hf_hub_download

    file = Path(hf_hub_download(VOCABULARY.path, "vocab.txt", revision=VOCABULARY.revision))
    content = file.read_bytes()
    if hashlib.sha256(content).hexdigest() != VOCABULARY_SHA256:
        raise ValueError("the vocabulary's checksum is not the expected one")
    (folder / "bert-base-uncased-vocab.txt").write_bytes(content)


def _expect(what: str, expected: int, found: int) -> None:
    if expected != found:
        raise ValueError(f"{what}: expected {expected} rows, found {found}")


def _write(file: Path, text: str) -> None:
    file.write_bytes(text.encode())
