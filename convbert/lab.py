"""Scales, claims and results: what a notebook needs besides its subject.

A notebook calls `begin` once, then states what it found:

    scale = lab.begin("01_architecture", SCALE, OUTPUT_DIR, break_=BREAK, breaks=("no_conv",))
    lab.record("parameters", 106_000_000, unit="weights")
    lab.claim("kernels_equal", "Both give the same kernel.", gap < 1e-6, kind="exact", observed=gap)
    lab.figure(fig, "kernel", alt="Nine taps; the middle one carries 0.31 of the mass.")

One JSON file per notebook and scale keeps it all; the README's tables come from there.
"""

from __future__ import annotations

import base64
import html
import inspect
import io
import os
import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

from convbert import results
from convbert.results import FAILS, HOLDS, NOT_JUDGED, QUOTED, format_evidence, format_value, plain

_DPI = 144  # of the PNG files
MIN_SEEDS = 3  # a statistical claim made with fewer is an anecdote
_SYMBOLS = {HOLDS: "✓", FAILS: "✗", NOT_JUDGED: "–", QUOTED: "”"}
_COLORS = {HOLDS: "#0072B2", FAILS: "#D55E00"}  # other verdicts keep the theme's text color


@dataclass(frozen=True)
class Scale:
    """How much a run does. Rows differ in numbers only; the notebooks' code is the same."""

    name: str  # key of the row
    seeds: int  # random seeds of each statistical claim
    model: str  # published size that is trained
    converted: tuple[str, ...]  # published sizes whose conversion is checked
    pretrain_steps: int  # updates of pretraining
    pretrain_batch: int  # sequences in a pretraining batch
    pretrain_length: int  # tokens in a pretraining sequence
    finetune_examples: int  # labeled training examples of a task, at most
    finetune_steps: int  # updates of fine-tuning
    task_seeds: int  # random seeds of tasks whose results are recorded, not claimed
    locality_sentences: int  # held-out sentences over which heads are measured
    copy_steps: int  # updates of the copy-the-previous-token demonstration
    control_steps: int  # updates of each model with and without convolution heads
    limit_s: int  # seconds after which the runner stops a notebook


_TABLE: dict[str, tuple[Any, Any, Any]] = {  # one column per name
    "seeds": (1, 3, 5),
    "model": ("convbert-tiny", "convbert-tiny", "convbert-base"),
    "converted": (("small",), ("small", "medium-small", "base"), ("small", "medium-small", "base")),
    "pretrain_steps": (20, 1_200, 1_000_000),
    "pretrain_batch": (8, 16, 256),
    "pretrain_length": (32, 64, 128),
    "finetune_examples": (256, 8_000, 400_000),
    "finetune_steps": (10, 200, 40_000),
    "task_seeds": (1, 1, 5),
    "locality_sentences": (20, 200, 1_000),
    "copy_steps": (50, 100, 400),
    "control_steps": (10, 400, 100_000),
    "limit_s": (300, 1800, 60 * 24 * 3600),
}
_COLUMNS = zip(("smoke", "cpu", "paper"), *_TABLE.values(), strict=True)
SCALES: Mapping[str, Scale] = MappingProxyType(
    {name: Scale(name, **dict(zip(_TABLE, values, strict=True))) for name, *values in _COLUMNS}
)


class ClaimFailed(AssertionError):
    """A claim does not hold; the message names it, what was observed and what was allowed."""


@dataclass
class _Run:
    """The notebook that is running in this process."""

    scale: Scale
    notebook: str
    root: Path  # output folder of this run
    started: float  # monotonic seconds
    content: dict[str, Any]  # of the results file


_run: _Run | None = None


def scale_row(name: str) -> Scale:
    """Return the row of the table of scales.

    Raises:
        ValueError: there is no such scale.
    """
    if name not in SCALES:
        raise ValueError(f"SCALE={name!r}: choose one of {', '.join(SCALES)}")
    return SCALES[name]


def begin(
    notebook: str,
    scale: str,
    output_dir: str | os.PathLike[str] = "outputs",
    break_: str = "",
    breaks: Sequence[str] = (),
) -> Scale:
    """Open the notebook's record; called once, in the first cell after the parameters.

    Calling it again (a re-run in the same kernel) starts a fresh record.

    Args:
        notebook: file name without `.ipynb`.
        scale: smoke, cpu or paper.
        output_dir: folder that receives results and figures.
        break_: name of a deliberate defect, to see a claim fail; "" for an honest run.
        breaks: the defects that this notebook knows.

    Returns:
        The row of numbers that belongs to the scale.

    Raises:
        ValueError: unknown scale, unknown defect, or a notebook name with other characters.
    """
    global _run
    row = scale_row(scale)
    _check_name("notebook", notebook)
    if break_ and break_ not in breaks:
        raise ValueError(f"BREAK={break_!r}: {notebook} knows {', '.join(breaks) or 'none'}")
    content = results.blank(notebook, row.name, break_)  # the runner says when it is finished
    _run = _Run(row, notebook, results.output_root(output_dir, break_), time.monotonic(), content)
    _save()
    _set_display_defaults()
    broken = f", BROKEN on purpose: {break_}" if break_ else ""
    python, paddle = content["versions"]["python"], content["versions"]["paddle"]
    print(f"{notebook} at scale {row.name}{broken} | Python {python}, Paddle {paddle}, ", end="")
    print(f"{content['hardware']} | output: {_run.root}")
    return row


