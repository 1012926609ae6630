"""Write data/golden/*.npz: what transformers computes for small ConvBERTs with random weights.

Needs the extra `parity` (torch, transformers); `tests/test_golden.py` compares without them.

    python tests/make_golden.py [FOLDER]

A file holds no pickles, only arrays:

    config, model      the configuration as JSON, and the name of the class
    input.*            arguments of the forward pass; label.* are those of the loss
    weight.*           every parameter under transformers' name, exact in float16
    hidden.0 …         projected embeddings, then the output of each layer
    output.*           what the model returns
    loss, grad.*       a scalar loss and its gradient for every parameter

The reference runs in float64, so what is stored is right to the last bit of float32.
"""

from __future__ import annotations

import json
import sys
import zlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from support import large_value

GOLDEN = Path(__file__).parents[1] / "data" / "golden"

_SHAPE: dict[str, Any] = dict(
    vocab_size=53,
    embedding_size=16,
    hidden_size=16,
    num_hidden_layers=2,
    num_attention_heads=4,
    intermediate_size=32,
    max_position_embeddings=12,
    type_vocab_size=2,
    pad_token_id=0,
)


@dataclass(frozen=True)
class Case:
    """One golden file: changes to the common shape, and the batch."""

    changes: dict[str, Any] = field(default_factory=dict)
    lengths: tuple[int, ...] = (7, 7)  # tokens of each row; shorter rows are padded and masked
    inputs: tuple[str, ...] = ()  # of: types, positions, embeds
    model: str = "ConvBertModel"


# Transformers differs from us for a single nominal head, and lets the convolution see padding;
# the files of padded batches therefore are compared with conv_sees_padding=True.
CASES: dict[str, Case] = {
    "plain": Case(),
    "kernel_3": Case(dict(conv_kernel_size=3, num_hidden_layers=1), inputs=("types",)),
    "kernel_5": Case(dict(conv_kernel_size=5, num_groups=2, embedding_size=12), inputs=("types",)),
    "kernel_7": Case(dict(conv_kernel_size=7, hidden_size=24, intermediate_size=48, num_groups=4)),
    "kernel_11_on_two_tokens": Case(dict(conv_kernel_size=11, embedding_size=8), lengths=(2, 2)),
    "one_token": Case(dict(num_hidden_layers=3), lengths=(1, 1)),
    "length_128": Case(
        dict(max_position_embeddings=128, num_hidden_layers=1, embedding_size=8), lengths=(128,)
    ),
    "ratio_1": Case(dict(num_attention_heads=2, head_ratio=1)),
    "ratio_3": Case(dict(num_attention_heads=6, head_ratio=3, hidden_size=24, num_groups=2)),
    "ratio_4": Case(dict(num_attention_heads=8, head_ratio=4, hidden_size=32, embedding_size=8)),
    "one_real_head": Case(dict(num_attention_heads=4, head_ratio=4)),
    "six_heads": Case(dict(num_attention_heads=12, hidden_size=48, num_hidden_layers=1)),
    "six_layers": Case(dict(num_hidden_layers=6, hidden_size=16, intermediate_size=16)),
    "types_and_positions": Case(dict(type_vocab_size=3), inputs=("types", "positions")),
    "padded": Case(dict(embedding_size=8), lengths=(9, 5, 1), inputs=("types",)),
    "padded_batch_as_long_as_wide": Case(dict(num_groups=2), lengths=(4, 2, 1, 3)),
    "embeds_padded": Case(dict(embedding_size=8), lengths=(6, 3), inputs=("embeds",)),
    "gelu_new": Case(dict(hidden_act="gelu_new", num_hidden_layers=1)),
    "relu": Case(dict(hidden_act="relu", num_hidden_layers=1)),
    "silu": Case(dict(hidden_act="silu", num_hidden_layers=1)),
    "tanh": Case(dict(hidden_act="tanh", num_hidden_layers=1)),
    "epsilon": Case(dict(layer_norm_eps=1e-3, num_hidden_layers=1, embedding_size=8)),
    "sequence_classification": Case(
        dict(num_labels=3), lengths=(7, 4), model="ConvBertForSequenceClassification"
    ),
    "sequence_regression": Case(
        dict(num_labels=1, hidden_act="relu"), model="ConvBertForSequenceClassification"
    ),
    "sequence_many_labels": Case(
        dict(num_labels=4, problem_type="multi_label_classification", num_hidden_layers=1),
        model="ConvBertForSequenceClassification",
    ),
    "token_classification": Case(
        dict(num_labels=5), lengths=(7, 4), model="ConvBertForTokenClassification"
    ),
    "question_answering": Case(
        lengths=(7, 4), inputs=("types",), model="ConvBertForQuestionAnswering"
    ),
    "masked_lm": Case(dict(embedding_size=8), lengths=(7, 4), model="ConvBertForMaskedLM"),
    # Only this summary reads [CLS]; the default reads the last position, padding or not.
    "multiple_choice": Case(
        dict(summary_type="first"),
        lengths=(5, 5, 5),
        inputs=("types", "positions"),
        model="ConvBertForMultipleChoice",
    ),
}


