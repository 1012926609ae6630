"""Round trips through files: transformers -> here -> transformers, and the same with PaddleNLP.

Weights must come back exactly. Outputs are computed in float32, in another order of additions.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import paddle
import pytest
from support import randomize, small_config, token_ids

from convbert import heads
from convbert.config import ConvBertConfig
from convbert.model import ConvBertModel
from convbert.weights import huggingface

SIZES = ("convbert-small", "convbert-medium-small", "convbert-base")
HEADS = {  # inputs of multiple choice have one more axis
    "ConvBertForMaskedLM": (2, 9),
    "ConvBertForSequenceClassification": (2, 9),
    "ConvBertForTokenClassification": (2, 9),
    "ConvBertForQuestionAnswering": (2, 9),
    "ConvBertForMultipleChoice": (2, 2, 9),
}
TOLERANCE = 1e-5
# PaddleNLP writes config.json with names of its own for these.
NAMES = {"ConvBertForMaskedLM": "ConvBertGenerator"}


@pytest.fixture
def folders(tmp_path: Path) -> Iterator[Path]:
    """A folder that goes when the test has ended: base takes 0.4 GB each time it is written."""
    yield tmp_path
    shutil.rmtree(tmp_path)


def arrays_of(model: Any) -> dict[str, np.ndarray]:
    """Return copies of a model's parameters by its own names."""
    return {name: np.array(value.detach()) for name, value in model.state_dict().items()}


def differing(found: dict[str, np.ndarray], wanted: dict[str, np.ndarray]) -> list[str]:
    """Return the names of arrays that are not equal, bit by bit, or are on one side only."""
    names = found.keys() | wanted.keys()
    empty = np.empty(0)
    return [n for n in names if not np.array_equal(found.get(n, empty), wanted.get(n, empty))]


def assert_near(case: str, ours: Any, theirs: Any) -> None:
    """Compare outputs, which have magnitudes around 1."""
    ours, theirs = (x if isinstance(x, tuple) else (x,) for x in (ours, theirs))
    for mine, other in zip(ours, theirs, strict=True):
        mine, other = mine.numpy(), np.asarray(other.detach())
        assert np.abs(other).max() > 0.05, f"{case}: the outputs are empty"
        assert mine.shape == other.shape and np.abs(mine - other).max() <= TOLERANCE, case


def noise(config: ConvBertConfig) -> float:
    """Return the scale of what is added to initial weights, so that nothing is 0 or 1 by rule."""
    return 0.02 if config.hidden_size > 100 else 0.2


# --- transformers ---------------------------------------------------------------------------


def torch_model(name: str, config: ConvBertConfig) -> Any:
    """Return transformers' model of a configuration, no parameter at 0 or 1."""
    import torch
    import transformers

    # Its defaults are fields of ours, but not the reverse.
    known = transformers.ConvBertConfig().to_dict()
    fields = {key: value for key, value in config.to_dict().items() if key in known}
    if name == "ConvBertForMultipleChoice":
        fields["summary_type"] = "first"
    torch.manual_seed(0)
    model = getattr(transformers, name)(transformers.ConvBertConfig(**fields)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=noise(config))
    return model


def torch_outputs(model: Any, ids: np.ndarray, mask: np.ndarray, types: np.ndarray) -> Any:
    import torch

    inputs = (torch.from_numpy(x) for x in (ids, mask, types))
    with torch.no_grad():
        output = model(*inputs)
    values = (output[0], output[1]) if "start_logits" in output else output[0]
    return values


