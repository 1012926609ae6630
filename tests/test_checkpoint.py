"""Checkpoints: what is written is found and restored, what is damaged or foreign is refused."""

from __future__ import annotations

import json
import os
import stat
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import paddle
import pytest
from safetensors.numpy import load_file
from support import small_config

from convbert.heads import ConvBertForPreTraining
from convbert.train import checkpoint, optim

STATE = {"progress": {"step": 5}, "fingerprint": {}, "environment": {}}


def make(seed: int = 0) -> tuple[ConvBertForPreTraining, paddle.optimizer.AdamW]:
    paddle.seed(seed)
    model = ConvBertForPreTraining(small_config())
    return model, optim.adamw(model, 1e-2, max_grad_norm=1.0)


def train(model, optimizer, steps: range) -> None:
    """Take updates by gradients that depend on the step alone."""
    for step in steps:
        rng = np.random.default_rng(step)
        for parameter in model.parameters():
            parameter.grad = paddle.to_tensor(rng.normal(size=parameter.shape), dtype="float32")
        optimizer.step()
        optimizer.clear_grad()


def weights(model) -> dict[str, np.ndarray]:
    return {name: value.numpy() for name, value in model.named_parameters()}


@pytest.fixture(scope="module")
def trained():
    model, optimizer = make()
    train(model, optimizer, range(3))
    return model, optimizer


def test_what_was_saved_goes_on_as_if_nothing_had_happened(tmp_path: Path):
    """In the same process, where Paddle has given the second model other automatic names."""
    model, optimizer = make()
    train(model, optimizer, range(3))
    folder = checkpoint.save(tmp_path, 3, model, optimizer, STATE)
    train(model, optimizer, range(3, 6))
    other, its_optimizer = make(seed=1)
    names = [{p.name for p in m.parameters()} for m in (model, other)]
    assert not names[0] & names[1]
    checkpoint.load(folder, other, its_optimizer)
    train(other, its_optimizer, range(3, 6))
    expected, found = weights(model), weights(other)
    assert all((expected[name] == found[name]).all() for name in expected)
    # Moments and powers of beta matter: without them the same steps lead elsewhere.
    fresh, its_optimizer = make(seed=1)
    checkpoint.load(folder, fresh, make(seed=2)[1])
    train(fresh, its_optimizer, range(3, 6))
    assert any((expected[name] != value).any() for name, value in weights(fresh).items())


def test_files_of_a_checkpoint(trained, tmp_path: Path):
    model, optimizer = trained
    folder = checkpoint.save(tmp_path / "new", 123, model, optimizer, STATE)
    assert folder == tmp_path / "new" / "step-000123"
    assert sorted(path.name for path in folder.iterdir()) == [
        "MANIFEST.json", "model.safetensors", "optimizer.safetensors", "state.json"
    ]  # fmt: skip
    assert [path.name for path in folder.parent.iterdir()] == ["step-000123"]
    umask = os.umask(0)
    os.umask(umask)
    for path in folder.iterdir():
        assert stat.S_IMODE(path.stat().st_mode) == 0o666 & ~umask, path.name
    names = [name for name, _ in model.named_parameters()]
    assert sorted(load_file(folder / "model.safetensors")) == sorted(names)
    kinds = ("moment1_0", "moment2_0", "beta1_pow_acc_0", "beta2_pow_acc_0")
    expected = sorted(f"{name}::{kind}" for name in names for kind in kinds)
    assert sorted(load_file(folder / "optimizer.safetensors")) == expected
    assert checkpoint.read_state(folder) == STATE
    assert checkpoint.find_damage(folder) == ""


def test_names_that_begin_alike_are_told_apart(tmp_path: Path):
    """w_1 and w_10: twelve parameters of one layer, the state of each its own number."""
    model = paddle.nn.Layer()
    model.parts = paddle.nn.ParameterList([model.create_parameter([2]) for _ in range(12)])
    optimizer = paddle.optimizer.AdamW(1e-2, parameters=model.parameters())
    for number, parameter in enumerate(model.parameters()):
        parameter.grad = paddle.full([2], float(number + 1))
    optimizer.step()
    arrays = load_file(checkpoint.save(tmp_path, 1, model, optimizer, STATE) / checkpoint.OPTIMIZER)
    for number, (name, _) in enumerate(model.named_parameters()):
        assert arrays[f"{name}::moment1_0"] == pytest.approx(0.1 * (number + 1))


def test_state_of_an_unknown_parameter_is_refused(trained, tmp_path: Path):
    _, optimizer = trained
    with pytest.raises(ValueError, match=r"the optimizer holds .*, which belongs to no parameter"):
        checkpoint.save(tmp_path, 1, make()[0], optimizer, STATE)
    assert list(tmp_path.iterdir()) == []


def test_another_model_is_refused_and_left_alone(trained, tmp_path: Path):
    folder = checkpoint.save(tmp_path, 1, *trained, STATE)
    other = ConvBertForPreTraining(small_config(hidden_size=32))
    before = weights(other)
    with pytest.raises(ValueError, match="step-000001 does not fit the model"):
        checkpoint.load(folder, other, optim.adamw(other, 1e-3))
    assert all((weights(other)[name] == value).all() for name, value in before.items())
    deeper = ConvBertForPreTraining(small_config(num_hidden_layers=3))
    with pytest.raises(ValueError, match=r"does not fit the model: .*layers\.2\."):
        checkpoint.load(folder, deeper, optim.adamw(deeper, 1e-3))


