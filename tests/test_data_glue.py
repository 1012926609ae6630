"""Reading GLUE's files and the sample sets: real files, small files of every task, broken files."""

import os
import warnings
from pathlib import Path

import pytest

from convbert.data import glue
from convbert.data.glue import Example
from convbert.data.sources import Source
from convbert.metrics.glue import METRICS

OFFICIAL = [
    (task, split, layout.rows)
    for task, table in glue.TASKS.items()
    if not task.startswith("sample/")
    for split, layout in table.splits.items()
]


def write(folder: Path, split: str, lines: list[str], end: str = "\n") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{split}.tsv").write_bytes("".join(line + end for line in lines).encode())
    return folder


# The files made here are short, and `read` says so.
pytestmark = pytest.mark.filterwarnings(r"ignore:.*expected \d+ rows, found")


@pytest.mark.parametrize(("task", "split", "rows"), OFFICIAL)
def test_official_files(task, split, rows):
    data = os.environ.get("CONVBERT_DATA")
    if not data:
        pytest.skip("needs CONVBERT_DATA")
    folder = Path(data) / "glue" / glue.TASKS[task].folder
    if not (folder / glue.file_name(task, split)).is_file():
        pytest.skip("needs CONVBERT_DATA")
    examples = glue.read(folder, task, split, whole=True)
    assert len(examples) == rows
    layout, labels = glue.TASKS[task].splits[split], glue.TASKS[task].labels
    assert all(e.text_a.strip() for e in examples)
    assert all((e.text_b is None) == (layout.text_b is None) for e in examples)
    found = {e.label for e in examples}
    if layout.label is None:
        assert found == {None}
    elif labels is not None:
        assert found == set(range(len(labels)))


def test_official_rows_are_the_right_ones():
    data = os.environ.get("CONVBERT_DATA")
    if not data:
        pytest.skip("needs CONVBERT_DATA")
    root = Path(data) / "glue"
    assert glue.read(root / "CoLA", "cola", "dev")[0] == Example(
        "The sailors rode the breeze clear of the rocks.", None, 1
    )
    assert glue.read(root / "SST-2", "sst-2", "dev")[0] == Example(
        "it 's a charming and often affecting journey . ", None, 1
    )
    rte = glue.read(root / "RTE", "rte", "dev")[0]
    assert rte.text_b == "Christopher Reeve had an accident." and rte.label == 1
    assert glue.read(root / "STS-B", "sts-b", "dev")[0].label == 5.0
    # MRPC begins with a byte order mark and is full of quotation marks.
    mrpc = glue.read(root / "MRPC", "mrpc", "dev")[0]
    assert mrpc.text_b.startswith('" The foodservice') and mrpc.label == 1


@pytest.mark.parametrize(("task", "split", "_"), OFFICIAL)
def test_columns_of_every_task(tmp_path, task, split, _):
    """A line whose fields are numbered shows which columns are read."""
    table = glue.TASKS[task]
    layout = table.splits[split]
    fields = [f"field {i}" for i in range(layout.columns)]
    if layout.label is not None:
        fields[layout.label] = table.labels[-1] if table.labels else "3.800"
    header = ["\t".join("h" * layout.columns)] if layout.header else []
    write(tmp_path, glue.file_name(task, split)[:-4], [*header, "\t".join(fields)])
    (example,) = glue.read(tmp_path, task, split)
    assert example.text_a == f"field {layout.text_a}"
    assert example.text_b == (None if layout.text_b is None else f"field {layout.text_b}")
    last = len(table.labels) - 1 if table.labels else 3.8
    assert example.label == (None if layout.label is None else last)


def test_the_table():
    for task, table in glue.TASKS.items():
        metrics = ("accuracy",) if task.startswith("sample/") else METRICS[task]
        assert table.metrics == metrics
        for layout in table.splits.values():
            places = [p for p in (layout.text_a, layout.text_b, layout.label) if p is not None]
            assert len(set(places)) == len(places) and max(places) < layout.columns
    with pytest.raises(TypeError):
        glue.TASKS["cola"] = None
    with pytest.raises(TypeError):
        glue.TASKS["cola"].splits["dev"] = None


def test_only_the_line_end_is_stripped(tmp_path):
    rows = ["sentence\tlabel", " spaces stay \t1", '"a quote\u2028 opens\r\x0b\t0', "nbsp\u00a0\t1"]
    expected = [(" spaces stay ", 1), ('"a quote\u2028 opens\r\x0b', 0), ("nbsp\u00a0", 1)]
    for end in ("\n", "\r\n"):
        write(tmp_path, "dev", rows, end)
        assert [(e.text_a, e.label) for e in glue.read(tmp_path, "sst-2", "dev")] == expected


