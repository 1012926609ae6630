"""The course's notebooks: rules that a reader relies on, and running each of them.

The rules are checked on the files; then each notebook runs at scale smoke, each deliberate defect
makes its claim fail, and the edition without solutions does not pass.
"""

from __future__ import annotations

import ast
import re
from pathlib import Path

import browser
import nbformat
import pytest
from small_notebooks import HEADER, code, notebook

from convbert import ConvBertConfig, ConvBertModel, ConvBertTokenizer, notebooks, runner
from convbert.data import sources

FOLDER = Path(__file__).resolve().parents[1] / "notebooks"
PATHS = sorted(FOLDER.glob("*.ipynb"))
NAMES = [path.stem for path in PATHS]
MAX_CELLS, MAX_LINES = 40, 15

# Notebook, defect (a value of BREAK), and the claim that must fail because of it. Every defect
# that a notebook knows is listed.
FALSIFICATIONS: list[tuple[str, str, str]] = [
    ("01_architecture", "uniform_kernel", "span_conv_equals_package"),
    ("02_weights", "forget_transpose", "by_hand_is_exact"),
    ("03_pretraining", "confident_start", "initial_generator_loss"),
    ("04_glue", "shuffle_labels", "reported_is_real"),
    ("05_squad", "conv_sees_padding", "padding"),
    ("06_head_locality", "shifted_band", "band"),
]

# What a header says, and how it is found.
HEADER_PARTS = {
    "a title '# 01 · …'": r"\A# \d\d · \S",
    "a question '**Question.** …'": r"^\*\*Question\.\*\* \S",
    "its place in the paper '**In the paper:** …'": r"^\*\*In the paper:\*\* \S",
    "the markers of the measured time": r"^<!-- time:start -->\n[^<]*^<!-- time:end -->",
    "what the reader can do '**Afterwards you can** …'": r"^\*\*Afterwards you can\*\* \S",
}
WORDS_NOT_IN_CODE = {
    "pyplot": "figures go through lab.figure",
    "plt.": "figures go through lab.figure",
    "savefig": "figures go through lab.figure",
    "sys.path": "the package is installed",
    "http://": "addresses belong to data.sources",
    "https://": "addresses belong to data.sources",
    "tqdm.auto": "plain tqdm leaves no widget behind",
    "tqdm.notebook": "plain tqdm leaves no widget behind",
    "expanduser": "no path of somebody's home",
    "Path.home": "no path of somebody's home",
}


def violations(name: str, nb) -> list[str]:
    """Return every rule that a notebook breaks, with the place."""
    found = []
    if len(nb.cells) > MAX_CELLS:
        found.append(f"{len(nb.cells)} cells, at most {MAX_CELLS}")
    ids = [cell.get("id") for cell in nb.cells]
    if None in ids or len(set(ids)) != len(ids) or ids == [str(i) for i in range(len(ids))]:
        found.append("cells without ids of their own (nbstripout --keep-id)")
    if set(nb.metadata) - {"kernelspec", "language_info"}:
        found.append("metadata of a run or of widgets")
    if nb.metadata.get("kernelspec", {}).get("name") != "python3":
        found.append("kernel is not python3")
    found += header_violations(nb)
    found += parameter_violations(name, nb)
    begins = [cell for cell in nb.cells if f'lab.begin("{name}", SCALE, OUTPUT_DIR' in cell.source]
    after = [cell for cell in nb.cells if cell.cell_type == "code"][1:2]
    if begins != after:
        found.append(f'lab.begin("{name}", SCALE, OUTPUT_DIR, …) once, in the second code cell')
    if "from convbert" not in "".join(cell.source for cell in begins).split("import paddle")[0]:
        found.append("Paddle is imported before convbert, which sets its threads")
    for number, cell in enumerate(nb.cells, start=1):
        check = code_violations if cell.cell_type == "code" else text_violations
        found += [f"cell {number}: {message}" for message in check(cell)]
    return found


