"""The training loop of every job: steps, log, evaluation, checkpoints, and how a run ends.

A job knows its model, its data and its losses, as `Job` lists them; a `Plan` says how long and
how often. `train(job, plan)` does the rest, and what it promises holds for every job:

* Killed at any moment, the same command with `--resume` ends as if nothing had happened: random
  numbers are derived from (seed, step), so a checkpoint needs to hold none.
* SIGTERM and Ctrl-C finish the step, save, and exit with 143 or 130.
* A loss or gradient that is not finite stops before the update, and leaves the batch in a file.
* Each part of the loss is a sum over the examples of a step, divided by one count for all of
  them. So it does not matter how a batch is cut into micro-batches and processes.

What a job has to do, in short: `draw(step)` chooses the examples of a step and says what each
loss is divided by; `sums(batch, part)` computes the losses of some of them; `evaluate()`
measures; `save(folder)` writes the model for `from_pretrained`. `train.glue` is a short one.
"""

from __future__ import annotations

import json
import shutil
import signal
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
import paddle
from paddle import Tensor, nn

from convbert import runtime
from convbert.train import checkpoint, guard, parallel
from convbert.train.log import Log
from convbert.train.signals import Signals, Stop

_FLOAT32 = runtime.Precision("float32")
_MOST_SKIPPED = 20  # updates in a row that float16's scaler may skip; it halves each time


class Batch(NamedTuple):
    """The examples of one step, of all processes together."""

    examples: np.ndarray  # their numbers in the data set [B]
    counts: Mapping[str, float]  # what each part of the loss is divided by
    content: Any  # what the job makes of them


class Job(Protocol):
    """What the loop asks of a job."""

    optimizer: paddle.optimizer.Optimizer

    @property
    def model(self) -> nn.Layer:
        """Return the model that learns."""

    @property
    def weights(self) -> Mapping[str, float]:
        """Return the weight of each part of the loss, by its name in the log."""

    def draw(self, step: int) -> Batch:
        """Return the batch of a step: a function of (seed, step), the same on all processes."""

    def sums(self, batch: Batch, part: np.ndarray) -> Mapping[str, Tensor]:
        """Return each loss, summed over the examples at the places `part` of the batch."""

    def evaluate(self) -> dict[str, float]:
        """Measure on held-out data, with dropout off."""

    def save(self, directory: Path) -> None:
        """Write the model, for `from_pretrained`."""

    def describe(self, batch: Batch) -> list[str]:
        """Return the examples as text, for a reader who wonders what was wrong with them."""


@dataclass(frozen=True)
class Plan:
    """What a run is, besides its job."""

    name: str  # shown beside the progress bar
    output: Path  # folder for log.jsonl, step-…/ and best/
    steps: int  # updates in all
    seed: int  # of everything random
    rate: Callable[[int], float]  # learning rate of the update after so many finished ones
    value: Callable[[dict[str, float]], float]  # of an evaluation; the highest is kept in best/
    fingerprint: dict[str, Any]  # what a checkpoint must agree with, by name
    logging_steps: int  # log the loss every so many steps
    eval_steps: int  # evaluate every so many steps; 0: at the end only
    save_steps: int  # write a checkpoint every so many steps; 0: at the end only
    patience: int = 0  # stop after so many evaluations without a better one; 0: never
    keep: int = 2  # checkpoints to keep
    accumulation: int = 1  # micro-batches of a step on each process
    precision: runtime.Precision = _FLOAT32
    resume: bool = False  # continue the newest checkpoint of `output`, if there is one
    start: Path | None = None  # the checkpoint to continue if `output` has none
    log_first: bool = False  # log the very first step too


@dataclass
class Progress:
    """How far a run is; `state.json` holds it."""

    step: int = 0  # finished updates
    best: dict[str, float] = field(default_factory=dict)  # the best evaluation, and its step
    last: dict[str, float] = field(default_factory=dict)  # the last evaluation, and its step
    log_lines: int = 0  # of log.jsonl, when the checkpoint was written
    void_from: int | None = None  # first step in another environment; None: bits are promised


def train(job: Job, plan: Plan) -> Progress:
    """Take all steps, from the first or from a checkpoint.

    Returns:
        The best and the last evaluation. The model is that of the last step.

    Raises:
        ValueError: the checkpoint is of another run, or all are damaged.
        FileExistsError: an unfinished run lies there, and the plan does not resume it.
        FloatingPointError: a loss or gradient is not finite.
        MemoryError: a micro-batch is too large.
        OSError: a checkpoint could not be written.
        SystemExit: a signal asked to stop; the checkpoint is written.
    """
    parallel.start()
    run = _Run(job, plan)
    run.begin()
    job.model.train()
    done, silent = run.progress, run.rank > 0
    with (
        Log(plan.output, plan.steps, plan.name, done.step, done.log_lines, silent) as run.log,
        Signals() as signals,
    ):
        try:
            while True:
                run.evaluate_if_due(signals)
                run.save_if_due()
                if done.step == plan.steps or run.has_stalled():
                    return done
                run.take_step(signals)
        except Stop as stop:
            run.save()
            print(f"{stop}: stopped after step {done.step}, which is saved", flush=True)
            raise SystemExit(stop.exit_code) from None


