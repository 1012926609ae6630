"""Killed, starved and tampered-with runs: what the training loop promises, with real processes.

The letters are those of the promises: T1 kill, T2 and T3 damage, T4 full disk, T5 SIGTERM,
T6 and T7 what is kept, T8 another run's checkpoint, T9 numbers that are not finite, T11 two
processes, T15 full memory. Each compares with the same run left alone.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest
from fork_server import Run, Server
from safetensors.numpy import load_file

STEPS = 30
OPTIONS = dict(
    model_name_or_path="convbert-tiny",
    max_seq_length=16,
    train_batch_size=4,
    eval_batch_size=8,
    eval_examples=8,
    learning_rate=2e-3,
    max_steps=STEPS,
    warmup_steps=3,
    logging_steps=1,
    save_steps=4,  # 30 is no multiple: the last step is saved all the same
    eval_steps=7,
    resume=True,
)


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with Server() as server:
        yield server


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Some sixty short examples, so that a run of 30 steps begins a second epoch."""
    folder, rng = tmp_path_factory.mktemp("text"), random.Random(0)
    words = [f"word{i}" for i in range(40)]
    for name, count in (("train", 60), ("valid", 10)):
        lines = (" ".join(rng.choices(words, k=12)) for _ in range(count))
        (folder / f"{name}.txt").write_text("\n\n".join(lines) + "\n", encoding="utf-8")
    return folder


# Runs first in a process: harms its training at a chosen step.
POISON = """
from convbert.train.electra import Trainer
original = Trainer.sums
def sums(self, batch, part):
    found = original(self, batch, part)
    self.calls = getattr(self, "calls", 0) + 1
    if {condition}:
        {harm}
    return found
Trainer.sums = sums
"""


def command(output: Path, text: Path, **changes: object) -> list[str]:
    options = {**OPTIONS, "input_dir": text, "output_dir": output, **changes}
    return [
        "pretrain",
        *(word for key, value in options.items() for word in (f"--{key}", str(value))),
    ]


def digests(output: Path) -> dict[str, str]:
    """Return what two equal runs have equal, by file."""
    files = [
        *output.glob("step-*/*.safetensors"),
        *output.glob("best/model.safetensors"),
        *output.glob("final/model.safetensors"),
        *output.glob("last/model.safetensors"),
    ]
    assert files, f"{output} holds no weights"
    return {str(path.relative_to(output)): sha256(path.read_bytes()).hexdigest() for path in files}


def log_of(output: Path) -> list[dict]:
    """Return the log without the only thing that may differ, the speed."""
    lines = (output / "log.jsonl").read_text(encoding="utf-8").splitlines()
    rows = [json.loads(line) for line in lines]
    assert all(row.pop("examples_per_s") > 0 or "loss" not in row for row in rows)
    return rows


def results_of(output: Path) -> dict:
    results = json.loads((output / "results.json").read_text(encoding="utf-8"))
    return {key: value for key, value in results.items() if key != "options"}


def assert_same_end(output: Path, reference: Path) -> None:
    """The promise: the same bytes, and every step in the log once with the same numbers."""
    assert digests(output) == digests(reference)
    assert log_of(output) == log_of(reference)
    assert results_of(output) == results_of(reference)
    assert not list(output.glob(".tmp-*"))


def wait_until(condition, run: Run, seconds: float = 60.0) -> bool:
    """Wait for a condition as long as the run lives; say whether it came true."""
    end = time.monotonic() + seconds
    while not condition():
        if run.poll() is not None:
            return False
        assert time.monotonic() < end, run.printed
        time.sleep(0.001)
    return True


def steps_logged(output: Path) -> int:
    file = output / "log.jsonl"
    return file.read_text(encoding="utf-8").count('"lr"') if file.exists() else 0


