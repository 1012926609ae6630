"""Training checkpoints: what was written completely is found again, bit for bit.

A checkpoint is a folder `step-000123/` of four files:

* `model.safetensors`: parameters by structured name (`discriminator.convbert.encoder.…`);
* `optimizer.safetensors`: `structured name::moment1_0` and so on, because Paddle's own names
  count the layers of a process and change with the second model in it;
* `state.json`: the step, what was measured, and what the run depends on;
* `MANIFEST.json`: size and SHA-256 of the others. A flipped bit loads silently otherwise.

A folder has its name only when all of it is on the disk, so a kill or a full disk never costs an
earlier checkpoint. Nothing here is pickled, and nothing waits for other processes.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import time
from collections.abc import Collection
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import paddle
from paddle import nn
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

MODEL, OPTIMIZER, STATE = "model.safetensors", "optimizer.safetensors", "state.json"
MANIFEST = "MANIFEST.json"
_MASTER = "master_weight"  # of a parameter kept in 16 bits


def path_of(root: Path, step: int) -> Path:
    """Return the folder of a step's checkpoint."""
    return root / f"step-{step:06d}"


def find(root: Path) -> list[Path]:
    """Return the checkpoints under `root`, valid or not, the newest first."""
    found = [path for path in root.glob("step-*") if re.fullmatch(r"step-\d{6,}", path.name)]
    return sorted(found, key=lambda path: int(path.name.removeprefix("step-")), reverse=True)


def save(
    root: Path,
    step: int,
    model: nn.Layer,
    optimizer: paddle.optimizer.Optimizer,
    state: dict[str, Any],
) -> Path:
    """Write a checkpoint aside, make it durable, then give it its name.

    A valid checkpoint of the same step is left alone; a damaged one is replaced.

    Raises:
        OSError: it could not be written; whatever was there before is untouched.
    """
    target, aside = path_of(root, step), root / f".tmp-{step}-{os.getpid()}"
    if target.exists() and not find_damage(target):
        return target
    try:
        aside.mkdir(parents=True)
        save_file(_model_arrays(model), aside / MODEL)
        save_file(_optimizer_arrays(model, optimizer), aside / OPTIMIZER)
        (aside / STATE).write_text(json.dumps(state, indent=1) + "\n", encoding="utf-8")
        files = {path.name: describe_file(path) for path in sorted(aside.iterdir())}
        (aside / MANIFEST).write_text(json.dumps(files, indent=1) + "\n", encoding="utf-8")
        umask = os.umask(0)
        os.umask(umask)
        for path in aside.iterdir():
            path.chmod(0o666 & ~umask)  # safetensors makes files that only their owner may read
            _make_durable(path)
        _make_durable(aside)
        if target.exists():
            shutil.rmtree(target)
        os.rename(aside, target)
        _make_durable(root)
    except SafetensorError as error:  # its writer reports a full disk this way
        raise OSError(f"{target} could not be written: {error}") from error
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    return target


def prune(root: Path, keep: int) -> None:
    """Remove all but the newest `keep` checkpoints; damaged ones do not count as kept."""
    kept = 0
    for folder in find(root):
        if kept == keep:
            shutil.rmtree(folder)
        elif not find_damage(folder):
            kept += 1


def remove_leftovers(root: Path) -> None:
    """Remove what killed processes were writing."""
    for folder in root.glob(".tmp-*"):
        shutil.rmtree(folder, ignore_errors=True)


def newest(root: Path) -> Path | None:
    """Return the newest valid checkpoint under `root`; None if there is none of any kind.

    Damaged ones are skipped with a message.

    Raises:
        ValueError: there are checkpoints, and all are damaged.
    """
    damages = []
    for folder in find(root):
        if not (damage := find_damage(folder)):
            return folder
        print(f"{folder} is skipped: {damage}", flush=True)
        damages.append(f"{folder.name}: {damage}")
    if damages:
        raise ValueError(
            f"{root} holds no valid checkpoint ({'; '.join(damages)}); remove them to start over"
        )
    return None


def find_damage(folder: Path) -> str:
    """Say in one line what is wrong with a checkpoint; nothing if it is valid."""
    try:
        files = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        if sorted(files) != sorted((MODEL, OPTIMIZER, STATE)):
            return f"{MANIFEST} lists {sorted(files)}"
        for name, expected in files.items():
            if (folder / name).stat().st_size != expected["size"]:
                return f"{name} has {(folder / name).stat().st_size} bytes of {expected['size']}"
            if describe_file(folder / name) != expected:
                return f"{name} has changed: its SHA-256 is not that of {MANIFEST}"
    except FileNotFoundError as error:
        return f"{Path(error.filename).name} is missing"
    except (ValueError, KeyError, TypeError) as error:
        return f"{MANIFEST} cannot be read: {error}"
    return ""


def fingerprint(config: Any, free: Collection[str], **resolved: Any) -> dict[str, Any]:
    """Return by name what a resumed run must agree with.

    Args:
        config: the job's options, a dataclass.
        free: options that may change, or that `resolved` says better.
        **resolved: what the options led to, such as hashes of data and vocabulary.
    """
    options = {name: value for name, value in asdict(config).items() if name not in free}
    return {**options, **resolved}


