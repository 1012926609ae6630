"""Published weights by name: where they are found on this machine, and what was found.

They are looked for in this order:

    weights/convbert-base/         in the folder CONVBERT_DATA, then in the cache; the names below
                                   without "YituTech/" are good folder names as well
    the cache of huggingface_hub   where transformers keeps its downloads
    the hub                        YituTech's repositories

No revision of these repositories is known here, so none is pinned by default: the one that was
found is printed with sizes and SHA-256, and `revision=` asks for it again.
"""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import TYPE_CHECKING

from convbert.config import ConvBertConfig
from convbert.data import hub, sources

if TYPE_CHECKING:
    from convbert.weights.reading import Checkpoint

# Our name of a size -> its repository on the hub. The encoders only: no head, no generator.
REPOSITORIES = {
    "convbert-small": "YituTech/conv-bert-small",
    "convbert-medium-small": "YituTech/conv-bert-medium-small",
    "convbert-base": "YituTech/conv-bert-base",
}
# What to fetch, and in which order the weights are preferred.
TEXTS = ("config.json", "vocab.txt", "tokenizer_config.json")
WEIGHTS = ("model.safetensors", "pytorch_model.bin", "model_state.pdparams")


def size_of(name: str | os.PathLike) -> str | None:
    """Return our name of a published size: "convbert-base" for "YituTech/conv-bert-base"."""
    for size, repository in REPOSITORIES.items():
        if str(name) in (size, repository, repository.split("/")[1]):
            return size
    return None


def find(name_or_dir: str | os.PathLike, revision: str | None = None) -> Path:
    """Return the directory of a checkpoint; of a published name, print what was found.

    Args:
        name_or_dir: a directory, the prefix of a TensorFlow checkpoint, or a published name.
        revision: commit of a published name on the hub; skips the folders without revisions.

    Raises:
        FileNotFoundError: neither; the message says which files belong where.
        ValueError: a revision of a directory.
    """
    from convbert.weights import tensorflow

    path, size = Path(name_or_dir).expanduser(), size_of(name_or_dir)
    is_prefix = not path.is_dir() and tensorflow.is_checkpoint(path)
    if path.is_dir() or is_prefix or size is None:
        if revision is not None:
            raise ValueError(f"revision={revision!r}: {path} is not a published name")
        if not (path.is_dir() or is_prefix):
            raise FileNotFoundError(
                f"{path} not found: give a directory, the prefix of a TensorFlow checkpoint, or "
                f"one of {', '.join(REPOSITORIES)}"
            )
        return path
    looked: list[str] = []
    folder = _in_folders(size, looked) if revision is None else None
    folder = folder or _on_hub(REPOSITORIES[size], revision, looked)
    if folder is None:
        raise FileNotFoundError(
            f"{size} not found; looked in {', '.join(looked)}. Put {TEXTS[0]}, {TEXTS[1]} and "
            f"{' or '.join(WEIGHTS[:2])} of huggingface.co/{REPOSITORIES[size]} into "
            f"weights/{size} in the folder CONVBERT_DATA"
        )
    _report(size, folder)
    return folder


def config_of(name_or_dir: str | os.PathLike, checkpoint: Checkpoint) -> ConvBertConfig:
    """Return a checkpoint's configuration; a published size needs no file for it."""
    size = size_of(name_or_dir)
    if size and not checkpoint.values and not Path(name_or_dir).is_dir():
        return ConvBertConfig.named(size)
    return checkpoint.config()


def vocabulary(name: str | os.PathLike) -> Path:
    """Return the file of BERT's uncased vocabulary, which all published sizes use.

    The one beside the published weights is not looked at: it is broken (see `tokenizer`).

    Raises:
        ValueError: not a published name.
        FileNotFoundError: it is nowhere on this machine, and the hub cannot be reached.
    """
    if size_of(name) is None:
        names = ", ".join(REPOSITORIES)
        raise ValueError(f"{str(name)!r} is neither a directory nor one of {names}")
    try:
        return sources.find("vocab", allow_sample=False).path
    except FileNotFoundError as error:
        place = f"vocab/{sources.LAYOUTS['vocab'].files['vocab']}"
        data = os.environ.get("CONVBERT_DATA") or "not set"
        raise FileNotFoundError(
            f"{name} needs BERT's uncased vocabulary: put it at {place} in the folder "
            f"CONVBERT_DATA ({data}); {error}"
        ) from None


def _has_weights(folder: Path) -> bool:
    return any((folder / name).is_file() for name in WEIGHTS)


def _in_folders(size: str, looked: list[str]) -> Path | None:
    """Look in CONVBERT_DATA and the cache; note in `looked` where there was nothing."""
    data = os.environ.get("CONVBERT_DATA")
    roots = {"CONVBERT_DATA": Path(data).expanduser() if data else None}
    repository = REPOSITORIES[size]
    for origin, root in {**roots, "cache": sources.cache_folder()}.items():
        if root is None:
            looked.append(f"{origin} (not set)")
            continue
        names = (size, repository.split("/")[1], repository)
        folders = [root / "weights" / name for name in names]
        for folder in filter(_has_weights, folders):
            return folder
        looked.append(f"{origin} ({folders[0]} has no weights)")
    return None


def _on_hub(repository: str, revision: str | None, looked: list[str]) -> Path | None:
    """Look in huggingface_hub's cache, then on the hub itself."""
    from huggingface_hub import snapshot_download

    reason = hub.why_unusable()
    for offline, origin in ((True, "huggingface_hub's cache"), (False, "hub")):
        if not offline and reason is not None:
            looked.append(f"{origin} ({reason})")
            continue
        try:
            for patterns in ([*TEXTS, WEIGHTS[0]], [*TEXTS, WEIGHTS[1]]):
                folder = Path(
                    snapshot_download(
                        repository,
                        revision=revision,
                        allow_patterns=patterns,
                        local_files_only=offline,
                    )
                )
                if _has_weights(folder):
                    return folder
            looked.append(f"{origin} (no weights in {folder})")
        except Exception as error:  # the network, the hub and its libraries raise anything
            looked.append(f"{origin} ({type(error).__name__})")
    return None


def _report(size: str, folder: Path) -> None:
    """Print where, which revision, and sizes and checksums of the files."""
    is_snapshot = folder.parent.name == "snapshots"
    revision = f"revision {folder.name}" if is_snapshot else "a folder without revision"
    print(f"weights: {size} from {folder}, {revision}")
    for name in (*TEXTS, *WEIGHTS):
        if (folder / name).is_file():
            print(f"  {describe(folder / name)}")


def describe(path: Path) -> str:
    """Return a file's name, size and SHA-256 in a line."""
    with open(path, "rb") as file:
        checksum = hashlib.sha256()
        while content := file.read(1 << 20):
            checksum.update(content)
    return f"{path.name}: {path.stat().st_size:,} bytes, sha256 {checksum.hexdigest()}"
