"""The sweep over variants of the convolution: what it runs, compares, records and draws."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pytest

from convbert import lab, results
from convbert.sweep import SweepConfig, claim, report, sweep
from convbert.train import recipes


@pytest.fixture(autouse=True)
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Name a folder of text in CONVBERT_DATA, where pretraining looks first."""
    (tmp_path / "data" / "text").mkdir(parents=True)
    for name, count in (("train", 60), ("valid", 20)):
        lines = (f"line {i} tells of {i * i} and of {i * 7 % 11} ." for i in range(count))
        file = tmp_path / "data" / "text" / f"{name}.txt"
        file.write_text("\n".join(lines), encoding="utf-8")
    monkeypatch.setenv("CONVBERT_DATA", str(tmp_path / "data"))


def content_of(root: Path) -> dict:
    return json.loads(results.path(root, "smoke", "sweep").read_text(encoding="utf-8"))


def test_a_question_is_answered_with_models_of_equal_size(tmp_path: Path, capsys):
    config = SweepConfig("smoke", "head ratio", control_steps=2, output_dir=str(tmp_path))
    found = sweep(config)
    assert found.answer.tolist() == ["1", "2", "4"] and set(found.seed) == {1}
    assert found.parameters.max() - found.parameters.min() < 3 * 257  # of 1.2 million
    runs = sorted(path.name for path in (tmp_path / "controlled" / "smoke").glob("sdconv-*"))
    assert [name.split("-")[2] for name in runs] == ["1", "2", "4"]
    for answer, loss, gain in zip(found.answer, found.mlm_loss, found.gain, strict=True):
        (name,) = (name for name in runs if name.split("-")[2] == answer)
        end = recipes.results(tmp_path / "controlled" / "smoke" / name)
        assert end["steps"] == 2 and end["options"]["head_ratio"] == int(answer)
        assert loss == end["mlm_loss"] and gain == found.mlm_loss[1] - loss
    content = content_of(tmp_path)
    assert content["finished"] and content["notebook"] == "sweep"
    assert content["records"]["head_ratio_4_loss"]["value"] == [found.mlm_loss[2]]
    assert (tmp_path / "figures" / "sweep" / "variants.png").is_file()
    left = [path.name for path in (tmp_path / "controlled" / "smoke" / runs[0]).iterdir()]
    assert sorted(left) == ["final", "log.jsonl", "results.json"]  # no checkpoints of the others
    assert content["claims"] == {}, "of all questions only"
    capsys.readouterr()
    pd.testing.assert_frame_equal(sweep(config), found)
    assert "comparison: 0 runs to do, 3 found" in capsys.readouterr().out


def test_losses_and_differences_are_recorded(tmp_path: Path):
    """Three seeds of the model, and of one answer that is better with every seed by 0.1 to 0.3."""
    lab.begin("sweep", "smoke", tmp_path)
    gains = {"9": [0.0, 0.0, 0.0], "15": [0.1, 0.2, 0.3]}
    rows = [("kernel size", a, s, 6.5 - g, 7.0, g) for a in gains for s, g in enumerate(gains[a])]
    columns = ["question", "answer", "seed", "mlm_loss", "null_mlm_loss", "gain"]
    report(pd.DataFrame(rows, columns=columns))
    content = content_of(tmp_path)
    assert not content["finished"], "the command says so at its end"
    assert content["records"]["kernel_size_15_gain"]["value"] == [0.1, 0.2, 0.3]
    assert "kernel_size_9_gain" not in content["records"], "it is compared with itself"
    alt = content["figures"]["variants"]["alt"]
    assert "kernel size 9 6.50; kernel size 15 6.30. Word frequencies: 7.00" in alt


def make_found(light: float = -0.3, dynamic: float = 0.1, seeds: int = 3) -> pd.DataFrame:
    gains = {"none": -0.3, "light": light, "dynamic": dynamic, "span-based": 0.0}
    rows = [
        ("convolution", answer, s, gain + s / 100)
        for answer, gain in gains.items()
        for s in range(seeds)
    ]
    return pd.DataFrame(rows, columns=["question", "answer", "seed", "gain"])


def test_claims_tell_what_is_clear_from_what_is_not(tmp_path: Path):
    lab.begin("sweep", "cpu", tmp_path)
    claim(make_found())
    file = results.path(tmp_path, "cpu", "sweep")
    claims = json.loads(file.read_text(encoding="utf-8"))["claims"]
    assert {name: entry["verdict"] for name, entry in claims.items()} == dict.fromkeys(
        ["sooner_than_none", "sooner_than_light", "no_clear_difference"], "holds"
    )
    assert claims["sooner_than_none"]["observed"] == pytest.approx([0.3, 0.29, 0.28])
    assert claims["no_clear_difference"]["observed"] == pytest.approx(0.11)
    with pytest.raises(lab.ClaimFailed, match="sooner_than_light"):
        claim(make_found(light=-0.1))
    for gain in (0.2, -0.2):
        with pytest.raises(lab.ClaimFailed, match="no_clear_difference"):
            claim(make_found(dynamic=gain))


def test_two_seeds_claim_nothing(tmp_path: Path):
    lab.begin("sweep", "cpu", tmp_path)
    claim(make_found(seeds=2))
    file = results.path(tmp_path, "cpu", "sweep")
    assert json.loads(file.read_text(encoding="utf-8"))["claims"] == {}