@pytest.fixture(scope="module")
def whole(server: Server, text: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that nobody disturbed."""
    output = tmp_path_factory.mktemp("whole") / "run"
    run = server.run(command(output, text), output.with_suffix(".txt"))
    assert run.code == 0, run.printed
    return output


@pytest.fixture(scope="module")
def half(server: Server, text: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that was killed after its checkpoints of steps 8 and 12; to be copied, not used."""
    output = tmp_path_factory.mktemp("half") / "run"
    harm = "import os; os.kill(os.getpid(), 9)"
    setup = POISON.format(condition="self.calls == 15", harm=harm)
    run = server.run(command(output, text), output.with_suffix(".txt"), setup=setup)
    assert run.code == -signal.SIGKILL and steps_logged(output) == 14
    assert sorted(path.name for path in output.glob("step-*")) == ["step-000008", "step-000012"]
    return output


def copy_of(folder: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(folder, tmp_path / "run"))


# --- T1, T10: kills ---------------------------------------------------------------------------


def newest_step(output: Path) -> int:
    return max((int(path.name[5:]) for path in output.glob("step-*")), default=0)


def test_killed_at_any_moment_it_ends_as_if_nothing_had_happened(
    server: Server, text: Path, whole: Path, tmp_path: Path
):
    """At least twelve kills: at random moments, soon after a checkpoint, and during a save."""
    rng, output, counts = random.Random(), tmp_path / "run", dict(kills=0, resumed=0, in_a_save=0)
    for turn in range(60):
        before = newest_step(output)
        run = server.start(command(output, text), tmp_path / "printed.txt")
        if turn % 3:
            wait_until(lambda here=output, last=before: newest_step(here) > last, run)
        if turn % 3 == 2:
            wait_until(lambda here=output: list(here.glob(".tmp-*")), run)
            time.sleep(rng.choice((0, 0.002, 0.005)))
        else:
            time.sleep(rng.uniform(0, 0.5 if turn % 3 == 0 else 0.05))
        run.send(signal.SIGKILL)
        counts["kills"] += run.wait() == -signal.SIGKILL
        counts["resumed"] += "resumed: " in run.printed
        counts["in_a_save"] += bool(run.code) and bool(list(output.glob(".tmp-*")))
        if run.code == 0:  # this one got through; the next begins anew
            assert_same_end(output, whole)
            output = tmp_path / f"run-{turn}"
            if counts["kills"] >= 12 and counts["resumed"] >= 6 and counts["in_a_save"] >= 2:
                return
    pytest.fail(f"too few of a kind: {counts}")


def fine_tuning(whole: Path, folder: Path, **changes) -> tuple[list[str], dict]:
    """Return the words of `glue` on a made task, less the output folder; and where it runs."""
    data, rng = folder / "data" / "glue" / "SST-2", random.Random(1)
    data.mkdir(parents=True, exist_ok=True)
    for split, count in (("train", 22), ("dev", 8)):
        rows = (f"word{rng.randrange(40)} word{i % 2}\t{i % 2}\n" for i in range(count))
        (data / f"{split}.tsv").write_text("sentence\tlabel\n" + "".join(rows), encoding="utf-8")
    options = dict(task_name="sst-2", model_name_or_path=whole / "final", logging_steps=1)
    options |= changes
    words = ["glue", *(word for key, value in options.items() for word in (f"--{key}", str(value)))]
    return words, {"CONVBERT_DATA": str(folder / "data")}


def test_fine_tuning_survives_kills_as_well(server: Server, whole: Path, tmp_path: Path):
    """`glue`: the same loop; 6 batches an epoch, so 20 steps cross three borders of epochs."""
    options = dict(batch_size=4, max_steps=20, save_steps=3, resume=True)
    words, environment = fine_tuning(whole, tmp_path, **options)
    place = {"environment": environment}
    alone, output = tmp_path / "alone", tmp_path / "killed"
    run = server.run([*words, "--output_dir", str(alone)], tmp_path / "a.txt", **place)
    assert run.code == 0, run.printed
    words += ["--output_dir", str(output)]
    for steps in (2, 5, 11, 16):
        run = server.start(words, tmp_path / "b.txt", **place)
        assert wait_until(lambda n=steps: steps_logged(output) >= n, run), run.printed
        run.send(signal.SIGKILL)
        run.wait()
    run = server.run(words, tmp_path / "b.txt", **place)
    assert run.code == 0 and "resumed: " in run.printed
    assert_same_end(output, alone)


# --- T2, T3: damage ---------------------------------------------------------------------------


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 4
    path.write_bytes(bytes(content))


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-7])


def empty(path: Path) -> None:
    path.write_bytes(b"")


