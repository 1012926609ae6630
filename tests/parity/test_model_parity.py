"""Our models against transformers', live: layers, gradients, heads, files, steps of training."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import paddle
import pytest
from make_golden import CASES, GOLDEN, draw_inputs, draw_labels, fill, make, run_reference
from safetensors.numpy import load_file
from support import assert_close, check_against, randomize, run_ours, small_config, token_ids

from convbert import heads
from convbert.config import ConvBertConfig
from convbert.weights import huggingface, names

# Both sides compute in float64, so only the order of additions differs: at most 1.2e-13 measured.
EXACT = 1e-12
# Fields that mean the same in both libraries.
SHARED = (
    "vocab_size embedding_size hidden_size num_hidden_layers num_attention_heads intermediate_size "
    "hidden_act max_position_embeddings type_vocab_size layer_norm_eps pad_token_id head_ratio "
    "conv_kernel_size num_groups num_labels"
).split()


def torch_model(config: ConvBertConfig, kind: str = "ConvBertModel", seed: int = 0) -> Any:
    """Return transformers' model of a configuration of ours, float64, large random weights."""
    import transformers

    values = {key: getattr(config, key) for key in SHARED}
    if kind == "ConvBertForMultipleChoice":
        values["summary_type"] = "first"  # reads [CLS]; the default reads the last position
    model = getattr(transformers, kind)(transformers.ConvBertConfig(**values)).double().eval()
    # Wide layers get smaller weights: with scores in the hundreds every softmax picks one entry,
    # and twelve such layers turn a rounding of 1e-16 into 1e-8.
    fill(model, np.random.default_rng(seed), std=min(0.2, config.hidden_size**-0.5))
    return model


def our_model(model: Any, folder: Path, dtype: str = "float64") -> Any:
    """Save a model of transformers and read its files with our class of the same name."""
    model.save_pretrained(folder)
    ours = getattr(heads, type(model).__name__).from_pretrained(folder, conv_sees_padding=True)
    (folder / huggingface.WEIGHTS).unlink()  # base is 0.8 GB, and pytest keeps its folders
    ours.to(dtype=dtype)
    ours.eval()
    return ours


# The published sizes, generators with more than one nominal head, and what the stored references
# do not combine. (configuration, lengths of the rows, inputs)
CONFIGS: dict[str, tuple[ConvBertConfig, tuple[int, ...], tuple[str, ...]]] = {
    "small": (ConvBertConfig.named("convbert-small"), (11, 6), ("types",)),
    "medium-small": (ConvBertConfig.named("convbert-medium-small"), (11, 6), ("types",)),
    "base": (ConvBertConfig.named("convbert-base"), (6,), ()),
    "medium-small generator": (
        ConvBertConfig.named("convbert-medium-small-generator"),
        (9, 4),
        (),
    ),
    "base generator": (
        ConvBertConfig.named("convbert-base-generator", vocab_size=500),
        (9, 4),
        ("types",),
    ),
    "tiny": (ConvBertConfig.named("convbert-tiny"), (40, 33, 7), ("types",)),
    "kernel 1": (small_config(conv_kernel_size=1), (8, 3), ()),
    "kernel 15, longer than the text": (small_config(conv_kernel_size=15), (4, 4), ()),
    "ratio 6": (small_config(num_attention_heads=12, head_ratio=6), (10, 2), ("types",)),
    "ratio 2, one real head": (small_config(num_attention_heads=2), (10, 2), ()),
    "groups 3, ratio 3": (
        small_config(num_groups=3, num_attention_heads=3, head_ratio=3),
        (5, 5, 5, 5, 5),
        ("positions",),
    ),
    "groups 8": (small_config(num_groups=8, hidden_size=32, intermediate_size=40), (7, 1), ()),
    "e larger than d": (small_config(embedding_size=40), (7, 6), ("embeds",)),
    "feed-forward narrower than d": (small_config(intermediate_size=6), (7, 6), ()),
    "256 tokens": (small_config(max_position_embeddings=256), (256, 130), ("types",)),
    "padding id 7": (small_config(pad_token_id=7), (9, 4), ()),
    # 2^-10, because Paddle keeps an epsilon in float32.
    "large epsilon": (small_config(layer_norm_eps=2**-10, hidden_act="gelu_new"), (9, 9), ()),
}


@pytest.mark.parametrize("name", CONFIGS)
def test_layers_and_gradients(name: str, tmp_path: Path):
    config, lengths, kinds = CONFIGS[name]
    rng = np.random.default_rng(1)
    model = torch_model(config)
    ours = our_model(model, tmp_path)
    inputs = draw_inputs(model.config, lengths, kinds, rng)
    labels = draw_labels("ConvBertModel", model.config, len(lengths), max(lengths), rng)
    arrays = {f"input.{key}": value for key, value in inputs.items()}
    arrays |= {f"label.{key}": value for key, value in labels.items()}
    arrays |= run_reference(model, inputs, labels)
    check_against(name, ours, arrays, EXACT, EXACT)


