"""Reading GLUE's files and the sample sets: real files, small files of every task, broken files."""

import os
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


@pytest.mark.parametrize(("task", "split", "rows"), OFFICIAL)
def test_official_files(task, split, rows):
    data = os.environ.get("CONVBERT_DATA")
    if not data:
        pytest.skip("needs CONVBERT_DATA")
    folder = Path(data) / "glue" / glue.TASKS[task].folder
    if not (folder / f"{split}.tsv").is_file():
        pytest.skip("needs CONVBERT_DATA")
    examples = glue.read(folder, task, split)
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
    write(tmp_path, split, [*header, "\t".join(fields)])
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
        ("sst-2", ["sentence\tlabel"], r"dev\.tsv: expected rows, found none"),
        ("cola", [], r"dev\.tsv: expected rows, found none"),
    ],
)
def test_malformed_files(tmp_path, task, lines, message):
    write(tmp_path, "dev", lines)
    with pytest.raises(ValueError, match=message):
        glue.read(tmp_path, task, "dev")


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
