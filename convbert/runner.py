"""Executing notebooks, strictly: `python -m convbert run`.

papermill lets much pass that a reader would want to know: a misspelled parameter only warns, a
word where a number belongs is accepted, a cell that calls `sys.exit()` ends the notebook with
success. This wrapper refuses before it runs, runs each notebook in an empty folder with a time
limit, and looks at what came out.
"""

from __future__ import annotations

import json
import logging
import os
import re
import shutil
import sys
import tempfile
import textwrap
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import simple_parsing

from convbert import lab, notebooks, results

MAX_BYTES = 2_000_000  # of an executed notebook; beyond, browsers and reviewers suffer
_ANSI = re.compile(r"\x1b\[[0-9;]*m")
# Addresses nbconvert would write into every page; an empty one is not fetched.
_WEB_ASSETS = (
    "jquery_url",
    "jupyter_widgets_base_url",
    "mathjax_url",
    "mermaid_js_url",
    "mermaid_layout_elk_js_url",
    "require_js_url",
    "widget_renderer_url",
)


@dataclass
class RunConfig:
    """Run notebooks at a scale; keep the executed notebooks, results and figures."""

    scale: str = "cpu"  # smoke (a minute each), cpu (a laptop) or paper (GPUs)
    only: str = ""  # which notebooks, as 01,04 or 01_architecture; empty: all
    parameters: list[str] = simple_parsing.field(  # noqa: RUF009 (a dataclass field)
        default_factory=list,
        alias="-p",
        action="append",
        nargs=None,
        metavar="NAME=VALUE",
        help="set a parameter of the notebooks that declare it; may be repeated",
    )
    output_dir: str = "outputs"  # folder that receives everything
    notebooks: str = ""  # folder of notebooks; empty: ./notebooks, else the one beside the package
    student: bool = False  # drop the solutions first, to see the checks of the exercises fail
    limit_s: float = 0.0  # seconds a notebook may take; 0: what the scale allows
    html: bool = True  # write an HTML page beside each executed notebook

    def __post_init__(self) -> None:
        lab.scale_row(self.scale)
        if self.limit_s < 0:
            raise ValueError(f"limit_s={self.limit_s}: give seconds, or 0 for the scale's own")


@dataclass(frozen=True)
class Failure:
    """Why a notebook stopped."""

    reason: str  # one line: the claim, the exception or the limit
    cell: int | None = None  # position in the notebook file, from 1
    claim: str | None = None  # name of the claim that failed
    code: str = ""  # the line of the cell, if known
    place: str = ""  # file and line where it was raised, if not in the cell


@dataclass(frozen=True)
class Outcome:
    """What running one notebook gave."""

    name: str
    seconds: float  # with the start of the kernel
    root: Path  # output folder
    notebook: Path  # the executed notebook
    content: Mapping[str, Any]  # of the results file; empty if none was written
    failure: Failure | None = None


def run(config: RunConfig) -> None:
    """Run the command; exits with 1 if a notebook fails."""
    chosen = notebooks.choose(notebooks.find_folder(config.notebooks), config.only)
    outcomes = run_notebooks(
        chosen,
        scale=config.scale,
        parameters=notebooks.parse_assignments(config.parameters),
        output_dir=config.output_dir,
        student=config.student,
        limit_s=config.limit_s or None,
        html=config.html,
    )
    print(summary(outcomes, [path.stem for path in chosen], config.scale))
    if any(outcome.failure for outcome in outcomes):
        raise SystemExit(1)