def record(name: str, value: Any, *, unit: str = "", seeds: Sequence[int] | None = None) -> None:
    """Keep a measured number, and show it.

    Args:
        name: letters, digits, `_` and `-`; an earlier record of that name is replaced.
        value: number, text, or lists and mappings of them; arrays are written as lists.
        unit: unit of the value, as "ms" or "tokens/s".
        seeds: the random seeds behind a list of values, one each.

    Raises:
        ValueError: a number is not finite, or seeds and values differ in number.
    """
    run = _current()
    _check_name("record", name)
    entry = {"value": plain(name, value), "unit": unit, "seeds": _seeds(name, value, seeds)}
    run.content["records"][name] = entry
    _save()
    shown = format_value(entry["value"], average=seeds is not None)
    _display(f"{name} = {shown} {unit}".rstrip())


def claim(
    name: str,
    text: str,
    holds: bool | None = None,
    *,
    kind: str,
    observed: Any = None,
    null: float | None = None,
    bound: float | str | None = None,
    seeds: Sequence[int] | None = None,
    source: str | None = None,
) -> None:
    """State what was found, judge it, show it and keep it.

    Args:
        name: letters, digits, `_` and `-`; an earlier claim of that name is replaced.
        text: the finding, one sentence.
        holds: the comparison that decides; None for a quoted number.
        kind: "exact" (parity, counts, shapes: judged at every scale), "statistical" (judged from
            three seeds on, never at scale smoke) or "quoted" (somebody else's, never judged).
        observed: what was measured; for a statistical claim a mean, or one value per seed.
        null: what chance or the trivial method gives; required for a statistical claim.
        bound: what decides, as 1e-6 or "< 6.5".
        seeds: the random seeds behind `observed`.
        source: where a quoted number was published.

    Raises:
        ClaimFailed: the claim is judged and does not hold; it is kept as failed.
        ValueError: the call itself is unusable; nothing is kept.
    """
    run = _current()
    _check_name("claim", name)
    entry = {
        "kind": kind,
        "text": text,
        "verdict": "",
        "observed": plain(name, observed),
        "null": plain(name, null),
        "bound": plain(name, bound),
        "seeds": _seeds(name, observed, seeds),
        "source": source,
    }
    entry["verdict"] = _judge(name, entry, holds, run.scale)
    run.content["claims"][name] = entry
    _save()
    _display_claim(name, entry)
    if entry["verdict"] == FAILS:
        raise ClaimFailed(f"claim {name} fails: {text} ({format_evidence(entry)})")


def figure(fig: Any, name: str, alt: str, data: Any = None) -> None:
    """Save a figure by name and show it with a text that says what it shows.

    It is shown as HTML: an alt text kept as image metadata would not survive a conversion.

    Args:
        fig: a `matplotlib.figure.Figure`.
        name: file name without extension.
        alt: one sentence with the key number, for those who cannot see the picture.
        data: the numbers that are drawn, a pandas DataFrame; saved as CSV.

    Raises:
        TypeError: not a Figure, or data that are not a DataFrame.
        ValueError: an alt text that is empty or has no number.
    """
    import matplotlib
    from matplotlib.figure import Figure

    run = _current()
    _check_name("figure", name)
    if not isinstance(fig, Figure):
        raise TypeError(f"figure {name}: expected a matplotlib Figure, got {type(fig).__name__}")
    if not any(character.isdigit() for character in alt):
        raise ValueError(f"figure {name}: the alt text must say the key number, got {alt!r}")
    if data is not None and not hasattr(data, "to_csv"):
        raise TypeError(f"figure {name}: data is a pandas DataFrame, got {type(data).__name__}")

    look: dict[str, Any] = {"facecolor": "white", "bbox_inches": "tight"}
    png, svg = io.BytesIO(), io.BytesIO()
    fig.savefig(png, format="png", dpi=_DPI, metadata={"Software": None}, **look)
    with matplotlib.rc_context({"svg.hashsalt": "convbert"}):  # the same figure, the same file
        fig.savefig(svg, format="svg", metadata={"Date": None, "Description": alt}, **look)
    files = {"png": png.getvalue(), "svg": svg.getvalue()}
    if data is not None:
        files["csv"] = data.to_csv(index=False).encode()
    for suffix, content in files.items():
        results.write_atomically(run.root / "figures" / run.notebook / f"{name}.{suffix}", content)
    run.content["figures"][name] = {"alt": alt, "files": [f"{name}.{suffix}" for suffix in files]}
    _save()
    _display_picture(files["png"], alt)


