"""The command line: one clear line for whatever cannot be understood."""

from __future__ import annotations

import importlib
import json
import shlex
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from convbert import cli


@dataclass
class ToyConfig:
    """A toy job."""

    steps: int = 3  # updates, 100% of them
    learning_rate: float = 1e-3  # peak of the schedule
    do_train: bool = False  # whether to train
    task_name: str = ""  # one of the tasks

    def __post_init__(self):
        if self.steps < 1:
            raise ValueError(f"steps={self.steps}: give\nat least 1")


ran = []
NAMES = ", ".join([*cli.COMMANDS, "toy"])


def toy(config):
    """Do what the task's name says."""
    ran.append(config)
    if config.task_name == "value":
        raise ValueError("task 'value': choose\nanother")
    if config.task_name == "file":
        with open("no/such/file", encoding="utf-8"):
            pass
    if config.task_name == "bug":
        raise KeyError("bug")
    if config.task_name == "stop":
        raise SystemExit(143)
    if config.task_name == "ctrl-c":
        raise KeyboardInterrupt
    return {"score": 1}


@pytest.fixture
def call(monkeypatch, capsys):
    """Call the command line with a toy command; return exit code, output, errors."""
    monkeypatch.setitem(cli.COMMANDS, "toy", cli.Command("a toy", __name__, "ToyConfig", "toy"))
    monkeypatch.delenv("CONVBERT_TRACEBACK", raising=False)
    ran.clear()

    def do(*words):
        code = cli.main(words)
        out, err = capsys.readouterr()
        return code, out, err

    return do


def test_options_become_the_config(call):
    assert call("toy", "--steps", "5", "--learning_rate=1e-4", "--do_train") == (0, "", "")
    assert ran == [ToyConfig(steps=5, learning_rate=1e-4, do_train=True)]
    assert call("toy", "--do_train", "false")[0] == 0
    assert ran[-1] == ToyConfig()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ((), f"convbert: no command given; there are {NAMES}"),
        (("tabel",), "convbert: unknown command tabel; did you mean table?"),
        (("qqq",), f"convbert: unknown command qqq; there are {NAMES}"),
        (("toy", "--foo", "3"), "convbert toy: unknown option --foo; there are --steps, "),
        (("toy", "--step", "3"), "convbert toy: unknown option --step; did you mean --steps?"),
        (
            ("toy", "--do-train"),
            "convbert toy: unknown option --do-train; did you mean --do_train?",
        ),
        (("toy", "--learning_rat=3"), "unknown option --learning_rat; did you mean"),
        (("toy", "extra"), "convbert toy: unexpected 'extra'; every value follows its --option"),
        (("toy", "--steps"), "convbert toy: --steps: expected one argument"),
        (("toy", "--steps", "five"), "convbert toy: --steps: invalid int value: 'five'"),
        (("toy", "--steps", "2.5"), "convbert toy: --steps: invalid int value: '2.5'"),
        (("toy", "--steps", "-1"), "convbert toy: steps=-1: give at least 1"),
        (("run", "--scale", "big"), "convbert run: SCALE='big': choose one of smoke, cpu, paper"),
        (("run", "--limit_s", "-1"), "convbert run: limit_s=-1.0: give seconds"),
        (
            ("sweep", "--question", "taps"),
            "question='taps': choose one of convolution, kernel size",
        ),
        (("sweep", "--seeds", "-1"), "convbert sweep: seeds=-1: give 0 for the scale's own"),
    ],
)
def test_what_is_not_understood_gives_one_line_and_2(call, words, message):
    code, out, err = call(*words)
    assert code == 2
    assert out == ""
    assert err.startswith(message) or message in err
    assert err.count("\n") == 1
    assert "--help" in err
    assert ran == []


