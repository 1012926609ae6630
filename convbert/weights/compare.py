"""Compare this package's encoder with transformers' and PaddleNLP's, layer by layer.

`python -m convbert compare`. All compute in float32 on the CPU and see the same weights and
inputs; the convolution sees padding, as in both references (`conv_sees_padding=True`).
"""

from __future__ import annotations

import importlib.util
import logging
import os
import tempfile
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import paddle

from convbert.config import ConvBertConfig
from convbert.model import ConvBertModel
from convbert.weights import names, published, published_values

SIZES = ("small", "medium-small", "base")
_LINE = "{:<22}{:<14}{:<14}{:>9}{:>10}  {}"  # of the table
Inputs = Mapping[str, np.ndarray]  # input_ids, attention_mask, token_type_ids, [B, L] each
Encoder = Callable[[Inputs], list[np.ndarray]]  # to the embeddings' and each layer's output


@dataclass
class CompareConfig:
    """Compare the encoder with transformers' and PaddleNLP's, layer by layer.

    Where released weights cannot be had, random weights of the same shapes take their place.
    """

    model: str = ""  # folder or published name; empty: the three published sizes
    reference: str = ""  # folder or name whose weights the others get; empty: the model's own
    size: str = ""  # without --model: which sizes, as small,base
    tolerance: float = 1e-5  # largest |difference| allowed in any layer
    seed: int = 0  # of inputs and random weights
    published: bool = False  # the folder holds released weights: check published outputs, too

    def __post_init__(self) -> None:
        if unknown := set(_words(self.size)).difference(SIZES):
            raise ValueError(f"size={', '.join(sorted(unknown))}: choose from {', '.join(SIZES)}")
        if self.model and self.size:
            raise ValueError(f"size={self.size}: --model has a size of its own, leave one out")
        if not self.model and (self.reference or self.published):
            raise ValueError("--reference and --published need --model")
        if not 0 < self.tolerance < float("inf"):
            raise ValueError(f"tolerance={self.tolerance}: must be positive")


class Difference(NamedTuple):
    """How far two encoders are apart on one input; layer 0 is the (projected) embeddings."""

    mean: float  # of |difference|, over all layers
    by_layer: list[float]  # largest |difference| in each layer

    @property
    def max(self) -> float:
        """Return the largest |difference| of all layers."""
        return max(self.by_layer)

    @property
    def worst(self) -> int:
        """Return the layer of the largest difference."""
        return self.by_layer.index(self.max)

    def first_above(self, tolerance: float) -> int | None:
        """Return where a mistake enters: the first layer that is off, or None.

        Later layers compute with what this one gave them, so they are off, too.
        """
        return next((n for n, value in enumerate(self.by_layer) if value > tolerance), None)


def compare(config: CompareConfig) -> None:
    """Run the command.

    Raises:
        ValueError: a difference is above the tolerance, or there is nothing to compare with.
    """
    too_far, libraries = [], references()
    sizes = _words(config.size) or SIZES
    for name in [config.model] if config.model else [f"convbert-{size}" for size in sizes]:
        model, is_random = load_or_draw(name, config.seed)
        others = model
        if config.reference:
            others, _ = load_or_draw(config.reference, config.seed)
            libraries["convbert"] = of_convbert
        too_far += _compare(config, Path(name).name, model, others, libraries)
        if not is_random:
            too_far += _compare_published(config, model)
    if too_far:
        raise ValueError(f"above the tolerance: {'; '.join(too_far)}")
    print(f"all below {config.tolerance:g}")