def check_options(keep: int, accumulation: int, batch: int) -> None:
    """Refuse values without meaning.

    Raises:
        ValueError: names the option.
    """
    if keep < 2:
        raise ValueError(
            f"keep_checkpoints={keep}: must be at least 2, one being no help when it is damaged"
        )
    if not 1 <= accumulation <= batch:
        raise ValueError(
            f"gradient_accumulation_steps={accumulation}: must be from 1 to {batch}, "
            "the examples of a batch on a device"
        )


def refuse_unfinished(output: Path, resume: bool) -> None:
    """Protect a run that was interrupted from being started over by mistake.

    Raises:
        FileExistsError: there are checkpoints but no results, and `resume` is not asked for.
    """
    found = checkpoint.find(output)
    if found and not resume and not (output / "results.json").exists() and not parallel.rank():
        raise FileExistsError(
            f"{output} holds an unfinished run, up to {found[0].name}: add --resume to continue "
            "it, or remove its step-* folders to start over"
        )


class _Run:
    """The parts of `train`, and what they share."""

    log: Log

    def __init__(self, job: Job, plan: Plan) -> None:
        self.job, self.plan = job, plan
        self.scaler = runtime.grad_scaler(plan.precision)
        self.progress = Progress()
        self.skipped = 0  # updates in a row, up to now
        self.rank, self.world = parallel.rank(), parallel.world()

    def begin(self) -> None:
        """Continue a checkpoint, or start over in a clean folder."""
        output = self.plan.output
        refuse_unfinished(output, self.plan.resume)
        folder = (checkpoint.newest(output) or self.plan.start) if self.plan.resume else None
        if folder:
            self.restore(folder)
        parallel.require_agreement("the step to start from", self.progress.step)
        if self.rank == 0:
            checkpoint.remove_leftovers(output)
            (output / "results.json").unlink(missing_ok=True)  # it says that a run has ended
            if not folder:
                checkpoint.prune(output, keep=0)
                for name in ("best", "last", "final"):  # of a run that ended, with other options
                    shutil.rmtree(output / name, ignore_errors=True)

    def restore(self, folder: Path) -> None:
        """Continue a checkpoint of the same run."""
        state = checkpoint.read_state(folder)
        checkpoint.require_same(state["fingerprint"], self.fingerprint(), folder)
        checkpoint.load(folder, self.job.model, self.job.optimizer)
        if self.scaler and state["scaler"]:
            scale = np.array(state["scaler"]["scale"], "float32")
            self.scaler.load_state_dict({**state["scaler"], "scale": scale})
        self.progress = Progress(**state["progress"])
        print(f"resumed: {folder}, {self.progress.step} steps are done", flush=True)
        changes = checkpoint.differences(state["environment"], self.environment())
        if changes:
            if self.progress.void_from is None:
                self.progress.void_from = self.progress.step
            void = f"bitwise promise void from step {self.progress.void_from}"
            print(f"warning: {'; '.join(changes)}: {void}", flush=True)

    def fingerprint(self) -> dict[str, Any]:
        """Return what a checkpoint must agree with."""
        own = {
            "seed": self.plan.seed,
            "steps": self.plan.steps,
            "precision": self.plan.precision.name,
        }
        return dict(json.loads(json.dumps({**self.plan.fingerprint, **own})))

    def environment(self) -> dict[str, Any]:
        """Return what may change the last bits."""
        own = {"processes": self.world, "gradient_accumulation_steps": self.plan.accumulation}
        return {**runtime.environment(), **own}

    def evaluate_if_due(self, signals: Signals) -> None:
        """Measure every `eval_steps` steps and after the last one; keep the best model."""
        plan, done = self.plan, self.progress
        if not _is_due(done.step, plan.eval_steps, plan.steps) or self.is_measured():
            return
        # Measuring takes long and can be done again, so a signal does not wait for its end.
        with signals.at_once() if self.world == 1 else nullcontext():
            measured = self.job.evaluate()
        self.log.write(done.step, **measured)
        if not done.best or plan.value(measured) > plan.value(done.best):
            done.best = {**measured, "step": done.step}
            if self.rank == 0:
                self.job.save(plan.output / "best")
        done.last = {**measured, "step": done.step}

    def is_measured(self) -> bool:
        """Whether the model as it is has been evaluated."""
        return self.progress.last.get("step") == self.progress.step

    def save_if_due(self) -> None:
        """Write a checkpoint every `save_steps` steps and after the last one."""
        if _is_due(self.progress.step, self.plan.save_steps, self.plan.steps) or self.has_stalled():
            self.save()

    def has_stalled(self) -> bool:
        """Whether the last `patience` evaluations were not better than one before them."""
        done, plan = self.progress, self.plan
        if not plan.patience or not self.is_measured():
            return False
        return done.step - done.best["step"] >= plan.patience * plan.eval_steps

    def save(self) -> None:
        """Write a checkpoint, then remove old ones. The first process does it, and asks nobody."""
        output, step = self.plan.output, self.progress.step
        if self.rank > 0:
            checkpoint.wait_for(checkpoint.path_of(output, step))
            return
        self.log.make_durable()
        self.progress.log_lines = self.log.lines
        state = {
            "progress": asdict(self.progress),
            "fingerprint": self.fingerprint(),
            "environment": self.environment(),
            "scaler": _plain(self.scaler.state_dict()) if self.scaler else None,
        }
        checkpoint.save(output, step, self.job.model, self.job.optimizer, state)
        checkpoint.prune(output, self.plan.keep)

    def take_step(self, signals: Signals) -> None:
        """Draw a batch, compute its gradient, update, log."""
        job, plan, step = self.job, self.plan, self.progress.step
        runtime.seed_step(plan.seed, step, self.rank)
        batch = job.draw(step)
        try:
            sums = self.accumulate(batch, signals)
            asked_to_stop = sums.pop("stop")
            losses = {name: sums[name] / max(batch.counts[name], 1.0) for name in sums}
            loss = sum(weight * losses[name] for name, weight in job.weights.items())
            self.check({"loss": loss, **losses}, batch)
            self.update(plan.rate(step))
        except (MemoryError, RuntimeError) as error:
            if isinstance(error, MemoryError) or "ResourceExhausted" in str(error):
                advice = guard.advice(step, len(batch.examples), plan.accumulation, self.world)
                raise MemoryError(advice) from error
            raise
        self.progress.step = done = step + 1
        self.log.advance(len(batch.examples))
        if _is_due(done, plan.logging_steps, plan.steps) or (plan.log_first and done == 1):
            parts = losses if len(losses) > 1 else {}
            self.log.write(done, loss=loss, **parts, lr=plan.rate(step))
        # Several processes stop together: a signal of one has come around with the gradients.
        if asked_to_stop if self.world > 1 else signals.received:
            raise Stop(signals.received or signal.SIGTERM)

    def accumulate(self, batch: Batch, signals: Signals) -> dict[str, float]:
        """Add up gradients over micro-batches and processes.

        Returns:
            Each loss, summed over the batch; and under "stop" how many processes got a signal.
        """
        job, count = self.job, self.plan.accumulation
        sums = dict.fromkeys(job.weights, 0.0)
        parts = np.array_split(np.arange(len(batch.examples)), self.world * count)
        for part in parts[self.rank * count : (self.rank + 1) * count]:
            if not len(part):  # the last batch of an epoch may be short
                continue
            with runtime.autocast(self.plan.precision):
                losses = job.sums(batch, part)
            shares = [
                losses[name] * (weight / max(batch.counts[name], 1.0))
                for name, weight in job.weights.items()
            ]
            loss = sum(shares[1:], shares[0])
            (self.scaler.scale(loss) if self.scaler else loss).backward()
            for name in sums:
                sums[name] += float(losses[name])
        return parallel.add_up(job.model, {**sums, "stop": float(signals.received > 0)})

    def check(self, losses: dict[str, float], batch: Batch) -> None:
        """Stop before the update if a loss or gradient is not finite.

        Raises:
            FloatingPointError: says what is not finite, and where the batch is kept.
        """
        problem = guard.find_problem(losses, None)
        if not problem:
            problem = guard.find_problem({}, self.job.model)
            # float16 loses a gradient now and then; its scaler skips the update and scales less.
            self.skipped = self.skipped + 1 if problem and self.scaler else 0
            if 0 < self.skipped <= _MOST_SKIPPED:
                if self.rank == 0:
                    print(f"step {self.progress.step}: {problem}, no update", flush=True)
                return
        if problem:
            plan, step, texts = self.plan, self.progress.step, self.job.describe(batch)
            numbers = [int(number) for number in batch.examples]
            raise FloatingPointError(
                guard.keep_batch(plan.output, problem, step, plan.seed, losses, numbers, texts)
            )

    def update(self, rate: float) -> None:
        """Take the optimizer's step and forget the gradients."""
        self.job.optimizer.set_lr(rate)
        if self.scaler:
            self.scaler.step(self.job.optimizer)  # skips the update if a gradient overflowed
            self.scaler.update()
        else:
            self.job.optimizer.step()
        self.job.optimizer.clear_grad()


def _is_due(step: int, every: int, last: int) -> bool:
    """Whether something is to be done after so many steps."""
    return step > 0 and (step == last or (every > 0 and step % every == 0))


def _plain(values: Mapping[str, Any]) -> dict[str, Any]:
    """Turn the scaler's arrays into lists, for JSON."""
    return {key: np.asarray(value).tolist() for key, value in values.items()}


def evaluating(model: nn.Layer, function: Callable[[], Any]) -> Any:
    """Call `function` with dropout and gradients off; restore the mode afterwards."""
    was_training = model.training
    model.eval()
    try:
        with paddle.no_grad():
            return function()
    finally:
        model.train() if was_training else model.eval()
