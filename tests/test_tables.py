"""Tables and times that are generated from results."""

from __future__ import annotations

import json

import nbformat
import pytest
from small_notebooks import write

from convbert import lab, results, tables
from convbert.tables import TableConfig, table

README = """# Title

<!-- results:start -->
<!-- results:end -->

Between.

<!-- notebooks:start -->
old
<!-- notebooks:end -->

After.
"""


def measure(root, scale, seconds):
    """Write results as a finished run leaves them."""
    lab.begin("01_first", scale, root)
    seeds = [0, 1, 2]
    lab.claim("equal", "Both | agree.", True, kind="exact", observed=3e-8, bound=1e-6)
    lab.claim(
        "loss", "It learns.", True, kind="statistical",
        observed=[6.0, 6.1, 6.2], null=6.77, bound="< 6.5", seeds=seeds,
    )  # fmt: skip
    lab.claim("glue", "They report it.", kind="quoted", observed=86.4, source="paper, table 3")
    path = results.path(root, scale, "01_first")
    content = json.loads(path.read_text("utf-8"))
    content.update(finished=True, seconds=seconds, hardware="Toy CPU, 2 cores", commit="c" * 40)
    path.write_text(json.dumps(content), "utf-8")
    return path


@pytest.fixture
def root(tmp_path):
    """A repository with two notebooks, the first of them measured."""
    (tmp_path / "README.md").write_text(README, "utf-8")
    for name in ("01_first", "02_second"):
        write(tmp_path / "notebooks", name)
    measure(tmp_path, "smoke", 21.0)
    measure(tmp_path, "cpu", 236.0)
    return tmp_path


def section(root, name):
    text = (root / "README.md").read_text("utf-8")
    return text.split(f"<!-- {name}:start -->")[1].split(f"<!-- {name}:end -->")[0].strip()


def test_the_results_table_shows_claims_and_keeps_quotations_apart(root, capsys):
    table(TableConfig(root=str(root)))
    assert "wrote README.md" in capsys.readouterr().out
    own, quoted = section(root, "results").split("Quoted, not measured here:")
    link = "[01](notebooks/01_first.ipynb)"
    assert f"| {link} | Both \\| agree. | 3e-08 |  | 1e-06 |  | exact | holds |" in own
    row = f"| {link} | It learns. | 6.1 ± 0.1 | 6.77 | < 6.5 | 3 | statistical | holds |"
    assert row in own
    assert "They report it." not in own
    assert f"| {link} | They report it. | 86.4 | paper, table 3 |" in quoted
    assert "on Toy CPU, 2 cores; Paddle" in own
    assert "commit cccccccccc." in own
    text = (root / "README.md").read_text("utf-8")
    assert text.startswith("# Title\n\n<!-- results:start -->\n")
    assert "<!-- results:end -->\n\nBetween.\n" in text
    assert text.endswith("<!-- notebooks:end -->\n\nAfter.\n")


def test_what_a_command_found_is_shown_with_its_name(root):
    content = json.loads(results.path(root, "cpu", "01_first").read_text("utf-8"))
    results.write_json(results.path(root, "cpu", "sweep"), content | {"notebook": "sweep"})
    table(TableConfig(root=str(root)))
    assert "| `convbert sweep` | It learns. | 6.1 ± 0.1 |" in section(root, "results")
    assert "sweep" not in section(root, "notebooks")


def test_the_map_shows_titles_questions_and_times(root):
    table(TableConfig(root=str(root)))
    rows = section(root, "notebooks").splitlines()
    assert rows[2] == (
        "| 01 | [01_first](notebooks/01_first.ipynb) | Does it run? "
        "| about 20 s | about 4 min | Toy CPU, 2 cores |"
    )
    assert "| not measured | not measured |  |" in rows[3]


def test_each_notebook_says_how_long_it_takes(root):
    before = nbformat.read(root / "notebooks/01_first.ipynb", as_version=4)
    table(TableConfig(root=str(root)))
    after = nbformat.read(root / "notebooks/01_first.ipynb", as_version=4)
    line = (
        "Measured time: about 20 s at scale smoke (Toy CPU, 2 cores), "
        "about 4 min at scale cpu (Toy CPU, 2 cores)."
    )
    assert line in after.cells[0].source
    assert "**Afterwards you can** run it." in after.cells[0].source
    assert [cell.id for cell in after.cells] == [cell.id for cell in before.cells]
    assert after.cells[1:] == before.cells[1:]
    second = nbformat.read(root / "notebooks/02_second.ipynb", as_version=4)
    assert "Measured time: not measured yet." in second.cells[0].source


