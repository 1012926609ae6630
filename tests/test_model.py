"""The encoder: sizes, padding, masks, inputs, recording, initialization."""

from __future__ import annotations

from typing import Any

import numpy as np
import paddle
import paddle.nn.functional as F
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support import assert_close, randomize, small_config, token_ids

from convbert.attention import SeparableConv1D
from convbert.config import CONV_TYPES, ConvBertConfig
from convbert.model import ConvBertEmbeddings, ConvBertLayer, ConvBertModel, GroupedLinear


def count(layer: Any) -> int:
    return sum(parameter.size for parameter in layer.parameters())


def shapes_only(cls: Any, *args: Any, **options: Any) -> Any:
    """Make a model without filling its parameters: base in milliseconds."""
    with paddle.LazyGuard():
        return cls(*args, **options)


def run(model: Any, ids: np.ndarray, *inputs: Any, **options: Any) -> np.ndarray:
    with paddle.no_grad():
        return model(paddle.to_tensor(ids), *inputs, **options).numpy()


# --- Sizes ----------------------------------------------------------------------------------

BACKBONES = {
    "convbert-small": (13_143_768, 3_972_864, 33_024, 761_490, 283),
    "convbert-medium-small": (17_475_888, 3_972_864, 49_536, 1_121_124, 283),
    "convbert-base": (105_680_520, 23_837_184, 0, 6_820_278, 281),
}


@pytest.mark.parametrize("name", BACKBONES)
def test_parameter_counts(name: str):
    model = shapes_only(ConvBertModel, ConvBertConfig.named(name))
    project = count(model.embeddings_project) if model.is_projected else 0
    assert (
        count(model),
        count(model.embeddings),
        project,
        count(model.encoder.layers[0]),
        len(list(model.named_parameters())),
    ) == BACKBONES[name]
    assert len(model.encoder.layers) == 12


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("convbert-small-generator", 4_743_852),
        ("convbert-medium-small-generator", 4_844_748),
        ("convbert-base-generator", 33_171_928),
    ],
)
def test_parameter_counts_of_generators(name: str, expected: int):
    assert count(shapes_only(ConvBertModel, ConvBertConfig.named(name))) == expected


def test_the_attention_only_generator_has_the_earlier_ports_size():
    config = ConvBertConfig.named("convbert-small-generator", conv_type="noconv")
    assert count(shapes_only(ConvBertModel, config)) == 4_580_928


