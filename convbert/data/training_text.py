"""What a folder to pretrain on holds: token shards, or text that is turned into examples here."""

from __future__ import annotations

from pathlib import Path

from convbert.data import corpus, corpus_job, shards, sources
from convbert.tokenizer import ConvBertTokenizer

# In this order: finished shards, one text per line without documents, and a pair of text files.
FORMS = (shards.MANIFEST, "train.data", "train.txt")
_VERIFIED_BYTES = 4 << 30  # shards larger than this are not read once just to check them


def find(input_dir: str) -> Path:
    """Return the file that says what a folder holds: one of `FORMS`.

    Args:
        input_dir: the folder; empty: where the data README says, or the embedded sample.

    Raises:
        FileNotFoundError: the folder holds nothing to pretrain on.
    """
    folder = Path(input_dir) if input_dir else sources.find("text").path
    for name in FORMS:
        if (folder / name).is_file():
            break
    else:
        raise FileNotFoundError(
            f"{folder / 'train.txt'} not found (a sentence per line, a blank line between "
            "documents), nor train.data (a text per line), nor shards of convbert corpus"
        )
    if name == "train.txt" and not (folder / "valid.txt").is_file():
        raise FileNotFoundError(f"{folder / 'valid.txt'} not found: held-out text for train.txt")
    return folder / name


def open_training(
    found: Path, tokenizer: ConvBertTokenizer, length: int, seed: int, work_dir: Path
) -> tuple[corpus.Examples, corpus.Examples]:
    """Return the examples to train on, and the held-out ones.

    Args:
        found: what `find` returned.
        tokenizer: of the run; shards must be made with the same.
        length: L; shards must have the same.
        seed: of packing; shards keep theirs.
        work_dir: gets the shards of a `train.data`, in which a hundredth of the examples is held
            out. The same call again finds them there, and processes may call at the same time.

    Raises:
        ValueError: no text, or shards that do not fit.
    """
    if found.name == "train.txt":
        files = (found, found.with_name("valid.txt"))
        train, valid = (corpus.pack_file(file, tokenizer, length, seed) for file in files)
        return train, valid
    folder = found.parent
    if found.name == "train.data":
        config = corpus_job.CorpusConfig(
            output_dir=str(work_dir),
            input=[str(found)],
            max_seq_length=length,
            separate_documents=False,
            seed=seed,
        )
        folder = corpus_job.make_corpus(config, tokenizer)
    return _open_shards(folder, tokenizer, length)


def _open_shards(
    folder: Path, tokenizer: ConvBertTokenizer, length: int
) -> tuple[shards.Shards, shards.Shards]:
    """Open both splits, if they are whole and made for this tokenizer and length."""
    manifest = shards.read_manifest(folder)
    if manifest["tokenizer"] != tokenizer.fingerprint:
        raise ValueError(
            f"{folder} was made with another vocabulary or lower-casing; leave vocab_file empty to "
            "use the shards' own"
        )
    if manifest["max_seq_length"] != length:
        raise ValueError(
            f"max_seq_length={length}: {folder} holds examples of {manifest['max_seq_length']}"
        )
    if not manifest["valid"]["examples"]:
        raise ValueError(f"{folder} holds no held-out text; make it with --held_out 0.01")
    size = sum(manifest[split]["bytes"] for split in shards.SPLITS)
    verify = size <= _VERIFIED_BYTES
    train, valid = (shards.Shards(folder, split, verify) for split in shards.SPLITS)
    print(f"{folder}: {size / 1e6:,.1f} MB, {'every byte' if verify else 'sizes'} checked")
    return train, valid
