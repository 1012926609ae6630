"""The files around the package say what pyproject.toml says."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).resolve().parents[1]
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
PROJECT = PYPROJECT["project"]
CONDA = yaml.safe_load((ROOT / "environment.yml").read_text("utf-8"))
PIP = next(item["pip"] for item in CONDA["dependencies"] if isinstance(item, dict))


def test_the_gpu_environment_has_the_same_versions():
    wanted = [*PROJECT["dependencies"]]
    wanted += [
        *PROJECT["optional-dependencies"]["sample"],
        *PROJECT["optional-dependencies"]["dev"],
    ]
    wanted = [re.sub(r"^paddlepaddle==", "paddlepaddle-gpu==", item) for item in wanted]
    assert [item for item in PIP if not item.startswith("--")] == wanted


def test_the_gpu_environment_says_where_its_wheels_come_from():
    text = (ROOT / "environment.yml").read_text("utf-8")
    assert any(
        item.startswith("--extra-index-url https://www.paddlepaddle.org.cn/") for item in PIP
    )
    assert "not run in CI" in text


def test_versions_are_pinned_in_pyproject_alone():
    """environment.yml is the one exception, and the test above holds it."""
    for name in ("Makefile", "README.md", ".ci/run", ".github/workflows/ci.yml"):
        found = re.findall(r"[a-zA-Z_-]+==\d[\w.]*", (ROOT / name).read_text("utf-8"))
        assert not found, f"{name} pins {found}"


def test_the_workflow_calls_ci_run_and_nothing_else():
    jobs = yaml.safe_load((ROOT / ".github/workflows/ci.yml").read_text("utf-8"))["jobs"]
    commands = [step["run"] for job in jobs.values() for step in job["steps"] if "run" in step]
    assert commands == ["bash .ci/run"]


def test_shells_fail_loudly():
    assert "set -euo pipefail" in (ROOT / ".ci/run").read_text("utf-8")
    assert ".SHELLFLAGS := -euo pipefail -c" in (ROOT / "Makefile").read_text("utf-8")


def test_ci_calls_the_readmes_test_command():
    readme, ci = ((ROOT / name).read_text("utf-8") for name in ("README.md", ".ci/run"))
    for command in ("make test", "make parity"):
        assert re.search(rf"`?{command}`?", readme)
        assert re.search(rf"^{command}$", ci, re.MULTILINE)


@pytest.mark.parametrize("target", ["run", "test", "parity", "lab", "bench", "tasks", "figures"])
def test_make_knows_every_target(target, tmp_path):
    """`make -n` prints the commands; one that is not there would end with an error."""
    done = subprocess.run(
        ["make", "-n", target, f"VENV={tmp_path}"], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert str(tmp_path) in done.stdout


def test_make_passes_scale_and_only(tmp_path):
    words = ["make", "-n", "run", f"VENV={tmp_path}", "SCALE=smoke", "ONLY=04", "ARGS=-p SEED=3"]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=True)
    assert "run --scale smoke --only 04 -p SEED=3" in done.stdout


def test_make_adds_nothing_to_a_conda_environment(tmp_path):
    words = ["make", "-n", "run", f"VENV={tmp_path}", f"CONDA_PREFIX={tmp_path}"]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=True)
    assert "--no-deps --editable ." in done.stdout
    assert "[sample,dev]" not in done.stdout


def test_files_that_are_not_code_are_installed_with_the_package():
    """A notebook that runs in an empty folder reads them from where the package is installed."""
    package = ROOT / "convbert"
    patterns = PYPROJECT["tool"]["setuptools"]["package-data"]["convbert"]
    installed = {file for pattern in patterns for file in package.glob(pattern)}
    files = {file for file in package.rglob("*") if file.is_file()}
    others = {file for file in files if file.suffix not in (".py", ".pyc")}
    assert others == installed and package / "train" / "finetuning_curves.json" in others