@pytest.mark.parametrize("conv_type", CONV_TYPES)
@pytest.mark.parametrize("groups", [1, 3])
@pytest.mark.parametrize("heads", [1, 2, 6])
def test_a_layer_counts_as_the_formula_says(conv_type: str, groups: int, heads: int):
    config = small_config(conv_type=conv_type, num_groups=groups, num_attention_heads=heads)
    d, a, h = config.hidden_size, config.branch_size, config.heads
    k, wide = config.conv_kernel_size, config.intermediate_size
    out = a if conv_type == "noconv" else 2 * a
    attention = 3 * (d * a + a) + out * d + d
    convolution = {
        "sdconv": (d * k + d * a + a) + (a * h * k + h * k) + (d * a + a),
        "dynamic": (d * h * k + h * k) + (d * a + a),
        "static": h * k + (d * a + a),
        "depthwise": a * k + (d * a + a),
        "noconv": 0,
    }[conv_type]
    feed_forward = (d * wide // groups + wide) + (wide * d // groups + d)
    assert count(ConvBertLayer(config)) == attention + convolution + feed_forward + 4 * d


# --- Padding --------------------------------------------------------------------------------

_MODELS: dict[tuple, ConvBertModel] = {}


def model_for(**changes: Any) -> ConvBertModel:
    """Return one model per configuration for the whole module."""
    key = tuple(sorted(changes.items()))
    if key not in _MODELS:
        _MODELS[key] = randomize(ConvBertModel(small_config(**changes)))
    return _MODELS[key]


@pytest.mark.parametrize("conv_type", CONV_TYPES)
@settings(max_examples=25, deadline=None)
@given(
    length=st.integers(1, 20),
    padding=st.integers(1, 12),
    mates=st.integers(0, 3),
    seed=st.integers(0, 10_000),
    give_mask=st.booleans(),
)
def test_a_sentence_does_not_depend_on_its_batch(
    conv_type: str, length: int, padding: int, mates: int, seed: int, give_mask: bool
):
    """Whatever stands beside it, and, with a mask, whatever stands in the padding."""
    model, rng = model_for(conv_type=conv_type), np.random.default_rng(seed)
    ids = token_ids(1 + mates, length + padding, seed=seed)
    sentence = ids[0, :length].copy()
    mask = np.ones_like(ids)
    mask[0, length:] = 0
    for row in range(1, 1 + mates):
        mask[row, rng.integers(1, length + padding + 1) :] = 0
    if not give_mask:
        ids *= mask
    given = {"attention_mask": paddle.to_tensor(mask)} if give_mask else {}
    together = run(model, ids, **given)[0, :length]
    alone = run(model, sentence[None])[0]
    assert np.abs(together - alone).max() <= 1e-5


def test_with_the_flag_the_convolution_sees_padding():
    """The released code's behavior; also shows that the test above can fail."""
    model = model_for(conv_sees_padding=True)
    ids = token_ids(1, 20)
    padded = np.concatenate([ids, np.zeros([1, 8], "int64")], 1)
    leak = np.abs(run(model, padded)[0, :20] - run(model, ids)[0])
    assert leak.max() > 1e-3
    # One layer's window reaches (k-1)/2 = 4 tokens back; two layers of attention spread it.
    assert (leak.max(-1) > 1e-4).all()


def test_with_the_flag_attention_alone_does_not_leak():
    noconv = model_for(conv_type="noconv", conv_sees_padding=True)
    ids = token_ids(1, 20)
    padded = np.concatenate([ids, np.zeros([1, 8], "int64")], 1)
    assert np.abs(run(noconv, padded)[0, :20] - run(noconv, ids)[0]).max() <= 1e-5


def test_without_padding_the_flag_changes_nothing():
    ids = token_ids(2, 9)
    ours, upstream = model_for(), model_for(conv_sees_padding=True)
    upstream.set_state_dict(ours.state_dict())
    assert np.array_equal(run(ours, ids), run(upstream, ids))
    mask = paddle.to_tensor([[1] * 9, [1] * 5 + [0] * 4])
    here = np.abs(run(ours, ids, attention_mask=mask) - run(upstream, ids, attention_mask=mask))
    assert here[0].max() == 0 and here[1, :5].max() > 1e-3


def test_padding_on_the_left_needs_positions():
    model, ids = model_for(), token_ids(1, 7)
    padded = np.concatenate([np.zeros([1, 4], "int64"), ids], 1)
    positions = paddle.to_tensor([[0] * 4 + list(range(7))])
    alone, shifted = run(model, ids)[0], run(model, padded)[0, 4:]
    placed = run(model, padded, position_ids=positions)[0, 4:]
    assert np.abs(placed - alone).max() <= 1e-5
    assert np.abs(shifted - alone).max() > 1e-3


def test_a_row_of_padding_only_stays_finite():
    ids = np.stack([token_ids(6), np.zeros(6, "int64")])
    assert np.isfinite(run(model_for(), ids)).all()


# --- Masks ----------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["bool", "int32", "int64", "uint8", "float32", "float64"])
@pytest.mark.parametrize("batch", [2, 6])  # 6 = L: a [B, L] mask would broadcast wrongly unseen
def test_masks_of_any_type(dtype: str, batch: int):
    model, ids = model_for(), token_ids(batch, 6)
    lengths = np.arange(batch) % 6 + 1
    mask = np.arange(6) < lengths[:, None]
    got = run(model, ids, attention_mask=paddle.to_tensor(mask.astype(dtype)))
    for row, length in enumerate(lengths):
        alone = run(model, ids[row : row + 1, :length])[0]
        assert np.abs(got[row, :length] - alone).max() <= 1e-5


@pytest.mark.parametrize("shape", [[6], [2, 1, 6], [2, 6, 6], [2, 1, 1, 6], [2, 1, 6, 6], [2, 5]])
def test_masks_of_other_shapes_are_refused(shape: list[int]):
    with pytest.raises(
        ValueError, match=r"attention_mask has shape .* expected \[B, L\] = \[2, 6\]"
    ):
        model_for()(paddle.to_tensor(token_ids(2, 6)), attention_mask=paddle.ones(shape))


@pytest.mark.parametrize("pad", [0, 7])
def test_a_missing_mask_comes_from_the_padding_id(pad: int):
    model, ids = model_for(pad_token_id=pad), token_ids(2, 8) % 5 + 1
    ids[1, 5:] = pad
    mask = paddle.to_tensor(ids != pad)
    assert np.array_equal(run(model, ids), run(model, ids, attention_mask=mask))
    everything = run(model, ids, attention_mask=paddle.ones([2, 8]))
    assert np.abs(run(model, ids)[1] - everything[1]).max() > 1e-3


def test_a_mask_of_ones_means_no_padding_even_with_id_0():
    model, ids = model_for(), token_ids(1, 8)
    ids[0, 3] = 0
    ones = run(model, ids, attention_mask=paddle.ones([1, 8], "int64"))
    embeds = model.embeddings.word_embeddings(paddle.to_tensor(ids))
    with paddle.no_grad():
        expected = model(inputs_embeds=embeds).numpy()  # embeddings have no padding id
    assert np.abs(ones - expected).max() <= 1e-6
    assert np.abs(ones - run(model, ids)).max() > 1e-3


# --- Other inputs ---------------------------------------------------------------------------


def test_missing_types_and_positions_have_their_usual_values():
    model, ids = model_for(), token_ids(2, 8)
    types, positions = paddle.zeros([2, 8], "int64"), paddle.arange(8).expand([2, 8])
    assert_close(
        "defaults",
        {
            "types": (run(model, ids), run(model, ids, types)),
            "positions": (run(model, ids), run(model, ids, position_ids=positions)),
        },
        1e-6,
    )
    assert np.abs(run(model, ids) - run(model, ids, types + 1)).max() > 1e-3
    assert np.abs(run(model, ids) - run(model, ids, position_ids=positions + 1)).max() > 1e-3


def test_embeddings_instead_of_ids():
    model, ids = model_for(), token_ids(2, 8)
    ids[1, 6:] = 0
    mask = paddle.to_tensor(ids > 0)
    words = model.embeddings.word_embeddings(paddle.to_tensor(ids))
    with paddle.no_grad():
        given = model(inputs_embeds=words, attention_mask=mask).numpy()
    assert np.array_equal(given, run(model, ids))


def test_inputs_that_do_not_fit_are_refused():
    model, ids = model_for(), paddle.to_tensor(token_ids(2, 8))
    embeds = paddle.zeros([2, 8, 12])
    for message, inputs in (
        ("either input_ids or inputs_embeds", {}),
        ("either input_ids or inputs_embeds", dict(input_ids=ids, inputs_embeds=embeds)),
        (r"input_ids has shape \[8\]: expected 2 axes, \[B, L\]", dict(input_ids=ids[0])),
        (r"inputs_embeds has shape .*\[B, L, e\]", dict(inputs_embeds=embeds[0])),
        (r"token_type_ids has shape", dict(input_ids=ids, token_type_ids=ids[:, :7])),
        (r"position_ids has shape", dict(input_ids=ids, position_ids=ids[:1])),
    ):
        with pytest.raises(ValueError, match=message):
            model(**inputs)


def test_too_long_and_empty_inputs_are_refused():
    model = model_for()
    assert run(model, token_ids(1, 32)).shape == (1, 32, 24)
    with pytest.raises(ValueError, match="input of 33 tokens: this model takes 1 to 32; truncate"):
        model(paddle.to_tensor(token_ids(1, 33)))
    with pytest.raises(ValueError, match="input of 0 tokens"):
        model(paddle.zeros([1, 0], "int64"))
    positions = paddle.arange(33).expand([1, 33]) % 32
    assert run(model, token_ids(1, 33), position_ids=positions).shape == (1, 33, 24)


def test_inputs_are_not_changed():
    ids, mask = paddle.to_tensor(token_ids(2, 8)), paddle.to_tensor([[1] * 8, [1] * 5 + [0] * 3])
    before = ids.numpy().copy(), mask.numpy().copy()
    model_for()(ids, attention_mask=mask)
    assert np.array_equal(ids.numpy(), before[0]) and np.array_equal(mask.numpy(), before[1])


# --- What comes out -------------------------------------------------------------------------


@pytest.mark.parametrize("conv_type", CONV_TYPES)
def test_recording_changes_nothing_and_sums_to_one(conv_type: str):
    model, ids = model_for(conv_type=conv_type), token_ids(2, 11)
    ids[1, 7:] = 0
    plain = run(model, ids)
    with paddle.no_grad():
        last, states, mixing = model(
            paddle.to_tensor(ids), output_hidden_states=True, output_mixing=True
        )
    assert np.array_equal(last.numpy(), plain)
    assert len(states) == 3 and np.array_equal(states[-1].numpy(), plain)
    assert [state.shape for state in states] == [[2, 11, 24]] * 3
    for attention, kernels in mixing:
        np.testing.assert_allclose(attention.numpy().sum(-1), 1, atol=1e-5)
        assert attention.numpy()[1, :, :, 7:].max() < 1e-27  # nothing from padding
        assert (kernels is None) == (conv_type in ("depthwise", "noconv"))
        if kernels is not None:
            np.testing.assert_allclose(kernels.numpy().sum(-1), 1, atol=1e-5)


def test_hidden_states_start_with_the_projected_embeddings():
    model, ids = model_for(), paddle.to_tensor(token_ids(2, 5))
    states = model(ids, output_hidden_states=True).hidden_states
    projected = model.embeddings_project(model.embeddings(ids))
    assert np.array_equal(states[0].numpy(), projected.numpy())
    state = states[0]
    for layer, expected in zip(model.encoder.layers, states[1:], strict=True):
        state, _ = layer(state, None, None)
        assert np.array_equal(state.numpy(), expected.numpy())
    output = model(ids, output_mixing=True)
    assert output.hidden_states is None and len(output.mixing) == 2


def test_dropout_acts_in_training_only():
    model = randomize(ConvBertModel(small_config(hidden_dropout_prob=0.3)))
    ids = token_ids(2, 8)
    assert np.array_equal(run(model, ids), run(model, ids))
    model.train()
    assert np.abs(run(model, ids) - run(model, ids)).max() > 1e-2


@pytest.mark.parametrize("field", ["hidden_dropout_prob", "attention_probs_dropout_prob"])
def test_each_dropout_rate_is_used(field: str):
    model = randomize(ConvBertModel(small_config(**{field: 0.5})))
    model.train()
    ids = token_ids(2, 8)
    assert np.abs(run(model, ids) - run(model, ids)).max() > 1e-2


def test_where_dropout_acts():
    """On the embeddings and on both sublayers' outputs before the residual; not inside them."""
    model = randomize(ConvBertModel(small_config(hidden_dropout_prob=0.5)))
    model.train()
    seen: dict[str, np.ndarray] = {}
    layer = model.encoder.layers[0]
    for name, part in (("norm1", layer.norm1), ("norm2", layer.norm2), ("linear2", layer.linear2)):
        part.register_forward_pre_hook(
            lambda _, args, name=name: seen.update({name: args[0].numpy()})
        )
    layer.norm1.register_forward_post_hook(
        lambda _, args, out: seen.update({"between": out.numpy()})
    )
    layer.register_forward_pre_hook(lambda _, args: seen.update({"x": args[0].numpy()}))
    embedded: list[np.ndarray] = []
    model.embeddings.register_forward_post_hook(lambda _, args, out: embedded.append(out.numpy()))
    with paddle.no_grad():
        model(paddle.to_tensor(token_ids(4, 30)))

    def zeros(values: np.ndarray) -> float:
        return float((values == 0).mean())

    assert zeros(embedded[0]) == pytest.approx(0.5, abs=0.06)
    assert zeros(seen["norm1"] - seen["x"]) == pytest.approx(0.5, abs=0.06)
    assert zeros(seen["norm2"] - seen["between"]) == pytest.approx(0.5, abs=0.06)
    assert zeros(seen["linear2"]) < 0.01


@pytest.mark.parametrize("conv_type", CONV_TYPES)
def test_every_parameter_learns(conv_type: str):
    model = randomize(ConvBertModel(small_config(conv_type=conv_type, num_groups=2)))
    output = model(paddle.to_tensor(token_ids(3, 9)), paddle.to_tensor(token_ids(3, 9) % 2))
    (
        output * paddle.to_tensor(np.random.default_rng(0).normal(size=output.shape), "float32")
    ).sum().backward()
    still = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.any()]
    assert still == []


