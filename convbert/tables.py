"""Tables that are generated, never typed: `python -m convbert table`.

The README's results and map of notebooks, and the line in each notebook that says how long it
takes, come from the results files under `data/results/`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from convbert import notebooks, results
from convbert import quoted as quoted_results
from convbert.lab import SCALES
from convbert.train import recipes

_RESULTS_SCALE = "cpu"  # whose claims the README shows
_TASKS, _SEARCH = "glue_tasks", "glue_search"  # results files of these commands:
_COMMANDS = {_TASKS: "tasks", _SEARCH: "search"}
_MAP_SCALES = ("smoke", "cpu")  # whose times the README shows
_QUESTION = re.compile(r"^\*\*Question[.:]?\*\*[.:]?\s*(?P<text>\S.*)$", re.MULTILINE)


@dataclass
class TableConfig:
    """Write the generated tables of the README and the times in the notebooks."""

    check: bool = False  # write nothing; fail if a file is out of date
    root: str = ""  # the repository; empty: the current folder, else the package's own


def table(config: TableConfig) -> None:
    """Run the command.

    Raises:
        ValueError: with `check`, a file is out of date; else a file lacks its markers.
        FileNotFoundError: there is no README.md or no notebook.
    """
    root = find_root(config.root)
    readme = root / "README.md"
    for path, old, new in [(readme, *update_readme(root)), *update_notebooks(root)]:
        if old == new:
            continue
        shown = path.relative_to(root)
        if config.check:
            raise ValueError(f"{shown} is out of date: run python -m convbert table")
        results.write_atomically(path, new.encode())
        print(f"wrote {shown}")
    if config.check:
        print("README.md and the notebooks are up to date")


def find_root(root: str = "") -> Path:
    """Return the folder that holds README.md and notebooks/."""
    own = Path(__file__).resolve().parents[1]
    for candidate in [Path(root)] if root else [Path(), own]:
        if (candidate / "README.md").is_file() and (candidate / "notebooks").is_dir():
            return candidate
    raise FileNotFoundError(f"no README.md and notebooks/ in {root or 'the current folder'}")


def update_readme(root: Path) -> tuple[str, str]:
    """Return the README as it is and as it should be."""
    old = (root / "README.md").read_text("utf-8")
    measured = load_results(root)
    new = fill(old, "results", results_tables(measured[_RESULTS_SCALE]), "README.md")
    return old, fill(new, "notebooks", notebook_map(root, measured), "README.md")


def update_notebooks(root: Path) -> list[tuple[Path, str, str]]:
    """Return, for each notebook, its path, its text as it is and as it should be."""
    import nbformat

    measured = load_results(root)
    changes = []
    for path in notebooks.choose(root / "notebooks"):
        notebook = notebooks.read(path)
        first = notebook.cells[0]
        line = time_line([found[path.stem] for found in measured.values() if path.stem in found])
        source = fill(first.source, "time", line, f"notebooks/{path.name}")
        old = new = path.read_text("utf-8")
        if source != first.source:  # otherwise keep the file's own formatting
            first.source = source
            new = nbformat.writes(notebook) + "\n"
        changes.append((path, old, new))
    return changes


def load_results(root: Path) -> dict[str, dict[str, Any]]:
    """Return the committed results by scale and notebook.

    Raises:
        ValueError: a file is of a run that failed, or was broken on purpose.
    """
    measured: dict[str, dict[str, Any]] = {}
    for scale in SCALES:
        measured[scale] = {}
        for path in sorted((root / "data" / "results" / scale).glob("*.json")):
            content = json.loads(path.read_text("utf-8"))
            if not content["finished"] or content["broken"]:
                raise ValueError(
                    f"{path.relative_to(root)} is not of a finished, honest run: run "
                    f"{path.stem} again with python -m convbert run --scale {scale}"
                )
            measured[scale][path.stem] = content
    return measured


def results_tables(measured: Mapping[str, Any]) -> str:
    """Write what the notebooks claim: our own measurements, then other people's numbers."""
    if not measured:
        return f"Not measured yet: `python -m convbert run --scale {_RESULTS_SCALE}`."
    own, quoted = [], []
    for name, content in measured.items():
        number = _origin(name)
        for claim in content["claims"].values():
            is_statistical = claim["kind"] == "statistical"
            observed = "" if claim["observed"] is None else claim["observed"]
            shown = results.format_value(observed, average=is_statistical)
            if claim["verdict"] == results.QUOTED:
                quoted.append([number, claim["text"], shown, claim["source"]])
                continue
            limits = ["" if claim[key] is None else claim[key] for key in ("null", "bound")]
            seeds = len(claim["seeds"] or ()) or ""
            verdict = claim["verdict"]
            own.append([number, claim["text"], shown, *limits, seeds, claim["kind"], verdict])
    head = ["notebook", "claim", "observed", "null", "bound", "seeds", "kind", "verdict"]
    runs = [content for name, content in measured.items() if name not in (_TASKS, _SEARCH)]
    parts = [_measured_on(runs)] if runs else []
    if runs or own:
        parts.append(_table(head, own))
    if quoted:
        parts.append("Quoted, not measured here:")
        parts.append(_table(["notebook", "statement", "value", "source"], quoted))
    if _TASKS in measured:
        parts += tasks_tables(measured[_TASKS])
    if _SEARCH in measured:
        parts += search_tables(measured[_SEARCH])
    return "\n\n".join(parts)


