"""Device, threads, allocator, precision and seeds: what a run was given, said in one place.

`prepare()` runs when `convbert` is imported, because the three CPU settings only count if they
are made before Paddle is loaded. Every one of them can be overridden by the environment.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import platform
import sys
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

# mallopt parameters (malloc.h); keeping blocks below 1 GiB in the heap spares a page fault per
# operation: Paddle's CPU allocator otherwise maps and unmaps every activation above 128 KiB.
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _ONE_GIB = -1, -3, 1 << 30

_report: dict[str, str] = {}


@dataclass(frozen=True)
class Precision:
    """What autocast does: `name` is float32, bfloat16 or float16; `scaler` for float16 only."""

    name: Literal["float32", "bfloat16", "float16"]

    @property
    def scaler(self) -> bool:
        """Whether gradients need a loss scaler."""
        return self.name == "float16"


def usable_cores() -> int:
    """Return the number of cores this process may use (its affinity mask, where there is one)."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def prepare() -> dict[str, str]:
    """Set threads, matmul path and allocator for the CPU, before Paddle is loaded.

    * `OMP_NUM_THREADS`: the usable cores, unless it is set already. Paddle would take one.
    * `MKL_DEBUG_CPU_TYPE=5` on AMD processors only, unless set already: Paddle's wheel carries an
      MKL of 2019 that otherwise takes a matmul path two to three times slower there.
    * glibc's `mallopt`, unless `CONVBERT_MALLOPT=0`: activations stay in the heap.

    Returns:
        What was done, by setting; `report()` returns the same later.
    """
    if _report:
        return report()
    early = "paddle" not in sys.modules
    late = "" if early else " (Paddle was imported first: no effect)"
    _report["OMP_NUM_THREADS"] = _set_default("OMP_NUM_THREADS", str(usable_cores())) + late
    if "AuthenticAMD" in _cpu_info():
        _report["MKL_DEBUG_CPU_TYPE"] = _set_default("MKL_DEBUG_CPU_TYPE", "5") + late
    else:
        _report["MKL_DEBUG_CPU_TYPE"] = os.environ.get("MKL_DEBUG_CPU_TYPE", "not needed")
    _report["allocator"] = _keep_heap()
    # Paddle warns about a missing compiler cache with an absolute path of the user's machine.
    warnings.filterwarnings("ignore", message="No ccache found")
    return report()


def report() -> dict[str, str]:
    """Return what `prepare` did, by setting."""
    return dict(_report)


def environment() -> dict[str, str]:
    """Return what may change the last bits of a result: versions, processor, threads, device."""
    import numpy as np
    import paddle

    return {
        "paddle": str(paddle.__version__),
        "numpy": np.__version__,
        "cpu": cpu_name().rpartition(", ")[0],
        "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", ""),
        "MKL_DEBUG_CPU_TYPE": os.environ.get("MKL_DEBUG_CPU_TYPE", ""),
        "device": str(paddle.get_device()).split(":")[0],
    }


def _set_default(name: str, value: str) -> str:
    """Set an environment variable unless the user did; say which."""
    if name in os.environ:
        return f"{os.environ[name]} (from the environment)"
    os.environ[name] = value
    return f"{value} (set by convbert)"


def _cpu_info() -> str:
    path = Path("/proc/cpuinfo")
    return path.read_text(encoding="utf-8", errors="replace") if path.exists() else ""


def cpu_name() -> str:
    """Return the processor's name as the system gives it, and the usable cores."""
    lines = [line for line in _cpu_info().splitlines() if line.startswith("model name")]
    name = (
        lines[0].split(":", 1)[1].strip() if lines else platform.processor() or platform.machine()
    )
    return f"{name}, {usable_cores()} core{'s' if usable_cores() > 1 else ''}"


def _keep_heap() -> str:
    """Raise glibc's thresholds so that large blocks stay in the heap."""
    if os.environ.get("CONVBERT_MALLOPT") == "0":
        return "default (CONVBERT_MALLOPT=0)"
    if platform.libc_ver()[0] != "glibc":
        return "default (not glibc)"
    libc = ctypes.CDLL(None)
    done = libc.mallopt(_M_MMAP_THRESHOLD, _ONE_GIB) and libc.mallopt(_M_TRIM_THRESHOLD, _ONE_GIB)
    return "activations stay in the heap" if done else "default (mallopt refused)"


def set_device(name: str = "auto") -> str:
    """Choose the device: "auto" is the GPU when Paddle has one, else the CPU.

    Raises:
        ValueError: a GPU is asked for and this Paddle has none, or another name.
    """
    import paddle

    has_gpu = paddle.is_compiled_with_cuda() and paddle.device.cuda.device_count() > 0
    if name not in ("auto", "cpu", "gpu"):
        raise ValueError(f"device={name!r}: choose auto, cpu or gpu")
    if name == "gpu" and not has_gpu:
        raise ValueError(
            "device='gpu': this Paddle sees no GPU; use device='cpu', or install paddlepaddle-gpu"
        )
    paddle.set_device("gpu" if has_gpu and name != "cpu" else "cpu")
    return str(paddle.get_device())


def choose_precision(name: str = "auto") -> Precision:
    """Choose the arithmetic of autocast on the current device.

    Args:
        name: auto (bfloat16 on a GPU that has it, float32 elsewhere), float32, bfloat16, float16.

    Raises:
        ValueError: 16 bits on a CPU, where Paddle's autocast silently does nothing.
    """
    import paddle

    on_gpu = paddle.get_device().startswith("gpu")
    if name not in ("auto", "float32", "bfloat16", "float16"):
        raise ValueError(f"precision={name!r}: choose auto, float32, bfloat16 or float16")
    if name in ("bfloat16", "float16") and not on_gpu:
        raise ValueError(
            f"precision={name!r}: the CPU computes in float32 only; use auto or float32"
        )
    if name == "auto":
        name = "bfloat16" if on_gpu and paddle.amp.is_bfloat16_supported() else "float32"
    return Precision(name)  # type: ignore[arg-type]  # one of the three, checked above


def autocast(precision: Precision) -> contextlib.AbstractContextManager:
    """Return the context in which the forward pass runs."""
    import paddle

    if precision.name == "float32":
        return contextlib.nullcontext()
    return paddle.amp.auto_cast(level="O1", dtype=precision.name)


def grad_scaler(precision: Precision) -> Any:
    """Return Paddle's loss scaler where the precision needs one, else None."""
    import paddle

    return paddle.amp.GradScaler(init_loss_scaling=1024) if precision.scaler else None


def seed_step(*key: int) -> int:
    """Seed Paddle's generator from a key such as (seed, step, rank).

    Randomness is derived, never stored: the same key gives the same dropout, whatever ran before.

    Returns:
        The 31-bit seed that was set.
    """
    import numpy as np
    import paddle

    value = int(np.random.SeedSequence(key).generate_state(1)[0] >> 1)
    paddle.seed(value)
    return value
