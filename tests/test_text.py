"""Text as lines: wherever a corpus is cut, every line is read once, and documents stay whole."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from convbert.data import text

BLANKS = ["", " ", "\t \u3000", "\x0b"]
LINES = st.lists(
    st.one_of(st.sampled_from(BLANKS), st.text("aé漢 İ", min_size=1, max_size=12)), max_size=60
)


def documents(lines) -> list[list[str]]:
    """Gather lines into documents."""
    found: list[list[str]] = [[]]
    for line in lines:
        found[-1].append(line) if line else found.append([])
    return [document for document in found if document]


def write(path: Path, content: str) -> Path:
    path.write_bytes(content.encode())
    return path


@given(LINES, st.sampled_from(["\n", "\r\n"]), st.integers(1, 90), st.booleans())
@settings(max_examples=300, deadline=None)
def test_parts_share_out_the_lines(tmp_path_factory, lines, end, size, separate):
    """A document is cut only where it is longer than a part."""
    path = write(tmp_path_factory.getbasetemp() / "parts.txt", end.join(lines))
    whole = [line.strip() for line in lines]
    parts = [
        list(text.lines(*piece, separate=separate, reach=size))
        for unit in text.cut([text.TextFile("t", str(path), path.stat().st_size)], size)
        for piece in unit
    ]
    assert [line for part in parts for line in part if line] == [line for line in whole if line]
    if not separate:
        assert all("" not in part[:-1] for part in parts)
        return
    found, wanted = [d for part in parts for d in documents(part)], documents(whole)
    for document in wanted:
        if len(end.join(document).encode()) + len(end) <= size:
            assert document in found
    assert len(found) >= len(wanted)


def test_long_documents_are_cut_at_lines(tmp_path: Path):
    path = write(tmp_path / "long.txt", "one line\n" * 100)  # 900 bytes, no blank line
    parts = [list(text.lines(path, start, start + 90, reach=90)) for start in range(0, 900, 90)]
    assert [len(part) for part in parts] == [11] * 8 + [
        21,
        1,
    ]  # the file ends within reach of the last


def test_files_are_laid_end_to_end(tmp_path: Path):
    sizes = [5, 0, 12, 3, 7]
    files = [text.TextFile(str(i), f"f{i}", size) for i, size in enumerate(sizes)]
    units = list(text.cut(files, 10))
    assert units == [
        [("f0", 0, 5), ("f2", 0, 5)],
        [("f2", 5, 12), ("f3", 0, 3)],
        [("f4", 0, 7)],
    ]
    assert list(text.cut([], 10)) == []


def test_every_file_ends_a_document(tmp_path: Path):
    path = write(tmp_path / "a.txt", "one\n\ntwo\nthree")
    assert list(text.lines(path, separate=False)) == ["one", "two", "three", ""]
    assert list(text.lines(path)) == ["one", "", "two", "three", ""]


@pytest.mark.parametrize("word", ["word ", "漢", "é"])
def test_a_line_without_end_is_read_in_parts(tmp_path: Path, monkeypatch, word):
    monkeypatch.setattr(text, "LINE_BYTES", 64)
    content = word * 100 + "last"
    path = write(tmp_path / "one.txt", content + "\nnext\n")
    found = list(text.lines(path))
    assert len(found) > 4 and all(len(line.encode()) <= 64 for line in found)
    assert "".join(found[:-2]).replace(" ", "") == content.replace(" ", "")
    assert found[-2:] == ["next", ""]
    if word == "word ":
        assert {w for line in found[:-2] for w in line.split()} == {"word", "last"}


@pytest.mark.parametrize("bad", [b"\xff", b"caf\xe9", "é".encode()[:1]])
def test_what_is_not_utf8_is_named(tmp_path: Path, monkeypatch, bad):
    monkeypatch.setattr(text, "LINE_BYTES", 64)  # also where the lines are counted in blocks
    path = tmp_path / "bad.txt"
    before = "première ligne\n" * 20
    path.write_bytes(before.encode() + bad + b"\nmore\n")
    offset = len(before.encode()) + len(bad) - 1
    with pytest.raises(ValueError, match=rf"bad\.txt, line 21: not UTF-8 \(byte {offset} of"):
        list(text.lines(path))


def test_finding_files(tmp_path: Path):
    for name in ("b.txt", "a/z.txt", "a/.hidden", ".git/x", "out/train/shard.bin", "a/ü.txt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        write(tmp_path / name, name)
    found = text.find_files([str(tmp_path), str(tmp_path / "b.txt")], tmp_path / "out")
    assert [file.name for file in found] == ["a/z.txt", "a/ü.txt", "b.txt", "b.txt"]
    assert [file.size for file in found] == [7, 8, 5, 5]
    with pytest.raises(FileNotFoundError, match="nowhere: no such file or folder"):
        text.find_files([str(tmp_path / "nowhere")], tmp_path / "out")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="empty: no files in this folder"):
        text.find_files([str(tmp_path / "empty")], tmp_path / "out")


@pytest.mark.parametrize("whole", [1 << 24, 1 << 17])
def test_fingerprint_is_of_names_and_content(whole: int, tmp_path: Path, monkeypatch):
    """Of a file above a size, only of its two ends."""
    monkeypatch.setattr(text, "_WHOLE_BYTES", whole)
    path = tmp_path / "a.txt"

    def fingerprint(content: bytes, name: str = "a.txt") -> str:
        path.write_bytes(content)
        return text.fingerprint([text.TextFile(name, str(path), len(content))])

    big = b"x" * 300_000
    variants = [big, b"y" + big[1:], big[:-1] + b"y", big + b"x"]
    assert len({*map(fingerprint, variants), fingerprint(big, "b.txt")}) == 5
    middle = big[:150_000] + b"y" + big[150_001:]
    assert fingerprint(big) == fingerprint(big)
    assert (fingerprint(middle) == fingerprint(big)) == (len(big) > whole)