def test_a_valid_checkpoint_is_not_written_again(trained, tmp_path: Path):
    folder = checkpoint.save(tmp_path, 1, *trained, STATE)
    written = (folder / "MANIFEST.json").stat().st_ino
    checkpoint.save(tmp_path, 1, *trained, {"other": 1})
    assert (folder / "MANIFEST.json").stat().st_ino == written
    (folder / "state.json").write_text("{}", encoding="utf-8")
    checkpoint.save(tmp_path, 1, *trained, {"other": 1})
    assert not checkpoint.find_damage(folder) and checkpoint.read_state(folder) == {"other": 1}


@pytest.mark.parametrize("where", ["state", "rename"])
def test_a_save_that_fails_leaves_no_trace(where: str, trained, tmp_path: Path, monkeypatch):
    kept = checkpoint.save(tmp_path, 1, *trained, STATE)

    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    if where == "rename":
        monkeypatch.setattr(os, "rename", fail)
    state = {"x": object()} if where == "state" else STATE
    with pytest.raises((OSError, TypeError)):
        checkpoint.save(tmp_path, 2, *trained, state)
    assert list(tmp_path.iterdir()) == [kept] and not checkpoint.find_damage(kept)


def test_the_name_comes_after_everything_is_on_the_disk(trained, tmp_path: Path, monkeypatch):
    """Files, then their folder, then the name, then the folder that holds the name."""
    order = []
    sync, rename = os.fsync, os.rename

    def note_sync(handle: int) -> None:
        order.append(Path(os.readlink(f"/proc/self/fd/{handle}")).name)
        sync(handle)

    def note_rename(old: Path, new: Path) -> None:
        order.append("rename")
        rename(old, new)

    monkeypatch.setattr(os, "fsync", note_sync)
    monkeypatch.setattr(os, "rename", note_rename)
    checkpoint.save(tmp_path, 7, *trained, STATE)
    files = ["MANIFEST.json", "model.safetensors", "optimizer.safetensors", "state.json"]
    assert sorted(order[:4]) == files
    assert order[4].startswith(".tmp-7-") and order[5:] == ["rename", tmp_path.name]


def make_many(trained, root: Path, *steps: int) -> list[Path]:
    return [checkpoint.save(root, step, *trained, STATE) for step in steps]


def names(root: Path) -> list[str]:
    return sorted(path.name for path in root.iterdir())


def test_the_newest_is_by_number(trained, tmp_path: Path):
    make_many(trained, tmp_path, 5, 999_999, 1_000_000, 40)
    for other in ("step-", "step-000003.old", "step-abc", "notes"):
        (tmp_path / other).mkdir()
    assert [path.name for path in checkpoint.find(tmp_path)] == [
        "step-1000000", "step-999999", "step-000040", "step-000005"
    ]  # fmt: skip
    assert checkpoint.newest(tmp_path).name == "step-1000000"
    assert checkpoint.newest(tmp_path / "nowhere") is None


def test_pruning_keeps_the_newest_valid_ones(trained, tmp_path: Path):
    folders = make_many(trained, tmp_path, 1, 2, 3, 4, 5)
    checkpoint.prune(tmp_path, 3)
    assert names(tmp_path) == ["step-000003", "step-000004", "step-000005"]
    (folders[4] / "state.json").write_text("", encoding="utf-8")
    (folders[3] / "MANIFEST.json").unlink()
    checkpoint.prune(tmp_path, 1)  # the last valid one stays, whatever is newer
    assert "step-000003" in names(tmp_path) and checkpoint.newest(tmp_path) == folders[2]


def test_a_manifest_must_be_of_these_files(trained, tmp_path: Path):
    folder = checkpoint.save(tmp_path, 1, *trained, STATE)
    manifest = json.loads((folder / "MANIFEST.json").read_text(encoding="utf-8"))
    for content in ("[]", "7", '{"model.safetensors": 3}', "{}", '"text"', "\x00"):
        (folder / "MANIFEST.json").write_text(content, encoding="utf-8")
        assert checkpoint.find_damage(folder), content
    del manifest["state.json"]
    (folder / "MANIFEST.json").write_text(json.dumps(manifest), encoding="utf-8")
    assert "lists" in checkpoint.find_damage(folder)


def test_differences_are_named_to_the_leaf():
    stored = {"seed": 1, "model": {"hidden_size": 8, "conv": "sd"}, "gone": True}
    now = {"seed": 1, "model": {"hidden_size": 9, "conv": "sd"}, "new": None, "more": 0}
    assert checkpoint.differences(stored, now) == [
        "model.hidden_size was 8, is 9", "gone was True, is None", "more was None, is 0"
    ]  # fmt: skip
    with pytest.raises(ValueError, match=r"x belongs to another run: model\.hidden_size was 8"):
        checkpoint.require_same(stored, now, Path("x"))
    checkpoint.require_same(stored, dict(stored), Path("x"))


def test_a_fingerprint_holds_every_option_that_is_not_free():
    @dataclass
    class Options:
        seed: int = 1
        rate: float = 0.5
        output: str = "here"

    found = checkpoint.fingerprint(Options(), ["output"], data="abc")
    assert found == {"seed": 1, "rate": 0.5, "data": "abc"}


def test_free_options_exist():
    """A misspelled name would leave an option in the fingerprint that may change."""
    from convbert.train import electra, glue, pretrain

    for free, config in ((electra._FREE, pretrain.PretrainConfig), (glue._FREE, glue.GlueConfig)):
        assert set(free) < set(config.__dataclass_fields__)