def require_same(stored: dict[str, Any], now: dict[str, Any], folder: Path) -> None:
    """Refuse a checkpoint of another run.

    Raises:
        ValueError: names what differs, with both values.
    """
    changes = differences(stored, now)
    if changes:
        raise ValueError(
            f"{folder} belongs to another run: {'; '.join(changes)}; "
            "give the same options and data, or another output_dir"
        )


def differences(stored: dict[str, Any], now: dict[str, Any], prefix: str = "") -> list[str]:
    """Name what differs between a checkpoint and now."""
    found = []
    for key in {**stored, **now}:
        old, new, name = stored.get(key), now.get(key), prefix + key
        if isinstance(old, dict) and isinstance(new, dict):
            found += differences(old, new, f"{name}.")
        elif old != new:
            found.append(f"{name} was {old}, is {new}")
    return found


def wait_for(folder: Path, seconds: float = 60.0) -> None:
    """Wait until another process has written a checkpoint, or for so long.

    The launcher kills all processes some seconds after the first has ended.
    """
    end = time.monotonic() + seconds
    while not folder.exists() and time.monotonic() < end:
        time.sleep(0.05)


def read_state(folder: Path) -> dict[str, Any]:
    """Read the `state.json` of a valid checkpoint."""
    return dict(json.loads((folder / STATE).read_text(encoding="utf-8")))


def load(folder: Path, model: nn.Layer, optimizer: paddle.optimizer.Optimizer) -> None:
    """Fill model and optimizer from a valid checkpoint; they must be as they were when saved.

    Raises:
        ValueError: names or shapes differ; nothing is changed then.
    """
    parameters, moments = dict(model.named_parameters()), load_file(folder / OPTIMIZER)
    odd = sorted({key.split("::")[0] for key in moments} - parameters.keys())
    if odd:
        raise ValueError(f"{folder} does not fit the model: {', '.join(odd)}")
    load_weights(folder, model)
    state: dict[str, Any] = {"master_weights": {}}
    for key, array in moments.items():
        name, kind = key.split("::")
        tensor, automatic = paddle.to_tensor(array), parameters[name].name
        if kind == _MASTER:
            state["master_weights"][automatic] = tensor
        else:
            state[f"{automatic}_{kind}"] = tensor
    optimizer.set_state_dict(state)


def load_weights(folder: Path, model: nn.Layer) -> None:
    """Fill a model from a valid checkpoint; it must be as it was when saved.

    Raises:
        ValueError: names or shapes differ; nothing is changed then.
    """
    parameters, arrays = dict(model.named_parameters()), load_file(folder / MODEL)
    shapes = {name: list(parameter.shape) for name, parameter in parameters.items()}
    found = {name: list(array.shape) for name, array in arrays.items()}
    odd = [name for name in sorted({**shapes, **found}) if shapes.get(name) != found.get(name)]
    if odd:
        raise ValueError(f"{folder} does not fit the model: {', '.join(odd)}")
    for name, parameter in parameters.items():
        parameter.set_value(arrays[name])


def _model_arrays(model: nn.Layer) -> dict[str, np.ndarray]:
    """Return parameters by structured name, a shared one once."""
    return {name: np.ascontiguousarray(value.numpy()) for name, value in model.named_parameters()}


def _optimizer_arrays(
    model: nn.Layer, optimizer: paddle.optimizer.Optimizer
) -> dict[str, np.ndarray]:
    """Return the optimizer's state by structured name."""
    names = {parameter.name: name for name, parameter in model.named_parameters()}
    state = dict(optimizer.state_dict())
    state.pop("LR_Scheduler", None)  # the loop derives the rate from the step
    arrays = {
        f"{names[automatic]}::{_MASTER}": value
        for automatic, value in state.pop("master_weights", {}).items()
    }
    longest_first = sorted(names, key=len, reverse=True)  # w_1 begins like w_10
    for key, value in state.items():
        owner = next((name for name in longest_first if key.startswith(name + "_")), None)
        if owner is None:
            raise ValueError(f"the optimizer holds {key}, which belongs to no parameter")
        arrays[f"{names[owner]}::{key.removeprefix(owner + '_')}"] = value
    return {key: np.ascontiguousarray(value.numpy()) for key, value in arrays.items()}


def hash_text(text: str) -> str:
    """Return the SHA-256 of a text, for a fingerprint."""
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def describe_file(path: Path) -> dict[str, Any]:
    """Return a file's size and SHA-256."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return {"size": path.stat().st_size, "sha256": digest.hexdigest()}


def hash_weights(model: nn.Layer) -> str:
    """Return the SHA-256 of a model's parameters: the same whatever file they were read from."""
    digest = hashlib.sha256()
    for name, value in sorted(model.state_dict().items()):
        digest.update(name.encode())
        digest.update(value.numpy().tobytes())
    return digest.hexdigest()


def _make_durable(path: Path) -> None:
    """Wait until a file's content, or a folder's entries, are on the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
