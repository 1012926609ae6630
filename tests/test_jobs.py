"""Several commands at once: order, threads, logs, and what happens when one fails."""

from __future__ import annotations

import os
import signal
import sys
import time
from dataclasses import asdict
from pathlib import Path

import pytest

from convbert import cli, jobs, runtime


def python(code: str) -> list[str]:
    return [sys.executable, "-S", "-c", code]


def wait_for(mine: Path, other: Path) -> list[str]:
    """A command that ends well only if another one runs at the same time."""
    return python(
        f"import pathlib, time; pathlib.Path({str(mine)!r}).touch(); end = time.time() + 20\n"
        f"while not pathlib.Path({str(other)!r}).exists():\n"
        "    assert time.time() < end; time.sleep(0.02)"
    )


def sleeper(pid: Path) -> list[str]:
    """A command that says who it is and then takes a minute."""
    return python(
        "import os, pathlib, time\n"
        f"pathlib.Path({str(pid) + '.new'!r}).write_text(str(os.getpid()))\n"
        f"os.replace({str(pid) + '.new'!r}, {str(pid)!r}); time.sleep(60)"
    )


def is_alive(pid: Path) -> bool:
    try:
        os.kill(int(pid.read_text()), 0)
    except ProcessLookupError:
        return False
    return True


def test_commands_run_at_the_same_time(tmp_path: Path):
    a, b = tmp_path / "a", tmp_path / "b"
    seconds = jobs.run({"a": wait_for(a, b), "b": wait_for(b, a)}, tmp_path / "logs", workers=2)
    assert seconds.keys() == {"a", "b"} and all(0 < value < 30 for value in seconds.values())


def test_one_worker_runs_them_in_order(tmp_path: Path):
    done, names = tmp_path / "done", ("c", "a", "d", "b")
    commands = {
        name: python(
            f"import time; f = open({str(done)!r}, 'a'); f.write('<{name}'); f.flush();"
            f"time.sleep(0.05); f.write('{name}>')"
        )
        for name in names
    }
    assert list(jobs.run(commands, tmp_path, workers=1)) == list(names)
    assert done.read_text() == "".join(f"<{name}{name}>" for name in names)


def test_no_command_is_no_work(tmp_path: Path):
    assert jobs.run({}, tmp_path) == {}


def test_logs_hold_what_was_printed(tmp_path: Path):
    logs = tmp_path / "new" / "logs"
    code = "import sys; print('out ä'); sys.stdout.flush(); print('err', file=sys.stderr)"
    jobs.run({"a": python(code), "b": python("pass")}, logs)
    assert (logs / "a.txt").read_text(encoding="utf-8").splitlines() == ["out ä", "err"]
    assert (logs / "b.txt").read_text(encoding="utf-8") == ""


def test_a_failure_names_its_end_and_stops_the_others(tmp_path: Path):
    pid, late = tmp_path / "pid", tmp_path / "late"
    fail = python(
        "import pathlib, sys, time\n"
        f"while not pathlib.Path({str(pid)!r}).exists(): time.sleep(0.02)\n"
        "for i in range(20): print('line', i)\n"
        "sys.exit('out of memory')"
    )
    commands = {
        "slow": sleeper(pid),
        "bad": fail,
        "late": python(f"open({str(late)!r}, 'w')"),
    }
    start = time.monotonic()
    with pytest.raises(jobs.JobFailed) as caught:
        jobs.run(commands, tmp_path, workers=2)
    assert time.monotonic() - start < 30
    message = str(caught.value).splitlines()
    assert message[0] == f"bad ended with exit code 1; {tmp_path / 'bad.txt'} ends with"
    assert message[1:] == [*(f"line {i}" for i in range(13, 20)), "out of memory"]
    assert not is_alive(pid) and not late.exists()


def test_a_signal_is_a_failure(tmp_path: Path):
    kill = python("import os, signal; print('so far', flush=True); os.kill(os.getpid(), 9)")
    with pytest.raises(jobs.JobFailed, match=r"exit code -9; .*\nso far"):
        jobs.run({"a": kill}, tmp_path)