@pytest.mark.parametrize(
    ("task", "message"),
    [
        ("value", "convbert toy: task 'value': choose another\n"),
        ("file", "convbert toy: [Errno 2] No such file or directory: 'no/such/file'\n"),
    ],
)
def test_what_a_job_refuses_gives_one_line_and_1(call, monkeypatch, task, message):
    assert call("toy", "--task_name", task) == (1, "", message)
    monkeypatch.setenv("CONVBERT_TRACEBACK", "1")
    with pytest.raises((ValueError, FileNotFoundError)):
        call("toy", "--task_name", task)


def test_a_bug_keeps_its_traceback_and_exit_codes_pass(call):
    with pytest.raises(KeyError):
        call("toy", "--task_name", "bug")
    with pytest.raises(SystemExit) as stop:
        call("toy", "--task_name", "stop")
    assert stop.value.code == 143
    assert call("toy", "--task_name", "ctrl-c") == (130, "", "convbert toy: interrupted\n")


def test_help_comes_from_the_comments(call, capsys):
    with pytest.raises(SystemExit) as stop:
        call("toy", "--help")
    assert stop.value.code == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert "python -m convbert toy" in shown
    assert "A toy job." in shown
    assert "updates, 100% of them (default: 3)" in shown
    assert "whether to train (default: False)" in shown
    assert shown.endswith("one of the tasks")


@pytest.mark.parametrize("command", list(cli.COMMANDS))
def test_every_option_is_explained(command, capsys):
    with pytest.raises(SystemExit) as stop:
        cli.main([*command.split(), "--help"])
    assert stop.value.code == 0
    shown = capsys.readouterr().out
    assert "__TEMP__" not in shown, "a comment inside brackets does not reach the help"
    for option in shown.split("options:")[1].split("\n  -")[1:]:
        words = option.replace(",", " ").split()
        text = [word for word in words if not word.startswith("-") and word not in ("str", "bool")]
        assert len(text) > 2, option


def test_parameters_may_be_repeated():
    from convbert.runner import RunConfig

    config = cli.parse("convbert run", RunConfig, ["-p", "A=1", "-p", "B=x=y", "--only", "01,04"])
    assert config.parameters == ["A=1", "B=x=y"]
    assert config.only == "01,04"
    assert cli.parse("convbert run", RunConfig, []).parameters == []


def test_help_is_quick_and_imports_nothing_heavy():
    check = (
        "import runpy, sys\n"
        "sys.argv = ['convbert', *sys.argv[1:]]\n"
        "try:\n    runpy.run_module('convbert', run_name='__main__', alter_sys=True)\n"
        "except SystemExit as stop:\n    code = stop.code\n"
        "heavy = {'paddle', 'papermill', 'nbconvert', 'pandas'} & set(sys.modules)\n"
        "sys.exit(code or (f'imported {heavy}' if heavy else 0))"
    )
    for name in ("", "corpus", "run", "convert", "sweep", "table"):
        words = [name, "--help"] if name else ["--help"]
        done = subprocess.run(
            [sys.executable, "-c", check, *words], capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        assert "usage: python -m convbert" in done.stdout


def shown_commands() -> list[str]:
    """Return every complete `python -m convbert …` in a code block of a README or a notebook."""
    root = Path(__file__).resolve().parents[1]
    texts = [(root / name).read_text("utf-8") for name in ("README.md", "data/README.md")]
    for path in sorted((root / "notebooks").glob("*.ipynb")):
        cells = json.loads(path.read_text("utf-8"))["cells"]
        texts += ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "markdown"]
    blocks = [block for text in texts for block in text.split("```")[1::2]]
    lines = [line for block in blocks for line in block.replace("\\\n", " ").splitlines()]
    found = [line.split("python -m convbert ", 1)[1] for line in lines if "-m convbert " in line]
    return [line for line in found if "…" not in line]


@pytest.mark.parametrize("line", shown_commands())
def test_commands_that_are_shown_are_understood(line):
    words = shlex.split(line, comments=True)
    name = cli.find_command(words)
    command = cli.COMMANDS[name]
    config = getattr(importlib.import_module(command.module), command.config)
    cli.parse(name, config, words[len(name.split()) :])