def fill(model: Any, rng: np.random.Generator, std: float = 0.2) -> None:
    """Give every parameter of a torch model large random values."""
    import torch

    with torch.no_grad():
        for name, parameter in sorted(model.named_parameters()):
            parameter.copy_(torch.from_numpy(large_value(name, tuple(parameter.shape), rng, std)))


def draw_inputs(
    config: Any, lengths: tuple[int, ...], kinds: tuple[str, ...], rng: np.random.Generator
) -> dict[str, np.ndarray]:
    """Draw the arguments of a forward pass; the mask is given only if there is padding."""
    batch, longest = len(lengths), max(lengths)
    mask = (np.arange(longest) < np.array(lengths)[:, None]).astype("int64")
    inputs = {}
    if "embeds" in kinds:
        inputs["inputs_embeds"] = rng.normal(size=(batch, longest, config.embedding_size))
        inputs["inputs_embeds"] = inputs["inputs_embeds"].astype("float32")
    else:
        ids = rng.integers(0, config.vocab_size, (batch, longest))
        ids[:, 0] = 0  # the padding id may occur in the text: only the mask tells
        inputs["input_ids"] = np.where(mask == 1, ids, config.pad_token_id)
        inputs["attention_mask"] = mask
    if min(lengths) < longest:
        inputs["attention_mask"] = mask
    if "types" in kinds:
        inputs["token_type_ids"] = rng.integers(0, config.type_vocab_size, (batch, longest))
    if "positions" in kinds:
        positions = [rng.permutation(config.max_position_embeddings)[:longest] for _ in lengths]
        inputs["position_ids"] = np.stack(positions)
    return inputs


def draw_labels(kind: str, config: Any, batch: int, length: int, rng: Any) -> dict[str, np.ndarray]:
    """Draw what the loss of a head needs; for the bare encoder, the weights of a sum."""
    if kind == "ConvBertModel":
        return {"coefficients": rng.normal(size=(batch, length, config.hidden_size))}
    if kind == "ConvBertForQuestionAnswering":
        return {key: rng.integers(0, length, batch) for key in ("start_positions", "end_positions")}
    if kind == "ConvBertForMultipleChoice":
        return {"labels": np.array([0])}
    if kind == "ConvBertForSequenceClassification":
        if config.num_labels == 1:
            return {"labels": rng.normal(size=batch)}
        if config.problem_type == "multi_label_classification":
            return {"labels": rng.integers(0, 2, (batch, config.num_labels)).astype("float64")}
        return {"labels": rng.integers(0, config.num_labels, batch)}
    classes = config.vocab_size if kind == "ConvBertForMaskedLM" else config.num_labels
    labels = rng.integers(0, classes, (batch, length))
    labels[:, ::3] = -100  # torch's mark for "does not count"
    return {"labels": labels}


