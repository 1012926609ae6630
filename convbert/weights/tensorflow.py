"""The authors' TensorFlow checkpoints: names, layouts, and the configuration behind the shapes.

A pretraining checkpoint holds the discriminator's encoder under `electra/`, the generator's under
`generator/` (without embeddings, which it shares), both heads, and Adam's two slots of each
variable. Dense kernels are [in, out], as here; only the separable convolution's axes differ. The
names were derived from the authors' code.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from convbert.config import ConvBertConfig
from convbert.weights import bundle

# TensorFlow's name parts and ours; the longer of two that overlap comes first.
_PARTS = {
    "electra/": "discriminator.convbert.",
    "generator/": "generator.convbert.",
    "generator_predictions/output_bias": "generator.generator_lm_head_bias",
    "generator_predictions/LayerNorm/": "generator.generator_predictions.layer_norm.",
    "generator_predictions/": "generator.generator_predictions.",
    "discriminator_predictions/dense_1/": (
        "discriminator.discriminator_predictions.dense_prediction."
    ),
    "discriminator_predictions/": "discriminator.discriminator_predictions.",
    "embeddings/word_embeddings": "embeddings.word_embeddings.weight",
    "embeddings/position_embeddings": "embeddings.position_embeddings.weight",
    "embeddings/token_type_embeddings": "embeddings.token_type_embeddings.weight",
    "embeddings/LayerNorm/": "embeddings.layer_norm.",
    "embeddings_project/": "embeddings_project.",
    "encoder/layer_": "encoder.layers.",
    "/attention/self/query/": ".self_attn.q_proj.",
    "/attention/self/key/": ".self_attn.k_proj.",
    "/attention/self/value/": ".self_attn.v_proj.",
    "/attention/self/conv_attn_key/": ".self_attn.key_conv_attn_layer.",
    "/attention/self/conv_attn_kernel/": ".self_attn.conv_kernel_layer.",
    "/attention/self/conv_attn_point/": ".self_attn.conv_out_layer.",
    "/attention/output/dense/": ".self_attn.out_proj.",
    "/attention/output/LayerNorm/": ".norm1.",
    "/intermediate/dense/": ".linear1.",
    "/intermediate/g_dense/": ".linear1.",
    "/output/dense/": ".linear2.",
    "/output/g_dense/": ".linear2.",
    "/output/LayerNorm/": ".norm2.",
    "dense/": "dense.",
    "depthwise_kernel": "depthwise.weight",
    "pointwise_kernel": "pointwise.weight",
    "kernel": "weight",
    "gamma": "weight",
    "beta": "bias",
}
_PART = re.compile("|".join(map(re.escape, _PARTS)))
_NOT_WEIGHTS = re.compile(r"(global_step|.*/adam_[mv])")
_OTHER_HEADS = "task_specific/"  # of fine-tuning; they have other layers than ours
_OURS = re.compile(r"(generator|discriminator)\.[a-z_0-9.]+")
_LAYER = re.compile(r"encoder\.layers\.(\d+)\.")


def is_checkpoint(path: str | Path) -> bool:
    """Whether `path` is a checkpoint's prefix, its `.index` file, or a folder that holds one."""
    path = Path(path)
    if path.is_dir():
        return any(path.glob(f"*{bundle.INDEX}"))
    return Path(f"{_without_suffix(path)}{bundle.INDEX}").is_file()


def read(path: str | Path) -> dict[str, np.ndarray]:
    """Read a checkpoint into our names and layouts; what is not a weight is counted and left out.

    Args:
        path: prefix, `.index` file, or a folder that holds one checkpoint (or the authors' file
            `checkpoint`, which names the latest).

    Returns:
        Arrays mapped into memory, read-only, by our names. Both networks' under `generator.` and
        `discriminator.`; an encoder alone, without prefix.

    Raises:
        FileNotFoundError: there is no checkpoint.
        ValueError: damaged files, or variables that are not ConvBERT's, listed by name.
    """
    prefix = find(path)
    variables = bundle.read(prefix)
    weights = {name for name in variables if not _NOT_WEIGHTS.fullmatch(name)}
    heads = sorted(name for name in weights if name.startswith(_OTHER_HEADS))
    table = {name: from_tensorflow(name) for name in sorted(weights.difference(heads))}
    unknown = [name for name, ours in table.items() if ours is None]
    if unknown or not table:
        raise ValueError(f"{prefix}: not variables of a ConvBERT: {', '.join(unknown) or 'none'}")
    arrays = {str(ours): swap_layout(str(ours), variables[name]) for name, ours in table.items()}
    if len(arrays) < len(table):
        raise ValueError(f"{prefix}: several variables have the same place in the model")
    skipped = len(variables) - len(weights)
    print(f"{prefix}: {len(arrays)} weights, {skipped} slots of Adam and counters left out")
    if heads:
        print(f"{prefix}: heads of fine-tuning that have no counterpart here: {', '.join(heads)}")
    if all(name.startswith("discriminator.convbert.") for name in arrays):
        return {name.removeprefix("discriminator.convbert."): x for name, x in arrays.items()}
    return arrays


