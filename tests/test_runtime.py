"""Threads, devices, precision and seeds; what needs a fresh process runs in one."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import paddle
import pytest

import convbert
from convbert import runtime

ON_GPU = paddle.get_device().startswith("gpu")


def run(code: str, *, cores: set[int] | None = None, **environment: str) -> dict:
    """Run code that prints JSON in a new process, without our settings in its environment."""
    ours = ("OMP_NUM_THREADS", "MKL_DEBUG_CPU_TYPE", "CONVBERT_MALLOPT")
    inherited = {key: value for key, value in os.environ.items() if key not in ours}
    if cores is not None:  # in the child itself: a function between fork and exec could hang here
        code = f"import os; os.sched_setaffinity(0, {cores})\n{code}"
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=inherited | environment,
        capture_output=True,
        text=True,
        cwd=Path(__file__).parents[1],
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


REPORT = """
import json, os, sys
import convbert
from convbert import runtime
keys = ("OMP_NUM_THREADS", "MKL_DEBUG_CPU_TYPE")
print(json.dumps({
    "report": runtime.report(),
    "environment": {key: os.environ.get(key) for key in keys},
    "cores": len(os.sched_getaffinity(0)),
    "amd": "AuthenticAMD" in open("/proc/cpuinfo").read(),
}))
"""


def test_threads_are_the_usable_cores():
    told = run(REPORT)
    assert told["environment"]["OMP_NUM_THREADS"] == str(told["cores"])
    assert told["report"]["OMP_NUM_THREADS"] == f"{told['cores']} (set by convbert)"
    assert told["report"]["allocator"] == "activations stay in the heap"


def test_usable_cores_are_those_of_the_affinity_mask():
    core = min(os.sched_getaffinity(0))
    assert run(REPORT, cores={core})["environment"]["OMP_NUM_THREADS"] == "1"


def test_the_environment_goes_first():
    told = run(REPORT, OMP_NUM_THREADS="3", MKL_DEBUG_CPU_TYPE="4", CONVBERT_MALLOPT="0")
    assert told["environment"] == {"OMP_NUM_THREADS": "3", "MKL_DEBUG_CPU_TYPE": "4"}
    assert told["report"]["OMP_NUM_THREADS"] == "3 (from the environment)"
    assert told["report"]["MKL_DEBUG_CPU_TYPE"].startswith("4")
    assert told["report"]["allocator"] == "default (CONVBERT_MALLOPT=0)"


def test_mkl_is_told_only_on_amd_processors():
    told = run(REPORT)
    assert told["environment"]["MKL_DEBUG_CPU_TYPE"] == ("5" if told["amd"] else None)
    expected = "5 (set by convbert)" if told["amd"] else "not needed"
    assert told["report"]["MKL_DEBUG_CPU_TYPE"] == expected


def test_it_says_when_it_came_too_late():
    told = run("import paddle\n" + REPORT)
    assert told["report"]["OMP_NUM_THREADS"].endswith("(Paddle was imported first: no effect)")


def test_what_needs_no_paddle_does_not_load_it():
    told = run(
        """
import json, sys
import convbert
from convbert import ConvBertConfig, ConvBertTokenizer
ConvBertConfig.named("convbert-base")
before = "paddle" in sys.modules
dir(convbert)
convbert.ConvBertModel
print(json.dumps({"before": before, "after": "paddle" in sys.modules}))
"""
    )
    assert told == {"before": False, "after": True}


def test_paddle_is_imported_without_noise():
    """A warning about a compiler cache would print an absolute path into every notebook."""
    code = "import convbert; from convbert import ConvBertModel; print('{}')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0
    assert "ccache" not in done.stderr


def test_preparing_twice_tells_the_same():
    first = runtime.prepare()
    assert runtime.prepare() == first == runtime.report()
    first["OMP_NUM_THREADS"] = "changed"
    assert runtime.report()["OMP_NUM_THREADS"] != "changed"


def test_public_names():
    assert set(convbert.__all__) <= set(dir(convbert))
    for name in convbert.__all__:
        assert getattr(convbert, name).__name__ == name
    with pytest.raises(AttributeError, match="no attribute 'ConvBert'"):
        convbert.ConvBert  # noqa: B018


def test_devices():
    try:
        assert runtime.set_device("cpu") == "cpu"
        assert paddle.get_device() == "cpu"
        assert runtime.set_device().startswith("gpu") == ON_GPU
        with pytest.raises(ValueError, match="device='tpu': choose auto, cpu or gpu"):
            runtime.set_device("tpu")
        if not ON_GPU:
            with pytest.raises(ValueError, match="device='gpu': this Paddle sees no GPU"):
                runtime.set_device("gpu")
    finally:
        runtime.set_device("auto")


def test_precisions_on_a_cpu():
    runtime.set_device("cpu")
    try:
        assert runtime.choose_precision() == runtime.Precision("float32")
        assert runtime.choose_precision("float32").name == "float32"
        for name in ("bfloat16", "float16"):
            with pytest.raises(
                ValueError, match=f"precision='{name}': the CPU computes in float32"
            ):
                runtime.choose_precision(name)
        with pytest.raises(ValueError, match="precision='int8': choose auto, float32"):
            runtime.choose_precision("int8")
    finally:
        runtime.set_device("auto")


def test_only_float16_needs_a_scaler():
    names = ("float32", "bfloat16", "float16")
    assert [runtime.Precision(name).scaler for name in names] == [False, False, True]


def test_autocast_in_float32_does_nothing():
    context = runtime.autocast(runtime.Precision("float32"))
    assert isinstance(context, contextlib.nullcontext)
    with context:
        product = paddle.ones([2, 2]) @ paddle.ones([2, 2])
    assert product.dtype == paddle.float32


def test_a_step_has_its_own_randomness():
    """The same key gives the same dropout, whatever ran before; any other key another one."""

    def drop(*key: int) -> np.ndarray:
        runtime.seed_step(*key)
        return paddle.nn.functional.dropout(paddle.ones([1000]), 0.5).numpy()

    first = drop(42, 7, 0)
    paddle.rand([123])
    assert np.array_equal(drop(42, 7, 0), first)
    for other in ((42, 8, 0), (42, 7, 1), (43, 7, 0), (7, 42, 0)):
        agreement = (drop(*other) == first).mean()
        assert 0.4 < agreement < 0.6, other


def test_step_seeds_are_31_bits_and_rarely_meet():
    seeds = [runtime.seed_step(1, step, rank) for step in range(500) for rank in range(2)]
    assert all(0 <= seed < 2**31 for seed in seeds)
    assert len(set(seeds)) == 1000
    assert runtime.seed_step(0) == runtime.seed_step(0)


def test_the_processor_has_a_name():
    cores = runtime.usable_cores()
    assert runtime.cpu_name().endswith(f", {cores} core{'s' if cores > 1 else ''}")
    assert len(runtime.cpu_name()) > 10