def _compare(
    config: CompareConfig,
    title: str,
    model: ConvBertModel,
    others: ConvBertModel,
    libraries: Mapping[str, Callable[[ConvBertModel], Encoder]],
) -> list[str]:
    """Print a table of one model's differences; return what is too far off."""
    if not libraries:
        raise ValueError("neither transformers nor PaddleNLP is installed: nothing to compare with")
    shapes, theirs = (
        {name: value.shape for name, value in each.state_dict().items()} for each in (model, others)
    )
    wrong = [name for name in {**shapes, **theirs} if shapes.get(name) != theirs.get(name)]
    if wrong:
        raise ValueError(f"reference: parameters of another shape than the model's: {wrong}")
    ours, cases = of_convbert(model), inputs(model.config, config.seed)
    states = {case: ours(given) for case, given in cases.items()}
    too_far = []
    print(_LINE.format("model", "input", "against", "mean", "max", "largest in"))
    for library, build in libraries.items():
        encode = build(others)
        for case, given in cases.items():
            gap = difference(states[case], encode(given))
            numbers = f"{gap.mean:.2e}", f"{gap.max:.2e}", layer_name(gap.worst)
            print(_LINE.format(title, case, library, *numbers))
            first = gap.first_above(config.tolerance)
            if first is not None:
                where = f"{title}, {case}, against {library}"
                too_far.append(f"{where} from {layer_name(first)} on (max {gap.max:.2e})")
    return too_far


def _compare_published(config: CompareConfig, model: ConvBertModel) -> list[str]:
    """Hold published weights against published outputs; return what is too far off."""
    size = published.size_of(config.model)
    if config.published and size is None:
        widths = {name: ConvBertConfig.named(name).hidden_size for name in published.REPOSITORIES}
        size = next((name for name, d in widths.items() if d == model.config.hidden_size), None)
        if size is None:
            raise ValueError(f"published: {config.model} has the shape of no published model")
    if size is None:
        print("not held against published outputs (--published, if these are the released weights)")
        return []
    gaps = published_values.check(size, of_convbert(model))
    for name, gap in gaps.items():
        print(f"{name}: {gap:.2e}")
    most = published_values.TOLERANCE
    return [
        f"{name}: {gap:.2e} (allowed {most:g})" for name, gap in gaps.items() if not gap <= most
    ]


def load_or_draw(name: str, seed: int) -> tuple[ConvBertModel, bool]:
    """Load an encoder that treats padding as the references do.

    Args:
        name: a folder, or a published name; if that cannot be had, random weights are drawn.
        seed: of random weights.

    Returns:
        The model, and whether its weights are random.
    """
    try:
        model = ConvBertModel.from_pretrained(name, conv_sees_padding=True)
    except FileNotFoundError:
        size = published.size_of(name)
        if size is None:
            raise
        print(f"{name}: released weights not found; random ones of the same shapes, seed {seed}")
        return random_model(size, seed), True
    if model.config.conv_type != "sdconv":
        raise ValueError(f"{name}: conv_type={model.config.conv_type!r} exists in no other library")
    return model, False


def references() -> dict[str, Callable[[ConvBertModel], Encoder]]:
    """Return the installed libraries to compare with, and say which are not."""
    needs = {
        "transformers": (of_transformers, ("torch", "transformers")),
        "PaddleNLP": (of_paddlenlp, ("paddlenlp",)),
    }
    found: dict[str, Callable[[ConvBertModel], Encoder]] = {}
    for name, (build, modules) in needs.items():
        missing = [module for module in modules if importlib.util.find_spec(module) is None]
        if missing:
            print(f"not compared with {name}: {' and '.join(missing)} not installed")
        else:
            found[name] = build
    return found


def random_model(name: str, seed: int) -> ConvBertModel:
    """Make a published size with random weights; fresh biases and gains would hide mistakes."""
    paddle.seed(seed)
    model = ConvBertModel(ConvBertConfig.named(name, conv_sees_padding=True))
    for parameter in model.parameters():
        if parameter.ndim == 1:  # biases are 0 and LayerNorm's gains 1 in a fresh model
            parameter.set_value(parameter + 0.1 * paddle.randn(parameter.shape))
    return model


def inputs(config: ConvBertConfig, seed: int) -> Mapping[str, Inputs]:
    """Draw the inputs on which encoders are compared."""
    rng = np.random.default_rng(seed)
    longest = config.max_position_embeddings

    def draw(batch: int, length: int) -> dict[str, np.ndarray]:
        ids = rng.integers(1, config.vocab_size, [batch, length])
        return {
            "input_ids": ids,
            "attention_mask": np.ones_like(ids),
            "token_type_ids": np.zeros_like(ids),
        }

    cases = {"short": draw(1, 9), "padded": draw(3, 24), "two segments": draw(2, 32)}
    for row, length in enumerate((24, 15, 5)):
        cases["padded"]["input_ids"][row, length:] = config.pad_token_id
        cases["padded"]["attention_mask"][row, length:] = 0
    cases["two segments"]["token_type_ids"][:, 20:] = 1
    cases[f"{longest} tokens"] = draw(1, longest)
    return cases


