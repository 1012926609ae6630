"""The strict runner, on small notebooks that are executed for real."""

from __future__ import annotations

import copy
import json
import os
import re
import sys
from pathlib import Path

import nbformat
import pytest
from small_notebooks import PARAMETERS, code, notebook, write

from convbert import notebooks, results, runner


def run(folder: Path, out: Path, **options):
    return runner.run_notebooks(
        notebooks.choose(folder), scale="smoke", output_dir=out, **{"html": False, **options}
    )


# Refusals: nothing is executed


@pytest.mark.parametrize(
    ("parameters", "texts", "message"),
    [
        (PARAMETERS, {"STEP": "5"}, "-p STEP: no chosen notebook declares it; there are none"),
        (f"{PARAMETERS}\nSTEPS = 3", {"STEP": "5"}, "did you mean STEPS?"),
        (f"{PARAMETERS}\nSTEPS = 3", {"steps": "5"}, "did you mean STEPS?"),
        (f"{PARAMETERS}\nSTEPS = 3", {"STEPS": "five"}, "a str, but .* default 3 is a int"),
        (f"{PARAMETERS}\nSTEPS = 3", {"STEPS": "5.0"}, "a float, but .* default 3 is a int"),
        (f"{PARAMETERS}\nSTEPS = 3", {"STEPS": "True"}, "a bool, but .* default 3 is a int"),
        (f"{PARAMETERS}\nRATE = 0.5", {"RATE": "True"}, "a bool, but .* default 0.5 is a float"),
        (f"{PARAMETERS}\nFAST = True", {"FAST": "1"}, "a int, but .* default True is a bool"),
        (f'{PARAMETERS}\nNAME = "a"', {"NAME": "5"}, "a int, but .* default 'a' is a str"),
        (PARAMETERS, {"SCALE": "cpu"}, "-p SCALE: use --scale"),
        (PARAMETERS, {"OUTPUT_DIR": "x"}, "-p OUTPUT_DIR: use --output_dir"),
        ('SCALE = "smoke"', {}, "must declare OUTPUT_DIR"),
        (f"{PARAMETERS}\nSTEPS = 3 * 4", {}, "must hold only NAME = literal"),
        (f"{PARAMETERS}\nSTEPS += 4", {}, "must hold only NAME = literal"),
        (f"{PARAMETERS}\nprint(1)", {}, "must hold only NAME = literal"),
        (f"{PARAMETERS}\nA = B = 1", {}, "must hold only NAME = literal"),
    ],
)
def test_parameters_are_strict(tmp_path, parameters, texts, message):
    write(tmp_path / "notebooks", "01_a", parameters=parameters)
    with pytest.raises(ValueError, match=message):
        run(tmp_path / "notebooks", tmp_path / "out", parameters=texts)
    assert not (tmp_path / "out").exists(), "it is refused before anything runs"


@pytest.mark.parametrize("count", [0, 2])
def test_exactly_one_cell_of_parameters(tmp_path, count):
    made = notebook("01_a")
    made.cells[1].metadata["tags"] = ["parameters"] if count else []
    made.cells[2].metadata["tags"] = ["parameters"] if count else []
    nbformat.write(made, tmp_path / "01_a.ipynb")
    with pytest.raises(ValueError, match=f"01_a: {count} cells are tagged 'parameters'"):
        run(tmp_path, tmp_path / "out")


def test_parameters_are_read_as_python_reads_them(tmp_path):
    lines = ["# a comment", 'SCALE: str = "smoke"  # as in SCALE=cpu', 'OUTPUT_DIR = "#x"']
    cell = "\n".join([*lines, "SIZES = [", "    1,", "    2,", "]"])
    path = write(tmp_path, "01_a", parameters=cell)
    found = notebooks.read_defaults(notebooks.read(path), "01_a")
    assert found == {"SCALE": "smoke", "OUTPUT_DIR": "#x", "SIZES": [1, 2]}