def header_violations(nb) -> list[str]:
    first = nb.cells[0]
    if first.cell_type != "markdown":
        return ["the first cell is not text"]
    return [
        f"the first cell lacks {part}"
        for part, pattern in HEADER_PARTS.items()
        if not re.search(pattern, first.source, re.MULTILINE)
    ]


def parameter_violations(name: str, nb) -> list[str]:
    try:
        defaults = notebooks.read_defaults(nb, name)
    except ValueError as error:
        return [str(error)]
    (cell,) = [cell for cell in nb.cells if notebooks.has_tag(cell, "parameters")]
    found = []
    if len(cell.source.splitlines()) != len(defaults):
        found.append("parameters: one line each")
    for line in cell.source.splitlines():
        if not re.fullmatch(r"[A-Z_]+ = .+  # \S.*", line):
            found.append(f"parameters: NAME = literal  # comment, not {line!r}")
    return found


def code_violations(cell) -> list[str]:
    found = []
    if cell.outputs or cell.execution_count is not None:
        found.append("has outputs or an execution count")
    if set(cell.metadata) - {"tags"}:
        found.append("has metadata besides tags")
    if len(cell.source.splitlines()) > MAX_LINES:
        found.append(f"{len(cell.source.splitlines())} lines, at most {MAX_LINES}")
    found += [f"{word}: {why}" for word, why in WORDS_NOT_IN_CODE.items() if word in cell.source]
    try:
        tree = ast.parse(cell.source)
    except SyntaxError:
        return [*found, "not plain Python (shell, magic?)"]
    joined = [node.values for node in ast.walk(tree) if isinstance(node, ast.JoinedStr)]
    inner = [part for values in joined for part in values[1:]]  # "/x" in f"{folder}/x"
    for node in ast.walk(tree):
        if node in inner:
            continue
        is_text = isinstance(node, ast.Constant) and isinstance(node.value, str)
        if is_text and re.match(r"(/[A-Za-z]|~|[A-Za-z]:[\\/])", node.value):
            found.append(f"absolute path {node.value!r}")
        if "get_ipython" in ast.dump(node)[:60]:
            found.append("shell or magic")
        if not notebooks.has_tag(cell, "sketch"):
            if isinstance(node, ast.ClassDef):
                found.append(f"class {node.name} outside a cell tagged sketch")
            if isinstance(node, (ast.For, ast.While)) and is_training(node):
                found.append("training loop outside a cell tagged sketch")
    last = tree.body[-1] if tree.body else None
    if isinstance(last, ast.Expr) and isinstance(last.value, ast.Name) and "fig" in last.value.id:
        found.append("a bare figure: figures go through lab.figure")
    return found


def is_training(loop: ast.AST) -> bool:
    """Whether a loop takes gradients."""
    calls = [node.func for node in ast.walk(loop) if isinstance(node, ast.Call)]
    return any(isinstance(call, ast.Attribute) and call.attr == "backward" for call in calls)


def text_violations(cell) -> list[str]:
    # A link may be followed or not; a picture or script from elsewhere leaves a hole offline.
    remote = r"!\[[^\]]*\]\(https?://|<(img|script|iframe|link)\b[^>]*https?://"
    found = ["picture or script from the network"] if re.search(remote, cell.source) else []
    if "attachments" in cell or "](data:" in cell.source:
        found.append("embedded picture")
    return found


# The rules themselves


def sound():
    """Return a notebook that keeps every rule."""
    nb = notebook("01_sound", code("x = 1"))
    nb.cells[0].source = HEADER.format(title="Sound")
    return nb


def test_the_rules_accept_a_sound_notebook():
    assert violations("01_sound", sound()) == []


def add(source, *tags, **more):
    def change(nb):
        nb.cells.append(code(source, *tags))
        nb.cells[-1].update(more)

    return change


