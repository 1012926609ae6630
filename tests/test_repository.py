"""The repository's own rules: sizes of files, listed skips, installed versions."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

try:
    import tomllib
except ModuleNotFoundError:  # Python 3.10
    import tomli as tomllib

ROOT = Path(__file__).parents[1]
TESTS = sorted((ROOT / "tests").rglob("*.py"))
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


@pytest.mark.parametrize(
    "path",
    sorted((ROOT / "convbert").rglob("*.py")),
    ids=lambda path: str(path.relative_to(ROOT)),
)
def test_modules_are_short_enough_to_read(path: Path):
    lines = len(path.read_text(encoding="utf-8").splitlines())
    assert lines <= 400, f"{path.name} has {lines} lines: split it by subject"


def skip_reasons(tree: ast.AST) -> Iterator[str | None]:
    """Yield the reason of each skip or expected failure; None where it is not a plain string."""
    marks = {"skip", "skipif", "xfail", "importorskip"}
    called = {id(node.func) for node in ast.walk(tree) if isinstance(node, ast.Call)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            if node.func.attr not in marks or "pytest" not in ast.unparse(node.func):
                continue
            reasons = [word.value for word in node.keywords if word.arg in ("reason", "msg")]
            if not reasons and node.func.attr in ("skip", "xfail"):
                reasons = node.args[:1]
            plain = reasons and isinstance(reasons[0], ast.Constant)
            yield str(reasons[0].value) if plain else None
        elif isinstance(node, ast.Attribute) and id(node) not in called:
            if node.attr in marks and ast.unparse(node).startswith("pytest.mark."):
                yield None


def listed_reasons() -> set[str]:
    """Return the first column of the ledger's table."""
    text = (ROOT / "tests" / "SKIPS.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| *([^|]+?) *\|", text, re.MULTILINE)
    return {row for row in rows if row != "reason" and not set(row) <= set("-: ")}


def test_every_skip_is_listed_with_its_reason():
    used: dict[str, str] = {}
    for path in TESTS:
        for reason in skip_reasons(ast.parse(path.read_text(encoding="utf-8"))):
            assert reason, f"{path.name} skips without a plain reason"
            used[reason] = path.name
    unlisted = {reason: name for reason, name in used.items() if reason not in listed_reasons()}
    assert not unlisted, f"not in tests/SKIPS.md: {unlisted}"
    assert listed_reasons() <= set(used), "tests/SKIPS.md lists reasons that no test has"


def test_the_search_for_skips_finds_them():
    code = """
import pytest
@pytest.mark.skip
def a(): pytest.skip("one")
@pytest.mark.skipif(True, reason="two")
def b(): pytest.importorskip("x", reason="three")
@pytest.mark.xfail(reason=WHY)
def c(): pytest.xfail("four")
"""
    assert sorted(map(str, skip_reasons(ast.parse(code)))) == [
        "None", "None", "four", "one", "three", "two",
    ]  # fmt: skip


def check_installed(requirements: list[str]) -> list[str]:
    """Return what is missing or has another version than the pins say."""
    wrong = []
    for requirement in map(Requirement, requirements):
        if requirement.marker and not requirement.marker.evaluate():
            continue
        try:
            version = metadata.version(requirement.name)
        except metadata.PackageNotFoundError:
            wrong.append(f"{requirement.name} is not installed")
            continue
        if not requirement.specifier.contains(version, prereleases=True):
            wrong.append(f"{requirement} is wanted, {version} is installed")
    return wrong


def test_the_installed_versions_are_the_pinned_ones():
    """Numbers in this repository were made with these versions."""
    assert check_installed(PROJECT["dependencies"]) == []


@pytest.mark.parametrize("extra", PROJECT["optional-dependencies"])
def test_installed_extras_have_the_pinned_versions(extra: str):
    """An extra may be absent; a part of one with another version may not be present."""
    wrong = check_installed(PROJECT["optional-dependencies"][extra])
    assert [line for line in wrong if "not installed" not in line] == []


def test_a_wrong_version_would_be_seen():
    assert check_installed(["numpy==0.1", "no-such-package>=1"]) == [
        f"numpy==0.1 is wanted, {metadata.version('numpy')} is installed",
        "no-such-package is not installed",
    ]


def test_this_python_is_supported():
    import platform

    assert platform.python_version() in SpecifierSet(PROJECT["requires-python"])
