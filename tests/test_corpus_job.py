"""`convbert corpus`: the same shards however often it is killed and whoever does the work."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from convbert import cli
from convbert.data import corpus, shards, training_text
from convbert.data.corpus_job import CorpusConfig, make_corpus
from convbert.tokenizer import SPECIAL_TOKENS, ConvBertTokenizer

ROOT = Path(__file__).parents[1]
FIRST = len(SPECIAL_TOKENS)
NUMBERS = [f"w{i}" for i in range(60_000)]  # a word is a token; they count up through the text


@pytest.fixture(scope="module")
def vocab(tmp_path_factory) -> str:
    folder = tmp_path_factory.mktemp("vocab")
    ConvBertTokenizer([*SPECIAL_TOKENS, *NUMBERS]).save_pretrained(folder)
    return str(folder / "vocab.txt")


@pytest.fixture(scope="module")
def text(tmp_path_factory) -> Path:
    """A folder of three files: 60,000 numbered words in lines and documents of many lengths."""
    folder, draw, words = tmp_path_factory.mktemp("text"), random.Random(0), iter(NUMBERS)
    for name, count in (("b/2.txt", 30_000), ("1.txt", 29_990), ("c.txt", 10)):
        lines = []
        while count:
            if lines and draw.random() < 0.05:
                lines.append("")
            size = min(count, draw.choice((1, 3, 10, 20, 40)))
            lines.append(" ".join(next(words) for _ in range(size)))
            count -= size
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder


def make(output: Path, text: Path, vocab: str, **options) -> Path:
    values = dict(shard_mb=0.02, max_seq_length=32, workers=1, held_out=0.1)
    config = CorpusConfig(str(output), [str(text)], vocab_file=vocab, **{**values, **options})
    return make_corpus(config)


def content(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


@pytest.fixture(scope="module")
def made(tmp_path_factory, text, vocab) -> Path:
    """The corpus with the options of `make`; tests copy it before they change it."""
    return make(tmp_path_factory.mktemp("made"), text, vocab)


def copy(folder: Path, target: Path) -> Path:
    for name, data in content(folder).items():
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        (target / name).write_bytes(data)
    return target


def segments(folder: Path) -> Iterator[tuple[list[int], list[int], str]]:
    """Yield words of both segments of all examples, and the split, in the order of the text."""
    found = []
    for split in shards.SPLITS:
        examples = shards.Shards(folder, split, verify=True)
        for ids, types, n in zip(*examples.rows(np.arange(len(examples))), strict=True):
            assert ids[0] == 2 and ids[n - 1] == 3 and not ids[n:].any() and not types[n:].any()
            words = [
                [int(i) - FIRST for i in ids[:n][types[:n] == part] if i >= FIRST]
                for part in (0, 1)
            ]
            assert n == 2 + len(words[0]) + len(words[1]) + bool(words[1])
            found.append((*words, split))
    return iter(sorted(found))


# --- What is written --------------------------------------------------------------------------


def test_packing_keeps_what_fits(made: Path, text: Path):
    """Every word is in one example or counted as dropped; none crosses a document's end."""
    order = [text / "1.txt", text / "b/2.txt", text / "c.txt"]
    documents = [d for path in order for d in corpus.documents(path)]
    numbers = [[int(w[1:]) for line in d for w in line.split()] for d in documents]
    home = {word: number for number, words in enumerate(numbers) for word in words}
    examples = list(segments(made))
    kept = [word for first, second, _ in examples for word in [*first, *second]]
    manifest = shards.read_manifest(made)
    assert len(kept) == len(set(kept))
    assert len(kept) + sum(unit["dropped"] for unit in manifest["units"]) == 60_000
    assert len(kept) > 30_000 and any(second for _, second, _ in examples)
    sides: dict[int, set[str]] = {}
    for first, second, split in examples:
        for part in (first, second):
            assert part == sorted(part)
        assert len({home[word] for word in [*first, *second]}) == 1
        sides.setdefault(home[first[0]], set()).add(split)
    assert all(len(splits) == 1 for splits in sides.values()), "a document is on both sides"
    share = sum(splits == {"valid"} for splits in sides.values()) / len(sides)
    assert 0.07 < share < 0.13
    for split in shards.SPLITS:
        totals = manifest[split]
        assert totals["examples"] == len(shards.Shards(made, split))
        counts = shards.Shards(made, split).token_counts(FIRST + 60_000)
        assert totals["tokens"] == counts.sum()
        mine = [w for first, second, side in examples if side == split for w in first + second]
        assert (np.flatnonzero(counts[FIRST:]) == sorted(mine)).all()
        assert counts[FIRST:].max() == 1 and counts[2] == totals["examples"] and not counts[0]