def edit(cell, old, new):
    def change(nb):
        assert old in nb.cells[cell].source
        nb.cells[cell].source = nb.cells[cell].source.replace(old, new)

    return change


def set_ids(nb):
    for number, cell in enumerate(nb.cells):
        cell["id"] = str(number)


BROKEN_RULES = {
    "Paddle is imported before": edit(2, "from convbert", "import paddle\nfrom convbert"),
    "41 cells": lambda nb: nb.cells.extend(code("x = 1") for _ in range(37)),
    "16 lines": add("x = 1\n" * 16),
    "ids of their own": set_ids,
    "metadata of a run": lambda nb: nb.metadata.update(widgets={}),
    "kernel is not": lambda nb: nb.metadata.kernelspec.update(name="py39"),
    "lacks a title": edit(0, "# 01 · Sound", "Sound"),
    "lacks a question": edit(0, "**Question.**", "So:"),
    "lacks its place in the paper": edit(0, "**In the paper:**", "See"),
    "lacks the markers": edit(0, "time:end", "time"),
    "lacks what the reader": edit(0, "**Afterwards you can**", "You can"),
    "first cell is not text": lambda nb: nb.cells.insert(0, code("x = 1")),
    "2 cells are tagged": add("y = 1", "parameters"),
    "0 cells are tagged": lambda nb: nb.cells[1].metadata.clear(),
    "only NAME = literal": edit(1, '"smoke"', '"smo" + "ke"'),
    "must declare SCALE": edit(1, "SCALE", "SIZE"),
    "comment, not": edit(1, "  # where to write", ""),
    "one line each": edit(1, "OUTPUT_DIR", "\nOUTPUT_DIR"),
    "lab.begin": edit(2, "01_sound", "02_other"),
    "in the second code cell": lambda nb: nb.cells.insert(2, code("x = 1")),
    "outputs or an execution": add("x = 1", execution_count=3),
    "besides tags": add("x = 1", metadata={"collapsed": True}),
    "not plain Python": add("!pip install x"),
    "(shell, magic?)": add("%cd folder"),
    "shell or magic": add("get_ipython().system('ls')"),
    "absolute path '/home/x'": add("open('/home/x')"),
    "absolute path '~": add("open(f'~{x}')"),
    "sys.path": add("import sys\nsys.path.append('..')"),
    "addresses belong": add("url = 'https://example.org'"),
    "class Model": add("class Model:\n    pass"),
    "training loop": add("for x in y:\n    loss(x).backward()"),
    "pyplot": add("import matplotlib.pyplot"),
    "savefig": add("figure.savefig('x.png')"),
    "a bare figure": add("figure"),
    "plain tqdm": add("from tqdm.auto import tqdm"),
    "from the network": edit(0, "Sound", "Sound ![x](https://example.org/x.png)"),
    "embedded picture": edit(0, "Sound", "Sound ![x](data:image/png;base64,AAAA)"),
}


@pytest.mark.parametrize("message", BROKEN_RULES)
def test_each_rule_bites(message):
    nb = sound()
    BROKEN_RULES[message](nb)
    assert any(message in found for found in violations("01_sound", nb))


def test_a_path_below_the_output_folder_is_fine():
    nb = sound()
    add("path = f'{OUTPUT_DIR}/runs/{x}'")(nb)
    assert violations("01_sound", nb) == []


def test_a_sketch_may_hold_a_class():
    nb = sound()
    add("class Piece:\n    pass", "sketch")(nb)
    assert violations("01_sound", nb) == []


# The notebooks


def test_there_are_notebooks():
    assert PATHS, f"no notebooks in {FOLDER}"


@pytest.mark.parametrize("path", PATHS, ids=NAMES)
def test_rules(path):
    nb = nbformat.read(path, as_version=4)
    nbformat.validate(nb)
    assert violations(path.stem, nb) == []