@pytest.mark.parametrize(
    ("text", "default", "value"),
    [("5", 3, 5), ("5", 0.5, 5.0), ("1e-3", 0.5, 1e-3), ("no_conv", "", "no_conv"),
     ("'5'", "", "5"), ("true", False, True), ("False", True, False), ("[1, 2]", [], [1, 2]),
     ("None", None, None), ("7", None, 7), ("a=b", "", "a=b")],
)  # fmt: skip
def test_values_take_the_type_of_the_default(text, default, value):
    read = notebooks.typed("NAME", text, default)
    assert read == value
    assert type(read) is type(value)


def test_a_parameter_goes_to_the_notebooks_that_declare_it():
    declared = {"01_a": {"STEPS": 3}, "02_b": {"RATE": 0.5}}
    given = notebooks.match_parameters(declared, {"STEPS": "5"})
    assert given == {"01_a": {"STEPS": 5}, "02_b": {}}


@pytest.mark.parametrize("items", [["STEPS"], ["=3"], ["a b=3"], ["A=1", "A=2"]])
def test_assignments_are_strict(items):
    with pytest.raises(ValueError, match="-p "):
        notebooks.parse_assignments(items)


def test_notebooks_are_chosen_by_number_or_name(tmp_path):
    for name in ("01_a", "04_b", "04_c", "10_d"):
        write(tmp_path, name)

    def names(only):
        return [path.stem for path in notebooks.choose(tmp_path, only)]

    assert names("") == ["01_a", "04_b", "04_c", "10_d"]
    assert names("10,1") == ["01_a", "10_d"]
    assert names("04") == ["04_b", "04_c"]
    assert names("04_b, 01_a.ipynb") == ["01_a", "04_b"]
    for wrong in ("05", "0", "01_", "a"):
        with pytest.raises(
            ValueError, match=f"--only {wrong}: no such notebook; there are 01_a, 04_b"
        ):
            names(wrong)
    with pytest.raises(FileNotFoundError, match="no notebooks"):
        notebooks.choose(tmp_path / "nowhere")


def test_the_folder_of_notebooks_is_found(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FileNotFoundError, match="no folder 'elsewhere'"):
        notebooks.find_folder("elsewhere")
    (tmp_path / "notebooks").mkdir()
    assert notebooks.find_folder().resolve() == tmp_path / "notebooks"


def test_student_edition_drops_the_solutions():
    made = notebook("01_a", code("answer = 42", "solution"), code("assert answer == 42"))
    edition = notebooks.student_edition(made)
    assert [cell.id for cell in made.cells if cell not in edition.cells] == [made.cells[3].id]
    assert len(made.cells) == len(edition.cells) + 1, "the notebook itself is left alone"


# Executions; a kernel takes about two seconds

GOOD = """
import os
from pathlib import Path

lab.record("files", len(list(Path().iterdir())))
lab.record("static", os.environ["CONVBERT_STATIC"])
lab.record("python", __import__("sys").executable)
lab.record("given", [STEPS, BREAK])
lab.claim("two", "One and one make two.", True, kind="exact", observed=2, bound=2)
"""
SHOWN = """
import ipywidgets
from IPython.display import display
from matplotlib.figure import Figure
from tqdm import tqdm

figure = Figure()
figure.subplots().plot([1, 2])
lab.figure(figure, "rise", alt="Rises to 2.")
slider = ipywidgets.IntSlider()
display(slider)
for _ in tqdm(range(50)):
    pass
"""


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    """Run a notebook that passes, started from a folder full of files."""
    tmp_path = tmp_path_factory.mktemp("good")
    cells = [code(GOOD), code(SHOWN)]
    parameters = f'{PARAMETERS}\nSTEPS = 3\nBREAK = ""'
    write(tmp_path / "notebooks", "01_good", *cells, parameters=parameters)
    (outcome,) = run(tmp_path / "notebooks", tmp_path / "out", parameters={"STEPS": "5"}, html=True)
    return outcome