DAMAGES = {
    "weights cut": ("model.safetensors", cut, "bytes of"),
    "bit of weights": ("model.safetensors", flip, "model.safetensors has changed"),
    "bit of optimizer": ("optimizer.safetensors", flip, "optimizer.safetensors has changed"),
    "bit of state": ("state.json", flip, "state.json has changed"),
    "state empty": ("state.json", empty, "state.json has 0 bytes"),
    "no manifest": ("MANIFEST.json", Path.unlink, "MANIFEST.json is missing"),
    "manifest cut": ("MANIFEST.json", cut, "MANIFEST.json cannot be read"),
    "no weights": ("model.safetensors", Path.unlink, "model.safetensors is missing"),
}


@pytest.mark.parametrize("kind", DAMAGES)
def test_a_damaged_checkpoint_is_skipped(
    kind: str, server: Server, text: Path, half: Path, whole: Path, tmp_path: Path
):
    output = copy_of(half, tmp_path)
    name, damage, message = DAMAGES[kind]
    damage(output / "step-000012" / name)
    (output / ".tmp-16-1").mkdir()  # what a kill leaves
    (output / ".tmp-16-1" / "model.safetensors").write_bytes(b"half")
    run = server.run(command(output, text), tmp_path / "printed.txt")
    assert run.code == 0, run.printed
    skipped = next(line for line in run.printed.splitlines() if "skipped" in line)
    assert "step-000012" in skipped and message in skipped
    assert f"resumed: {output / 'step-000008'}" in run.printed
    assert_same_end(output, whole)


def test_without_a_valid_checkpoint_nothing_is_touched(
    server: Server, text: Path, half: Path, tmp_path: Path
):
    output = copy_of(half, tmp_path)
    flip(output / "step-000012" / "model.safetensors")
    empty(output / "step-000008" / "state.json")
    before = {path: path.read_bytes() for path in output.rglob("*") if path.is_file()}
    run = server.run(command(output, text), tmp_path / "printed.txt")
    assert run.code == 1
    last = run.printed.splitlines()[-1]
    assert "no valid checkpoint" in last and "step-000012" in last and "step-000008" in last
    assert {path: path.read_bytes() for path in output.rglob("*") if path.is_file()} == before


# --- T4: a full disk --------------------------------------------------------------------------


def test_a_failed_write_keeps_what_was_there(
    server: Server, text: Path, half: Path, whole: Path, tmp_path: Path
):
    """Files larger than 20 kB fail with a real error of the system, in the middle of a save."""
    output = copy_of(half, tmp_path)
    limit = 20_000
    assert (output / "step-000012" / "model.safetensors").stat().st_size > 2 * limit
    kept = digests(output)
    for options, named in (({}, "best/model.safetensors"), ({"eval_steps": 0}, "step-000016")):
        words = command(output, text, **options)
        run = server.run(words, tmp_path / "printed.txt", file_limit=limit)
        assert run.code == 1, run.printed
        assert f"{named} could not be written" in run.printed.splitlines()[-1]
        assert digests(output) == kept and not list(output.glob(".tmp-*"))
    assert server.run(command(output, text), tmp_path / "printed.txt").code == 0
    assert_same_end(output, whole)


# --- T5: SIGTERM ------------------------------------------------------------------------------


def test_sigterm_saves_and_no_step_is_done_twice(
    server: Server, text: Path, whole: Path, tmp_path: Path
):
    """Four in a row, one of them where an evaluation is due; and Ctrl-C does the same with 130."""
    output, done = tmp_path / "run", 0
    signals = (signal.SIGTERM, signal.SIGTERM, signal.SIGINT, signal.SIGTERM)
    for number, steps in zip(signals, (1, 6, 13, 20), strict=True):
        run = server.start(command(output, text), tmp_path / "printed.txt")
        assert wait_until(lambda n=steps: steps_logged(output) >= n, run), run.printed
        if done:
            assert f"{done} steps are done" in run.printed
        run.send(number)
        assert run.wait() == 128 + number, run.printed
        done = steps_logged(output)
        assert (output / f"step-{done:06d}").is_dir()
        assert f"stopped after step {done}" in run.printed
    assert server.run(command(output, text), tmp_path / "printed.txt").code == 0
    assert log_of(output) == log_of(whole) and results_of(output) == results_of(whole)
    last = f"step-{STEPS:06d}"
    for name in ("model.safetensors", "optimizer.safetensors"):
        assert (output / last / name).read_bytes() == (whole / last / name).read_bytes()