def run_notebooks(
    paths: Sequence[Path],
    *,
    scale: str,
    parameters: Mapping[str, str] | None = None,
    output_dir: str | os.PathLike[str] = "outputs",
    student: bool = False,
    limit_s: float | None = None,
    html: bool = True,
) -> list[Outcome]:
    """Run notebooks one after the other; the first failure is the last outcome.

    Args:
        paths: the notebooks.
        scale: smoke, cpu or paper.
        parameters: values as text, given to the notebooks that declare them.
        output_dir: folder that receives everything; `student/` in it for the student edition,
            `broken/<name>/` for a run that is broken on purpose.
        student: drop the solutions first.
        limit_s: seconds a notebook may take; None: what the scale allows.
        html: write a page beside each executed notebook.

    Returns:
        One outcome for each notebook that was started.

    Raises:
        ValueError: a notebook or a parameter is unusable; nothing has run then.
    """
    row = lab.scale_row(scale)
    out = Path(output_dir).resolve() / ("student" if student else "")
    loaded = {path.stem: notebooks.read(path) for path in paths}
    if student:
        loaded = {name: notebooks.student_edition(notebook) for name, notebook in loaded.items()}
    declared = {name: notebooks.read_defaults(notebook, name) for name, notebook in loaded.items()}
    given = notebooks.match_parameters(declared, parameters or {})

    outcomes: list[Outcome] = []
    for name, notebook in loaded.items():
        values = {**given[name], "SCALE": scale, "OUTPUT_DIR": str(out)}
        root = results.output_root(out, {**declared[name], **values}.get("BREAK") or "")
        allowed = limit_s or row.limit_s
        print(f"{name}: started at scale {scale}, limit {allowed:g} s", flush=True)
        outcome = _run_one(name, notebook, values, root, scale, allowed, html)
        outcomes.append(outcome)
        if outcome.failure:
            print(failure_block(outcome, scale), file=sys.stderr, flush=True)
            break
        print(f"{name}: finished in {outcome.seconds:.0f} s", flush=True)
    return outcomes


def _run_one(
    name: str,
    notebook: Any,
    values: Mapping[str, Any],
    root: Path,
    scale: str,
    limit_s: float,
    html: bool,
) -> Outcome:
    import nbformat

    target = root / "notebooks" / scale / f"{name}.ipynb"
    results_file = results.path(root, scale, name)
    results_file.unlink(missing_ok=True)  # what an earlier run found must not pass for this one's
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="convbert-run-") as folder:
        source, executed = Path(folder, f"{name}.ipynb"), Path(folder, "executed.ipynb")
        nbformat.write(notebook, source)
        failure = _execute(notebook, source, executed, values, limit_s, Path(folder, "empty"))
        # Without a kernel there is nothing to read; keep the notebook as it was.
        ran = nbformat.read(executed if executed.exists() else source, as_version=4)
    seconds = round(time.monotonic() - started, 1)
    _settle_streams(ran)
    ran.metadata.get("papermill", {}).update(input_path=f"{name}.ipynb", output_path=str(target))
    ran.metadata.pop("widgets", None)  # a page would prefer the dead widget to its picture
    text = nbformat.writes(ran) + "\n"
    results.write_atomically(target, text.encode())
    if html:
        results.write_atomically(target.with_suffix(".html"), _page(ran, name).encode())

    content = json.loads(results_file.read_text("utf-8")) if results_file.exists() else {}
    failure = failure or hidden_failure(name, ran, content, len(text.encode()))
    if content:
        content.update(seconds=seconds, finished=failure is None)
        results.write_json(results_file, content)
    return Outcome(name, seconds, root, target, content, failure)


