"""Notebook files: where they are, what their parameters are, and the edition without solutions.

Parameters are strict: an unknown name, a value of another type, or a notebook without exactly one
cell of parameters is refused before anything runs.
"""

from __future__ import annotations

import ast
import copy
import difflib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

# Parameters every notebook declares and the runner sets; and the options that set them.
OWN = {"SCALE": "--scale", "OUTPUT_DIR": "--output_dir"}


def find_folder(folder: str = "") -> Path:
    """Return the folder of notebooks: the one named, ./notebooks, or the package's own.

    Raises:
        FileNotFoundError: there is none.
    """
    own = Path(__file__).resolve().parents[1] / "notebooks"
    for candidate in [Path(folder)] if folder else [Path("notebooks"), own]:
        if candidate.is_dir():
            return candidate
    raise FileNotFoundError(f"no folder {folder or 'notebooks'!r}; name it with --notebooks")


def read(path: Path) -> Any:
    """Return a notebook, every cell with an id."""
    import nbformat

    return nbformat.v4.upgrade(nbformat.read(path, as_version=4))


def has_tag(cell: Any, tag: str) -> bool:
    """Whether a cell carries a tag."""
    return tag in cell.metadata.get("tags", [])


def choose(folder: Path, only: str = "") -> list[Path]:
    """Return the notebooks of a folder, in order, or those named by number or full name.

    Raises:
        FileNotFoundError: the folder holds no notebook.
        ValueError: a name fits none.
    """
    found = sorted(folder.glob("*.ipynb"))
    if not found:
        raise FileNotFoundError(f"no notebooks (*.ipynb) in {folder}")
    chosen = set()
    for item in filter(None, (part.strip() for part in only.split(","))):
        wanted = item.removesuffix(".ipynb")
        number = wanted.zfill(2)
        fits = [path for path in found if wanted == path.stem or number == path.stem.split("_")[0]]
        if not fits:
            names = ", ".join(path.stem for path in found)
            raise ValueError(f"--only {item}: no such notebook; there are {names}")
        chosen.update(fits)
    return [path for path in found if path in chosen] if chosen else found


def parse_assignments(items: Sequence[str]) -> dict[str, str]:
    """Split NAME=VALUE; the value stays text until the notebook's default says what it is."""
    texts: dict[str, str] = {}
    for item in items:
        name, separator, value = item.partition("=")
        if not separator or not name.isidentifier():
            raise ValueError(f"-p {item}: write NAME=VALUE")
        if name in texts:
            raise ValueError(f"-p {name} is given twice")
        texts[name] = value
    return texts


def read_defaults(notebook: Any, name: str) -> dict[str, Any]:
    """Return the defaults of a notebook's parameters, by name.

    The cell is parsed as Python. papermill's own inspection drops a line whose comment holds a
    second `=`, and would call such a parameter unknown.

    Args:
        notebook: an nbformat notebook.
        name: its name, for messages.

    Raises:
        ValueError: not exactly one cell is tagged `parameters`, or it holds something else than
            `NAME = literal`, or a parameter of the runner is missing.
    """
    tagged = [cell for cell in notebook.cells if has_tag(cell, "parameters")]
    if len(tagged) != 1:
        raise ValueError(
            f"{name}: {len(tagged)} cells are tagged 'parameters', exactly one must be"
        )
    message = f"{name}: the parameters cell must hold only NAME = literal"
    found: dict[str, Any] = {}
    try:
        for node in ast.parse(tagged[0].source).body:
            targets = node.targets if isinstance(node, ast.Assign) else []
            if isinstance(node, ast.AnnAssign):
                targets = [node.target]
            if len(targets) != 1 or not isinstance(targets[0], ast.Name):
                raise ValueError(message)
            found[targets[0].id] = ast.literal_eval(node.value)
    except (SyntaxError, ValueError, TypeError) as error:
        raise ValueError(message) from error
    for own in OWN:
        if own not in found:
            raise ValueError(f"{name}: the parameters cell must declare {own}")
    return found


def typed(name: str, text: str, default: Any) -> Any:
    """Read a value as a Python literal, else as text, and compare its type with the default's.

    Raises:
        ValueError: the types differ; an integer is accepted where a float is expected.
    """
    if isinstance(default, bool) and text in ("true", "false"):
        return text == "true"
    try:
        value = ast.literal_eval(text)
    except (ValueError, SyntaxError):
        value = text
    if isinstance(default, float) and type(value) is int:
        return float(value)
    if default is not None and type(value) is not type(default):
        raise ValueError(
            f"-p {name}={text}: a {type(value).__name__}, but the notebook's default "
            f"{default!r} is a {type(default).__name__}"
        )
    return value


def match_parameters(
    declared: Mapping[str, Mapping[str, Any]], texts: Mapping[str, str]
) -> dict[str, dict[str, Any]]:
    """Give each notebook those of the parameters that it declares.

    Args:
        declared: defaults by parameter, by notebook.
        texts: values as typed by the user, by parameter.

    Raises:
        ValueError: no notebook declares a parameter, or its value has another type.
    """
    known = sorted({name for defaults in declared.values() for name in defaults} - set(OWN))
    for name in texts:
        if name in OWN:
            raise ValueError(f"-p {name}: use {OWN[name]}")
        if name not in known:
            near = difflib.get_close_matches(name.upper(), known, 1)
            hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(known) or 'none'}"
            raise ValueError(f"-p {name}: no chosen notebook declares it; {hint}")
    return {
        notebook: {
            name: typed(name, text, defaults[name])
            for name, text in texts.items()
            if name in defaults
        }
        for notebook, defaults in declared.items()
    }


def student_edition(notebook: Any) -> Any:
    """Return the notebook without its cells tagged `solution`."""
    edition = copy.deepcopy(notebook)
    edition.cells = [cell for cell in edition.cells if not has_tag(cell, "solution")]
    return edition