# --- T6, T7: what is kept ---------------------------------------------------------------------


def test_newest_best_and_final_are_kept(whole: Path):
    kept = sorted(path.name for path in whole.iterdir() if path.is_dir())
    assert kept == ["best", "final", "step-000028", "step-000030"]
    measured = [row for row in log_of(whole) if "eval_loss" in row]
    assert [row["step"] for row in measured] == [7, 14, 21, 28, 30]  # the last one too
    best = min(measured, key=lambda row: row["eval_loss"])
    assert results_of(whole)["best"] == best
    assert results_of(whole)["eval_loss"] == measured[-1]["eval_loss"]


# --- T8: another run's checkpoint -------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (dict(seed=7), "seed was 42, is 7"),
        (dict(eval_examples=9), "eval_examples was 8, is 9"),
        (dict(max_steps=31), "steps was 30, is 31"),
        (dict(train_batch_size=8), "global_batch was 4, is 8"),
        (dict(learning_rate=1e-3), "learning_rate was 0.002, is 0.001"),
        (dict(schedule="linear_tf"), "schedule was linear, is linear_tf"),
        (dict(dropout=0.2), "model.hidden_dropout_prob was 0.1, is 0.2"),
        (dict(conv_type="noconv"), "model.conv_type was sdconv, is noconv"),
        (dict(conv_kernel_size=5), "model.conv_kernel_size was 9, is 5"),
        (dict(mask_prob=0.2), "mask_prob was 0.15, is 0.2"),
        (dict(max_seq_length=20), "data was"),
    ],
)
def test_another_configuration_is_refused_by_name(
    changes: dict, message: str, server: Server, text: Path, half: Path, tmp_path: Path
):
    output = copy_of(half, tmp_path)
    run = server.run(command(output, text, **changes), tmp_path / "printed.txt")
    assert run.code == 1 and message in run.printed.splitlines()[-1], run.printed
    assert digests(output) == digests(half)


def test_another_text_and_another_vocabulary_are_refused_by_name(
    server: Server, text: Path, half: Path, tmp_path: Path
):
    output, other = copy_of(half, tmp_path), tmp_path / "text"
    shutil.copytree(text, other)
    lines = (other / "train.txt").read_text(encoding="utf-8").replace("word7", "word8", 1)
    (other / "train.txt").write_text(lines, encoding="utf-8")
    run = server.run(command(output, other), tmp_path / "printed.txt")
    assert run.code == 1 and "data was" in run.printed.splitlines()[-1]
    names = "[PAD] [UNK] [CLS] [SEP] [MASK] w word o r d 1 2 3".split()
    (tmp_path / "vocab.txt").write_text("\n".join(names) + "\n", encoding="utf-8")
    words = command(output, text, vocab_file=tmp_path / "vocab.txt")
    run = server.run(words, tmp_path / "printed.txt")
    assert run.code == 1 and "vocabulary was" in run.printed.splitlines()[-1]


def test_another_environment_is_told_and_recorded(
    server: Server, text: Path, half: Path, tmp_path: Path
):
    output = copy_of(half, tmp_path)
    words = command(output, text, gradient_accumulation_steps=2)
    run = server.run(words, tmp_path / "printed.txt")
    warning = next(line for line in run.printed.splitlines() if line.startswith("warning"))
    assert "gradient_accumulation_steps was 1, is 2" in warning
    assert "bitwise promise void from step 12" in warning
    state = json.loads((output / "step-000030" / "state.json").read_text(encoding="utf-8"))
    assert state["progress"]["void_from"] == 12


def test_an_unfinished_run_is_not_started_over_by_mistake(
    server: Server, text: Path, half: Path, whole: Path, tmp_path: Path
):
    output = copy_of(half, tmp_path)
    run = server.run(command(output, text, resume=False), tmp_path / "printed.txt")
    assert run.code == 1 and "add --resume to continue it" in run.printed
    assert digests(output) == digests(half)
    # A finished one has nothing to lose but what a second run brings back.
    shutil.rmtree(output)
    shutil.copytree(whole, output)
    run = server.run(command(output, text, resume=False), tmp_path / "printed.txt")
    assert run.code == 0 and "resumed" not in run.printed
    assert_same_end(output, whole)


