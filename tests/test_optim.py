"""Schedules, layer-wise decay and AdamW, against logged values and arithmetic in numpy."""

from __future__ import annotations

import csv
import os
from pathlib import Path

import numpy as np
import paddle
import pytest
from support import assert_close, randomize, small_config

from convbert.config import SIZES, ConvBertConfig
from convbert.heads import ConvBertForPreTraining, ConvBertForSequenceClassification
from convbert.model import ConvBertModel
from convbert.train import optim

# --- Schedules --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("factor", "total", "warmup", "rates"),
    [
        ("linear", 804, 80, {40: 5e-5, 80: 1e-4, 120: 9.44751e-5, 804: 0}),
        ("linear", 345, 34, {40: 9.80707e-5, 320: 8.0386e-6}),
        ("linear", 6315, 631, {400: 6.33914e-5, 800: 9.70267e-5}),
        ("linear", 36816, 3681, {1000: 2.71665e-5}),
        ("cosine", 9822, 982, {1220: 9.982126e-5, 5402: 5e-5, 7620: 1.454429e-5, 9822: 0}),
    ],
)
def test_known_rates(factor: str, total: int, warmup: int, rates: dict[int, float]):
    for step, rate in rates.items():
        # Ten decimals are known.
        value = 1e-4 * optim.schedule(factor)(step, total, warmup)
        assert value == pytest.approx(rate, rel=0, abs=5.1e-11), step


