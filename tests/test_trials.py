"""Several seeds: what is summed up, what is kept, and that a single trial is one of them."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest

from convbert.train import trials
from convbert.train.glue_config import GlueConfig


def fake(config: GlueConfig) -> dict:
    """Leave what a run leaves; its results depend on the seed."""
    folder = Path(config.output_dir)
    for name in ("best", "last"):
        (folder / name).mkdir(parents=True, exist_ok=True)
        (folder / name / "model").write_text(f"{name} of {config.seed}", encoding="utf-8")
    value = {5: 0.5, 6: 0.9, 7: 0.7, 8: 0.9}[config.seed]
    return {
        "task": "rte",
        "steps": 10,
        "last": {"accuracy": value - 0.1, "eval_loss": 1.0},
        "best": {"accuracy": value, "eval_loss": 2 * value, "step": config.seed},
        "options": asdict(config),
    }


def test_mean_spread_and_best(tmp_path: Path):
    config = GlueConfig("rte", "m", str(tmp_path), num_trials=4, seed=5)
    (tmp_path / "best").mkdir()
    (tmp_path / "best" / "old").write_text("of an earlier run", encoding="utf-8")
    found = trials.run(config, fake)
    values = [0.5, 0.9, 0.7, 0.9]
    assert found["mean"]["best"]["accuracy"] == pytest.approx(0.75)
    assert found["std"]["best"]["accuracy"] == pytest.approx(np.std(values, ddof=1))
    assert found["mean"]["last"] == pytest.approx({"accuracy": 0.65, "eval_loss": 1.0})
    assert found["std"]["last"]["eval_loss"] == 0
    assert "step" not in found["mean"]["best"]
    assert [trial["seed"] for trial in found["trials"]] == [5, 6, 7, 8]
    # The first of equals, in the results and in what can be loaded.
    assert found["best"] == {"accuracy": 0.9, "eval_loss": 1.8, "step": 6, "seed": 6}
    assert found["last"] == {"accuracy": 0.8, "eval_loss": 1.0}
    for name in ("best", "last"):
        assert [file.name for file in (tmp_path / name).iterdir()] == ["model"]
        text = (tmp_path / name / "model").read_text(encoding="utf-8")
        assert text == f"{name} of 6"
    assert json.loads((tmp_path / "results.json").read_text(encoding="utf-8")) == found
    assert found["options"] == asdict(config)


def test_each_trial_is_a_run_of_its_own(tmp_path: Path):
    seen = []

    def watch(config: GlueConfig) -> dict:
        seen.append(config)
        assert not (tmp_path / "results.json").exists()
        return fake(config)

    (tmp_path / "results.json").write_text("{}", encoding="utf-8")
    config = GlueConfig("rte", "m", str(tmp_path), num_trials=2, seed=7, resume=True)
    trials.run(config, watch)
    for number, one in enumerate(seen):
        expected = asdict(config) | {
            "num_trials": 1,
            "seed": 7 + number,
            "output_dir": str(tmp_path / f"trial-{number + 1}"),
        }
        assert asdict(one) == expected