def test_lines_rule_is_a_line_an_example(tmp_path: Path, text: Path, vocab: str):
    """The tokens of every line, cut to L: as the tokenizer itself does it."""
    folder = make(tmp_path, text, vocab, rule="lines", held_out=0.0)
    tokenizer = ConvBertTokenizer(vocab)
    paths = [text / "1.txt", text / "b/2.txt", text / "c.txt"]
    lines = [line for path in paths for line in path.read_text().splitlines() if line]
    wanted = tokenizer(lines, max_length=32, padding="max_length")
    found = shards.Shards(folder)
    ids, types, lengths = found.rows(np.arange(len(found)))
    assert ids.tolist() == wanted["input_ids"]
    assert lengths.tolist() == [sum(mask) for mask in wanted["attention_mask"]]
    assert not types.any()


def test_documents_may_flow_into_each_other(tmp_path: Path, text: Path, vocab: str):
    """Only files end; what is held out are examples."""
    folder = make(tmp_path, text, vocab, separate_documents=False, shard_mb=1)
    examples = list(segments(folder))
    short = [e for e in examples if len(e[0]) + len(e[1]) < 28]
    assert len(short) < 0.15 * len(examples)  # one in twenty, and what `held` cuts
    share = sum(split == "valid" for _, _, split in examples) / len(examples)
    assert 0.09 < share < 0.11


def test_units_are_packed_each_with_its_own_numbers(made: Path, tmp_path: Path, text, vocab):
    assert len(shards.read_manifest(made)["units"]) > 15
    other = make(tmp_path / "seed", text, vocab, seed=1)
    assert content(other)["train/shard-00003.bin"] != content(made)["train/shard-00003.bin"]
    for name in "ab":  # two units of the same text
        (tmp_path / "twice" / name).parent.mkdir(exist_ok=True)
        (tmp_path / "twice" / name).write_bytes((text / "1.txt").read_bytes())
    size = (text / "1.txt").stat().st_size / 1e6
    twice = content(make(tmp_path / "out", tmp_path / "twice", vocab, shard_mb=size, held_out=0.0))
    assert twice["train/shard-00000.bin"] != twice["train/shard-00001.bin"]


# --- Who does the work, and how often it is interrupted ---------------------------------------


@pytest.mark.parametrize("workers", [2, 3])
def test_any_number_of_processes_writes_the_same(tmp_path, text, vocab, made, workers):
    assert content(make(tmp_path, text, vocab, workers=workers)) == content(made)


def start(output: Path, text: Path, vocab: str, workers: int) -> subprocess.Popen:
    words = ["--output_dir", output, "--input", text, "--vocab_file", vocab, "--shard_mb", 0.02]
    words += ["--max_seq_length", 32, "--workers", workers, "--held_out", 0.1]
    return subprocess.Popen(
        [sys.executable, "-m", "convbert", "corpus", *map(str, words)],
        cwd=ROOT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )


def alive(group: int) -> list[str]:
    """Return the states of a group's processes, without those that only wait to be buried."""
    states = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, _, its_group = stat.read_text().rpartition(")")[2].split()[:3]
        except OSError:  # it has ended meanwhile
            continue
        if int(its_group) == group and state != "Z":
            states.append(state)
    return states