def test_float32_is_as_close_as_published_ports(tmp_path: Path):
    """12 layers in single precision, weights as initialized, no padding."""
    import torch
    import transformers

    config = ConvBertConfig.named("convbert-small", vocab_size=1000)
    torch.manual_seed(0)
    model = transformers.ConvBertModel(
        transformers.ConvBertConfig(**{key: getattr(config, key) for key in SHARED})
    ).eval()
    ours = our_model(model, tmp_path, "float32")
    ids = token_ids(2, 9, vocab_size=1000)
    with torch.no_grad():
        theirs = model(torch.from_numpy(ids)).last_hidden_state.numpy()
    with paddle.no_grad():
        hidden = ours(paddle.to_tensor(ids)).numpy()
    # The port that published its difference for nine tokens of this size had 2.9e-6.
    assert np.abs(hidden - theirs).max() < 3e-6


HEADS = {
    "ConvBertForSequenceClassification": small_config(num_labels=3),
    "ConvBertForTokenClassification": small_config(num_labels=5),
    "ConvBertForQuestionAnswering": small_config(),
    "ConvBertForMaskedLM": small_config(),
    "ConvBertForMultipleChoice": small_config(),
}


@pytest.mark.parametrize("kind", HEADS)
def test_heads(kind: str, tmp_path: Path):
    config, lengths, rng = HEADS[kind], (9, 5, 9), np.random.default_rng(2)
    if kind == "ConvBertForMultipleChoice":
        lengths = (9, 9, 9)
    model = torch_model(config, kind)
    ours = our_model(model, tmp_path)
    inputs = draw_inputs(model.config, lengths, ("types",), rng)
    labels = draw_labels(kind, model.config, len(lengths), max(lengths), rng)
    if kind == "ConvBertForMultipleChoice":
        inputs = {key: value[None] for key, value in inputs.items()}
    arrays = {f"input.{key}": value for key, value in inputs.items()}
    arrays |= {f"label.{key}": value for key, value in labels.items()}
    arrays |= run_reference(model, inputs, labels)
    check_against(kind, ours, arrays, EXACT, EXACT)


def test_token_loss_when_nothing_counts_is_zero_where_torch_has_no_number(tmp_path: Path):
    model = torch_model(HEADS["ConvBertForTokenClassification"], "ConvBertForTokenClassification")
    ours = our_model(model, tmp_path)
    logits = ours(paddle.to_tensor(token_ids(1, 4)))
    assert ours.loss(logits, paddle.full([1, 4], -100, "int64")).item() == 0.0


@pytest.mark.parametrize("kind", ["ConvBertModel", *HEADS])
@pytest.mark.parametrize("groups", [1, 2])
def test_files_travel_both_ways(kind: str, groups: int, tmp_path: Path):
    """Ours -> transformers -> ours: every weight the same bit for bit, nothing left over."""
    import transformers

    config = HEADS.get(kind, small_config()).replaced(num_groups=groups)
    ours = randomize(getattr(heads, kind)(config))
    ours.save_pretrained(tmp_path / "ours")
    theirs, info = getattr(transformers, kind).from_pretrained(
        tmp_path / "ours", output_loading_info=True
    )
    assert not any(info.values()), info
    state = {names.from_huggingface(key): value for key, value in theirs.named_parameters()}
    parameters = dict(ours.named_parameters())
    assert state.keys() == parameters.keys()
    for name, parameter in parameters.items():
        array = names.swap_layout(name, state[name].detach().numpy())
        assert np.array_equal(array, parameter.numpy()), name
    for key in SHARED:
        assert getattr(theirs.config, key) == getattr(ours.config, key), key

    theirs.save_pretrained(tmp_path / "theirs")
    again = getattr(heads, kind).from_pretrained(tmp_path / "theirs")
    for name, parameter in again.named_parameters():
        assert np.array_equal(parameter.numpy(), parameters[name].numpy()), name
    written, received = (
        load_file(tmp_path / side / huggingface.WEIGHTS) for side in ("ours", "theirs")
    )
    assert written.keys() == received.keys()
    assert all(np.array_equal(written[key], received[key]) for key in written)


def test_their_configuration_reads_as_ours(tmp_path: Path):
    """Also the padding id 1, which is their class's default and not ours."""
    import transformers

    theirs = transformers.ConvBertConfig(num_labels=4, hidden_size=384, num_groups=2)
    theirs.save_pretrained(tmp_path)
    ours = ConvBertConfig.from_json_file(tmp_path / "config.json")
    assert ours.pad_token_id == 1
    for key in SHARED:
        assert getattr(ours, key) == getattr(theirs, key), key