# --- Pieces ---------------------------------------------------------------------------------


def test_noconv_is_a_plain_transformer_layer():
    """Paddle's own post-norm encoder layer, given the same weights, computes the same."""
    layer = randomize(ConvBertLayer(small_config(conv_type="noconv")))
    plain = paddle.nn.TransformerEncoderLayer(24, 4, 48, dropout=0.0, activation="gelu")
    missing, unexpected = plain.set_state_dict(layer.state_dict())
    assert missing == [] and unexpected == []
    for norm in (plain.norm1, plain.norm2):
        norm._epsilon = 1e-12
    x = paddle.to_tensor(np.random.default_rng(0).normal(size=(2, 9, 24)), "float32")
    mask = paddle.zeros([2, 1, 1, 9])
    mask[1, :, :, 6:] = -1e4
    assert_close(
        "noconv", {"layer": (layer(x, mask, None)[0].numpy(), plain(x, mask).numpy())}, 1e-6
    )


@pytest.mark.parametrize("groups", [1, 2, 3, 6])
def test_grouped_linear_is_a_block_diagonal_one(groups: int):
    """Eq. 6: group i reads slice i and writes slice i."""
    layer = randomize(GroupedLinear(12, 18, groups, 0.02)).to(dtype="float64")
    rng = np.random.default_rng(0)
    x, g = rng.normal(size=(2, 5, 12)), rng.normal(size=(2, 5, 18))
    weight = layer.weight.numpy()
    block = np.zeros([12, 18])
    rows, columns = 12 // groups, 18 // groups
    for i in range(groups):
        block[i * rows : (i + 1) * rows, i * columns : (i + 1) * columns] = weight[i]
    given = paddle.to_tensor(x, stop_gradient=False)
    output = layer(given)
    (output * paddle.to_tensor(g)).sum().backward()
    np.testing.assert_allclose(output.numpy(), x @ block + layer.bias.numpy(), atol=1e-12)
    np.testing.assert_allclose(given.grad.numpy(), g @ block.T, atol=1e-12)
    full = np.einsum("bli,blo->io", x, g)
    for i in range(groups):
        expected = full[i * rows : (i + 1) * rows, i * columns : (i + 1) * columns]
        np.testing.assert_allclose(layer.weight.grad.numpy()[i], expected, atol=1e-12)
    np.testing.assert_allclose(layer.bias.grad.numpy(), g.sum((0, 1)), atol=1e-12)