def find(path: str | Path) -> Path:
    """Return a checkpoint's prefix.

    Raises:
        FileNotFoundError: there is none.
        ValueError: a folder holds several, and no file `checkpoint` that names one of them.
    """
    path = Path(path)
    if not is_checkpoint(path):
        raise FileNotFoundError(f"{path}: no TensorFlow checkpoint, which is NAME.index, NAME.data")
    if not path.is_dir():
        return _without_suffix(path)
    found = [_without_suffix(index) for index in sorted(path.glob(f"*{bundle.INDEX}"))]
    latest = path / "checkpoint"
    if len(found) > 1 and latest.is_file():
        named = re.search(r'^model_checkpoint_path: "(.+)"', latest.read_text("utf-8"), re.M)
        # Only its last part: the folder may have been moved since, and is not to be left.
        found = [each for each in found if named and each.name == Path(named[1]).name] or found
    if len(found) > 1:
        raise ValueError(f"{path}: several checkpoints, name one: {', '.join(map(str, found))}")
    return found[0]


def from_tensorflow(name: str) -> str | None:
    """Return our name of a variable, with the network it belongs to; None if it has none."""
    ours = _PART.sub(lambda match: _PARTS[match[0]], name)
    return ours if _OURS.fullmatch(ours) else None


def swap_layout(name: str, array: np.ndarray) -> np.ndarray:
    """Turn a separable convolution's filters from TensorFlow's axes into ours, the rest stays.

    Args:
        name: our name.
        array: depthwise [k, d, 1] becomes [d, 1, k], pointwise [1, d, A] becomes [A, d, 1].

    Raises:
        ValueError: such filters have other than three axes.
    """
    axes = {"depthwise.weight": (1, 2, 0), "pointwise.weight": (2, 1, 0)}
    order = next((order for end, order in axes.items() if name.endswith(end)), None)
    if order is None:
        return array
    if array.ndim != 3:
        raise ValueError(f"{name} has shape {list(array.shape)}, expected three axes")
    return array.transpose(order)


def derive_config(arrays: Mapping[str, np.ndarray]) -> ConvBertConfig:
    """Derive the configuration from the shapes, for a checkpoint without config.json.

    What no shape shows (dropout, activation, epsilon, the id of padding) is as published.

    Args:
        arrays: as `read` returns them.

    Raises:
        ValueError: parts are missing, or the shapes are not those of a ConvBERT with γ = 2.
    """
    networks = {
        prefix: {
            name.removeprefix(prefix): tuple(array.shape)
            for name, array in arrays.items()
            if name.startswith(prefix)
        }
        for prefix in ("discriminator.convbert.", "generator.convbert.")
    }
    shapes, generator = networks.values()
    config = _derive(shapes or {name: tuple(array.shape) for name, array in arrays.items()})
    if generator:
        embeddings = {name: shape for name, shape in shapes.items() if "embeddings." in name}
        small = _derive({**embeddings, **generator})
        fraction = small.hidden_size / config.hidden_size
        config = config.replaced(generator_fraction=fraction)
        if small.replaced(generator_fraction=fraction) != config.generator():
            raise ValueError(f"{small} is not the generator that belongs to {config}")
    return config


def _derive(shapes: Mapping[str, tuple[int, ...]]) -> ConvBertConfig:
    """Derive one network's configuration from its shapes by name."""
    layer = "encoder.layers.0."
    try:
        vocab_size, embedding_size = shapes["embeddings.word_embeddings.weight"]
        hidden_size, branch_size = shapes[f"{layer}self_attn.q_proj.weight"]
        taps = shapes[f"{layer}self_attn.key_conv_attn_layer.depthwise.weight"][-1]
        logits = shapes[f"{layer}self_attn.conv_kernel_layer.weight"][1]  # h·k
        wide = shapes[f"{layer}linear1.weight"]  # [d, I] or [g, d/g, I/g]
        positions = shapes["embeddings.position_embeddings.weight"][0]
        types = shapes["embeddings.token_type_embeddings.weight"][0]
        layers = 1 + max(int(found[1]) for found in map(_LAYER.match, shapes) if found)
    except (KeyError, IndexError, ValueError) as error:
        raise ValueError(f"no configuration follows from these shapes: {error}") from error
    heads, rest = divmod(logits, max(taps, 1))
    if rest or (2 * branch_size != hidden_size and (heads, branch_size) != (1, hidden_size)):
        raise ValueError(
            f"d = {hidden_size}, A = {branch_size}, h·k = {logits} and k = {taps} do not belong "
            "to a ConvBERT whose branches are half as wide as it is: give a config.json"
        )
    groups = wide[0] if len(wide) == 3 else 1
    return ConvBertConfig(
        vocab_size=vocab_size,
        embedding_size=embedding_size,
        hidden_size=hidden_size,
        num_hidden_layers=layers,
        num_attention_heads=2 * heads if 2 * branch_size == hidden_size else 1,
        intermediate_size=groups * wide[-1],
        max_position_embeddings=positions,
        type_vocab_size=types,
        conv_kernel_size=taps,
        num_groups=groups,
    )


def _without_suffix(path: Path) -> Path:
    return path.with_name(path.name.removesuffix(bundle.INDEX))