def test_a_command_that_cannot_start_stops_the_others(tmp_path: Path):
    pid = tmp_path / "pid"
    with pytest.raises(FileNotFoundError, match="no-such-program"):
        jobs.run({"slow": sleeper(pid), "bad": ["no-such-program"]}, tmp_path, workers=2)
    assert not pid.exists() or not is_alive(pid)


def test_an_interrupt_stops_all(tmp_path: Path):
    """As when a reader interrupts the cell of a notebook."""
    pids = {name: tmp_path / name for name in ("a", "b")}

    def interrupt(*_: object) -> None:
        if not all(pid.exists() for pid in pids.values()):
            signal.setitimer(signal.ITIMER_REAL, 0.1)  # they have not started yet
            return
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGALRM, interrupt)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.2)
        with pytest.raises(KeyboardInterrupt):
            jobs.run({name: sleeper(pid) for name, pid in pids.items()}, tmp_path, workers=2)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert not any(is_alive(pid) for pid in pids.values())


@pytest.mark.parametrize(
    ("printed", "percent"),
    [
        ("", 0),
        ("half a line 50", 0),
        ("pretrain:  37%|███▋      | 7/20 [00:01<00:02]", 37),
        ("pretrain:  37%|███▋ \r" * 200 + "pretrain:  40%|████ \r", 40),
        ("pretrain: 100%|██████████| 20/20", 99),  # it still saves and evaluates
    ],
)
def test_progress_is_read_from_the_log(printed: str, percent: int, tmp_path: Path):
    (tmp_path / "log.txt").write_text(printed, encoding="utf-8")
    assert jobs._percent(tmp_path / "log.txt") == percent


@pytest.mark.parametrize(
    ("count", "cores", "at_a_time"),
    [
        (1, 2, 1),
        (2, 2, 2),
        (3, 2, 3),
        (4, 2, 2),
        (5, 2, 3),
        (12, 2, 2),
        (3, 8, 3),
        (9, 8, 9),
        (5, 1, 1),
    ],
)
def test_no_core_idles_beside_the_last_command(count, cores, at_a_time):
    assert jobs.share_cores(count, cores) == at_a_time


@pytest.mark.parametrize(
    ("cores", "count", "workers", "gpu", "threads"),
    [
        (8, 1, 0, False, 8),
        (8, 3, 0, False, 2),  # 2.67, so that no core is shared
        (2, 5, 0, False, 1),
        (8, 5, 2, False, 4),
        (1, 2, 2, False, 1),
        (8, 5, 0, True, 8),  # one at a time on a GPU machine
    ],
)
def test_threads_share_the_cores(cores, count, workers, gpu, threads, tmp_path, monkeypatch):
    monkeypatch.setattr(runtime, "usable_cores", lambda: cores)
    monkeypatch.setattr(jobs, "_has_gpu", lambda: gpu)
    monkeypatch.setenv("OMP_NUM_THREADS", "77")
    show = python("import os; print(os.environ['OMP_NUM_THREADS'])")
    jobs.run({str(i): show for i in range(count)}, tmp_path, workers)
    found = {path.read_text().strip() for path in tmp_path.glob("*.txt")}
    assert found == {str(threads)}


@pytest.mark.parametrize("name", ["pretrain", "glue"])
def test_options_survive_the_command_line(name: str):
    """Every option of a job, written as a command and read again."""
    if name == "pretrain":
        from convbert.train.pretrain import PretrainConfig as Config

        config = Config("some folder/out", learning_rate=3e-5, max_steps=-1, input_dir="ü")
    else:
        from convbert.train.glue import GlueConfig as Config

        config = Config("sst-2", "a b", "out", from_scratch=True, weight_decay=0.0)
    words = jobs.command(name, **asdict(config))
    assert words[:4] == [sys.executable, "-m", "convbert", name]
    assert cli.parse(f"convbert {name}", Config, words[4:]) == config


def test_a_command_is_killed_when_a_path_exists(tmp_path: Path):
    pid = tmp_path / "pid"
    jobs.kill_when(sleeper(pid), tmp_path / "logs" / "log.txt", pid)
    assert not is_alive(pid)


def test_a_command_that_ends_before_the_kill_is_an_error(tmp_path: Path):
    with pytest.raises(jobs.JobFailed, match=r"ended before .*never.*farewell"):
        jobs.kill_when(python("print('farewell')"), tmp_path / "log.txt", tmp_path / "never")