def test_two_steps_of_gradient_descent(tmp_path: Path):
    import torch

    kind = "ConvBertForSequenceClassification"
    config = small_config(num_labels=3)
    model = torch_model(config, kind)
    ours = our_model(model, tmp_path)
    start = {name: value.numpy().copy() for name, value in ours.named_parameters()}
    ids, labels = token_ids(4, 9), np.array([0, 2, 1, 1])
    theirs = torch.optim.SGD(model.parameters(), lr=0.05)
    model.base_model.embeddings.word_embeddings.padding_idx = None
    mine = paddle.optimizer.SGD(0.05, parameters=ours.parameters())
    losses = []
    for _ in range(2):
        loss = model(torch.from_numpy(ids), labels=torch.from_numpy(labels)).loss
        theirs.zero_grad()
        loss.backward()
        theirs.step()
        mean = ours.loss(ours(paddle.to_tensor(ids)), paddle.to_tensor(labels))
        mine.clear_grad()
        mean.backward()
        mine.step()
        losses.append((mean.item(), loss.item()))
    assert losses[0][0] != pytest.approx(losses[1][0], abs=1e-3)  # the steps did something
    for mean, loss in losses:
        assert mean == pytest.approx(loss, rel=EXACT)
    stepped = {}
    for key, value in model.named_parameters():
        name = names.from_huggingface(key)
        stepped[name] = names.swap_layout(name, value.detach().numpy())
    # The movement, not the value: weights that stayed would agree to many digits.
    moved = {
        name: (value.numpy() - start[name], stepped[name] - start[name])
        for name, value in ours.named_parameters()
    }
    floor = 0.01 * max(float(np.abs(value).max()) for _, value in moved.values())
    assert_close("two steps", moved, EXACT, floor)


def test_padding_changes_their_result_and_not_ours(tmp_path: Path):
    """The one deliberate difference: transformers' convolution reads what is padding."""
    import torch

    model = torch_model(small_config())
    ours = our_model(model, tmp_path)
    upstream, default = ours.config, ours.config.replaced(conv_sees_padding=False)
    alone = token_ids(1, 9)
    padded = np.concatenate([alone, np.zeros((1, 6), "int64")], 1)
    mask = (padded > 0).astype("int64")

    def run_theirs(ids: np.ndarray, mask: np.ndarray) -> np.ndarray:
        with torch.no_grad():
            output = model(torch.from_numpy(ids), attention_mask=torch.from_numpy(mask))
        return output.last_hidden_state.numpy()[:, :9]

    def run(config: ConvBertConfig, ids: np.ndarray) -> np.ndarray:
        ours.config = config
        return ours(paddle.to_tensor(ids)).numpy()[:, :9]

    leak = np.abs(run_theirs(padded, mask) - run_theirs(alone, mask[:, :9])).max()
    assert leak > 0.1
    assert np.abs(run(default, padded) - run(default, alone)).max() < 1e-10
    assert np.abs(run(upstream, padded) - run_theirs(padded, mask)).max() < 1e-10


@pytest.mark.parametrize("name", CASES)
def test_stored_references_are_current(name: str):
    """What make_golden.py computes today is what lies in data/golden."""
    fresh = make(name)
    with np.load(GOLDEN / f"{name}.npz") as stored:
        assert set(stored.files) == set(fresh)
        for key in stored.files:
            if stored[key].dtype.kind == "f":
                assert_close(name, {key: (fresh[key], stored[key])}, 1e-6, floor=1e-6)
            else:
                assert np.array_equal(fresh[key], stored[key]), key


def test_reference_notices_a_changed_weight(tmp_path: Path):
    """The comparison itself can fail: one weight off by 1e-6 is seen."""
    model = torch_model(small_config())
    ours = our_model(model, tmp_path)
    inputs = {"input_ids": token_ids(2, 5), "attention_mask": np.ones([2, 5], "int64")}
    labels = {"coefficients": np.random.default_rng(0).normal(size=(2, 5, 24))}
    arrays = {f"input.{key}": value for key, value in inputs.items()}
    arrays |= {f"label.{key}": value for key, value in labels.items()}
    arrays |= run_reference(model, inputs, labels)
    weight = ours.encoder.layers[1].self_attn.conv_out_layer.weight
    changed = weight.numpy()
    changed[0, 0] += 1e-6
    weight.set_value(changed)
    values, _ = run_ours(ours, arrays)
    assert_close("before the change", {"0": (values["hidden.0"], arrays["hidden.0"])}, EXACT)
    with pytest.raises(AssertionError, match=r"worst is (hidden\.2|loss|output)"):
        check_against("changed", ours, arrays, EXACT, EXACT)