@pytest.mark.parametrize("workers", [1, 2])
def test_killed_and_continued_it_is_the_same(tmp_path, text, vocab, made, workers):
    draw, kept = random.Random(workers), []
    for _ in range(3):
        job = start(tmp_path, text, vocab, workers)
        progress = tmp_path / "progress.jsonl"
        before = progress.read_bytes().count(b"\n") if progress.exists() else 0
        more = before + draw.randint(1, 3)
        while job.poll() is None:
            if progress.exists() and progress.read_bytes().count(b"\n") > more:
                break
            time.sleep(0.002)
        job.send_signal(signal.SIGKILL)
        job.communicate()
        deadline = time.monotonic() + 20
        while alive(job.pid) and time.monotonic() < deadline:
            time.sleep(0.02)
        assert not alive(job.pid), "workers outlive the command"
        if job.returncode == 0:
            break  # it was quicker
        kept.append(progress.read_bytes().count(b"\n") - 1)
        assert not (tmp_path / "manifest.json").exists()
    assert kept and kept == sorted(kept)
    progress.write_bytes(progress.read_bytes() + b'{"unit": 3, "tr')  # as a kill leaves it
    (tmp_path / "train" / ".shard-00009.bin.77").write_bytes(b"torn")
    first = min((tmp_path / "train").glob("shard-*"), key=lambda path: path.stat().st_mtime_ns)
    written = first.stat().st_mtime_ns
    job = start(tmp_path, text, vocab, workers)
    _, errors = job.communicate(timeout=60)
    assert job.returncode == 0, errors.decode()
    assert content(tmp_path) == content(made)
    assert first.stat().st_mtime_ns == written, "a finished shard was made again"


def test_torn_shards_are_made_again(tmp_path: Path, text, vocab, made, capsys):
    """Also after the end, and only those."""
    folder = copy(made, tmp_path)
    paths = [shards.shard_path(folder, "train", unit) for unit in (2, 5, 8)]
    paths[0].write_bytes(paths[0].read_bytes()[:-7])
    data = bytearray(paths[1].read_bytes())
    data[100] ^= 4
    paths[1].write_bytes(data)
    paths[2].unlink()
    times = {p: p.stat().st_mtime_ns for p in (folder / "train").glob("shard-*") if p not in paths}
    make(folder, text, vocab)
    said = capsys.readouterr().out
    assert all(f"{path.name}: torn or changed" in said for path in paths)
    assert content(folder) == content(made)
    assert all(path.stat().st_mtime_ns == at for path, at in times.items())


def test_two_commands_at_once(tmp_path: Path, text, vocab, made):
    """The second waits, and finds everything done."""
    jobs = [start(tmp_path, text, vocab, 1) for _ in range(2)]
    for job in jobs:
        _, errors = job.communicate(timeout=60)
        assert job.returncode == 0, errors.decode()
    assert content(tmp_path) == content(made)