def test_check_finds_each_file_that_is_out_of_date(root, capsys):
    check = TableConfig(check=True, root=str(root))
    with pytest.raises(
        ValueError, match=r"README\.md is out of date: run python -m convbert table"
    ):
        table(check)
    assert (root / "README.md").read_text("utf-8") == README, "it only looks"
    table(TableConfig(root=str(root)))
    table(check)
    assert "up to date" in capsys.readouterr().out

    readme = root / "README.md"
    written = readme.read_text("utf-8")
    readme.write_text(written.replace("6.1 ± 0.1", "5.1 ± 0.1"), "utf-8")
    with pytest.raises(ValueError, match=r"README\.md is out of date"):
        table(check)
    readme.write_text(written, "utf-8")

    path = root / "notebooks/01_first.ipynb"
    path.write_text(path.read_text("utf-8").replace("about 4 min", "about 3 min"), "utf-8")
    with pytest.raises(ValueError, match=r"notebooks/01_first\.ipynb is out of date"):
        table(check)
    table(TableConfig(root=str(root)))
    measure(root, "cpu", 600.0)
    with pytest.raises(ValueError, match="out of date"):
        table(check)


def test_writing_twice_changes_nothing(root, capsys):
    table(TableConfig(root=str(root)))
    kept = {path: path.read_bytes() for path in root.rglob("*") if path.is_file()}
    capsys.readouterr()
    table(TableConfig(root=str(root)))
    assert "wrote" not in capsys.readouterr().out
    assert kept == {path: path.read_bytes() for path in root.rglob("*") if path.is_file()}


def test_without_results_the_tables_say_so(tmp_path):
    (tmp_path / "README.md").write_text(README, "utf-8")
    write(tmp_path / "notebooks", "01_first")
    table(TableConfig(root=str(tmp_path)))
    assert section(tmp_path, "results").startswith("Not measured yet")
    assert "not measured" in section(tmp_path, "notebooks")


@pytest.mark.parametrize("change", [{"finished": False}, {"broken": "shuffled"}])
def test_failed_and_broken_runs_are_refused(root, change):
    path = results.path(root, "cpu", "01_first")
    content = json.loads(path.read_text("utf-8"))
    path.write_text(json.dumps({**content, **change}), "utf-8")
    with pytest.raises(ValueError, match=r"data/results/cpu/01_first\.json is not of a finished"):
        table(TableConfig(root=str(root)))


def test_missing_markers_title_and_question_are_named(root):
    (root / "README.md").write_text(README.replace("results:end", "end"), "utf-8")
    with pytest.raises(ValueError, match=r"README\.md: expected one <!-- results:start --> and"):
        table(TableConfig(root=str(root)))
    (root / "README.md").write_text(README, "utf-8")
    path = root / "notebooks/02_second.ipynb"
    whole = path.read_text("utf-8")
    for part, message in {
        "time:start": "expected one <!-- time:start -->",
        "**Question.**": "has no line",
        "# 01 · 02_second": "does not start with",
    }.items():
        path.write_text(whole.replace(part, "gone"), "utf-8")
        with pytest.raises(ValueError, match=rf"notebooks/02_second\.ipynb: .*{message}"):
            table(TableConfig(root=str(root)))


@pytest.mark.parametrize("line", ["**Question.** Why?", "**Question:** Why?", "**Question**: Why?"])
@pytest.mark.parametrize("title", ["# Locality", "# 6. Locality", "# 06 · Locality"])
def test_titles_lose_their_number(line, title):
    cell = nbformat.v4.new_markdown_cell(f"{title}\n\n{line}\n\nMore text.")
    notebook = nbformat.v4.new_notebook(cells=[cell])
    assert tables.title_and_question(notebook, "x") == ("Locality", "Why?")


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(3, "under 10 s"), (14, "about 10 s"), (36, "about 40 s"), (58, "about 1 min"),
     (236, "about 4 min"), (718, "about 10 min"), (3600, "about 60 min"), (7300, "about 2 h"),
     (260_000, "about 3 days")],
)  # fmt: skip
def test_times_are_rounded_as_people_say_them(seconds, words):
    assert tables.coarse(seconds) == words


def test_a_missing_repository_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no README\.md and notebooks/"):
        table(TableConfig(root=str(tmp_path)))