def test_an_empty_last_field_does_not_vanish(tmp_path):
    write(tmp_path, "test", ["index\tsentence1\tsentence2", "0\tone\t"])
    assert glue.read(tmp_path, "rte", "test") == [Example("one", "", None)]


def test_byte_order_mark_and_missing_final_line_end(tmp_path):
    (tmp_path / "dev.tsv").write_bytes(b"\xef\xbb\xbfgj04\t1\t\tFine .\ngj04\t0\t*\tBad .")
    assert glue.read(tmp_path, "cola", "dev") == [("Fine .", None, 1), ("Bad .", None, 0)]


@pytest.mark.parametrize(
    ("task", "lines", "message"),
    [
        (
            "sst-2",
            ["sentence\tlabel", "fine\t1", "bad"],
            r"dev\.tsv, line 3: expected 2 .* found 1",
        ),
        ("sst-2", ["sentence\tlabel", "a\tb\t1"], r"dev\.tsv, line 2: expected 2 .* found 3"),
        ("sst-2", ["sentence\tlabel", "fine\t1", ""], r"dev\.tsv, line 3: expected 2 .* found 1"),
        ("sst-2", ["index\tsentence\tlabel"], r"dev\.tsv, line 1: expected 2 .* found 3"),
        ("sst-2", ["sentence\tlabel", "fine\t2"], r"dev\.tsv, line 2: .* 0, 1, found '2'"),
        ("rte", ["i\ta\tb\tl", "0\ta\tb\tneutral"], r"line 2: .* not_entailment, found 'neutral'"),
        ("sts-b", ["h\t" * 9 + "h", "x\t" * 9 + "5.1"], r"line 2: .* from 0 to 5, found '5\.1'"),
        ("sts-b", ["h\t" * 9 + "h", "x\t" * 9 + "nan"], r"line 2: .* from 0 to 5, found 'nan'"),
        ("sts-b", ["h\t" * 9 + "h", "x\t" * 9 + "good"], r"line 2: .* 0 to 5, found 'good'"),
        ("sst-2", ["fine\t1"], r"dev\.tsv, line 1: expected a header, found a row"),
        ("sts-b", ["x\t" * 9 + "2.5"], r"dev\.tsv, line 1: expected a header, found a row"),
        ("cola", ["a\tlabel\tb\tc", "a\t1\tb\tc"], r"line 1: .* of 0, 1, found 'label'"),
        ("sst-2", ["sentence\tlabel"], r"dev\.tsv: expected rows, found none"),
        ("cola", [], r"dev\.tsv: expected rows, found none"),
    ],
)
def test_malformed_files(tmp_path, task, lines, message):
    write(tmp_path, "dev", lines)
    with pytest.raises(ValueError, match=message):
        glue.read(tmp_path, task, "dev")


def test_a_test_file_without_header_is_refused(tmp_path):
    write(tmp_path, "test", ["0\tone\ttwo", "1\tthree\tfour"])
    with pytest.raises(ValueError, match=r"test\.tsv, line 1: expected a header, found a row"):
        glue.read(tmp_path, "rte", "test")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            b"sentence\tlabel\nfine\t1\ncaf\xe9\t1\n",
            r"line 3: expected UTF-8, found byte 0xe9 at 3",
        ),
        ("sentence\tlabel\n".encode("utf-16"), r"line 1: expected UTF-8, found byte 0xff"),
    ],
)
def test_other_encodings_are_named_with_their_line(tmp_path, content, message):
    (tmp_path / "dev.tsv").write_bytes(content)
    with pytest.raises(ValueError, match=message):
        glue.read(tmp_path, "sst-2", "dev")


def test_rows_are_counted(tmp_path):
    write(tmp_path, "dev", ["sentence\tlabel", "fine\t1"])
    with pytest.warns(UserWarning, match=r"dev\.tsv: expected 872 rows, found 1"):
        assert len(glue.read(tmp_path, "sst-2", "dev")) == 1
    with pytest.raises(ValueError, match=r"dev\.tsv: expected 872 rows, found 1"):
        glue.read(tmp_path, "sst-2", "dev", whole=True)
    write(tmp_path, "dev", ["sentence\tlabel", *["fine\t1"] * 872])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert len(glue.read(tmp_path, "sst-2", "dev", whole=True)) == 872


def test_the_two_versions_of_qnli_are_told_apart(tmp_path):
    row = "0\tWhy?\tBecause.\tentailment"
    write(tmp_path, "dev", ["index\tquestion\tsentence\tlabel", *[row] * 5732])
    with pytest.raises(ValueError, match=r"expected 5463 rows, found 5732: QNLI's first version"):
        glue.read(tmp_path, "qnli", "dev")
    write(tmp_path, "dev", ["index\tquestion\tsentence\tlabel", *[row] * 5463])
    assert len(glue.read(tmp_path, "qnli", "dev", whole=True)) == 5463


