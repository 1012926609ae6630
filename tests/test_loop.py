"""The training loop on a job of one layer: order, normalization, measuring, what stops it."""

from __future__ import annotations

import json
import os
import signal
from dataclasses import replace
from pathlib import Path

import numpy as np
import paddle
import pytest

from convbert import runtime
from convbert.data import corpus
from convbert.train import checkpoint, guard, loop, optim
from convbert.train.log import Log

EXAMPLES, SIZE = 22, 8  # three batches an epoch, the last of six


class Toy:
    """Regression with two losses, one of which counts only some of the examples."""

    def __init__(self, seed: int = 0, dropout: float = 0.0) -> None:
        rng = np.random.default_rng(0)
        self.x = rng.normal(size=(EXAMPLES, 4)).astype("float32")
        self.y = rng.normal(size=(EXAMPLES, 1)).astype("float32")
        self.counted = (rng.random(EXAMPLES) < 0.4).astype("float32")
        paddle.seed(seed)
        self.model = paddle.nn.Sequential(paddle.nn.Linear(4, 1), paddle.nn.Dropout(dropout))
        self.optimizer = paddle.optimizer.AdamW(0.1, parameters=self.model.parameters())
        self.weights = {"rare": 2.0, "common": 0.5}
        self.drawn: list[list[int]] = []
        self.sizes: list[int] = []
        self.script: list[float] = []
        self.saved: list[int] = []

    def draw(self, step: int) -> loop.Batch:
        epoch, place = divmod(step, -(-EXAMPLES // SIZE))
        rows = corpus.epoch_order(EXAMPLES, 3, epoch)[place * SIZE : (place + 1) * SIZE]
        self.drawn.append(rows.tolist())
        counts = {"rare": float(self.counted[rows].sum()), "common": float(len(rows))}
        return loop.Batch(rows, counts, None)

    def sums(self, batch: loop.Batch, part: np.ndarray) -> dict[str, paddle.Tensor]:
        rows = batch.examples[part]
        self.sizes.append(len(rows))
        off = self.model(paddle.to_tensor(self.x[rows])) - paddle.to_tensor(self.y[rows])
        rare = (off**2 * paddle.to_tensor(self.counted[rows][:, None])).sum()
        return {"rare": rare, "common": off.abs().sum()}

    def evaluate(self) -> dict[str, float]:
        return {"value": self.script.pop(0) if self.script else 0.0}

    def save(self, directory: Path) -> None:
        directory.mkdir(exist_ok=True)
        self.saved.append(len(self.drawn))

    def describe(self, batch: loop.Batch) -> list[str]:
        return [f"example {row}" for row in batch.examples]

    def state(self) -> dict[str, np.ndarray]:
        return {name: value.numpy() for name, value in self.model.named_parameters()}


def plan(output: Path, **changes) -> loop.Plan:
    values = dict(
        name="toy",
        output=output,
        steps=10,
        seed=3,
        rate=lambda step: 0.1 - 0.01 * step,
        value=lambda measured: measured["value"],
        fingerprint={"data": "toy"},
        logging_steps=1,
        eval_steps=0,
        save_steps=4,
    )
    return loop.Plan(**{**values, **changes})


def log_of(folder: Path) -> list[dict]:
    lines = (folder / "log.jsonl").read_text(encoding="utf-8").splitlines()
    return [{k: v for k, v in json.loads(line).items() if k != "examples_per_s"} for line in lines]


def interrupt(job: Toy, calls: int, error: BaseException) -> None:
    """Let the n-th computation of a loss fail."""
    original, left = job.sums, [calls]

    def sums(batch, part):
        left[0] -= 1
        if left[0] == 0:
            raise error
        return original(batch, part)

    job.sums = sums


# --- Steps ------------------------------------------------------------------------------------


def test_losses_rates_and_updates_by_hand(tmp_path: Path):
    job, twin = Toy(), Toy()
    loop.train(job, plan(tmp_path, steps=4))
    for row in log_of(tmp_path)[:4]:
        step = row["step"] - 1
        rows = twin.draw(step).examples
        off = twin.model(paddle.to_tensor(twin.x[rows])) - paddle.to_tensor(twin.y[rows])
        counted = paddle.to_tensor(twin.counted[rows][:, None])
        rare, common = (off**2 * counted).sum() / counted.sum(), off.abs().mean()
        loss = 2.0 * rare + 0.5 * common
        assert row == {
            "step": step + 1,
            "loss": pytest.approx(loss.item(), rel=1e-5),
            "rare": pytest.approx(rare.item(), rel=1e-5),
            "common": pytest.approx(common.item(), rel=1e-5),
            "lr": 0.1 - 0.01 * step,
        }
        loss.backward()
        twin.optimizer.set_lr(row["lr"])
        twin.optimizer.step()
        twin.optimizer.clear_grad()
    for name, value in twin.state().items():
        assert np.abs(job.state()[name] - value).max() < 1e-6


@pytest.mark.parametrize("parts", [2, 3, 4, 8])
def test_accumulation_takes_the_same_steps(parts: int, tmp_path: Path):
    """Four times 2 examples are once 8, also where the parts are unequal or empty."""
    whole, cut = Toy(), Toy()
    loop.train(whole, plan(tmp_path / "whole"))
    loop.train(cut, plan(tmp_path / "cut", accumulation=parts))
    assert cut.drawn == whole.drawn
    assert cut.sizes[:parts] == [len(part) for part in np.array_split(range(8), parts)]
    assert min(cut.sizes) > 0
    for name, value in whole.state().items():
        assert np.abs(cut.state()[name] - value).max() < 1e-6
    for mine, theirs in zip(log_of(tmp_path / "cut"), log_of(tmp_path / "whole"), strict=True):
        assert mine == pytest.approx(theirs, rel=1e-5)


def test_a_loss_without_anything_to_count_is_zero(tmp_path: Path):
    job = Toy()
    job.counted[:] = 0
    loop.train(job, plan(tmp_path, steps=2))
    assert [row["rare"] for row in log_of(tmp_path) if "rare" in row] == [0.0, 0.0]
    assert all(np.isfinite(value).all() for value in job.state().values())


# --- Resuming ---------------------------------------------------------------------------------


@pytest.mark.parametrize("calls", [2, 6, 9, 10])
def test_resuming_repeats_and_skips_no_example(calls: int, tmp_path: Path):
    """Interrupted in epochs 0, 1, 2 and 3; what was drawn is the sequence of a whole run."""
    whole, first, second = (Toy(dropout=0.3) for _ in range(3))
    loop.train(whole, plan(tmp_path / "whole", eval_steps=3))
    interrupt(first, calls, KeyError("killed"))
    with pytest.raises(KeyError):
        loop.train(first, plan(tmp_path / "run", eval_steps=3))
    loop.train(second, plan(tmp_path / "run", eval_steps=3, resume=True))
    done = (calls - 1) // 4 * 4  # the last checkpoint
    assert first.drawn == whole.drawn[:calls] and second.drawn == whole.drawn[done:]
    second_epoch = [row for rows in whole.drawn[3:6] for row in rows]
    assert sorted(second_epoch) == list(range(EXAMPLES))
    for name, value in whole.state().items():
        assert (second.state()[name] == value).all(), name
    assert log_of(tmp_path / "run") == log_of(tmp_path / "whole")


def test_a_finished_run_is_finished(tmp_path: Path):
    job, again = Toy(), Toy(seed=1)
    job.script = [0.7]
    done = loop.train(job, plan(tmp_path))
    assert loop.train(again, plan(tmp_path, resume=True)) == done
    assert again.drawn == [] and done.last == {"value": 0.7, "step": 10}
    assert all((again.state()[name] == value).all() for name, value in job.state().items())


def test_resume_starts_fresh_only_if_there_is_nothing(tmp_path: Path):
    (tmp_path / ".tmp-4-77").mkdir(parents=True)
    job = Toy()
    loop.train(job, plan(tmp_path, resume=True))
    assert len(job.drawn) == 10 and not (tmp_path / ".tmp-4-77").exists()


@pytest.mark.parametrize("left", ["", '{"step": 1', '{"step": 1}\n{"ste'])
def test_a_log_that_lost_lines_is_continued(left: str, tmp_path: Path):
    loop.train(Toy(), plan(tmp_path, steps=10))
    (tmp_path / "log.jsonl").write_text(left, encoding="utf-8")
    with Log(tmp_path, 10, "toy", 8, 8) as log:
        log.write(9, loss=1.0)
    kept = (tmp_path / "log.jsonl").read_text(encoding="utf-8").splitlines()
    assert [json.loads(line)["step"] for line in kept] == [1] * left.count("}\n") + [9]


# --- Signals ----------------------------------------------------------------------------------


def test_a_signal_does_not_wait_for_an_evaluation(tmp_path: Path):
    """What was not measured is measured by the resumed run, and logged once."""
    job, again = Toy(), Toy()
    job.evaluate = lambda: os.kill(os.getpid(), signal.SIGTERM)
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(SystemExit) as stopped:
        loop.train(job, plan(tmp_path, eval_steps=3))
    assert stopped.value.code == 143 and signal.getsignal(signal.SIGTERM) is before
    assert checkpoint.newest(tmp_path).name == "step-000003"
    again.script = [0.1, 0.9, 0.5, 0.2]
    done = loop.train(again, plan(tmp_path, eval_steps=3, resume=True))
    measured = [row for row in log_of(tmp_path) if "value" in row]
    assert [(row["step"], row["value"]) for row in measured] == [
        (3, 0.1), (6, 0.9), (9, 0.5), (10, 0.2)
    ]  # fmt: skip
    assert done.best == {"value": 0.9, "step": 6} and len(again.drawn) == 7


def test_a_signal_finishes_the_step(tmp_path: Path):
    job = Toy()
    original = job.sums

    def sums(batch, part):
        if len(job.drawn) == 2:
            os.kill(os.getpid(), signal.SIGTERM)
        return original(batch, part)

    job.sums = sums
    with pytest.raises(SystemExit):
        loop.train(job, plan(tmp_path))
    assert checkpoint.newest(tmp_path).name == "step-000002"
    assert [row["step"] for row in log_of(tmp_path)] == [1, 2]


def test_a_second_interrupt_is_not_noted_but_obeyed(tmp_path: Path):
    job = Toy()
    job.sums = lambda *_: [os.kill(os.getpid(), signal.SIGINT) for _ in range(2)]
    with pytest.raises(KeyboardInterrupt):
        loop.train(job, plan(tmp_path))


# --- Measuring and keeping --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("script", "best", "saves"),
    [
        ([0.5, 0.8, 0.8, 0.6], 6, [3, 6]),
        ([4, 3, 2, 1], 3, [3]),
        ([-4, -3, -2, -1], 10, [3, 6, 9, 10]),
    ],
)
def test_best_is_the_first_highest(script: list, best: int, saves: list, tmp_path: Path):
    job = Toy()
    job.script = list(script)
    done = loop.train(job, plan(tmp_path, eval_steps=3))
    assert done.best == {"value": max(script), "step": best}
    assert job.saved == saves  # the steps at which best/ was written
    assert done.last == {"value": script[-1], "step": 10}


def test_the_best_is_remembered_over_an_interruption(tmp_path: Path):
    first, second = Toy(), Toy()
    first.script, second.script = [0.9, 0.1], [0.2, 0.3, 0.4]
    interrupt(first, 6, KeyError("killed"))
    with pytest.raises(KeyError):
        loop.train(first, plan(tmp_path, eval_steps=3))
    done = loop.train(second, plan(tmp_path, eval_steps=3, resume=True))
    assert done.best == {"value": 0.9, "step": 3} and second.saved == []


@pytest.mark.parametrize(("keep", "left"), [(2, [8, 10]), (3, [4, 8, 10])])
def test_as_many_checkpoints_are_kept_as_asked(keep: int, left: list, tmp_path: Path):
    loop.train(Toy(), plan(tmp_path, keep=keep))
    assert sorted(path.name for path in tmp_path.glob("step-*")) == [f"step-{n:06d}" for n in left]


# --- What stops a run -------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["loss", "gradient"])
def test_what_is_not_finite_stops_before_the_update(kind: str, tmp_path: Path):
    job, twin = Toy(), Toy()
    original = job.sums

    def sums(batch, part):
        found = original(batch, part)
        if len(job.drawn) == 6:
            zero = job.model[0].weight.sum() * 0  # its root is 0, the root's slope infinite
            found["rare"] = found["rare"] + (float("nan") if kind == "loss" else zero.sqrt())
        return found

    job.sums = sums
    message = "the loss is nan" if kind == "loss" else r"the gradient of 0\.weight is not finite"
    with pytest.raises(FloatingPointError, match=f"{message} at step 5: look at the batch"):
        loop.train(job, plan(tmp_path))
    loop.train(twin, plan(tmp_path / "twin", steps=5))
    for name, value in twin.state().items():
        assert (job.state()[name] == value).all()
    kept = json.loads((tmp_path / "non-finite-step-000005.json").read_text(encoding="utf-8"))
    assert (kept["step"], kept["seed"], kept["examples"]) == (5, 3, job.drawn[5])
    assert kept["texts"] == [f"example {row}" for row in job.drawn[5]]
    assert [path.name for path in tmp_path.glob("step-*")] == ["step-000004"]


class Scaler:
    """Does what Paddle's loss scaler does on a GPU; on a CPU, Paddle's does nothing."""

    def __init__(self, model: paddle.nn.Layer) -> None:
        self.model, self.factor = model, 1024.0

    def scale(self, loss: paddle.Tensor) -> paddle.Tensor:
        return loss * self.factor

    def step(self, optimizer: paddle.optimizer.Optimizer) -> None:
        gradients = [parameter.grad for parameter in self.model.parameters()]
        self.finite = all(bool(paddle.isfinite(each).all()) for each in gradients)
        if self.finite:
            for each in gradients:
                each.set_value(each / self.factor)
            optimizer.step()

    def update(self) -> None:
        self.factor *= 1.0 if self.finite else 0.5

    def state_dict(self) -> dict:
        return {"scale": np.array([self.factor], "float32")}

    def load_state_dict(self, state: dict) -> None:
        self.factor = float(state["scale"][0])


def overflowing(monkeypatch, after: int) -> Toy:
    """Return a job with a scaler; while the factor is above a bound, its gradients overflow."""
    job = Toy()
    scaler = Scaler(job.model)
    monkeypatch.setattr(loop.runtime, "grad_scaler", lambda precision: scaler)
    job.scaler, original = scaler, job.sums

    def sums(batch, part):
        found = original(batch, part)
        if len(job.drawn) > after and scaler.factor > job.bound:
            zero = job.model[0].weight.sum() * 0
            found["rare"] = found["rare"] + zero.sqrt()  # its slope is infinite
        return found

    job.sums = sums
    return job


def test_an_overflow_costs_updates_and_the_scale(tmp_path: Path, monkeypatch, capsys):
    """With factors above 256: two updates are skipped, and the others are those of float32."""
    job, twin = overflowing(monkeypatch, after=3), Toy()
    job.bound = 256.0
    loop.train(job, plan(tmp_path, steps=5))
    assert job.scaler.factor == 256.0
    printed = capsys.readouterr().out
    for step in (3, 4):
        assert f"step {step}: the gradient of 0.weight is not finite, no update" in printed
    monkeypatch.undo()
    loop.train(twin, plan(tmp_path / "twin", steps=3))
    for name, value in twin.state().items():
        assert np.allclose(job.state()[name], value, atol=1e-6), name
    other = overflowing(monkeypatch, after=99)
    loop.train(other, plan(tmp_path, steps=5, resume=True))
    assert other.scaler.factor == 256.0  # a resumed run scales as before


def test_gradients_that_are_never_finite_stop_a_run_with_a_scaler(tmp_path: Path, monkeypatch):
    job = overflowing(monkeypatch, after=3)
    job.bound = 0.0
    with pytest.raises(FloatingPointError, match=r"0\.weight is not finite at step 23: look at"):
        loop.train(job, plan(tmp_path, steps=40))
    assert len(job.drawn) == 24


def test_full_memory_names_the_remedy(tmp_path: Path):
    """A real failure of the allocator, and Paddle's other way to report one."""
    for harm in (lambda *_: paddle.zeros([1 << 47]), _raise_like_a_gpu):
        job = Toy()
        job.sums = harm
        with pytest.raises(MemoryError, match=r"4 examples.*_steps 4 takes 2 .*global batch of 8"):
            loop.train(job, plan(tmp_path, accumulation=2))
    assert "shorten the examples" in guard.advice(0, 8, 8, 1)
    job.sums = lambda *_: [][1]
    with pytest.raises(IndexError):
        loop.train(job, plan(tmp_path))


def _raise_like_a_gpu(*_: object) -> None:
    raise RuntimeError("ResourceExhaustedError: Out of memory error on GPU 0")


def test_values_without_meaning():
    with pytest.raises(ValueError, match="keep_checkpoints=1: must be at least 2"):
        loop.check_options(1, 1, 8)
    for parts in (0, 9):
        with pytest.raises(ValueError, match=f"gradient_accumulation_steps={parts}: must be from"):
            loop.check_options(2, parts, 8)
    loop.check_options(2, 8, 8)


def test_an_unfinished_run_is_protected(tmp_path: Path):
    job = Toy()
    interrupt(job, 6, KeyError("killed"))
    with pytest.raises(KeyError):
        loop.train(job, plan(tmp_path))
    with pytest.raises(FileExistsError, match="up to step-000004: add --resume to continue it"):
        loop.train(Toy(), plan(tmp_path))
    (tmp_path / "results.json").write_text("{}", encoding="utf-8")  # had it ended
    for name in ("best", "last", "final", "corpus"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "model.safetensors").touch()
    again = Toy()
    loop.train(again, plan(tmp_path))
    assert len(again.drawn) == 10 and not (tmp_path / "results.json").exists()
    # What the other run left for `from_pretrained` is gone; best/ is this run's own.
    left = {path.parent.name for path in tmp_path.glob("*/model.safetensors")}
    assert left == {"corpus", "step-000008", "step-000010"}


def test_a_changed_plan_is_refused(tmp_path: Path):
    loop.train(Toy(), plan(tmp_path))
    for changes, message in (
        (dict(seed=4), "seed was 3, is 4"),
        (dict(steps=11), "steps was 10, is 11"),
        (dict(precision=runtime.Precision("bfloat16")), "precision was float32, is bfloat16"),
        (dict(fingerprint={"data": "other"}), "data was toy, is other"),
    ):
        with pytest.raises(ValueError, match=message):
            loop.train(Toy(), replace(plan(tmp_path, resume=True), **changes))


def test_schedules_are_the_plan_s_own(tmp_path: Path):
    rate = lambda step: 0.01 * optim.linear_tf(step, 10, 4)  # noqa: E731
    loop.train(Toy(), plan(tmp_path, rate=rate))
    rates = [row["lr"] for row in log_of(tmp_path) if "lr" in row]
    assert rates == [rate(step) for step in range(10)]