def test_a_good_notebook_passes(good):
    assert good.failure is None
    content = json.loads(results.path(good.root, "smoke", "01_good").read_text("utf-8"))
    assert content == good.content
    assert content["finished"] is True
    assert content["seconds"] == good.seconds > 0
    assert content["claims"]["two"]["verdict"] == "holds"
    values = {name: record["value"] for name, record in content["records"].items()}
    assert values["given"] == [5, ""]
    assert values["files"] == 0, "it starts in an empty folder"
    assert values["static"] == "1"
    assert Path(values["python"]) == Path(sys.executable), "the kernel is this Python"
    assert "CONVBERT_STATIC" not in os.environ, "only the kernel's environment is set"


def test_the_executed_notebook_is_clean(good):
    assert good.notebook == good.root / "notebooks" / "smoke" / "01_good.ipynb"
    ran = nbformat.read(good.notebook, as_version=4)
    nbformat.validate(ran)
    assert "widgets" not in ran.metadata
    assert any("widget-view" in str(cell.get("outputs")) for cell in ran.cells), "it had a widget"
    streams = [out.text for cell in ran.cells for out in cell.get("outputs", []) if "text" in out]
    assert not any("\r" in text for text in streams), "progress bars keep their last state"
    assert {path.name for path in good.notebook.parent.iterdir()} == {
        "01_good.ipynb",
        "01_good.html",
    }


def test_the_page_shows_pictures_and_needs_no_network(good):
    page = good.notebook.with_suffix(".html").read_text("utf-8")
    assert 'alt="Rises to 2."' in page
    assert "data:image/png;base64," in page
    for attribute in ("src", "href"):
        assert f'{attribute}="http' not in page
        assert f"{attribute}='http" not in page
    assert "from 'http" not in page


def test_the_summary_says_what_was_learned_and_where_it_lies(good):
    text = runner.summary([good], ["01_good", "02_next"], "smoke")
    assert "holds: One and one make two." in text
    assert "two, exact: observed 2, bound 2" in text
    assert f"01_good{' ' * 20}" in text
    assert "02_next" in text
    assert "not run" in text
    assert str(good.root / "figures") in text


def test_a_failing_claim_is_named_and_stops_the_run(tmp_path, capsys):
    claim = code('y = 1\nlab.claim("equal", "Same.", False, kind="exact", observed=3)')
    folder, out = tmp_path / "notebooks", tmp_path / "out"
    write(folder, "01_bad", code("x = 1"), claim)
    write(folder, "02_next")
    with pytest.raises(SystemExit) as stop:
        runner.run(runner.RunConfig("smoke", notebooks=str(folder), output_dir=str(out)))
    assert stop.value.code == 1
    shown = capsys.readouterr()
    assert "01_bad: started" in shown.out
    assert "01_bad failed in cell 5 at scale smoke" in shown.err, "its position in the file"
    assert "claim equal fails: Same. (observed 3)" in shown.err
    assert "line: lab.claim(" in shown.err
    assert "fails: Same." in shown.out, "the table comes in any case"
    assert "02_next: started" not in shown.out
    assert re.search("02_next .* not run", shown.out)
    assert json.loads(results.path(out, "smoke", "01_bad").read_text("utf-8"))["finished"] is False
    kept = (out / "notebooks" / "smoke" / "01_bad.ipynb").read_text("utf-8")
    assert "ClaimFailed" in kept, "it is kept to be looked at"


def test_an_exception_is_reported_with_line_and_place(tmp_path):
    write(tmp_path, "01_bad", code("x = 1\nlab.record('value', object())"))
    (outcome,) = run(tmp_path, tmp_path / "out")
    assert outcome.failure.reason == "ValueError: value: cannot keep a object as JSON"
    assert outcome.failure.code == "lab.record('value', object())"
    assert "results.py:" in outcome.failure.place
    assert "raised at" in runner.failure_block(outcome, "smoke")