def inputs_of(shape: tuple[int, ...], vocab_size: int) -> tuple[np.ndarray, ...]:
    """Return ids, mask and types; the last two tokens of the first rows are padding."""
    ids, mask = token_ids(*shape, vocab_size=vocab_size), np.ones(shape, "int64")
    ids[0, ..., -2:] = mask[0, ..., -2:] = 0
    types = np.zeros(shape, "int64")
    types[..., shape[-1] // 2 :] = 1
    return ids, mask, types


def there_and_back(name: str, config: ConvBertConfig, shape: tuple, folder: Path) -> None:
    """transformers -> here -> transformers, by safetensors and by PyTorch's own file."""
    import torch
    import transformers

    theirs = torch_model(name, config)
    theirs.save_pretrained(folder / "theirs")
    cls = getattr(heads, name)
    ours = cls.from_pretrained(folder / "theirs", conv_sees_padding=True)
    ours.eval()
    inputs = inputs_of(shape, config.vocab_size)
    expected = torch_outputs(theirs, *inputs)
    ids, mask, types = map(paddle.to_tensor, inputs)
    with paddle.no_grad():
        found = ours(ids, types, mask)
    assert_near(name, found, expected)

    ours.save_pretrained(folder / "ours")
    back, report = getattr(transformers, name).from_pretrained(
        folder / "ours", output_loading_info=True
    )
    assert not any(report.values()), report
    assert differing(arrays_of(back), arrays_of(theirs)) == []
    assert_near(f"{name}, back", found, torch_outputs(back.eval(), *inputs))

    (folder / "theirs" / huggingface.WEIGHTS).unlink()
    torch.save(theirs.state_dict(), folder / "theirs" / huggingface.TORCH_WEIGHTS)
    again = cls.from_pretrained(folder / "theirs")
    assert differing(arrays_of(again), arrays_of(ours)) == []


@pytest.mark.parametrize("name", SIZES)
def test_published_sizes_and_transformers(name: str, folders: Path):
    there_and_back("ConvBertModel", ConvBertConfig.named(name), (2, 9), folders)


@pytest.mark.parametrize("name", HEADS)
def test_heads_and_transformers(name: str, folders: Path):
    there_and_back(name, small_config(num_labels=2, num_groups=2), HEADS[name], folders)


def test_both_networks_of_a_pretraining_model_and_transformers(folders: Path):
    import transformers

    model = randomize(
        heads.ConvBertForPreTraining(small_config(num_attention_heads=8, conv_sees_padding=True))
    )
    inputs = inputs_of((2, 9), 61)
    ids, mask, types = map(paddle.to_tensor, inputs)
    model.generator.save_pretrained(folders / "generator")
    theirs = transformers.ConvBertForMaskedLM.from_pretrained(folders / "generator")
    expected = torch_outputs(theirs.eval(), *inputs)
    assert_near("generator", model.generator(ids, types, mask).detach(), expected)
    model.discriminator.save_pretrained(folders / "discriminator")
    theirs = transformers.ConvBertModel.from_pretrained(folders / "discriminator")
    expected = torch_outputs(theirs.eval(), *inputs)
    hidden = model.discriminator.convbert(ids, types, mask).detach()
    assert_near("discriminator's encoder", hidden, expected)


# --- PaddleNLP ------------------------------------------------------------------------------


def paddle_model(library: Any, name: str, config: ConvBertConfig) -> Any:
    """Return PaddleNLP's model of a configuration, no parameter at 0 or 1."""
    fields = config.to_dict()
    for key in ("conv_type", "conv_sees_padding", "generator_fraction", "model_type"):
        del fields[key]
    model = getattr(library, NAMES.get(name, name))(library.ConvBertConfig(**fields))
    model.eval()
    for parameter in model.parameters():
        parameter.set_value(parameter + noise(config) * paddle.randn(parameter.shape))
    return model


def paddle_outputs(model: Any, ids: Any, types: Any, mask: Any) -> Any:
    """Run PaddleNLP's model; its encoder and its generator add the pooler's output."""
    with paddle.no_grad():
        output = model(ids, types, attention_mask=mask)
    has_more = type(model).__name__ in ("ConvBertModel", "ConvBertGenerator")
    return output[0] if has_more else output


def without_pooler(model: Any) -> dict[str, np.ndarray]:
    return {name: v for name, v in arrays_of(model).items() if "pooler.dense." not in name}


def tokens(shape: tuple[int, ...], vocab_size: int) -> tuple[Any, ...]:
    """Return ids, types and mask without padding, whose word PaddleNLP replaces by zeros."""
    ids, _, types = inputs_of(shape, vocab_size)
    ids[ids == 0] = 1
    return tuple(map(paddle.to_tensor, (ids, types, np.ones_like(ids))))


@pytest.mark.parametrize(
    ("name", "config", "is_safe"),
    [
        *(("ConvBertModel", ConvBertConfig.named(size), size != SIZES[2]) for size in SIZES),
        *(("ConvBertModel", ConvBertConfig.named(size), False) for size in SIZES[:2]),
        *(
            (name, small_config(num_labels=2, num_groups=2), is_safe)
            for name in ("ConvBertForMaskedLM", *list(HEADS)[2:4])
            for is_safe in (True, False)
        ),
    ],
)
def test_there_and_back_with_paddlenlp(
    name: str, config: ConvBertConfig, is_safe: bool, folders: Path, paddlenlp: Any
):
    """By safetensors and by `.pdparams`; what uses the pooler is in the next tests."""
    theirs = paddle_model(paddlenlp, name, config)
    theirs.save_pretrained(str(folders / "theirs"), safe_serialization=is_safe)
    ours = getattr(heads, name).from_pretrained(folders / "theirs")
    ours.eval()
    inputs = tokens(HEADS.get(name, (2, 9)), config.vocab_size)
    with paddle.no_grad():
        found = ours(*inputs)
    assert_near(name, found, paddle_outputs(theirs, *inputs))
    ours.save_pretrained(folders / "ours", format="paddlenlp")
    back = type(theirs).from_pretrained(str(folders / "ours"))
    back.eval()
    assert differing(without_pooler(back), without_pooler(theirs)) == []
    assert_near(f"{name}, back", found, paddle_outputs(back, *inputs))


@pytest.mark.parametrize("name", HEADS)
def test_heads_for_paddlenlp(name: str, folders: Path, paddlenlp: Any):
    """Its classifiers read a pooler, which we write as one without effect."""
    ours = randomize(getattr(heads, name)(small_config(num_labels=2)))
    ours.save_pretrained(folders, format="paddlenlp")
    theirs = getattr(paddlenlp, NAMES.get(name, name)).from_pretrained(str(folders))
    theirs.eval()
    theirs.num_choices = 2  # its configuration knows none
    inputs = tokens(HEADS[name], 61)
    with paddle.no_grad():
        found = ours(*inputs)
    assert_near(name, found, paddle_outputs(theirs, *inputs))
    assert differing(without_pooler(theirs), arrays_of(ours)) == []


def test_a_classifier_of_paddlenlp_is_refused(folders: Path, paddlenlp: Any):
    name = "ConvBertForSequenceClassification"
    theirs = paddle_model(paddlenlp, name, small_config(num_labels=2))
    theirs.save_pretrained(str(folders), safe_serialization=False)
    with pytest.raises(ValueError, match="put a pooler between encoder and head"):
        getattr(heads, name).from_pretrained(folders)
    encoder = ConvBertModel.from_pretrained(folders)
    theirs_encoder = without_pooler(theirs.convbert)
    assert differing(arrays_of(encoder), theirs_encoder) == []


def test_a_discriminator_for_paddlenlp(folders: Path, paddlenlp: Any):
    """Its own class cannot run: it hands its head the encoder's pair. So run the two in turn."""
    ours = randomize(heads.ConvBertDiscriminator(small_config()))
    ours.save_pretrained(folders, format="paddlenlp")
    theirs = paddlenlp.ConvBertDiscriminator.from_pretrained(str(folders))
    theirs.eval()
    inputs = tokens((2, 9), 61)
    hidden = paddle_outputs(theirs.convbert, *inputs)
    expected = theirs.discriminator_predictions(hidden).detach()
    assert_near("discriminator", ours(*inputs).detach(), expected)
    assert differing(without_pooler(theirs), arrays_of(ours)) == []