def run_reference(
    model: Any, inputs: dict[str, np.ndarray], labels: dict[str, np.ndarray]
) -> dict[str, np.ndarray]:
    """Run a transformers model; return layers, outputs, loss and gradients under our file names."""
    import torch

    dtype = next(model.parameters()).dtype
    encoder = model.base_model
    # With padding_idx torch withholds the gradient of that word; the forward pass is the same.
    encoder.embeddings.word_embeddings.padding_idx = None
    seen: list[Any] = []
    layers = encoder.encoder.layer
    hooks = [layers[0].register_forward_pre_hook(lambda _, args: seen.append(args[0]))]
    hooks += [
        layer.register_forward_hook(lambda _, args, out: seen.append(out)) for layer in layers
    ]

    def tensor(value: np.ndarray) -> Any:
        value = torch.from_numpy(np.ascontiguousarray(value))
        return value.to(dtype) if value.is_floating_point() else value

    given = {name: tensor(value) for name, value in inputs.items()}
    wanted = {name: tensor(value) for name, value in labels.items()}
    if "coefficients" in wanted:
        output = model(**given)
        results = {"last_hidden_state": output.last_hidden_state}
        loss = (output.last_hidden_state * wanted["coefficients"]).sum()
    else:
        output = model(**given, **wanted)
        names = ("logits", "start_logits", "end_logits")
        results = {name: output[name] for name in names if name in output}
        loss = output.loss
    model.zero_grad()
    loss.backward()
    for hook in hooks:
        hook.remove()
    arrays = {f"hidden.{i}": state for i, state in enumerate(seen)}
    arrays |= {f"output.{name}": value for name, value in results.items()} | {"loss": loss}
    arrays = {name: value.detach().numpy() for name, value in arrays.items()}
    for name, parameter in model.named_parameters():
        gradient = parameter.grad
        # What the loss does not reach, such as the word table when embeddings are given.
        arrays[f"grad.{name}"] = (
            np.zeros(parameter.shape) if gradient is None else gradient.numpy().copy()
        )
    return arrays


def make(name: str) -> dict[str, np.ndarray]:
    """Compute one case; the same arrays every time."""
    import transformers

    case, rng = CASES[name], np.random.default_rng(zlib.crc32(name.encode()))
    config = transformers.ConvBertConfig(**{**_SHAPE, **case.changes})
    model = getattr(transformers, case.model)(config).double().eval()
    fill(model, rng)
    inputs = draw_inputs(config, case.lengths, case.inputs, rng)
    batch, length = len(case.lengths), max(case.lengths)
    labels = draw_labels(case.model, config, batch, length, rng)
    if case.model == "ConvBertForMultipleChoice":  # one example of several choices
        inputs = {key: value[None] for key, value in inputs.items()}
    results = run_reference(model, inputs, labels)
    stored = {key: value.astype("float32") for key, value in results.items()}
    weights = {key: value.detach().numpy() for key, value in model.named_parameters()}
    fields = {**_SHAPE, **case.changes, "num_labels": config.num_labels}
    fields.pop("problem_type", None)
    return {
        "config": np.array(json.dumps(fields)),
        "model": np.array(case.model),
        **{f"input.{key}": value for key, value in inputs.items()},
        **{f"label.{key}": value for key, value in labels.items()},
        **{f"weight.{key}": value.astype("float16") for key, value in weights.items()},
        **stored,
    }


def main(folder: Path = GOLDEN) -> None:
    """Write all cases and say how large they are."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in CASES:
        path = folder / f"{name}.npz"
        np.savez_compressed(path, allow_pickle=False, **make(name))
        print(f"{path.stat().st_size / 1024:8.1f} kB  {path}")


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:2]))