@pytest.mark.parametrize("form", ["--resume", "--init_from_ckpt"])
def test_a_checkpoint_given_by_path_is_continued(
    form: str, server: Server, text: Path, half: Path, whole: Path, tmp_path: Path
):
    """As the earlier reproduction's command line does; and that command resumes itself."""
    output = tmp_path / "elsewhere"
    words = command(output, text, model_name_or_path=half / "step-000008", resume=False)
    assert server.run(words, tmp_path / "printed.txt").code == 1  # not by mistake
    del words[words.index("--resume") : words.index("--resume") + 2]
    words.append(form)
    run = server.start(words, tmp_path / "printed.txt")
    assert wait_until(lambda: steps_logged(output) >= 6, run), run.printed
    run.send(signal.SIGTERM)
    assert run.wait() == 143 and f"resumed: {half / 'step-000008'}" in run.printed
    run = server.run(words, tmp_path / "printed.txt")
    assert run.code == 0 and f"resumed: {output}" in run.printed
    last = f"step-{STEPS:06d}/model.safetensors"
    assert digests(output)[last] == digests(whole)[last]
    assert log_of(output) == [row for row in log_of(whole) if row["step"] > 8]


def test_a_new_run_starts_from_the_weights_of_another(
    server: Server, text: Path, half: Path, tmp_path: Path
):
    """With other options: what is left to do where a run diverged."""
    output, start = tmp_path / "new", half / "step-000012"
    options = dict(init_weights=start, learning_rate=1e-12, weight_decay=0, max_steps=2)
    run = server.run(command(output, text, **options), tmp_path / "printed.txt")
    assert run.code == 0 and f"weights: those of {start}" in run.printed, run.printed
    assert [row["step"] for row in log_of(output) if "lr" in row] == [1, 2]
    end, begin = (load_file(f / "model.safetensors") for f in (output / "step-000002", start))
    assert end.keys() == begin.keys()
    assert max(np.abs(end[name] - begin[name]).max() for name in begin) < 1e-9
    options["init_weights"] = half / "step-000008"
    run = server.run(command(output, text, **options), tmp_path / "printed.txt")
    assert run.code == 1 and "start was" in run.printed.splitlines()[-1]
    options["init_weights"] = half
    run = server.run(command(tmp_path / "other", text, **options), tmp_path / "printed.txt")
    assert run.code == 1 and f"'{half}' is no valid checkpoint" in run.printed.splitlines()[-1]


# --- T9, T15: what stops a run ----------------------------------------------------------------


def test_a_loss_that_is_not_finite_stops_before_the_update(
    server: Server, text: Path, half: Path, whole: Path, tmp_path: Path
):
    """What is then on the disk is the state before: here the harm was from outside, and ends."""
    output = copy_of(half, tmp_path)
    harm = "found['generator_loss'] = found['generator_loss'] * float('nan')"
    setup = POISON.format(condition="self.calls == 6", harm=harm)
    run = server.run(command(output, text), tmp_path / "printed.txt", setup=setup)
    assert run.code == 1
    last = run.printed.splitlines()[-1]
    assert "the loss is nan at step" in last and "non-finite-step" in last
    step = 12 + 5
    kept = json.loads((output / f"non-finite-step-{step:06d}.json").read_text(encoding="utf-8"))
    assert kept["step"] == step and kept["seed"] == 42
    assert len(kept["examples"]) == len(kept["texts"]) == 4
    assert log_of(output) == [row for row in log_of(whole) if row["step"] <= step]
    assert server.run(command(output, text), tmp_path / "printed.txt").code == 0
    assert_same_end(output, whole)


def test_full_memory_is_explained(server: Server, text: Path, tmp_path: Path):
    """A real failure of Paddle's allocator: 512 TB."""
    setup = POISON.format(condition="True", harm="import paddle; paddle.zeros([1 << 47])")
    run = server.run(command(tmp_path / "run", text), tmp_path / "printed.txt", setup=setup)
    assert run.code == 1
    assert run.printed.splitlines()[-1].endswith(
        "out of memory at step 0 with 4 examples at a time: --gradient_accumulation_steps 2 "
        "takes 2 at a time and keeps the global batch of 4"
    )


