"""Who may import whom, what stays free of Paddle, and what must not be loaded from files."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "convbert"
MODULES = sorted(PACKAGE.rglob("*.py"))

# From the bottom up: a module imports from lower rows and from its own package; above the models,
# where parts of one row build on each other, also from its own row, but never in a circle.
TIERS = (
    {"config", "runtime", "layers"},
    {"attention", "tokenizer"},
    {"model"},
    {"heads"},
    {"data", "metrics"},
    {"weights", "locality", "train", "lab", "results", "jobs", "budget", "cost", "quoted"},
    {"charts", "glue_charts", "word_charts", "notebooks", "runner", "sweep"},
    {"tables", "cli", "__main__"},
)
MODELS = 3
# Learners read these, or commands start with them, before anything has loaded Paddle.
WITHOUT_PADDLE = ("config", "tokenizer", "metrics", "locality.measure", "lab")
# Other people's libraries that we compare with or convert from.
FOREIGN = {"torch", "transformers", "paddlenlp", "tensorflow"}


def module_name(path: Path) -> str:
    """Return "model" or "locality.measure"; a package's own file is "__init__"."""
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" and len(parts) > 1 else parts)


def parse(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), str(path))


def imported(node: ast.AST) -> Iterator[str]:
    """Yield the dotted names that an import statement may load."""
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom) and node.module:
        yield from (f"{node.module}.{alias.name}" for alias in node.names)


def at_import(tree: ast.Module) -> Iterator[ast.stmt]:
    """Yield the statements that run when the module is imported, not those for type checkers."""
    pending: list[ast.AST] = list(tree.body)
    while pending:
        node = pending.pop()
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)):
            continue
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
            pending += node.orelse
            continue
        if isinstance(node, ast.stmt):
            yield node
        pending += ast.iter_child_nodes(node)


def tier(name: str) -> int:
    top = name.split(".")[0]
    rows = [row for row, names in enumerate(TIERS) if top in names]
    assert rows, f"convbert/{top} is new: give it a row in TIERS of {Path(__file__).name}"
    return rows[0]


@pytest.mark.parametrize("path", MODULES, ids=module_name)
def test_imports_point_one_way(path: Path):
    name = module_name(path)
    if name == "__init__":
        return  # the public names, loaded when first used
    mine = tier(name)
    for node in at_import(parse(path)):
        assert not (isinstance(node, ast.ImportFrom) and node.level), f"{path}: relative import"
        for target in imported(node):
            if not target.startswith("convbert."):
                continue
            other = target.removeprefix("convbert.")
            within = other.split(".")[0] == name.split(".")[0]
            allowed = within or tier(other) < mine or mine == tier(other) > MODELS
            assert allowed, f"{path.name}:{node.lineno} imports {target}, which is above or beside"


def test_imports_make_no_circle():
    """Even where Python would get away with one."""
    known = {module_name(path) for path in MODULES}
    edges: dict[str, set[str]] = {}
    for path in MODULES:
        targets = {
            target.removeprefix("convbert.")
            for node in at_import(parse(path))
            for target in imported(node)
            if target.startswith("convbert.")
        }
        # "config.ConvBertConfig" is in the module "config".
        modules = {name if name in known else name.rpartition(".")[0] for name in targets}
        edges[module_name(path)] = modules & known
    while leaves := {name for name, targets in edges.items() if not targets}:
        edges = {name: targets - leaves for name, targets in edges.items() if name not in leaves}
    assert not edges, f"these import each other: {sorted(edges)}"


def test_the_package_itself_loads_nothing_but_the_settings():
    names = {
        target for node in at_import(parse(PACKAGE / "__init__.py")) for target in imported(node)
    }
    ours = {name for name in names if name.startswith("convbert")}
    assert ours == {"convbert.runtime"}


def test_what_needs_no_paddle_does_not_load_it():
    """Also not by a detour: a fresh process imports them all and looks."""
    names = [
        f"convbert.{module_name(path)}"
        for path in MODULES
        if module_name(path) in WITHOUT_PADDLE or module_name(path).split(".")[0] in WITHOUT_PADDLE
    ]
    assert len(names) >= len(WITHOUT_PADDLE), names
    heavy = sorted({"paddle", *FOREIGN})
    code = f"""
import importlib, sys
for name in {names!r}:
    importlib.import_module(name)
    loaded = [heavy for heavy in {heavy!r} if heavy in sys.modules]
    assert not loaded, f"{{name}} loads {{loaded}}"
"""
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr


def foreign_imports(path: Path) -> Iterator[tuple[ast.stmt, bool]]:
    """Yield imports of other people's libraries, and whether each runs when `path` is imported."""
    tree = parse(path)
    early = {id(node) for node in at_import(tree)}
    for node in ast.walk(tree):
        if FOREIGN & {target.split(".")[0] for target in imported(node)}:
            assert isinstance(node, ast.stmt)
            yield node, id(node) in early


@pytest.mark.parametrize("path", MODULES, ids=module_name)
def test_foreign_libraries_are_imported_only_to_convert(path: Path):
    for node, early in foreign_imports(path):
        where = f"{path.name}:{node.lineno}: {ast.unparse(node)}"
        assert module_name(path).startswith("weights."), f"{where} belongs into weights/"
        assert not early, f"{where} belongs into the function that needs it"


def test_tests_import_foreign_libraries_only_to_compare():
    """Everything else must run where only the package's own dependencies are installed."""
    tests = Path(__file__).parent
    compare = {tests / "make_golden.py", tests / "benchmark.py", *(tests / "parity").rglob("*.py")}
    for path in tests.rglob("*.py"):
        for node, early in foreign_imports(path):
            assert path in compare, f"{path.name}:{node.lineno}: {ast.unparse(node)}"
            assert not early, f"{path.name}:{node.lineno} belongs into the function that needs it"


@pytest.mark.parametrize("path", MODULES, ids=module_name)
def test_nothing_that_executes_what_it_loads(path: Path):
    """Pickles run code: no pickle library, no loader built on one, no switch that allows them."""
    pickles = {"pickle", "cPickle", "_pickle", "cloudpickle", "dill", "joblib", "shelve", "marshal"}
    loaders = {"paddle.load", "torch.load", "np.loads", "pd.read_pickle", "pandas.read_pickle"}
    for node in ast.walk(parse(path)):
        where = f"{path.name}:{getattr(node, 'lineno', 0)}"
        names = {target.split(".")[0] for target in imported(node)}
        assert not names & pickles, f"{where} imports {names & pickles}"
        assert not set(imported(node)) & loaders, f"{where} imports a loader that runs pickles"
        if isinstance(node, ast.Attribute):
            assert ast.unparse(node) not in loaders, f"{where} uses {ast.unparse(node)}"
        if isinstance(node, ast.keyword) and node.arg == "allow_pickle":
            off = isinstance(node.value, ast.Constant) and node.value.value is False
            assert off, f"{path.name}:{node.value.lineno} sets allow_pickle"


def test_these_rules_can_fail(tmp_path: Path):
    """The walkers see what they are meant to see."""
    path = tmp_path / "x.py"
    path.write_text(
        "from typing import TYPE_CHECKING\n"
        "if TYPE_CHECKING:\n    import torch\n"
        "try:\n    import transformers\nexcept ImportError:\n    pass\n"
        "class A:\n    import paddlenlp\n"
        "def f():\n    import tensorflow\n"
    )
    found = {ast.unparse(node): early for node, early in foreign_imports(path)}
    assert found == {
        "import torch": False,
        "import transformers": True,
        "import paddlenlp": True,
        "import tensorflow": False,
    }