def test_embeddings_are_the_normalized_sum_of_three_tables():
    layer = randomize(ConvBertEmbeddings(small_config())).to(dtype="float64")
    ids, types = token_ids(2, 7), token_ids(2, 7, seed=1) % 2
    total = (
        layer.word_embeddings.weight.numpy()[ids]
        + layer.position_embeddings.weight.numpy()[:7]
        + layer.token_type_embeddings.weight.numpy()[types]
    )
    centered = total - total.mean(-1, keepdims=True)
    normal = centered / np.sqrt((centered**2).mean(-1, keepdims=True) + 1e-12)
    expected = normal * layer.layer_norm.weight.numpy() + layer.layer_norm.bias.numpy()
    ours = layer(paddle.to_tensor(ids), paddle.to_tensor(types)).numpy()
    np.testing.assert_allclose(ours, expected, atol=1e-10)


def test_no_normalization_or_activation_after_the_projection():
    model = model_for()
    x = paddle.to_tensor(np.random.default_rng(0).normal(size=(1, 3, 12)), "float32")
    expected = x.numpy() @ model.embeddings_project.weight.numpy()
    expected += model.embeddings_project.bias.numpy()
    np.testing.assert_allclose(model.embeddings_project(x).numpy(), expected, atol=1e-5)
    assert not hasattr(ConvBertModel(small_config(embedding_size=24)), "embeddings_project")


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("gelu", F.gelu),
        ("gelu_new", lambda x: F.gelu(x, approximate=True)),
        ("relu", F.relu),
        ("silu", lambda x: x * F.sigmoid(x)),
        ("tanh", paddle.tanh),
    ],
)
def test_activations(name: str, expected: Any):
    layer = ConvBertLayer(small_config(hidden_act=name))
    x = paddle.linspace(-4, 4, 33)
    np.testing.assert_allclose(layer.activation(x).numpy(), expected(x).numpy(), atol=1e-6)


