"""Small notebooks for the tests of the runner and of the tables."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import nbformat
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

PARAMETERS = 'SCALE = "smoke"  # how much to do\nOUTPUT_DIR = "outputs"  # where to write'
HEADER = """# 01 · {title}

**Question.** Does it run?

**In the paper:** section 3.

<!-- time:start -->
Measured time: not measured yet.
<!-- time:end -->

**Afterwards you can** run it."""


def code(source: str, *tags: str) -> Any:
    """Return a code cell with tags."""
    return new_code_cell(source, metadata={"tags": list(tags)} if tags else {})


def begin(name: str, extra: str = "") -> Any:
    """Return the cell that opens the record."""
    return code(
        "from convbert import lab\n\n" + f'scale = lab.begin("{name}", SCALE, OUTPUT_DIR{extra})'
    )


def notebook(name: str, *cells: Any, parameters: str = PARAMETERS, extra: str = "") -> Any:
    """Return a notebook with header, parameters, begin and the cells given."""
    metadata = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    first = [new_markdown_cell(HEADER.format(title=name)), code(parameters, "parameters")]
    return new_notebook(cells=[*first, begin(name, extra), *cells], metadata=metadata)


def write(folder: Path, name: str, *cells: Any, **options: str) -> Path:
    """Write such a notebook and return its path."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.ipynb"
    nbformat.write(notebook(name, *cells, **options), path)
    return path