def _execute(
    notebook: Any,
    source: Path,
    executed: Path,
    values: Mapping[str, Any],
    limit_s: float,
    folder: Path,
) -> Failure | None:
    """Let papermill run the notebook in an empty folder; say what went wrong."""
    import papermill
    from jupyter_client.kernelspec import NoSuchKernel
    from nbclient.exceptions import CellTimeoutError, DeadKernelError
    from papermill.exceptions import PapermillExecutionError

    folder.mkdir()
    positions = {cell["id"]: number for number, cell in enumerate(notebook.cells, start=1)}
    deadline = time.monotonic() + limit_s
    cell: int | None = None  # the last one that was started

    def seconds_left(started: Any) -> float:
        nonlocal cell
        cell = positions.get(started["id"])  # papermill's own cell of parameters has none
        return max(0.01, deadline - time.monotonic())  # 0 would mean no limit

    logging.getLogger("papermill").setLevel(logging.CRITICAL)  # failures are reported below
    terminal = sys.stderr.isatty()
    try:
        papermill.execute_notebook(
            source,
            executed,
            parameters=dict(values),
            kernel_name="python3",
            language="python",
            cwd=folder,
            progress_bar={
                "desc": source.stem,
                "unit": "cell",
                "leave": False,
                "file": sys.stderr,
                "mininterval": 0.1 if terminal else 10,
            },
            stderr_file=sys.stderr if terminal else None,  # a training cell's own progress bar
            start_timeout=120,
            timeout_func=seconds_left,
            iopub_timeout=60,  # the 4 s of nbclient are too few for a busy machine
            kernel_manager_class=_kernel_manager(),
            shutdown_kernel="immediate",  # Paddle meets a polite SIGTERM with a long report
        )
    except PapermillExecutionError as error:
        return _failure_of_cell(error, cell)
    except CellTimeoutError:
        if time.monotonic() < deadline:
            return Failure("the kernel no longer answers", cell)
        return Failure(f"the time limit of {limit_s:g} s is over; --limit_s allows more", cell)
    except DeadKernelError:
        return Failure("the kernel died; often the machine was out of memory", cell)
    except (RuntimeError, NoSuchKernel) as error:
        return Failure(f"no kernel: {error}", cell)
    return None