# --- T11: two processes -----------------------------------------------------------------------

# Each process writes its weights, not only the one that saves, and what it counted in each step.
WATCH = """
import numpy as np
from convbert.train import electra, loop, parallel
counts, compute = [], electra.Trainer.sums
def sums(self, batch, part):
    counts.append([batch.content.weights[part].sum(), batch.content.mask[part].sum()])
    return compute(self, batch, part)
electra.Trainer.sums = sums
original = loop.train
def train(job, plan):
    done = original(job, plan)
    arrays = {{name: value.numpy() for name, value in job.model.named_parameters()}}
    np.savez(r"{folder}/rank-%d.npz" % parallel.rank(), counts=counts, **arrays)
    return done
loop.train = train
"""


SLOW_SAVE = """
import time
from convbert.train import checkpoint
original = checkpoint.save
def save(*arguments):
    time.sleep(1)
    return original(*arguments)
checkpoint.save = save
"""


def free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    for each in sockets:
        each.bind(("127.0.0.1", 0))
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


def start_pair(
    server: Server, words: list[str], folder: Path, setup: str = "", **variables: str
) -> list[Run]:
    """Start two processes as the launcher does, with more variables of the environment."""
    first, second, master = free_ports(3)
    ends = [f"127.0.0.1:{first}", f"127.0.0.1:{second}"]
    runs = []
    for rank in (0, 1):
        environment = {
            "PADDLE_TRAINER_ID": str(rank),
            "PADDLE_TRAINERS_NUM": "2",
            "PADDLE_TRAINER_ENDPOINTS": ",".join(ends),
            "PADDLE_CURRENT_ENDPOINT": ends[rank],
            "PADDLE_MASTER": f"127.0.0.1:{master}",
            "PADDLE_DISTRI_BACKEND": "gloo",
            **variables,
        }
        printed = folder / f"printed-{rank}.txt"
        runs.append(server.start(words, printed, environment=environment, setup=setup))
    return runs


def test_two_processes_take_the_steps_of_one(server: Server, tmp_path: Path):
    """Masked words and tokens are counted over both: a mean of their means would differ."""
    text, rng = tmp_path / "text", random.Random(0)
    text.mkdir()
    for name in ("train", "valid"):
        lines = (" ".join(f"word{i}" for i in range(rng.randint(2, 12))) for _ in range(60))
        (text / f"{name}.txt").write_text("\n\n".join(lines) + "\n", encoding="utf-8")
    options = dict(max_steps=5, dropout=0.0, eval_steps=0, mask_prob=0.5)
    run = server.run(
        command(tmp_path / "one", text, train_batch_size=6, **options), tmp_path / "one.txt"
    )
    assert run.code == 0, run.printed
    words = command(tmp_path / "two", text, train_batch_size=3, **options)
    runs = start_pair(server, words, tmp_path, WATCH.format(folder=tmp_path))
    assert [run.wait() for run in runs] == [0, 0], runs[0].printed + runs[1].printed
    one, two = (
        load_file(tmp_path / name / "step-000005" / "model.safetensors") for name in ("one", "two")
    )
    ranks = [np.load(tmp_path / f"rank-{rank}.npz", allow_pickle=False) for rank in (0, 1)]
    counts = [rank["counts"] for rank in ranks]  # masked words and tokens [steps, 2]
    assert (counts[0] != counts[1]).sum(0).min() >= 3
    for name, value in one.items():
        assert np.abs(two[name] - value).max() < 1e-6, name
        assert (ranks[0][name] == ranks[1][name]).all() and (ranks[0][name] == two[name]).all()
    for mine, theirs in zip(log_of(tmp_path / "one"), log_of(tmp_path / "two"), strict=True):
        for key, value in mine.items():
            assert theirs[key] == pytest.approx(value, rel=1e-5), key