@pytest.mark.parametrize("name", ["msr_paraphrase_test.txt", "test.tsv"])
def test_mrpc_has_a_raw_test_file_with_labels(tmp_path, name):
    """As its authors give it: a byte order mark, CRLF, the label in place of the index."""
    rows = ["Quality\t#1 ID\t#2 ID\t#1 String\t#2 String", '1\t1\t2\tHe said " no "\tHe denied']
    content = "\ufeff" + "\r\n".join(rows) + "\r\n"
    (tmp_path / name).write_bytes(content.encode())
    assert glue.read(tmp_path, "mrpc", "test") == [Example('He said " no "', "He denied", None)]


def test_the_official_test_file_of_mrpc_comes_first(tmp_path):
    for name, text in (("msr_paraphrase_test", "raw"), ("test", "official")):
        write(tmp_path, name, ["h\th\th\th\th", f"0\t1\t2\t{text}\tb"])
    os.replace(tmp_path / "msr_paraphrase_test.tsv", tmp_path / "msr_paraphrase_test.txt")
    assert glue.read(tmp_path, "mrpc", "test")[0].text_a == "official"
    (tmp_path / "msr_paraphrase_test.txt").unlink()
    (tmp_path / "test.tsv").unlink()
    with pytest.raises(FileNotFoundError, match=r"test\.tsv"):
        glue.read(tmp_path, "mrpc", "test")


def test_official_bytes_are_recognized(tmp_path):
    data = os.environ.get("CONVBERT_DATA")
    if not data:
        pytest.skip("needs CONVBERT_DATA")
    for task, split in (("cola", "train"), ("qnli", "test"), ("wnli", "dev"), ("mrpc", "dev")):
        file = glue.find_file(Path(data) / "glue" / glue.TASKS[task].folder, task, split)
        assert glue.is_official(file, task, split)
        other = tmp_path / "other.tsv"
        other.write_bytes(file.read_bytes().replace(b"\n", b"\r\n"))
        assert not glue.is_official(other, task, split)
    assert not glue.is_official(other, "ax", "test")


def test_every_official_file_has_a_checksum():
    for task, table in glue.TASKS.items():
        if task != "ax" and not task.startswith("sample/"):
            assert glue.MD5[task].keys() == table.splits.keys()
    sums = [digest for table in glue.MD5.values() for digest in table.values()]
    assert len(set(sums)) == len(sums) == 29 and {len(digest) for digest in sums} == {32}


def test_broken_lines_of_qqp_are_counted(tmp_path):
    write(tmp_path, "train", ["h\t" * 5 + "h", "0\t1\t2\ta\tb\t1", "\tWhy?\t0", "3\t1\t2\tc\td\t0"])
    with pytest.warns(UserWarning, match=r"skipped 1 broken lines \[3\]"):
        assert len(glue.read(tmp_path, "qqp", "train")) == 2


def test_a_wrong_header_of_qqp_is_no_broken_line(tmp_path):
    write(tmp_path, "train", ["id\tlabel", "0\t1\t2\ta\tb\t1"])
    with pytest.raises(ValueError, match=r"line 1: expected 6 columns, found 2"):
        glue.read(tmp_path, "qqp", "train")


def test_dev_of_mnli_is_dev_matched(tmp_path):
    line = "\t".join(["x"] * 8 + ["a", "b"] + ["y"] * 5 + ["neutral"])
    write(tmp_path, "dev_matched", ["h\t" * 15 + "h", line])
    assert glue.read(tmp_path, "mnli", "dev") == [Example("a", "b", 2)]
    assert glue.resolve_splits("mnli", "dev") == ["dev_matched", "dev_mismatched"]
    assert glue.resolve_splits("mnli", "test") == ["test_matched", "test_mismatched"]
    assert glue.resolve_splits("cola", "dev") == ["dev"]


def test_wrong_requests(tmp_path):
    with pytest.raises(ValueError, match="choose one of cola, sst-2"):
        glue.read(tmp_path, "imdb", "dev")
    with pytest.raises(ValueError, match="cola has train, dev, test"):
        glue.read(tmp_path, "cola", "validation")
    with pytest.raises(FileNotFoundError):
        glue.read(tmp_path, "cola", "dev")


def test_a_source_is_read_under_its_own_name(tmp_path):
    write(tmp_path, "dev", ["sentence\tlabel", "fine\t1"])
    source = Source("sample/swap", "sample", tmp_path, "")
    assert glue.read(source, "sample/swap", "dev") == [Example("fine", None, 1)]
    with pytest.raises(ValueError, match="holds sample/swap, not sst-2"):
        glue.read(source, "sst-2", "dev")


def test_labels_are_written_as_the_files_have_them():
    labels = glue.TASKS["rte"].labels
    for text in labels:
        assert glue.format_label(glue.parse_label(text, labels, ""), labels) == text
    assert glue.format_label(4.25, None) == "4.2"