def run(name: str, out: Path, **options) -> runner.Outcome:
    (outcome,) = runner.run_notebooks(
        [FOLDER / f"{name}.ipynb"], scale="smoke", output_dir=out, **options
    )
    return outcome


@pytest.mark.parametrize("name", NAMES)
def test_runs_at_smoke(name, tmp_path):
    outcome = run(name, tmp_path)
    assert outcome.failure is None, outcome.failure
    assert outcome.content["claims"], "a notebook states what it found"
    page = outcome.notebook.with_suffix(".html").read_text("utf-8")
    for figure in outcome.content["figures"]:
        assert (tmp_path / "figures" / name / f"{figure}.png").exists()
    assert page.count('src="data:image/png;base64,') >= len(outcome.content["figures"])
    assert not re.search(r"""(src|href)=["']https?://[^"']*\.(js|css|png)""", page)
    if browser.find():  # test_live_widgets says so where there is none
        shown = browser.pictures_of(outcome.notebook.with_suffix(".html"))
        assert len(shown) >= len(outcome.content["figures"])
        for picture in shown:
            assert picture["width"] > 100 and picture["height"] > 50, picture
            assert re.search(r"\d", picture["alt"]), picture


def test_locality_of_any_checkpoint(tmp_path):
    """One model in transformers' layout: nothing is pretrained, nothing claimed about models."""
    folder, text = tmp_path / "checkpoint", sources.find("text").file("valid")
    words = ConvBertTokenizer.train([text], vocab_size=1000)
    config = ConvBertConfig.named("convbert-tiny", vocab_size=words.vocab_size, head_ratio=1)
    ConvBertModel(config).save_pretrained(folder)
    words.save_pretrained(folder)
    parameters = {"CHECKPOINT": str(folder), "PAIRS": "smoke", "METRIC": "near"}
    outcome = run("06_head_locality", tmp_path / "out", parameters=parameters, html=False)
    assert outcome.failure is None, outcome.failure
    assert not (tmp_path / "out" / "pretraining").exists()
    claims, records = outcome.content["claims"], outcome.content["records"]
    assert {"attention_is_not", "kernels_sharpen"}.isdisjoint(claims) and "band" in claims
    assert 0 < records["attention_loses"]["value"] < 1
    assert "within one token" in outcome.content["figures"]["distances"]["alt"]


@pytest.fixture(scope="module")
def warm(tmp_path_factory):
    """An output folder in which later runs find the models that earlier ones trained."""
    return tmp_path_factory.mktemp("warm")


@pytest.mark.parametrize(("name", "defect", "claim"), FALSIFICATIONS)
def test_a_defect_makes_its_claim_fail(name, defect, claim, warm):
    outcome = run(name, warm, parameters={"BREAK": defect}, html=False)
    assert outcome.failure is not None, f"BREAK={defect} went unnoticed"
    assert outcome.failure.claim == claim, outcome.failure


@pytest.mark.parametrize("path", PATHS, ids=NAMES)
def test_every_defect_is_tried(path):
    source = "\n".join(cell.source for cell in notebooks.read(path).cells)
    known = re.search(r"breaks=\(([^)]*)\)", source)
    listed = re.findall(r"\"(\w+)\"", known.group(1)) if known else []
    assert sorted(listed) == sorted(item[1] for item in FALSIFICATIONS if item[0] == path.stem)


def with_solutions() -> list[str]:
    return [
        path.stem
        for path in PATHS
        if any(notebooks.has_tag(cell, "solution") for cell in notebooks.read(path).cells)
    ]


@pytest.mark.parametrize("name", with_solutions())
def test_without_its_solutions_it_does_not_pass(name, warm):
    outcome = run(name, warm, student=True, html=False)
    assert outcome.failure is not None, "the check of the exercise passes without an answer"
    nb = notebooks.student_edition(notebooks.read(FOLDER / f"{name}.ipynb"))
    assert "lab.claim(" in nb.cells[outcome.failure.cell - 1].source, "it fails elsewhere"