def _origin(name: str) -> str:
    """Link the notebook that found something, or name the command."""
    number = name.split("_")[0]
    if number.isdigit():
        return f"[{number}](notebooks/{name}.ipynb)"
    return f"`convbert {_COMMANDS.get(name, name)}`"


def tasks_tables(content: Mapping[str, Any]) -> list[str]:
    """Write what `convbert tasks` recorded, and what others published on the same tasks."""
    rows, quotations = [], []
    tasks = content["records"]["tasks"]["value"]
    for task, found in tasks.items():
        values = [found.get(start, []) for start in recipes.STARTS]
        gain = [a - b for a, b in zip(*values, strict=False)]  # a published model has no twin
        scores = [_mean(each) if each else "" for each in (*values, gain)]
        nulls = (f"{name} {value:.3f}" for name, value in found["baselines"].items())
        seeds, steps = (found[key] for key in ("seeds", "steps"))
        rows.append([task, found["metric"], *scores, "; ".join(nulls), str(seeds), steps])
    published = [task for task in tasks if not task.startswith("sample/")]
    for row in quoted_results.GLUE:
        scores = [" / ".join(map(str, row.scores.get(task, ()))) for task in published]
        quotations.append([row.who, row.on, *scores, row.source])
    head = [
        "task",
        "metric on dev",
        "pretrained",
        "new weights",
        "gain",
        "without a model",
        "seeds",
        "steps",
    ]
    note = (
        "A tiny model on small tasks, pretrained four times as long as in the notebooks: last "
        "step, mean ± deviation over seeds. Only the gains on the sample's two tasks are claimed."
    )
    return [
        f"{note} {_measured_on([content], 'tasks')}",
        _table(head, rows),
        "Quoted, other people's results with the published sizes, in percent:",
        _table(["who", "data", *published, "source"], quotations),
    ]


def search_tables(content: Mapping[str, Any]) -> list[str]:
    """Write what `convbert search` tried, and whether the best of it was confirmed."""
    records = content["records"]
    trials, confirmed = records["trials"]["value"], records["confirmed"]["value"]
    head = ["task", "metric", "tried", "updates", "pretrained", "new weights", "gain", "seeds"]
    note = (
        "Is there a GLUE task on which pretraining helps the tiny model? Every trial is measured "
        "at its last step on training examples that were set apart, mean ± deviation over seeds. "
        f"{_measured_on([content], 'search')}"
    )
    parts = [note, _table(head, [_search_row(row) for row in trials])]
    if confirmed is None:
        return [*parts, "No trial was ahead with every seed, so none was tried again on dev."]
    again = "The one whose smallest gain is largest, again: other seeds, on the dev set"
    return [*parts, f"{again}, which no trial has seen.", _table(head, [_search_row(confirmed)])]


def _search_row(row: Mapping[str, Any]) -> list[Any]:
    shown = [_mean(row[name]) for name in (*recipes.STARTS, "gain")]
    what = [row[key] for key in ("task", "metric", "trial", "steps")]
    return [*what, *shown, str(row["seeds"])]