def _kernel_manager() -> type:
    """Return a kernel manager that starts this very Python.

    A kernel named python3 may be another Python's, which has no convbert, or an older one.
    """
    from jupyter_client.kernelspec import KernelSpec
    from jupyter_client.manager import AsyncKernelManager

    environment = {"CONVBERT_STATIC": "1"}  # widgets show pictures: nobody is there to move them
    checkout = Path(__file__).resolve().parents[1]
    if (checkout / "pyproject.toml").exists():  # not installed: the kernel starts elsewhere
        paths = [str(checkout), os.environ.get("PYTHONPATH", "")]
        environment["PYTHONPATH"] = os.pathsep.join(filter(None, paths))

    class ThisPython(AsyncKernelManager):
        @property
        def kernel_spec(self) -> KernelSpec:
            command = [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"]
            command.append("--log-level=CRITICAL")  # no remark on encryption within one machine
            return KernelSpec(argv=command, language="python", env=environment)

    return ThisPython


def _settle_streams(notebook: Any) -> None:
    """Join what a cell printed in pieces, and keep the last state of its progress bars.

    nbclient's own option for this takes minutes for a line of a million characters.
    """
    for cell in notebook.cells:
        joined: list[Any] = []
        for output in cell.get("outputs", []):
            stream = output.get("name")  # stdout or stderr; other outputs have none
            if stream and joined and joined[-1].get("name") == stream:
                joined[-1].text += output.text
            else:
                joined.append(output)
        for output in joined:
            if output.output_type == "stream":
                lines = (line.rstrip("\r").split("\r")[-1] for line in output.text.split("\n"))
                output.text = "\n".join(lines)
        if "outputs" in cell:
            cell.outputs = joined


def _failure_of_cell(error: Any, cell: int | None) -> Failure:
    """Turn papermill's error into one that names claim, line and place."""
    trace = [_ANSI.sub("", part) for part in error.traceback]
    arrows = [re.search(r"^-+> *\d+ (.*)$", part, re.MULTILINE) for part in trace]
    lines = [match.group(1).strip() for match in arrows if match]
    files = [match.group(1) for part in trace if (match := re.match(r"File (\S+:\d+)", part))]
    evalue = " ".join(error.evalue.split())
    if error.ename == "ClaimFailed":
        name = re.match(r"claim (\S+) fails", evalue)
        return Failure(evalue, cell, claim=name and name.group(1), code=lines[0] if lines else "")
    reason = f"{error.ename}: {evalue}" if evalue else error.ename
    place = files[-1] if files else ""
    return Failure(reason, cell, code=lines[0] if lines else "", place=place)


def hidden_failure(name: str, ran: Any, content: Mapping[str, Any], size: int) -> Failure | None:
    """Look for what an execution without an error can hide.

    Args:
        name: of the notebook.
        ran: the executed notebook.
        content: of its results file; empty if there is none.
        size: of the executed notebook, in bytes.
    """
    written = [cell for cell in ran.cells if not notebooks.has_tag(cell, "injected-parameters")]
    for number, cell in enumerate(written, start=1):
        if cell.cell_type == "code" and cell.source.strip() and cell.execution_count is None:
            return Failure("this cell never ran: sys.exit() before it, or a tag?", number)
    if not content:
        return Failure(f"no results: call lab.begin({name!r}, SCALE, OUTPUT_DIR) in the notebook")
    failed = [key for key, claim in content["claims"].items() if claim["verdict"] == results.FAILS]
    if failed:
        return Failure(f"claim {failed[0]} fails, and the notebook hides it", claim=failed[0])
    if size > MAX_BYTES:
        return Failure(f"the executed notebook has {size / 1e6:.1f} MB, at most 2 are allowed")
    return None


def _page(notebook: Any, title: str) -> str:
    """Convert to HTML that needs no network; formulas stay as TeX."""
    from nbconvert import HTMLExporter

    exporter = HTMLExporter(template_name="classic")  # keeps alt texts; `lab` drops them
    for name in _WEB_ASSETS:
        if exporter.has_trait(name):  # their number differs between versions
            setattr(exporter, name, "")
    body, _ = exporter.from_notebook_node(notebook, {"metadata": {"name": title}})
    # What draws Mermaid diagrams would stumble over its empty address.
    return re.sub(r'<script type="module">.*?</script>', "", str(body), flags=re.DOTALL)


def failure_block(outcome: Outcome, scale: str) -> str:
    """Say in one block what failed, where, and where to look."""
    failure = outcome.failure
    if failure is None:
        raise ValueError(f"{outcome.name} did not fail")
    where = f" in cell {failure.cell}" if failure.cell else ""
    lines = [f"{outcome.name} failed{where} at scale {scale} after {outcome.seconds:.0f} s"]
    lines.append(f"  {failure.reason}")
    if failure.code:
        lines.append(f"  line: {failure.code}")
    if failure.place:
        lines.append(f"  raised at: {failure.place}")
    lines.append(f"  the notebook as far as it ran: {outcome.notebook}")
    return "\n".join(lines)


def summary(outcomes: Sequence[Outcome], names: Sequence[str], scale: str) -> str:
    """Write what was learned, how long it took, and where everything lies.

    Args:
        outcomes: of the notebooks that were started.
        names: of all notebooks that were chosen.
        scale: at which they ran.
    """
    width = max(60, min(120, shutil.get_terminal_size((100, 20)).columns))
    lines = ["", f"What was learned at scale {scale}"]
    for outcome in outcomes:
        lines.append(f"  {outcome.name}")
        for name, claim in outcome.content.get("claims", {}).items():
            text = f"{claim['verdict']}: {claim['text']}"
            evidence = f"{name}, {claim['kind']}: {results.format_evidence(claim)}"
            lines += textwrap.wrap(text, width, initial_indent=" " * 4, subsequent_indent=" " * 8)
            lines += textwrap.wrap(evidence, width, initial_indent=" " * 8)
    lines += ["", "Seconds"]
    for outcome in outcomes:
        state = "failed" if outcome.failure else "ok"
        lines.append(f"  {outcome.name:<28} {outcome.seconds:7.1f}  {state}")
    lines += [f"  {name:<28} {'-':>7}  not run" for name in names[len(outcomes) :]]
    lines += ["", "Where it lies"]
    for root in dict.fromkeys(outcome.root for outcome in outcomes):
        lines.append(f"  executed notebooks  {root / 'notebooks' / scale}")
        lines.append(f"  results             {root / 'data' / 'results' / scale}")
        lines.append(f"  figures             {root / 'figures'}")
    return "\n".join(lines)
