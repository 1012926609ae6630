"""Results on disk: where they lie, how they are written, and how a value reads.

`lab` writes them while a notebook runs, `runner` and `tables` read them. Imports no Paddle.
"""

from __future__ import annotations

import importlib.metadata
import json
import math
import os
import platform
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from convbert import runtime

HOLDS, FAILS, QUOTED = "holds", "fails", "quoted"
NOT_JUDGED = "not judged at this scale"


def output_root(output_dir: str | os.PathLike[str], break_: str = "") -> Path:
    """Return where a run writes: a deliberately broken one never touches the real results."""
    return Path(output_dir) / "broken" / break_ if break_ else Path(output_dir)


def blank(notebook: str, scale: str, broken: str = "") -> dict[str, Any]:
    """Return the content of a results file before anything is found.

    Args:
        notebook: or command; names the file.
        scale: smoke, cpu or paper.
        broken: name of a deliberate defect; "" for an honest run.
    """
    return {
        "notebook": notebook,
        "scale": scale,
        "broken": broken,
        "finished": False,
        "seconds": 0.0,
        **environment(),
        "versions": versions(),
        "commit": commit(),
        "records": {},
        "claims": {},
        "figures": {},
    }


def path(root: str | os.PathLike[str], scale: str, notebook: str) -> Path:
    """Return the results file of a notebook."""
    return Path(root) / "data" / "results" / scale / f"{notebook}.json"


def format_value(value: Any, average: bool = False) -> str:
    """Write a value for people: four significant digits; a list of seeds as mean ± deviation."""
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, list):
        if average and value and all(isinstance(item, (int, float)) for item in value):
            middle = statistics.fmean(value)
            if abs(middle) < 1e-12 * max(map(abs, value)):  # gains that cancel, but for rounding
                middle = 0.0
            mean = f"{middle:.4g}"
            return f"{mean} ± {statistics.stdev(value):.2g}" if len(value) > 1 else mean
        return "[" + ", ".join(format_value(item) for item in value) + "]"
    return str(value)


def format_evidence(entry: Mapping[str, Any]) -> str:
    """Write what speaks for or against a claim: observed, null, bound, seeds, source."""
    parts = []
    if entry["observed"] is not None:
        shown = format_value(entry["observed"], average=entry["kind"] == "statistical")
        parts.append(f"observed {shown}")
    for key in ("null", "bound", "source"):
        if entry[key] is not None:
            parts.append(f"{key} {format_value(entry[key])}")
    if entry["seeds"]:
        count = len(entry["seeds"])
        parts.append(f"{count} seed{'s' if count > 1 else ''}")
    return ", ".join(parts) or "nothing further given"


def write_atomically(target: Path, content: bytes) -> None:
    """Write a file so that a reader finds the old content or the new, never a part.

    The modes are those of any new file; temporary files alone would be private to the user.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    descriptor, temporary = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.")
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
        umask = os.umask(0)
        os.umask(umask)
        os.chmod(temporary, 0o666 & ~umask)
        os.replace(temporary, target)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def write_json(target: Path, content: Mapping[str, Any]) -> None:
    """Write pure JSON: no NaN, which other readers refuse."""
    text = json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False)
    write_atomically(target, (text + "\n").encode())


def plain(name: str, value: Any) -> Any:
    """Turn arrays, tensors and NumPy scalars into what JSON knows.

    Args:
        name: what the value is, for the message.
        value: number, text, array, or lists and mappings of them.

    Raises:
        ValueError: NaN, infinity, or something that JSON does not know.
    """
    if hasattr(value, "tolist"):
        value = value.tolist()
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"{name}: {value} is not a finite number")
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, Mapping):
        return {str(key): plain(name, item) for key, item in value.items()}
    if isinstance(value, (list, tuple, range)):
        return [plain(name, item) for item in value]
    raise ValueError(f"{name}: cannot keep a {type(value).__name__} as JSON")


def environment() -> dict[str, Any]:
    """Return what a number was measured with; asks Paddle only if it is imported already."""
    hardware, device = runtime.cpu_name(), None
    paddle = sys.modules.get("paddle")
    if paddle is not None:
        device = str(paddle.device.get_device())
        if device.startswith("gpu"):
            hardware = str(paddle.device.cuda.get_device_name())
    return {
        "hardware": hardware,
        "device": device,  # unknown until Paddle is imported
        "cores": runtime.usable_cores(),
        "settings": runtime.report(),
    }


def versions() -> dict[str, str | None]:
    """Return the versions that results depend on; None for what is not installed."""
    return {
        "python": platform.python_version(),
        "paddle": _version("paddlepaddle") or _version("paddlepaddle-gpu"),
        "numpy": _version("numpy"),
        "convbert": _version("convbert"),
    }


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None  # run from a checkout that is not installed


def commit() -> str | None:
    """Return the commit of the checkout this package lies in, if it lies in one."""
    root = Path(__file__).resolve().parents[1]
    if not (root / ".git").exists():
        return None
    answers = []
    for question in (["rev-parse", "HEAD"], ["status", "--porcelain", "--untracked-files=no"]):
        try:
            answer = subprocess.run(
                ["git", "-C", str(root), *question],
                capture_output=True,
                text=True,
                timeout=20,
                check=False,
            )
        except (OSError, subprocess.TimeoutExpired):
            return None  # no git on this machine
        if answer.returncode != 0:
            return None
        answers.append(answer.stdout.strip())
    revision, changes = answers
    return f"{revision} with local changes" if changes else revision
