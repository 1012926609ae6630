"""Every layer, output and gradient against stored results of transformers; needs no torch.

The files are written by `make_golden.py`, which also says what they hold.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file
from support import check_against, part

from convbert import heads

GOLDEN = Path(__file__).parents[1] / "data" / "golden"
CASES = sorted(path.stem for path in GOLDEN.glob("*.npz"))

# The reference was computed in float64 and stored in float32: relative rounding 6e-8. In float64
# we differ from it by exactly that (5.8e-8 measured), so 1e-7 leaves no room for a mistake. In
# float32 our own rounding adds up over the layers; the largest measured were 3.5e-6 and 6.4e-6.
VALUES = {"float64": 1e-7, "float32": 2e-5}
GRADIENTS = {"float64": 1e-7, "float32": 3e-5}


def load_case(name: str) -> dict[str, np.ndarray]:
    """Read one file; `allow_pickle` stays off."""
    with np.load(GOLDEN / f"{name}.npz") as file:
        return {key: file[key] for key in file.files}


def load_model(arrays: dict[str, np.ndarray], folder: Path, dtype: str):
    """Write the case as a checkpoint of transformers and read it as a user would."""
    weights = {key: value.astype("float32") for key, value in part(arrays, "weight.").items()}
    save_file(weights, folder / "model.safetensors")
    (folder / "config.json").write_text(str(arrays["config"]), encoding="utf-8")
    cls = getattr(heads, str(arrays["model"]))
    model = cls.from_pretrained(folder, conv_sees_padding=True)
    model.to(dtype=dtype)
    model.eval()
    return model


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("name", CASES)
def test_every_layer_and_gradient_equals_transformers(name: str, dtype: str, tmp_path: Path):
    arrays = load_case(name)
    model = load_model(arrays, tmp_path, dtype)
    check_against(f"{name} ({dtype})", model, arrays, VALUES[dtype], GRADIENTS[dtype])


def test_the_cases_cover_what_varies():
    configs = [json.loads(str(load_case(name)["config"])) for name in CASES]
    assert {config.get("conv_kernel_size", 9) for config in configs} == {3, 5, 7, 9, 11}
    assert {config.get("num_groups", 1) for config in configs} == {1, 2, 4}
    assert {config.get("head_ratio", 2) for config in configs} == {1, 2, 3, 4}
    assert {config["num_hidden_layers"] for config in configs} >= {1, 2, 6}
    assert {config["embedding_size"] == config["hidden_size"] for config in configs} == {
        True,
        False,
    }
    ids = [load_case(name).get("input.input_ids", np.zeros([1, 1])) for name in CASES]
    assert {value.shape[-1] for value in ids} >= {1, 2, 7, 128}
    assert any(value.shape[0] == value.shape[1] > 1 for value in ids)


def test_the_weights_are_not_near_their_initial_values():
    """Gains of 1, biases of 0 and faint weights would hide mistakes."""
    arrays = load_case("plain")
    gain = arrays["weight.encoder.layer.0.output.LayerNorm.weight"].astype("float32")
    bias = arrays["weight.encoder.layer.0.attention.self.query.bias"].astype("float32")
    assert np.abs(gain - 1).mean() > 0.1
    assert np.abs(bias).mean() > 0.1


def test_files_are_small():
    size = sum(path.stat().st_size for path in GOLDEN.glob("*"))
    assert size < 2.5e6, f"data/golden has grown to {size / 1e6:.1f} MB"
