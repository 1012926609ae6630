"""The leaderboard's files and their zip: what is accepted, and every way to be refused."""

from __future__ import annotations

import hashlib
import zipfile
from pathlib import Path

import pytest

from convbert.data import glue, leaderboard
from convbert.metrics import command
from convbert.train.submission import SubmissionConfig, submission

WORDS = {"AX": "neutral", "MNLI-m": "contradiction", "MNLI-mm": "entailment"}
WORDS |= {"QNLI": "not_entailment", "RTE": "entailment", "STS-B": "2.500"}
OFFICIAL_ROWS = {"AX": 1104, "CoLA": 1063, "MNLI-m": 9796, "MNLI-mm": 9847, "MRPC": 1725}
OFFICIAL_ROWS |= {"QNLI": 5463, "QQP": 390965, "RTE": 3000, "SST-2": 1821, "STS-B": 1379}
OFFICIAL_ROWS |= {"WNLI": 146}


def lines_of(name: str) -> list[str]:
    word, rows = WORDS.get(name, "1"), leaderboard.FILES[name].rows
    return ["index\tprediction", *(f"{index}\t{word}" for index in range(rows))]


def put(folder: Path, name: str, lines: list[str], end: str = "\n") -> None:
    (folder / f"{name}.tsv").write_bytes("".join(line + end for line in lines).encode())


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of eleven files of official size."""
    folder = tmp_path_factory.mktemp("good")
    for name in leaderboard.FILES:
        put(folder, name, lines_of(name))
    return folder


@pytest.fixture
def folder(good: Path, tmp_path: Path) -> Path:
    """The same, to be broken; unchanged files are links."""
    for file in good.iterdir():
        (tmp_path / file.name).symlink_to(file)
    return tmp_path


def replace(folder: Path, name: str, lines: list[str], end: str = "\n") -> None:
    (folder / f"{name}.tsv").unlink()
    put(folder, name, lines, end)


def test_the_eleven_files():
    assert {name: test.rows for name, test in leaderboard.FILES.items()} == OFFICIAL_ROWS


def test_a_good_folder_becomes_a_zip(good: Path, tmp_path: Path, capsys):
    output = tmp_path / "new" / "submission.zip"
    submission(SubmissionConfig(str(good), str(output)))
    with zipfile.ZipFile(output) as archive:
        assert archive.testzip() is None
        assert archive.namelist() == [f"{name}.tsv" for name in leaderboard.FILES]
        for name in archive.namelist():
            assert archive.read(name) == (good / name).read_bytes()
    assert [path.name for path in output.parent.iterdir()] == [output.name]  # nothing aside
    printed = capsys.readouterr().out
    assert "AX: 1104 predictions, the same for all" in printed and f"wrote {output}" in printed


def test_the_bytes_of_a_zip_depend_on_the_files_only(folder: Path, good: Path, tmp_path: Path):
    outputs = [tmp_path / "one.zip", tmp_path / "two.zip"]
    leaderboard.pack(good, outputs[0])
    for name in reversed(leaderboard.FILES):  # other times, another order in the folder
        replace(folder, name, lines_of(name))
    leaderboard.pack(folder, outputs[1])
    assert outputs[0].read_bytes() == outputs[1].read_bytes()
    replace(folder, "CoLA", [*lines_of("CoLA")[:-1], "1062\t0"])
    leaderboard.pack(folder, outputs[1])
    assert outputs[0].read_bytes() != outputs[1].read_bytes()


def test_the_bytes_of_a_zip_are_the_same_everywhere(good: Path, tmp_path: Path):
    leaderboard.pack(good, tmp_path / "submission.zip")
    digest = hashlib.sha256((tmp_path / "submission.zip").read_bytes()).hexdigest()
    assert digest == "770c668c844f879e24ee0e3a299de4c568c5eb2d780f2de6a731217bc00d06f3"


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("CoLA", lambda x: ["id\tlabel", *x[1:]], r"CoLA\.tsv, line 1: expected the header"),
        ("CoLA", lambda x: x[1:], r"CoLA\.tsv, line 1: expected the header .*, found '0\\t1'"),
        ("CoLA", lambda x: ["\ufeff" + x[0], *x[1:]], r"line 1: expected the header"),
        ("CoLA", lambda x: [], r"CoLA\.tsv: expected 1063 rows, found 0"),
        ("CoLA", lambda x: x[:-1], r"CoLA\.tsv: expected 1063 rows, found 1062"),
        ("CoLA", lambda x: [*x, "1063\t1"], r"CoLA\.tsv: expected 1063 rows, found 1064"),
        ("CoLA", lambda x: [*x, ""], r"CoLA\.tsv, line 1065: expected 2 columns, found 1"),
        ("CoLA", lambda x: [x[0], "0\t1\t1", *x[2:]], r"line 2: expected 2 columns, found 3"),
        ("CoLA", lambda x: [x[0], "0 1", *x[2:]], r"line 2: expected 2 columns, found 1"),
        ("CoLA", lambda x: [x[0], x[2], x[1], *x[3:]], r"line 2: expected index 0, found '1'"),
        ("CoLA", lambda x: [x[0], "00\t1", *x[2:]], r"line 2: expected index 0, found '00'"),
        ("CoLA", lambda x: [*x[:-1], "1062\t2"], r"line 1064: .* label of 0, 1, found '2'"),
        ("CoLA", lambda x: [*x[:-1], "1062\t1 "], r"line 1064: .* label of 0, 1, found '1 '"),
        ("CoLA", lambda x: [*x[:-1], "1062\t1.0"], r"line 1064: .* label of 0, 1, found '1\.0'"),
        ("RTE", lambda x: [*x[:-1], "2999\t1"], r"RTE\.tsv, line 3001: .* entailment, .* '1'"),
        ("RTE", lambda x: [*x[:-1], "2999\tneutral"], r"RTE\.tsv, line 3001: .* found 'neutral'"),
        ("QNLI", lambda x: x[:-1], r"QNLI\.tsv: expected 5463 rows, found 5462"),
        ("AX", lambda x: [*x[:-1], "1103\tnot_entailment"], r"AX\.tsv, line 1105: .* neutral"),
        ("MNLI-m", lambda x: [*x, "9796\tneutral"], r"MNLI-m\.tsv: expected 9796 rows"),
        ("STS-B", lambda x: [*x[:-1], "1378\t5.001"], r"STS-B\.tsv, line 1380: .* from 0 to 5"),
        ("STS-B", lambda x: [*x[:-1], "1378\t-0.1"], r"STS-B\.tsv, line 1380: .* found '-0\.1'"),
        ("STS-B", lambda x: [*x[:-1], "1378\tnan"], r"STS-B\.tsv, line 1380: .* found 'nan'"),
        ("WNLI", lambda x: [*x[:-1], "145\tentailment"], r"WNLI\.tsv, line 147: .* of 0, 1"),
    ],
)
def test_wrong_content_is_refused(tmp_path: Path, name, change, message):
    put(tmp_path, name, change(lines_of(name)))
    with pytest.raises(ValueError, match=message):
        leaderboard.check(tmp_path / f"{name}.tsv", name)


def test_a_refusal_leaves_everything_as_it_was(folder: Path, tmp_path: Path):
    replace(folder, "CoLA", lines_of("CoLA")[:-1])
    output = tmp_path / "submission.zip"
    output.write_bytes(b"an earlier one")
    with pytest.raises(ValueError, match=r"is no submission: CoLA\.tsv: expected 1063 rows"):
        submission(SubmissionConfig(str(folder), str(output)))
    assert output.read_bytes() == b"an earlier one"
    assert not list(folder.glob(".*"))


def test_other_line_ends_and_encodings_are_refused(folder: Path):
    replace(folder, "CoLA", lines_of("CoLA"), end="\r\n")
    (folder / "WNLI.tsv").unlink()
    (folder / "WNLI.tsv").write_bytes("\n".join(lines_of("WNLI")).encode())  # no final LF
    (folder / "MRPC.tsv").unlink()
    (folder / "MRPC.tsv").write_bytes("\n".join([*lines_of("MRPC"), ""]).encode("utf-16"))
    with pytest.raises(ValueError) as refusal:
        leaderboard.check_all(folder)
    problems = str(refusal.value).split("; ")
    assert len(problems) == 3
    assert problems[0].endswith("CoLA.tsv, line 1: expected lines that end in LF, found CR LF")
    assert problems[1].startswith("MRPC.tsv")
    assert problems[2] == "WNLI.tsv: expected a line end at the end of the file"


@pytest.mark.parametrize("wrong", ["cola.tsv", "COLA.tsv", "SST2.tsv", "MNLI.tsv", "QQP.TSV"])
def test_wrong_names_are_refused(folder: Path, wrong: str):
    (folder / "CoLA.tsv").rename(folder / wrong)
    with pytest.raises(ValueError, match=r"CoLA\.tsv is missing") as refusal:
        leaderboard.check_all(folder)
    assert f"{wrong}: no such file belongs into a submission" in str(refusal.value)


def test_everything_wrong_is_said_at_once(folder: Path):
    (folder / "AX.tsv").unlink()
    replace(folder, "WNLI", lines_of("WNLI")[:-1])
    with pytest.raises(ValueError, match=r"AX\.tsv is missing; WNLI\.tsv: expected 146 rows"):
        leaderboard.pack(folder, folder / "submission.zip")
    with pytest.raises(FileNotFoundError, match="no such folder"):
        submission(SubmissionConfig(str(folder / "nothing")))
    with pytest.raises(IsADirectoryError, match="is a folder"):
        submission(SubmissionConfig(str(folder), str(folder)))


def test_wnli_by_majority_is_said(folder: Path, capsys):
    config = SubmissionConfig(str(folder), str(folder / "submission.zip"), wnli_majority=True)
    with pytest.raises(ValueError, match=r"wnli_majority: .*WNLI\.tsv is there already"):
        submission(config)
    (folder / "WNLI.tsv").unlink()
    submission(config)
    assert "WNLI: the majority class 0 for all rows, no model" in capsys.readouterr().out
    assert leaderboard.check(folder / "WNLI.tsv", "WNLI") == [0] * 146


@pytest.mark.parametrize("name", leaderboard.FILES)
def test_what_is_written_is_accepted_and_scored(name: str, tmp_path: Path):
    task, rows = leaderboard.FILES[name].task, leaderboard.FILES[name].rows
    labels = glue.TASKS[task].labels
    values = [index % len(labels) if labels else index % 7 - 0.5 for index in range(rows)]
    file = tmp_path / "new" / f"{name}.tsv"
    leaderboard.write(file, task, values)
    expected = values if labels else [min(max(value, 0), 5) for value in values]
    assert leaderboard.check(file, name) == expected
    assert command.read_column(file, task) == expected