def test_two_processes_fine_tune_and_evaluate_as_one(server: Server, whole: Path, tmp_path: Path):
    """Steps of four examples, the last of an epoch with two; each measures half of the dev set."""
    options = dict(max_steps=7, save_steps=3, dropout=0.0)
    words, environment = fine_tuning(whole, tmp_path, **options, batch_size=4)
    words += ["--output_dir", str(tmp_path / "one")]
    run = server.run(words, tmp_path / "one.txt", environment=environment)
    assert run.code == 0, run.printed
    words, _ = fine_tuning(whole, tmp_path, **options, batch_size=2)
    words += ["--output_dir", str(tmp_path / "two")]
    runs = start_pair(server, words, tmp_path, **environment)
    assert [run.wait() for run in runs] == [0, 0], runs[0].printed + runs[1].printed
    one, two = log_of(tmp_path / "one"), log_of(tmp_path / "two")
    assert [list(line) for line in one] == [list(line) for line in two]
    assert sum("eval_loss" in line for line in one) == 3
    for mine, theirs in zip(one, two, strict=True):
        for key in {"step", "loss", "accuracy", "eval_loss"} & mine.keys():
            assert theirs[key] == pytest.approx(mine[key], rel=1e-5), key


def test_a_signal_to_one_process_stops_both_at_the_same_step(
    server: Server, text: Path, tmp_path: Path
):
    output = tmp_path / "run"
    words = command(output, text, max_steps=3000, save_steps=1000, eval_steps=0)
    runs = start_pair(server, words, tmp_path, SLOW_SAVE)
    assert wait_until(lambda: steps_logged(output) >= 3, runs[0]), runs[0].printed
    runs[1].send(signal.SIGTERM)
    runs[1].wait()  # not before the other has saved: the launcher would kill that one
    assert list(output.glob("step-*"))
    assert [run.wait() for run in runs] == [143, 143], runs[0].printed + runs[1].printed
    step = steps_logged(output)
    assert [path.name for path in output.glob("step-*")] == [f"step-{step:06d}"]
    assert all(f"stopped after step {step}" in run.printed for run in runs)


# --- Wrappers ---------------------------------------------------------------------------------


def wait_for_end(output: Path, seconds: float = 60.0) -> int:
    """Wait for the only checkpoint of a stopped run; return its step."""
    end = time.monotonic() + seconds
    while not (found := list(output.glob("step-*"))):
        assert time.monotonic() < end, "no checkpoint"
        time.sleep(0.05)
    return int(found[0].name.removeprefix("step-"))


def stop_wrapper(words: list[str], output: Path, printed: Path) -> None:
    """Start a wrapper around a training, send it SIGTERM, and see that the training saves."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    with open(printed, "wb") as file:
        wrapper = subprocess.Popen(words, stdout=file, stderr=file, env=environment)
    end = time.monotonic() + 120
    while steps_logged(output) < 2:
        assert wrapper.poll() is None and time.monotonic() < end, printed.read_text("utf-8")
        time.sleep(0.05)
    wrapper.send_signal(signal.SIGTERM)
    wrapper.wait(60)  # its own exit code is its own affair
    assert wait_for_end(output) == steps_logged(output) >= 2


LONG = dict(max_steps=100_000, save_steps=50_000, eval_steps=0)


def test_under_the_launcher_the_checkpoint_is_saved(text: Path, tmp_path: Path):
    output = tmp_path / "run"
    launcher = [sys.executable, "-m", "paddle.distributed.launch", "--nproc_per_node", "2"]
    launcher += ["--log_dir", str(tmp_path / "logs"), sys.executable, "-m", "convbert"]
    stop_wrapper(launcher + command(output, text, **LONG), output, tmp_path / "printed.txt")


PAPERMILL = """
import sys, nbformat, papermill
notebook = nbformat.v4.new_notebook()
code = "from convbert import jobs\\njobs.run({{'a': {words!r}}}, {logs!r})"
notebook.cells = [nbformat.v4.new_code_cell(code)]
nbformat.write(notebook, {file!r})
papermill.execute_notebook({file!r}, {file!r} + ".out.ipynb", kernel_name="python3")
"""


def test_under_papermill_the_checkpoint_is_saved(text: Path, tmp_path: Path):
    """papermill and the kernel die of the signal; the training process saves."""
    output = tmp_path / "run"
    script = PAPERMILL.format(
        words=[sys.executable, "-m", "convbert", *command(output, text, **LONG)],
        logs=str(tmp_path / "logs"),
        file=str(tmp_path / "notebook.ipynb"),
    )
    stop_wrapper([sys.executable, "-c", script], output, tmp_path / "printed.txt")