MEASURE = """
import resource, sys
from convbert.data.corpus_job import CorpusConfig, make_corpus
make_corpus(CorpusConfig(sys.argv[1], sys.argv[2:3], vocab_file=sys.argv[3], shard_mb=0.5,
                         workers=1))
print("peak", resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


def test_memory_does_not_grow_with_the_text(tmp_path: Path, vocab: str):
    """Six times the text, about the same peak; a program that gathers it needs 50 MB more."""
    peaks = []
    for megabytes in (1, 6):
        path = tmp_path / f"{megabytes}.txt"
        line = " ".join(NUMBERS[:12]) + "\n"
        with open(path, "w") as file:
            for number in range(megabytes * 1_000_000 // len(line)):
                file.write(line if number % 50 else "\n")
        words = [sys.executable, "-c", MEASURE, tmp_path / f"out{megabytes}", path, vocab]
        done = subprocess.run(map(str, words), cwd=ROOT, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        peaks.append(int(done.stdout.rpartition("peak")[2]) / 1024)
    assert peaks[1] < peaks[0] + 15, f"{peaks} MB"


# --- What is refused --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"seed": 3}, "seed is 42 there and 3 here"),
        ({"rule": "lines"}, "rule is electra there and lines here"),
        ({"max_seq_length": 64}, "max_seq_length is 32 there and 64 here"),
        ({"held_out": 0.2}, "held_out is 0.1 there and 0.2 here"),
        ({"separate_documents": False}, "separate_documents is True there and False here"),
        ({"do_lower_case": False}, "tokenizer is .* there and .* here"),
        ({"shard_mb": 0.03}, "source shard_bytes is 20000 there and 30000 here"),
    ],
)
def test_another_corpus_is_refused_by_name(made: Path, text, vocab, options, message):
    before = content(made)
    with pytest.raises(ValueError, match=f"holds another corpus: {message}"):
        make(made, text, vocab, **options)
    assert content(made) == before


def test_another_text_is_refused(tmp_path: Path, made: Path, text: Path, vocab: str):
    before = content(made)
    other = copy(text, tmp_path / "text")
    path = other / "c.txt"
    path.write_text(path.read_text().replace("w", "v", 1))
    with pytest.raises(ValueError, match="another corpus: source names_and_samples_sha256 is"):
        make(made, other, vocab)
    (other / "d.txt").write_text("more\n")
    with pytest.raises(ValueError, match="another corpus: source files is 3 there and 4 here"):
        make(made, other, vocab)
    assert content(made) == before
    same = copy(text, tmp_path / "moved")  # where the folder lies is no difference
    make(copy(made, tmp_path / "made"), same, vocab)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({}, "give either --input"),
        ({"input": ["a"], "dataset": "b"}, "give either --input"),
        ({"input": ["a"], "vocab_file": "v", "train_vocab": 9}, "either --vocab_file or"),
        ({"input": ["a"], "rule": "bert"}, "rule='bert': choose one of electra, lines"),
        ({"input": ["a"], "max_seq_length": 7}, "max_seq_length=7: must be 8 to 65535"),
        ({"input": ["a"], "held_out": 1.0}, "held_out=1.0: must be"),
        ({"input": ["a"], "shard_mb": 0.0}, "shard_mb=0.0: must be positive"),
        ({"input": ["a"], "workers": -1}, "workers=-1: must not be negative"),
    ],
)
def test_options_without_meaning(values, message):
    with pytest.raises(ValueError, match=message):
        CorpusConfig("out", **values)


@pytest.mark.parametrize("workers", [1, 2])
def test_text_that_is_not_utf8(tmp_path: Path, vocab, workers):
    path = tmp_path / "latin1.txt"
    path.write_bytes(b"w1 w2\n" * 500 + b"caf\xe9\n" + b"w1 w2\n" * 500)
    with pytest.raises(ValueError, match=r"latin1\.txt, line 501: not UTF-8 \(byte 3003"):
        make(tmp_path / "out", path, vocab, workers=workers, shard_mb=0.002)
    assert not list((tmp_path / "out").glob("*/.*"))
    assert not (tmp_path / "out" / "manifest.json").exists()


def test_text_without_examples(tmp_path: Path, vocab: str):
    path = tmp_path / "text.txt"
    for content in ("", "\n \n", "\x01\n"):
        path.write_text(content)
        with pytest.raises(ValueError, match=r"no text in .*text\.txt"):
            make(tmp_path / "out", path, vocab)
    path.write_text("w1 w2 w3\nw4\n")
    with pytest.raises(ValueError, match="a single document, which was held out: set held_out"):
        make(tmp_path / "out", path, vocab)
    make(tmp_path / "out", path, vocab, held_out=0.0)  # the folder can be used again
    assert len(shards.Shards(tmp_path / "out")) == 1
    assert len(shards.Shards(tmp_path / "out", "valid")) == 0


def test_the_command_complains_in_one_line(tmp_path: Path, vocab, capsys):
    words = ["corpus", "--output_dir", str(tmp_path / "out"), "--vocab_file", vocab, "--input"]
    assert cli.main([*words, str(tmp_path / "nowhere.txt")]) == 1
    error = capsys.readouterr().err
    assert error == f"convbert corpus: {tmp_path / 'nowhere.txt'}: no such file or folder\n"
    assert cli.main(["corpus", "--output_dir", "x"]) == 2
    assert "give either --input" in capsys.readouterr().err


def test_a_killed_worker_is_reported(tmp_path: Path, text, vocab):
    from convbert.data import processes

    with pytest.raises(ChildProcessError, match="if the memory was full, use fewer workers"):
        list(processes.each(Suicide(), "run", range(4), 2))


class Suicide:
    """Ends the process that it runs in, as the system does when the memory is full."""

    def run(self, number: int) -> None:
        os.kill(os.getpid(), signal.SIGKILL)


# --- Other sources and languages --------------------------------------------------------------


def test_a_data_set_of_the_datasets_library(tmp_path: Path, text: Path, vocab: str, made: Path):
    """A local one: rows are documents, files are units. The hub was not reached here."""
    folder = tmp_path / "data"
    folder.mkdir()
    for number in range(3):
        documents = [f"w{number * 100 + i} w{i}\n\nw7" for i in range(10)]
        rows = "".join(json.dumps({"body": d, "id": 1}) + "\n" for d in documents)
        (folder / f"part-{number}.jsonl").write_text(rows)
    options = dict(dataset=str(folder), text_column="body", vocab_file=vocab, max_seq_length=16)
    outputs = []
    for workers in (1, 2):
        output = tmp_path / f"out{workers}"
        make_corpus(CorpusConfig(str(output), held_out=0.1, workers=workers, **options))
        outputs.append(content(output))
    assert outputs[0] == outputs[1]
    found = shards.Shards(output), shards.Shards(output, "valid")
    assert sum(map(len, found)) == 30 and len(found[1]) in (2, 3, 4)
    words = found[0].rows(np.arange(2))[0] - FIRST
    assert words[:, [1, 2, 3]].tolist() == [[1, 1, 7], [2, 2, 7]]  # row 0 is held out
    with pytest.raises(ValueError, match=r"text_column='text': .* has the columns body, id"):
        make_corpus(CorpusConfig(str(output), **{**options, "text_column": "text"}))
    with pytest.raises(ValueError, match="dataset='no-such/thing': "):
        make_corpus(CorpusConfig(str(output), **{**options, "dataset": "no-such/thing"}))


# Articles 1, 3, 4 and 5 of the Universal Declaration of Human Rights, which is in the public
# domain, in the translations that the United Nations publish.
DECLARATION = {
    "turkish": (
        "Bütün insanlar hür, haysiyet ve haklar bakımından eşit doğarlar. Akıl ve vicdana "
        "sahiptirler ve birbirlerine karşı kardeşlik zihniyeti ile hareket etmelidirler.\n"
        "Yaşamak, hürriyet ve kişi emniyeti her ferdin hakkıdır.\n"
        "Hiç kimse kölelik veya kulluk altında bulundurulamaz; kölelik ve köle ticareti her türlü "
        "şekliyle yasaktır.\n"
        "Hiç kimse işkenceye, zalimane, gayriinsani, haysiyet kırıcı cezalara veya muamelelere "
        "tabi tutulamaz.\n"
    ),
    "german": (
        "Alle Menschen sind frei und gleich an Würde und Rechten geboren. Sie sind mit Vernunft "
        "und Gewissen begabt und sollen einander im Geist der Brüderlichkeit begegnen.\n"
        "Jeder hat das Recht auf Leben, Freiheit und Sicherheit der Person.\n"
        "Niemand darf in Sklaverei oder Leibeigenschaft gehalten werden; Sklaverei und "
        "Sklavenhandel in allen ihren Formen sind verboten.\n"
        "Niemand darf der Folter oder grausamer, unmenschlicher oder erniedrigender Behandlung "
        "oder Strafe unterworfen werden.\n"
    ),
    "chinese": (
        "人人生而自由，在尊严和权利上一律平等。他们赋有理性和良心，并应以兄弟关系的精神相对待。\n"
        "人人有权享有生命、自由和人身安全。\n"
        "任何人不得使为奴隶或奴役；一切形式的奴隶制度和奴隶买卖，均应予以禁止。\n"
        "任何人不得加以酷刑，或施以残忍的、不人道的或侮辱性的待遇或刑罚。\n"
    ),
}


@pytest.mark.filterwarnings("ignore:vocab_size=150")  # so short a text yields fewer entries
@pytest.mark.parametrize("language", DECLARATION)
def test_other_languages(tmp_path: Path, language: str):
    """A vocabulary of its own, cased; the text comes back but for blanks."""
    path = tmp_path / "text.txt"
    path.write_text(DECLARATION[language], encoding="utf-8")
    options = dict(train_vocab=150, do_lower_case=False, rule="lines", held_out=0.25)
    for _ in range(2):  # the second time with the vocabulary that the first one learned
        make_corpus(
            CorpusConfig(str(tmp_path / "out"), [str(path)], separate_documents=False, **options)
        )
    tokenizer = ConvBertTokenizer.from_pretrained(tmp_path / "out")
    assert not tokenizer.do_lower_case
    lines = []
    for split in ("valid", "train"):  # the first line is held out
        found = shards.Shards(tmp_path / "out", split)
        for ids, _, n in zip(*found.rows(np.arange(len(found))), strict=True):
            assert tokenizer.unk_token_id not in ids
            lines.append(tokenizer.decode(ids[1 : n - 1].tolist()).replace(" ", ""))
    assert lines == DECLARATION[language].replace(" ", "").splitlines()
    if language == "chinese":
        assert all(len(entry) == 1 for entry in tokenizer.vocabulary[FIRST:] if "##" not in entry)


def test_turkish_letters_need_cased_text():
    """Lower-casing makes I an i, which in Turkish is another letter: told in the help."""
    lowered = ConvBertTokenizer([*SPECIAL_TOKENS, "i", "ı", "İ", "I"])
    cased = ConvBertTokenizer(lowered.vocabulary, do_lower_case=False)
    assert [lowered.tokenize(letter) for letter in "Iıİ"] == [["i"], ["ı"], ["i"]]
    assert [cased.tokenize(letter) for letter in "Iıİ"] == [["I"], ["ı"], ["İ"]]


# --- For pretraining --------------------------------------------------------------------------


def test_a_folder_of_shards_is_opened(made: Path, vocab: str, tmp_path: Path):
    found = training_text.find(str(made))
    tokenizer = ConvBertTokenizer.from_pretrained(made)
    train, valid = training_text.open_training(found, tokenizer, 32, 0, tmp_path)
    assert train.fingerprint == shards.Shards(made).fingerprint
    assert valid.fingerprint == shards.Shards(made, "valid").fingerprint
    with pytest.raises(ValueError, match=r"max_seq_length=64: .* holds examples of 32"):
        training_text.open_training(found, tokenizer, 64, 0, tmp_path)
    other = ConvBertTokenizer(vocab, do_lower_case=False)
    with pytest.raises(ValueError, match="another vocabulary or lower-casing; leave vocab_file"):
        training_text.open_training(found, other, 32, 0, tmp_path)
    folder = copy(made, tmp_path / "torn")
    path = shards.shard_path(folder, "train", 1)
    path.write_bytes(path.read_bytes()[::-1])
    with pytest.raises(ValueError, match=r"shard-00001\.bin: torn or changed"):
        training_text.open_training(folder / "manifest.json", tokenizer, 32, 0, tmp_path)


def test_train_data_becomes_shards(tmp_path: Path, text: Path, vocab: str):
    """A text per line, blank lines or not; the second time they are there."""
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "train.data").write_bytes((text / "1.txt").read_bytes())
    tokenizer = ConvBertTokenizer(vocab)
    found = training_text.find(str(tmp_path / "in"))
    work = tmp_path / "out" / "corpus"
    train, valid = training_text.open_training(found, tokenizer, 32, 5, work)
    assert len(valid) == pytest.approx(0.01 * len(train), abs=2) and len(valid) > 0
    assert int(train.token_counts(60_005)[FIRST:].sum()) > 15_000
    times = {path: path.stat().st_mtime_ns for path in work.rglob("*.bin") if "shard" in path.name}
    again = training_text.open_training(found, tokenizer, 32, 5, work)
    assert [part.fingerprint for part in again] == [train.fingerprint, valid.fingerprint]
    assert all(path.stat().st_mtime_ns == at for path, at in times.items())


def test_text_files_are_packed_in_memory(tmp_path: Path, text: Path, vocab: str):
    tokenizer = ConvBertTokenizer(vocab)
    with pytest.raises(FileNotFoundError, match="nor shards of convbert corpus"):
        training_text.find(str(tmp_path))
    (tmp_path / "train.txt").write_bytes((text / "1.txt").read_bytes())
    with pytest.raises(FileNotFoundError, match=r"valid\.txt not found"):
        training_text.find(str(tmp_path))
    (tmp_path / "valid.txt").write_bytes((text / "c.txt").read_bytes())
    found = training_text.find(str(tmp_path))
    train, valid = training_text.open_training(found, tokenizer, 32, 5, tmp_path / "no")
    assert train.fingerprint == corpus.pack_file(text / "1.txt", tokenizer, 32, 5).fingerprint
    assert len(valid) == 1
    (tmp_path / "train.data").write_text("w1\n")  # comes first
    assert training_text.find(str(tmp_path)).name == "train.data"


def test_the_command_does_not_load_paddle():
    code = "import sys, convbert.data.corpus_job; sys.exit('paddle' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0