@pytest.mark.parametrize("task", ["COLA", "RTE", "STS-B"])
def test_logged_rates_of_a_published_run(task: str):
    """Every learning rate that an earlier reproduction logged, to the ten decimals it printed."""
    folder = os.environ.get("CONVBERT_DATA")
    if not folder:
        pytest.skip("needs CONVBERT_DATA")
    path = Path(folder, "reference", "seed_logs", f"{task}.csv")
    with open(path, encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) > 15
    for row in rows:
        total = int(row["total"])
        rate = 1e-4 * optim.linear_warmup(int(row["step"]), total, total // 10)
        assert abs(rate - float(row["lr"])) < 5.1e-11, f"{task}, step {row['step']}"


@pytest.mark.parametrize("factor", [optim.linear_warmup, optim.cosine_warmup])
def test_shape_of_a_schedule(factor):
    values = [factor(step, 50, 10) for step in range(60)]
    assert values[0] == 0 and values[10] == 1 and values[50:] == [pytest.approx(0, abs=1e-15)] * 10
    assert np.allclose(np.diff(values[:11]), 0.1)
    assert (np.diff(values[10:51]) < 0).all()
    assert values[30] == pytest.approx(0.5)  # both are half down, half way
    assert factor(0, 50, 0) == 1  # no warm-up: the first update is a full one
    assert factor(50, 50, 50) in (0, 1) and factor(49, 50, 50) == 0.98  # nothing but warm-up


def test_schedule_of_the_authors_code():
    """It falls from the first update on, so a warm-up of 10 of 50 peaks at 0.8."""
    values = [optim.linear_tf(step, 50, 10) for step in range(60)]
    expected = [(1 - step / 50) * min(1, step / 10) for step in range(50)] + [0.0] * 10
    assert values == pytest.approx(expected)
    assert max(values) == values[10] == 0.8
    assert optim.linear_tf(0, 50, 0) == 1


@pytest.mark.parametrize("wrong", [(-1, 10, 0), (0, 0, 0), (0, 10, 11), (0, 10, -1)])
@pytest.mark.parametrize("factor", optim.SCHEDULES.values())
def test_schedules_refuse(factor, wrong: tuple[int, int, int]):
    with pytest.raises(ValueError, match=f"step={wrong[0]}, total={wrong[1]}, warmup={wrong[2]}"):
        factor(*wrong)


def test_unknown_schedule():
    with pytest.raises(ValueError, match="'constant': choose one of linear, cosine"):
        optim.schedule("constant")


# --- Layer-wise decay -------------------------------------------------------------------------

# Parts of a name and depth of the parameter, for 12 layers; factor = 0.8^(14 - depth).
TWELVE = {
    "embeddings.word_embeddings.weight": 0.043980,
    "embeddings.position_embeddings.weight": 0.043980,
    "embeddings.layer_norm.bias": 0.043980,
    "embeddings_project.weight": 0.043980,
    "encoder.layers.0.self_attn.q_proj.weight": 0.054976,
    "encoder.layers.0.norm2.weight": 0.054976,
    "encoder.layers.5.linear1.bias": 0.167772,
    "encoder.layers.10.self_attn.conv_kernel_layer.weight": 0.512,
    "encoder.layers.11.norm2.bias": 0.64,
}


@pytest.mark.parametrize("name", TWELVE)
@pytest.mark.parametrize("prefix", ["", "convbert.", "discriminator.convbert."])
def test_factors_of_twelve_layers(name: str, prefix: str):
    config = ConvBertConfig.named("convbert-base")
    assert optim.layer_decay(prefix + name, config, 0.8) == pytest.approx(TWELVE[name], abs=5e-7)


@pytest.mark.parametrize("size", SIZES)
def test_factor_of_every_parameter(size: str):
    """Grouped by name: a table counted by position is off where embeddings are projected."""
    config = ConvBertConfig.named(size, vocab_size=50, max_position_embeddings=16)
    # Widths do not matter to names, but keep base from making 85 million weights.
    config = config.replaced(hidden_size=48, intermediate_size=48, num_attention_heads=4)
    config = config.replaced(embedding_size=48 if size == "convbert-base" else 24)
    model = ConvBertForSequenceClassification(config)
    n = config.num_hidden_layers
    found: dict[float, set[str]] = {}
    for name, _ in model.named_parameters():
        found.setdefault(optim.layer_decay(name, config, 0.5), set()).add(name)
    bottom = {name for name in found[0.5 ** (n + 2)]}
    assert {name.split(".")[1] for name in bottom} == {"embeddings"} | (
        set() if size == "convbert-base" else {"embeddings_project"}
    )
    for layer in range(n):
        names = found[0.5 ** (n + 1 - layer)]
        assert all(name.startswith(f"convbert.encoder.layers.{layer}.") for name in names)
        assert len(names) == len(found[0.5 ** (n + 1)])  # every layer has the same parameters
    assert {name.split(".")[0] for name in found[1.0]} == {"classifier"}
    assert len(found) == n + 2 and 0.5 not in found  # depth n + 1 is unused
    assert all(
        optim.layer_decay(name, config, 1.0) == 1 for names in found.values() for name in names
    )


@pytest.mark.parametrize(
    "name",
    [
        "convbert.pooler.dense.weight",
        "convbert.encoder.norm.weight",
        "convbert.encoder.layers.2.norm1.weight",
        "encoder.layers.2.norm1.weight",
    ],
)
def test_unknown_parameter_of_the_encoder(name: str):
    with pytest.raises(ValueError, match=f"^{name}: no layer-wise"):
        optim.layer_decay(name, small_config(), 0.8)  # two layers: 0 and 1


# --- AdamW ------------------------------------------------------------------------------------


def draw_gradients(model, seed: int) -> dict[str, np.ndarray]:
    """Set random gradients of very different size and return them."""
    rng, gradients = np.random.default_rng(seed), {}
    for name, parameter in model.named_parameters():
        scale = 10.0 ** rng.integers(-3, 1)
        gradients[name] = (scale * rng.normal(size=parameter.shape)).astype("float32")
        parameter.grad = paddle.to_tensor(gradients[name])
    return gradients


def values(model) -> dict[str, np.ndarray]:
    return {name: parameter.numpy() for name, parameter in model.named_parameters()}


class NumpyAdamW:
    """Decoupled weight decay, bias-corrected moments, clipping by the norm of all gradients."""

    def __init__(self, weights: dict[str, np.ndarray]):
        self.weights = {name: value.astype("float64") for name, value in weights.items()}
        self.first = {name: np.zeros(value.shape) for name, value in weights.items()}
        self.second = {name: np.zeros(value.shape) for name, value in weights.items()}
        self.count = 0

    def step(self, gradients, rates, decays, clip=None, beta2=0.999, epsilon=1e-6) -> None:
        self.count += 1
        norm = np.sqrt(sum((g.astype("float64") ** 2).sum() for g in gradients.values()))
        scale = 1.0 if clip is None else clip / max(clip, norm)
        for name, gradient in gradients.items():
            g = scale * gradient.astype("float64")
            self.first[name] += 0.1 * (g - self.first[name])
            self.second[name] += (1 - beta2) * (g * g - self.second[name])
            first = self.first[name] / (1 - 0.9**self.count)
            second = self.second[name] / (1 - beta2**self.count)
            self.weights[name] *= 1 - rates[name] * decays[name]
            self.weights[name] -= rates[name] * first / (np.sqrt(second) + epsilon)


def moves(ours: dict, before: dict, reference: NumpyAdamW) -> dict:
    """Pair what each weight moved by; a wrong rate of one layer would be lost in the weights."""
    return {
        name: (ours[name] - before[name], reference.weights[name] - before[name]) for name in ours
    }


@pytest.mark.parametrize("clip", [None, 1.0, 1e6])
def test_steps_are_those_of_numpy(clip: float | None):
    """Two steps at two rates, with layer-wise rates, decay of weights only, and clipping."""
    paddle.seed(0)
    config = small_config()
    model = randomize(ConvBertForSequenceClassification(config))
    before = values(model)
    reference = NumpyAdamW(before)
    depth = {"convbert.embeddings": 0, "convbert.embeddings_project": 0, "classifier.dense": 4}
    depth |= {"classifier.out_proj": 4}
    depth |= {f"convbert.encoder.layers.{i}": i + 1 for i in range(2)}

    def factor(name: str) -> float:
        parts = [part for part in depth if name.startswith(part + ".")]
        return 0.5 ** (4 - depth[parts[0]])

    decays = {name: 0.2 for name in before}
    for name in before:
        if "norm" in name or name.endswith(".bias"):
            decays[name] = 0.0
    assert 0 < sum(decay == 0 for decay in decays.values()) < len(decays)
    optimizer = optim.adamw(
        model,
        0.3,  # not used: the rate is set before each step
        weight_decay=0.2,
        layer_lr_decay=0.5,
        adam_epsilon=1e-3,
        max_grad_norm=clip,
        beta2=0.9,
    )
    for step, rate in enumerate((0.1, 0.2)):
        gradients = draw_gradients(model, step)
        optimizer.set_lr(rate)
        optimizer.step()
        optimizer.clear_grad()
        rates = {name: rate * factor(name) for name in before}
        reference.step(gradients, rates, decays, clip, beta2=0.9, epsilon=1e-3)
    # float32 keeps 2^-24 of weights near 1, which moved by 1e-2 or so.
    assert_close(f"clip {clip}", moves(values(model), before, reference), 2e-4)


def test_clipping_takes_the_norm_of_all_gradients():
    """Not of each layer, nor of weights and biases apart, as Paddle's parameter groups would."""
    model = randomize(ConvBertForSequenceClassification(small_config()))
    optimizer = optim.adamw(model, 0.01, layer_lr_decay=0.5, max_grad_norm=1.0)
    for parameter in model.parameters():
        parameter.grad = paddle.full_like(parameter, 3.0)
    count = sum(parameter.size for parameter in model.parameters())
    optimizer.step()
    for parameter in model.parameters():
        moment = optimizer._get_accumulator_master("moment1", parameter).numpy()
        assert np.allclose(moment, 0.1 * count**-0.5, rtol=1e-5), parameter.name


def test_zero_turns_clipping_off():
    for off in (None, 0, 0.0):
        model = randomize(ConvBertModel(small_config()))
        assert optim.adamw(model, 0.01, max_grad_norm=off)._grad_clip is None


def test_decay_leaves_biases_and_norms_alone():
    """With gradients of zero only the decay moves weights."""
    model = randomize(ConvBertForPreTraining(small_config()))
    before = values(model)
    optimizer = optim.adamw(model, 0.1, weight_decay=0.5)
    for parameter in model.parameters():
        parameter.grad = paddle.zeros_like(parameter)
    optimizer.step()
    still = {name for name, value in values(model).items() if (value == before[name]).all()}
    assert still == {
        name
        for name in before
        if name.endswith(("bias", "norm.weight", "norm1.weight", "norm2.weight"))
    }
    assert "generator.generator_lm_head_bias" in still
    for name in before.keys() - still:
        assert np.allclose(values(model)[name], before[name] * (1 - 0.1 * 0.5), atol=1e-7), name


def test_shared_embeddings_step_once():
    model = randomize(ConvBertForPreTraining(small_config()))
    before = values(model)
    assert len(before) == len({id(parameter) for parameter in model.parameters()})
    reference = NumpyAdamW(before)
    optimizer = optim.adamw(model, 0.01, weight_decay=0.0, adam_epsilon=1e-3)
    gradients = draw_gradients(model, 0)
    optimizer.step()
    reference.step(gradients, dict.fromkeys(before, 0.01), dict.fromkeys(before, 0.0), epsilon=1e-3)
    assert_close("one step", moves(values(model), before, reference), 2e-4)


def test_factors_of_an_earlier_optimizer_do_not_stay():
    """A notebook that trains the same model again without layer-wise rates means it."""
    model = randomize(ConvBertModel(small_config()))
    optim.adamw(model, 0.01, layer_lr_decay=0.5)
    before = values(model)
    optimizer = optim.adamw(model, 0.01, weight_decay=0.0)
    for parameter in model.parameters():
        parameter.grad = paddle.ones_like(parameter)
    optimizer.step()
    for name, value in values(model).items():
        assert np.allclose(before[name] - value, 0.01, rtol=1e-3), name


def test_unknown_encoder_parameter_stops_the_optimizer():
    model = ConvBertForSequenceClassification(small_config())
    model.convbert.pooler = paddle.nn.Linear(2, 2)
    with pytest.raises(ValueError, match=r"convbert\.pooler\.weight"):
        optim.adamw(model, 0.01, layer_lr_decay=0.8)


@pytest.mark.parametrize("name", ["convbert-small", "convbert-base"])
def test_factors_of_the_parts_are_those_of_their_parameters(name: str):
    config = ConvBertConfig.named(name)
    factors = optim.layer_factors(config, 0.8)
    assert list(factors) == ["embeddings", *(f"layer {j}" for j in range(1, 13)), "head"]
    assert list(factors.values()) == pytest.approx([0.8**14, *0.8 ** np.arange(13, 1, -1), 1])
    tiny = ConvBertForSequenceClassification(small_config())
    own = optim.layer_factors(tiny.config, 0.8)
    for parameter, _ in tiny.named_parameters():
        factor = optim.layer_decay(parameter, tiny.config, 0.8)
        assert own[optim.part_of(parameter)] == factor, parameter