def show(obj: Any) -> None:
    """Show the source of a function or class of this package; a ValueError for anything else."""
    target = inspect.unwrap(obj) if callable(obj) else obj
    module = getattr(target, "__module__", None) or ""
    has_source = inspect.isclass(target) or inspect.isroutine(target)
    if not has_source or module.split(".")[0] != "convbert":
        raise ValueError(f"show: expected a function or class of convbert, got {obj!r}")
    lines, first = inspect.getsourcelines(target)
    code, place = "".join(lines).rstrip(), f"{module.replace('.', '/')}.py, line {first}"
    # Markdown takes the reader's own theme; four ticks, since docstrings may hold three.
    _display(f"# {place}\n{code}", markdown=f"`{place}`\n\n````python\n{code}\n````")


def _current() -> _Run:
    if _run is None:
        raise RuntimeError("call lab.begin(notebook, SCALE, OUTPUT_DIR) first")
    return _run


def _save() -> None:
    run = _current()
    run.content["seconds"] = round(time.monotonic() - run.started, 1)
    run.content.update(results.environment())  # the device is known once Paddle is imported
    results.write_json(results.path(run.root, run.scale.name, run.notebook), run.content)


def _judge(name: str, entry: Mapping[str, Any], holds: Any, scale: Scale) -> str:
    """Check that the claim is usable, and return its verdict."""
    kind = entry["kind"]
    if kind not in ("exact", "statistical", "quoted"):
        raise ValueError(f"claim {name}: kind={kind!r}; choose exact, statistical or quoted")
    if not entry["text"].strip():
        raise ValueError(f"claim {name}: text is empty; say what was found")
    if kind == "quoted":
        if not (entry["source"] or "").strip():
            raise ValueError(f"claim {name}: a quoted number needs its source")
        if holds is not None:
            raise ValueError(f"claim {name}: a quoted number is not judged; pass holds=None")
        return QUOTED
    # A number here is nearly always the measurement itself, which would count as true.
    if type(holds).__name__ not in ("bool", "bool_"):
        raise ValueError(f"claim {name}: holds must be True or False, got {holds!r}")
    if kind == "statistical":
        for key in ("null", "observed"):
            if not _is_numeric(entry[key]):
                raise ValueError(
                    f"claim {name}: a statistical claim needs {key} as numbers, got {entry[key]!r}"
                )
        if scale.name == "smoke":
            return NOT_JUDGED
        if len(entry["seeds"] or ()) < MIN_SEEDS:
            raise ValueError(
                f"claim {name}: a statistical claim needs at least {MIN_SEEDS} seeds at scale "
                f"{scale.name}, got seeds={entry['seeds']}"
            )
    return HOLDS if holds else FAILS


def _seeds(name: str, values: Any, seeds: Sequence[int] | None) -> list[int] | None:
    if seeds is None:
        return None
    listed = [int(seed) for seed in seeds]
    if len(set(listed)) != len(listed):
        raise ValueError(f"{name}: seeds={listed} repeat")
    values = plain(name, values)
    if isinstance(values, list) and len(values) != len(listed):
        raise ValueError(f"{name}: {len(values)} values but {len(listed)} seeds")
    return listed


def _is_numeric(value: Any) -> bool:
    if isinstance(value, list):
        return bool(value) and all(_is_numeric(item) for item in value)
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _check_name(what: str, name: str) -> None:
    if not re.fullmatch(r"[A-Za-z0-9_-]+", name):
        raise ValueError(f"{what} name {name!r}: use letters, digits, _ and -")


def _set_display_defaults() -> None:
    import numpy as np
    import pandas as pd

    np.set_printoptions(precision=4, suppress=True, linewidth=100)
    pd.set_option("display.precision", 4, "display.max_rows", 30)


def _display(text: str, **formats: str) -> None:
    from IPython.display import display

    display(_Output(text, **formats))


def _display_claim(name: str, entry: Mapping[str, Any]) -> None:
    verdict, evidence = entry["verdict"], format_evidence(entry)
    mark = f"{_SYMBOLS[verdict]} {verdict}"
    color = f' style="color:{_COLORS[verdict]}"' if verdict in _COLORS else ""
    _display(
        f"{mark}: {entry['text']} ({name}, {entry['kind']}: {evidence})",
        html=f"<div><b{color}>{mark}</b>: {html.escape(entry['text'])} "
        f"<small>({name}, {entry['kind']}: {html.escape(evidence)})</small></div>",
    )


def _display_picture(png: bytes, alt: str) -> None:
    width = int.from_bytes(png[16:20], "big") * 96 // _DPI  # PNG header; screens have 96 per inch
    data = base64.b64encode(png).decode()
    _display(
        f"[figure: {alt}]",
        html=f'<img alt="{html.escape(alt)}" width="{width}" style="max-width:100%" '
        f'src="data:image/png;base64,{data}">',
    )


class _Output:
    """Something to display: in a terminal the text, in a notebook the richest format it knows."""

    def __init__(self, text: str, **formats: str) -> None:
        self._text = text
        self._formats = {f"text/{name}": content for name, content in formats.items()}

    def __repr__(self) -> str:
        return self._text

    def _repr_mimebundle_(self, **_: Any) -> dict[str, str]:
        return {"text/plain": self._text, **self._formats}
