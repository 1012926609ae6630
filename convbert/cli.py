"""The command line: `python -m convbert COMMAND --option value …`.

A command is a row of `COMMANDS`: a config dataclass and the function that takes it. The options,
their types and their help are the dataclass's fields, types and comments. Modules are imported
only when their command is used.
"""

from __future__ import annotations

import argparse
import difflib
import importlib
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any, NoReturn


@dataclass(frozen=True)
class Command:
    """Where a command lives."""

    help: str  # one line for `--help`
    module: str  # imported when the command is used
    config: str  # name of the dataclass of options in that module
    function: str  # name of the function that takes the config


COMMANDS = {
    "run": Command("execute the notebooks", "convbert.runner", "RunConfig", "run"),
    "corpus": Command(
        "turn text into token shards to pretrain on",
        "convbert.data.corpus_job",
        "CorpusConfig",
        "make_corpus",
    ),
    "pretrain": Command(
        "pretrain generator and discriminator",
        "convbert.train.pretrain",
        "PretrainConfig",
        "pretrain",
    ),
    "glue": Command("fine-tune on a task", "convbert.train.glue", "GlueConfig", "finetune"),
    "tasks": Command(
        "fine-tune on several tasks over several seeds",
        "convbert.train.small_tasks",
        "TasksConfig",
        "run",
    ),
    "search": Command(
        "look for a GLUE task on which pretraining helps the tiny model",
        "convbert.train.search",
        "SearchConfig",
        "search",
    ),
    "convert": Command(
        "rewrite weights for transformers or PaddleNLP",
        "convbert.weights.convert",
        "ConvertConfig",
        "convert",
    ),
    "compare": Command(
        "compare with transformers and PaddleNLP, layer by layer",
        "convbert.weights.compare",
        "CompareConfig",
        "compare",
    ),
    "squad": Command(
        "fine-tune on questions, or answer them", "convbert.train.squad", "SquadConfig", "squad"
    ),
    "predict": Command(
        "predict with a fine-tuned model", "convbert.train.predict", "PredictConfig", "predict"
    ),
    "submission": Command(
        "make the zip for GLUE's leaderboard",
        "convbert.train.submission",
        "SubmissionConfig",
        "submission",
    ),
    "score squad": Command(
        "score SQuAD predictions", "convbert.metrics.command", "SquadScoreConfig", "score_squad"
    ),
    "score glue": Command(
        "score GLUE predictions", "convbert.metrics.command", "GlueScoreConfig", "score_glue"
    ),
    "sweep": Command(
        "compare kinds of convolution, kernel sizes and head ratios",
        "convbert.sweep",
        "SweepConfig",
        "sweep",
    ),
    "table": Command(
        "write the tables of the README, or check them", "convbert.tables", "TableConfig", "table"
    ),
}


class UsageError(Exception):
    """The command line cannot be understood; the message is one line."""


def main(arguments: Sequence[str]) -> int:
    """Run a command.

    Args:
        arguments: the words after `python -m convbert`.

    Returns:
        The exit code: 0, 1 if the job says that it cannot go on, 2 if the call is not understood.
        With `CONVBERT_TRACEBACK=1` in the environment, errors of a job keep their traceback.
    """
    if arguments and arguments[0] in ("-h", "--help"):
        print(overview())
        return 0
    name = "convbert"
    try:
        words = find_command(arguments)
        command, name = COMMANDS[words], f"convbert {words}"
        module = importlib.import_module(command.module)
        options = arguments[len(words.split()) :]
        config = parse(name, getattr(module, command.config), options)
    except UsageError as error:
        return _complain(f"{name}: {error}; see python -m {name} --help", 2)
    try:
        getattr(module, command.function)(config)
    except (ValueError, OSError, FloatingPointError, ImportError, MemoryError) as error:
        if os.environ.get("CONVBERT_TRACEBACK") == "1":
            raise
        return _complain(f"{name}: {_one_line(error)}", 1)
    except KeyboardInterrupt:
        return _complain(f"{name}: interrupted", 130)
    return 0


def overview() -> str:
    """Return the list of commands."""
    lines = ["usage: python -m convbert COMMAND [options]", "", "commands:"]
    lines += [f"  {name:<12} {command.help}" for name, command in COMMANDS.items()]
    lines += ["", "python -m convbert COMMAND --help lists a command's options."]
    return "\n".join(lines)


def find_command(arguments: Sequence[str]) -> str:
    """Return the command that the first word names, or the first two.

    Raises:
        UsageError: no word, or an unknown one.
    """
    names = ", ".join(COMMANDS)
    if not arguments:
        raise UsageError(f"no command given; there are {names}")
    for words in (arguments[0], " ".join(arguments[:2])):
        if words in COMMANDS:
            return words
    longer = [name for name in COMMANDS if name.startswith(f"{arguments[0]} ")]
    if longer:
        raise UsageError(f"{arguments[0]} what? There are {', '.join(longer)}")
    raise UsageError(f"unknown command {arguments[0]}; {_nearest(arguments[0], COMMANDS)}")


def parse(name: str, config: type, arguments: Sequence[str]) -> Any:
    """Build the config from the options.

    Args:
        name: of the command, for the help.
        config: a dataclass.
        arguments: the words after the command.

    Raises:
        UsageError: an unknown option, a missing value, or one the config refuses.
    """
    import simple_parsing

    class Help(simple_parsing.SimpleHelpFormatter):
        """argparse reads a percent sign as a format; and an empty default says nothing."""

        def _get_help_string(self, action: Any) -> str | None:
            # simple-parsing adds the default to the help of switches by itself
            text = (action.help or "").replace(" (default: %(default)s)", "").replace("%", "%%")
            has_default = action.default not in (None, "", [], argparse.SUPPRESS)
            return f"{text} (default: %(default)s)" if has_default else text

    class Parser(simple_parsing.ArgumentParser):
        """A parser that complains in one line."""

        def error(self, message: str) -> NoReturn:
            raise UsageError(_one_line(message).removeprefix("argument "))

        def format_help(self) -> str:
            return str(super().format_help()).replace(f"{config.__qualname__} ['config']:", "")

    parser = Parser(
        prog=f"python -m {name}",
        allow_abbrev=False,  # --out would otherwise pass for --output_dir
        add_option_string_dash_variants=simple_parsing.DashVariant.UNDERSCORE,
        formatter_class=Help,
    )
    parser.add_arguments(config, dest="config")
    try:
        parsed, unknown = parser.parse_known_args(list(arguments))
    except (ValueError, OSError) as error:  # from the config's own checks
        raise UsageError(_one_line(error)) from error
    if unknown:
        word = unknown[0].split("=")[0]
        if not word.startswith("-"):
            raise UsageError(f"unexpected {word!r}; every value follows its --option")
        known = [f"--{field.name}" for field in fields(config)]
        raise UsageError(f"unknown option {word}; {_nearest(word.replace('-', '_'), known)}")
    return parsed.config


def _nearest(word: str, known: Any) -> str:
    plain = {name.lstrip("-_"): name for name in known}
    near = difflib.get_close_matches(word.lstrip("-_"), plain, 1)
    return f"did you mean {plain[near[0]]}?" if near else f"there are {', '.join(known)}"


def _one_line(error: object) -> str:
    return " ".join(str(error).split()) or type(error).__name__


def _complain(message: str, code: int) -> int:
    print(message, file=sys.stderr)
    return code