def _mean(values: Any) -> str:
    return results.format_value(values, average=True)


def notebook_map(root: Path, measured: Mapping[str, Mapping[str, Any]]) -> str:
    """Write the list of notebooks: what each asks, and how long it took on what."""
    rows = []
    for path in notebooks.choose(root / "notebooks"):
        title, question = title_and_question(notebooks.read(path), f"notebooks/{path.name}")
        runs = [measured[scale].get(path.stem) for scale in _MAP_SCALES]
        times = [coarse(run["seconds"]) if run else "not measured" for run in runs]
        hardware = dict.fromkeys(run["hardware"] for run in runs if run)
        number = path.stem.split("_")[0]
        link = f"[{title}](notebooks/{path.name})"
        rows.append([number, link, question, *times, "; ".join(hardware)])
    return _table(["", "notebook", "question", *_MAP_SCALES, "measured on"], rows)


def title_and_question(notebook: Any, place: str) -> tuple[str, str]:
    """Return the title, without its number, and the question of a notebook's first cell.

    Raises:
        ValueError: the cell does not start with `# Title`, or has no `**Question.** …` line.
    """
    source = notebook.cells[0].source
    title = re.match(r"#\s+(?:\d+\s*[.:·]?\s+)?(\S.*)", source)
    question = _QUESTION.search(source)
    if title is None:
        raise ValueError(f"{place}: the first cell does not start with '# Title'")
    if question is None:
        raise ValueError(f"{place}: the first cell has no line '**Question.** …'")
    return title.group(1).strip(), question["text"].strip()


def time_line(runs: Sequence[Mapping[str, Any]]) -> str:
    """Write how long a notebook takes, by scale and hardware."""
    if not runs:
        return "Measured time: not measured yet."
    times = [
        f"{coarse(run['seconds'])} at scale {run['scale']} ({run['hardware']})" for run in runs
    ]
    return f"Measured time: {', '.join(times)}."


def coarse(seconds: float) -> str:
    """Round a duration as people say it; finer digits would differ at the next run."""
    if seconds < 10:
        return "under 10 s"
    if seconds < 55:
        return f"about {round(seconds, -1):.0f} s"
    minutes = seconds / 60
    if minutes < 9.5:
        return f"about {round(minutes)} min"
    if minutes < 90:
        return f"about {5 * round(minutes / 5)} min"
    if minutes < 36 * 60:
        return f"about {round(minutes / 60)} h"
    return f"about {round(minutes / 60 / 24)} days"


def fill(text: str, name: str, content: str, place: str) -> str:
    """Replace what stands between `<!-- name:start -->` and `<!-- name:end -->`.

    Raises:
        ValueError: the text does not hold exactly one such pair.
    """
    start, end = f"<!-- {name}:start -->", f"<!-- {name}:end -->"
    if text.count(start) != 1 or text.count(end) != 1 or text.index(start) > text.index(end):
        raise ValueError(f"{place}: expected one {start} and then one {end}")
    before, rest = text.split(start)
    return f"{before}{start}\n\n{content}\n\n{end}{rest.split(end)[1]}"


def _measured_on(runs: Iterable[Mapping[str, Any]], command: str = "run") -> str:
    """Say on what, with what and from which commit the runs were made."""
    runs = list(runs)
    hardware = dict.fromkeys(run["hardware"] for run in runs)
    paddle = dict.fromkeys(str(run["versions"]["paddle"]) for run in runs)
    # 40 digits say no more than ten; what may follow them ("with local changes") does.
    shortened = (re.sub(r"^(\w{10})\w{30}", r"\1", run["commit"] or "unknown") for run in runs)
    commits = dict.fromkeys(shortened)
    return (
        f"`python -m convbert {command} --scale {_RESULTS_SCALE}` on {'; '.join(hardware)}; "
        f"Paddle {', '.join(paddle)}; commit {', '.join(commits)}."
    )


def _table(head: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(_cell(value) for value in line) + " |" for line in lines)


def _cell(value: Any) -> str:
    return results.format_value(value).replace("|", "\\|").replace("\n", " ")