def test_the_time_limit_ends_a_notebook_and_its_children(tmp_path):
    child = f"import subprocess, sys, time\nchild = subprocess.Popen(['sleep', '987'])\n" \
        f"open('{tmp_path}/pid', 'w').write(str(child.pid))\ntime.sleep(60)"  # fmt: skip
    write(tmp_path / "notebooks", "01_slow", code("x = 1"), code(child))
    (outcome,) = run(tmp_path / "notebooks", tmp_path / "out", limit_s=4)
    assert outcome.failure.cell == 5
    assert "the time limit of 4 s is over" in outcome.failure.reason
    assert outcome.seconds < 20
    assert outcome.notebook.exists()
    pid = int((tmp_path / "pid").read_text())
    status = Path(f"/proc/{pid}/status")
    if sys.platform == "linux" and status.exists():
        assert "zombie" in status.read_text()


def test_a_killed_kernel_is_an_error(tmp_path):
    write(tmp_path, "01_dead", code("import os, signal\nos.kill(os.getpid(), signal.SIGKILL)"))
    (outcome,) = run(tmp_path, tmp_path / "out")
    assert "the kernel died" in outcome.failure.reason
    assert outcome.failure.cell == 4


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("import sys\nsys.exit(0)", "this cell never ran"),
        ("print('x' * 2_100_000)", "2.1 MB, at most 2"),
    ],
)
def test_success_of_papermill_is_not_enough(tmp_path, source, reason):
    write(tmp_path, "01_sly", code(source), code("x = 1"))
    (outcome,) = run(tmp_path, tmp_path / "out")
    assert reason in outcome.failure.reason
    assert outcome.content["finished"] is False


def test_what_a_run_without_an_error_can_hide(good):
    ran = nbformat.read(good.notebook, as_version=4)

    def look(ran, content):
        return runner.hidden_failure("01_good", ran, content, 1000)

    assert look(ran, good.content) is None
    content = copy.deepcopy(good.content)
    content["claims"]["two"]["verdict"] = "fails"
    assert look(ran, content).claim == "two"
    assert "the notebook hides it" in look(ran, content).reason
    assert "no results" in look(ran, {}).reason
    ran.cells[-1].execution_count = None  # as in a cell tagged skip-execution
    assert look(ran, good.content).cell == 5


def test_a_record_under_another_name_or_from_yesterday_does_not_count(tmp_path):
    out = tmp_path / "out"
    old = results.path(out, "smoke", "01_a")
    old.parent.mkdir(parents=True)
    old.write_text('{"claims": {}}')
    made = notebook("02_other")
    nbformat.write(made, tmp_path / "01_a.ipynb")
    (outcome,) = run(tmp_path, out)
    assert "no results: call lab.begin('01_a'" in outcome.failure.reason
    assert not old.exists()


def test_broken_and_student_runs_keep_to_their_own_folders(tmp_path):
    parameters = f'{PARAMETERS}\nBREAK = ""'
    cells = [
        code("answer = 42", "solution"),
        code('lab.claim("right", "It is 42.", answer == 42 and not BREAK, kind="exact")'),
    ]
    extra = ', BREAK, ("sum",)'
    write(tmp_path / "notebooks", "01_a", *cells, parameters=parameters, extra=extra)
    out = tmp_path / "out"
    (broken,) = run(tmp_path / "notebooks", out, parameters={"BREAK": "sum"})
    assert broken.failure.claim == "right"
    assert broken.root == out / "broken" / "sum"
    assert broken.content["broken"] == "sum"
    (student,) = run(tmp_path / "notebooks", out, student=True)
    assert "NameError" in student.failure.reason
    assert {path.name for path in out.iterdir()} == {"broken", "student"}