def of_convbert(model: ConvBertModel) -> Encoder:
    """Return this package's encoder as a function."""
    model.eval()

    def run(given: Inputs) -> list[np.ndarray]:
        with paddle.no_grad():
            tensors = {key: paddle.to_tensor(value) for key, value in given.items()}
            return [x.numpy() for x in model(**tensors, output_hidden_states=True).hidden_states]

    return run


def of_transformers(model: ConvBertModel) -> Encoder:
    """Return transformers' encoder with the same weights."""
    import torch
    import transformers

    theirs = transformers.ConvBertModel(transformers.ConvBertConfig(**_fields(model))).eval()
    state = {
        names.to_huggingface(name): torch.from_numpy(names.swap_layout(name, value.numpy()))
        for name, value in model.state_dict().items()
    }
    try:
        theirs.load_state_dict(state)
    except RuntimeError as error:  # keys or shapes that differ
        raise ValueError(f"transformers' encoder has other parameters: {error}") from error

    def run(given: Inputs) -> list[np.ndarray]:
        with torch.no_grad():
            tensors = {key: torch.from_numpy(value) for key, value in given.items()}
            return [x.numpy() for x in theirs(**tensors, output_hidden_states=True).hidden_states]

    return run


def of_paddlenlp(model: ConvBertModel) -> Encoder:
    """Return PaddleNLP's encoder with the same weights; its pooler, which is not used, aside."""
    library = _import_paddlenlp()
    theirs = library.ConvBertModel(library.ConvBertConfig(**_fields(model)))
    # With padding_idx Paddle reads zeros for that word, whatever its row holds.
    theirs.embeddings.word_embeddings._padding_idx = -1
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the missing pooler
        missing, unexpected = theirs.set_state_dict(model.state_dict())
    if unexpected or any(not name.startswith("pooler.") for name in missing):
        raise ValueError(f"PaddleNLP's encoder has other parameters: {missing}, {unexpected}")
    theirs.eval()

    def run(given: Inputs) -> list[np.ndarray]:
        with paddle.no_grad():
            tensors = {key: paddle.to_tensor(value) for key, value in given.items()}
            output = theirs(**tensors, output_hidden_states=True, return_dict=True)
            return [x.numpy() for x in output.hidden_states]

    return run


def difference(ours: list[np.ndarray], theirs: list[np.ndarray]) -> Difference:
    """Measure how far two encoders' outputs [B, L, d] are apart, layer by layer."""
    gaps = [
        np.nan_to_num(np.abs(a.astype("float64") - b), nan=np.inf)
        for a, b in zip(ours, theirs, strict=True)
    ]
    return Difference(
        float(np.mean([gap.mean() for gap in gaps])), [float(gap.max()) for gap in gaps]
    )


def layer_name(layer: int) -> str:
    """Return a hidden state's name: that of the part that computed it."""
    return f"encoder.layers.{layer - 1}" if layer else "embeddings"


def _fields(model: ConvBertModel) -> dict[str, Any]:
    """Return the configuration without the fields that other libraries do not know."""
    own = (
        "conv_type",
        "conv_sees_padding",
        "generator_conv_type",
        "generator_fraction",
        "model_type",
    )
    return {key: value for key, value in model.config.to_dict().items() if key not in own}


def _import_paddlenlp() -> Any:
    """Import PaddleNLP without leaving folders in the home directory or handlers in the log."""
    handlers = list(logging.getLogger().handlers)
    with tempfile.TemporaryDirectory() as home, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        is_set = "PPNLP_HOME" in os.environ
        os.environ.setdefault("PPNLP_HOME", home)
        try:
            import paddlenlp.transformers
        finally:
            if not is_set:
                del os.environ["PPNLP_HOME"]
            logging.getLogger().handlers[:] = handlers
    return paddlenlp.transformers


def _words(text: str) -> list[str]:
    return [word.strip() for word in text.split(",") if word.strip()]