# --- Initialization -------------------------------------------------------------------------


def check_truncated_normal(values: np.ndarray, std: float) -> None:
    """A normal cut at two deviations has 0.8796 of the deviation it was cut from."""
    assert np.abs(values).max() <= 2 * std * (1 + 1e-6)
    assert np.abs(values).max() > 1.9 * std
    spread = values.std() / (0.8796 * std)
    assert spread == pytest.approx(1, abs=4 / np.sqrt(values.size))
    assert abs(values.mean()) < 5 * std / np.sqrt(values.size)


def test_initialization():
    paddle.seed(0)
    config = ConvBertConfig.named("convbert-medium-small", num_hidden_layers=1, vocab_size=2000)
    model = ConvBertModel(config)
    state = {name: value.numpy() for name, value in model.state_dict().items()}
    checked = set()
    for name, values in state.items():
        if "norm" in name:
            assert (values == float(name.endswith("weight"))).all(), name
        elif name.endswith("bias"):
            assert (values == 0).all(), name
        elif "depthwise" in name:
            check_truncated_normal(values, 1 / 9)
        elif name == "embeddings_project.weight":  # Glorot's uniform distribution
            limit = np.sqrt(6 / (128 + 384))
            assert 0.99 * limit < np.abs(values).max() <= limit * (1 + 1e-6)
            assert values.std() == pytest.approx(limit / np.sqrt(3), rel=0.02)
        else:
            check_truncated_normal(values, 0.02)
        checked.add(name)
    assert checked == set(state)


def test_initialization_follows_the_configuration():
    paddle.seed(0)
    config = small_config(
        initializer_range=0.5, conv_type="static", hidden_size=96, intermediate_size=96
    )
    model = ConvBertModel(config)
    check_truncated_normal(model.encoder.layers[0].linear1.weight.numpy(), 0.5)
    assert np.abs(model.encoder.layers[0].self_attn.static_kernel.numpy()).max() > 0.3
    check_truncated_normal(SeparableConv1D(400, 8, 5, 0.5).depthwise.weight.numpy(), 1 / 5)


def test_the_seed_decides_the_weights():
    models = []
    for seed in (1, 1, 2):
        paddle.seed(seed)
        models.append(ConvBertModel(small_config()).embeddings.word_embeddings.weight.numpy())
    assert np.array_equal(models[0], models[1]) and not np.array_equal(models[0], models[2])
