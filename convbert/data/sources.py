"""Where data are found: CONVBERT_DATA, then the cache, then the hub, then the embedded sample.

The folder named by the environment variable CONVBERT_DATA and the cache have one layout:

    glue/SST-2/train.tsv       official GLUE files, a folder per task
    glue/diagnostic/           the diagnostic set, diagnostic.tsv
    squad/train-v1.1.json      official SQuAD files
    text/train.txt, valid.txt  text to pretrain on: a sentence or paragraph per line,
                               a blank line between documents
    vocab/bert-base-uncased-vocab.txt

The cache is the folder in CONVBERT_CACHE, by default ~/.cache/convbert. The sample is made there
on first use; it stands in for data of the same shape under its own name, never under theirs.
The path through the hub could not be run where this was written: see `hub`.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from convbert.data import glue, hub, sample


@dataclass(frozen=True)
class Source:
    """Data that were found."""

    name: str  # what they are: "sst-2", or "sample/swap" if that stands in
    origin: str  # CONVBERT_DATA, cache, hub or sample
    path: Path  # the folder; of vocab and wikitext2-valid the file
    note: str  # where they come from, in a few words

    def file(self, split: str) -> Path:
        """Return the file of a split."""
        layout = LAYOUTS[self.name]
        if split not in layout.files:
            raise ValueError(f"split={split!r}: {self.name} has {', '.join(layout.files)}")
        return self.path if layout.is_file else self.path / layout.files[split]


@dataclass(frozen=True)
class Layout:
    """Where the files of a data set lie, and what to do without them."""

    folder: str
    files: Mapping[str, str]  # file names by split
    needed: tuple[str, ...]  # splits that must be there unless others are asked for
    note: str
    stand_in: str | None = None  # the sample set of the same shape
    on_hub: bool = False
    is_file: bool = False


def _glue_layout(task: str) -> Layout:
    table = glue.TASKS[task]
    single = all(split.text_b is None for split in table.splits.values())
    return Layout(
        f"glue/{table.folder}",
        {split: glue.file_name(task, split) for split in table.splits},
        needed=("test",) if task == "ax" else ("train", glue.resolve_split(task, "dev")),
        note="GLUE benchmark",
        stand_in=None if task == "ax" else "sample/swap" if single else "sample/order",
        on_hub=True,
    )


def _squad_layout(version: str) -> Layout:
    files = {split: f"{split}-v{version}.json" for split in ("train", "dev")}
    note = f"SQuAD {version}, CC BY-SA 4.0"
    return Layout("squad", files, ("train", "dev"), note, stand_in="sample/cloze", on_hub=True)


def _sample_layout(name: str, files: dict[str, str]) -> Layout:
    return Layout(
        f"{sample.FOLDER}/{name}", files, tuple(files), note="Wikipedia, CC BY-SA, from gensim"
    )


_TSV = {"train": "train.tsv", "dev": "dev.tsv"}
_TEXT = {"train": "train.txt", "valid": "valid.txt"}

LAYOUTS: Mapping[str, Layout] = MappingProxyType(
    {
        "text": Layout("text", _TEXT, ("train",), "your own text", stand_in="sample/text"),
        "wikitext2-valid": Layout(
            "text",
            {"valid": "wikitext2-valid.txt"},
            ("valid",),
            "WikiText-2 validation text, CC BY-SA",
            is_file=True,
        ),
        "vocab": Layout(
            "vocab",
            {"vocab": "bert-base-uncased-vocab.txt"},
            ("vocab",),
            "BERT's uncased vocabulary, Apache-2.0",
            on_hub=True,
            is_file=True,
        ),
        **{task: _glue_layout(task) for task in glue.TASKS if not task.startswith("sample/")},
        **{f"squad-v{version}": _squad_layout(version) for version in ("1.1", "2.0")},
        "sample/text": _sample_layout("text", _TEXT),
        "sample/swap": _sample_layout("swap", _TSV),
        "sample/order": _sample_layout("order", _TSV),
        "sample/cloze": _sample_layout("cloze", {"train": "train.json", "dev": "dev.json"}),
    }
)


def find(name: str, splits: Iterable[str] | None = None, allow_sample: bool = True) -> Source:
    """Find data and print one line that says which.

    Args:
        name: a key of `LAYOUTS`, such as "sst-2", "squad-v1.1", "text" or "sample/swap".
        splits: the splits that must be there; by default train and dev, of text only train.
        allow_sample: whether the sample's set of the same shape may stand in.

    Returns:
        The source; if the sample stands in, its name is that of the sample's set.

    Raises:
        ValueError: unknown name or split.
        FileNotFoundError: CONVBERT_DATA names no folder, or the data are nowhere.
        ModuleNotFoundError: only the sample is left, and gensim is missing.
    """
    if name not in LAYOUTS:
        raise ValueError(f"name={name!r}: choose one of {', '.join(LAYOUTS)}")
    data = _data_folder()
    if name.startswith("sample/"):
        return _report(_find_sample(name))
    layout = LAYOUTS[name]
    wanted = _wanted_files(name, splits)
    looked: list[str] = []
    for origin, root in (("CONVBERT_DATA", data), ("cache", cache_folder())):
        if root is None:
            looked.append(f"{origin} (not set)")
            continue
        missing = [file for file in wanted if not (root / layout.folder / file).is_file()]
        if not missing:
            return _report(_found(name, origin, root))
        looked.append(f"{origin} ({root / layout.folder} lacks {', '.join(missing)})")
    if layout.on_hub:
        reason = _try_hub(name, wanted)
        if reason is None:
            return _report(_found(name, "hub", cache_folder()))
        looked.append(f"hub ({reason})")
    where = f"{name} not found; looked in {', '.join(looked)}"
    if layout.stand_in is None or not allow_sample:
        raise FileNotFoundError(where)
    return _report(_find_sample(layout.stand_in, where), where)


def cache_folder() -> Path:
    """Return the folder for downloads and the sample; it need not exist."""
    return Path(os.environ.get("CONVBERT_CACHE") or "~/.cache/convbert").expanduser()


def _data_folder() -> Path | None:
    """Return the folder in CONVBERT_DATA, None if the variable is not set or empty."""
    value = os.environ.get("CONVBERT_DATA")
    if not value:
        return None
    folder = Path(value).expanduser()
    if not folder.is_dir():
        raise FileNotFoundError(f"CONVBERT_DATA={value} is not a folder; correct it or unset it")
    return folder


def _wanted_files(name: str, splits: Iterable[str] | None) -> list[str]:
    """Return the names of the files that must be there."""
    layout = LAYOUTS[name]
    if splits is None:
        return [layout.files[split] for split in layout.needed]
    if name in glue.TASKS:
        splits = [glue.resolve_split(name, split) for split in splits]
    splits = list(splits)
    unknown = [split for split in splits if split not in layout.files]
    if unknown or not splits:
        raise ValueError(f"splits={splits}: {name} has {', '.join(layout.files)}")
    return [layout.files[split] for split in splits]


def _found(name: str, origin: str, root: Path) -> Source:
    layout = LAYOUTS[name]
    path = root / layout.folder
    if layout.is_file:
        path /= next(iter(layout.files.values()))
    return Source(name, origin, path, layout.note)


def _try_hub(name: str, wanted: list[str]) -> str | None:
    """Download into the cache; return why that failed, None if it did not."""
    folder = cache_folder() / LAYOUTS[name].folder
    reason = hub.why_unusable()
    if reason is not None:
        return reason
    try:
        hub.download(name, folder)
    except Exception as error:  # the network, the hub and its libraries raise anything
        return f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
    missing = [file for file in wanted if not (folder / file).is_file()]
    return f"it lacks {', '.join(missing)}" if missing else None


def _find_sample(name: str, before: str = "") -> Source:
    """Make the sample if it is not in the cache, and return one of its sets."""
    try:
        sample.build(cache_folder() / sample.FOLDER)
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError("; ".join(filter(None, [before, str(error)]))) from None
    return _found(name, "sample", cache_folder())


def _report(source: Source, instead: str = "") -> Source:
    """Print the choice in one line."""
    reason = f"; {instead}" if instead else ""
    print(f"data: {source.name} from {source.origin} ({source.path}){reason}")
    return source
