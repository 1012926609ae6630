"""From a model and texts to records of what every head mixed; ablations and gradients.

Symbols in `locality`: n tokens of a sentence, L layers, k taps, r = (k-1)/2. (Elsewhere L is the
length.) Heads of a layer are counted as the output projection has them: attention heads first.
"""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from convbert.results import write_atomically

if TYPE_CHECKING:
    from paddle import Tensor

    from convbert.config import ConvBertConfig
    from convbert.model import ConvBertModel, PretrainedLayer
    from convbert.tokenizer import ConvBertTokenizer

_ARRAYS = ("ids", "valid", "special", "segments", "attention", "kernels", "norms")
_BUCKETS = 16  # batches read ahead, from which sentences of one length are put together


@dataclass(frozen=True)
class MixingRecord:
    """What each head of each layer mixed in one sentence."""

    tokens: list[str]  # n entries
    ids: np.ndarray  # token ids [n]
    valid: np.ndarray  # False at padding [n]
    special: np.ndarray  # True at [CLS] and [SEP] [n]
    segments: np.ndarray  # 0, or 1 for the second text of a pair [n]
    attention: np.ndarray  # probabilities before dropout [L, h, n, n]; rows sum to 1
    kernels: np.ndarray  # softmaxed taps [L, h, n, k]; [L, 0, n, 1] without convolution heads
    norms: np.ndarray | None = None  # of each value as out_proj writes it [L, heads, n]
    metadata: dict[str, Any] = field(default_factory=dict)  # config, checkpoint, and the caller's

    @property
    def content(self) -> np.ndarray:
        """True where a token is neither padding nor [CLS] nor [SEP] [n]."""
        return self.valid & ~self.special

    def save(self, path: str | Path) -> None:
        """Write one `.npz`, complete or not at all; strings as JSON, nothing is pickled."""
        text = json.dumps({"tokens": self.tokens, "metadata": self.metadata})
        arrays = {name: getattr(self, name) for name in _ARRAYS if getattr(self, name) is not None}
        file = io.BytesIO()
        np.savez_compressed(file, text=np.frombuffer(text.encode("utf-8"), np.uint8), **arrays)
        write_atomically(Path(path), file.getvalue())

    @classmethod
    def load(cls, path: str | Path) -> MixingRecord:
        """Read what `save` wrote.

        Raises:
            ValueError: the file is not such a record.
        """
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in _ARRAYS if name in file.files}
            missing = {"text", *_ARRAYS} - {"norms", *file.files}
            if missing:
                raise ValueError(f"{path} is no record of mixing: no {', '.join(sorted(missing))}")
            text = json.loads(file["text"].tobytes().decode("utf-8"))
        n = len(text["tokens"])
        if arrays["attention"].shape[-2:] != (n, n) or arrays["kernels"].shape[-2] != n:
            raise ValueError(f"{path}: {n} tokens, but matrices of another size")
        return cls(tokens=text["tokens"], metadata=text["metadata"], **arrays)


def record(
    model: PretrainedLayer,
    tokenizer: ConvBertTokenizer,
    texts: Iterable[str | tuple[str, str]],
    **options: Any,
) -> list[MixingRecord]:
    """Return one record per text; see `stream`, which does not keep them all in memory."""
    return list(stream(model, tokenizer, texts, **options))


def stream(
    model: PretrainedLayer,
    tokenizer: ConvBertTokenizer,
    texts: Iterable[str | tuple[str, str]],
    max_length: int | None = None,
    batch_size: int = 1,
    pad_to: int | None = None,
    value_norms: bool = False,
    **metadata: Any,
) -> Iterator[MixingRecord]:
    """Run an encoder on texts and yield what was mixed, in the order of the texts.

    Sentences share a batch only if they have the same length, so none of them is padded, and
    numbers are those of one sentence at a time, up to rounding. Memory holds one batch of matrices
    for each length among `_BUCKETS` batches of texts.

    Args:
        model: an encoder, or a model with one; evaluation mode while it runs.
        tokenizer: its tokenizer.
        texts: one sentence each, or a pair.
        max_length: cut longer texts to so many tokens; None: the model's limit.
        batch_size: sentences in a batch, at most.
        pad_to: pad every text to so many tokens, to see what padding does; None: no padding.
        value_norms: also record the norms of the values.
        **metadata: kept with every record, e.g. the step.

    Raises:
        ValueError: an empty text, or convolutions without a kernel per head.
    """
    encoder = encoder_of(model)
    if encoder.config.conv_type == "depthwise":
        raise ValueError(
            "conv_type='depthwise': its kernels belong to channels, so its heads have no mixing "
            "matrix to record; take sdconv, dynamic, static or noconv"
        )
    limit = max_length or encoder.config.max_position_embeddings
    about = {"config": encoder.config.to_dict(), "checkpoint": fingerprint(encoder), **metadata}
    waiting = enumerate(texts)
    while chunk := list(islice(waiting, batch_size * (_BUCKETS if batch_size > 1 else 1))):
        encoded = [_encode(tokenizer, text, number, limit, pad_to) for number, text in chunk]
        done: dict[int, MixingRecord] = {}
        lengths = [len(ids) for ids, _ in encoded]
        for length in sorted(set(lengths)):
            rows = [row for row, n in enumerate(lengths) if n == length]
            for start in range(0, len(rows), batch_size):
                part = rows[start : start + batch_size]
                inputs = [encoded[row] for row in part]
                made = _run(model, encoder, tokenizer, inputs, value_norms, about)
                done.update(zip(part, made, strict=True))
        yield from (done.pop(row) for row in range(len(chunk)))


def encoder_of(model: PretrainedLayer) -> ConvBertModel:
    """Return the encoder in a model; of a pretraining model the discriminator's."""
    network: Any = getattr(model, "discriminator", model)
    return getattr(network, "convbert", network)


def head_counts(config: ConvBertConfig) -> tuple[int, int]:
    """Return how many attention heads and how many convolution heads a layer has."""
    return config.heads, 0 if config.conv_type == "noconv" else config.heads


def fingerprint(model: PretrainedLayer) -> str:
    """Return 12 hexadecimal digits of the SHA-256 of all parameters."""
    digest = hashlib.sha256()
    for name, parameter in sorted(model.named_parameters()):
        digest.update(name.encode())
        digest.update(parameter.astype("float32").numpy().tobytes())
    return digest.hexdigest()[:12]


@contextmanager
def evaluating(model: PretrainedLayer) -> Iterator[None]:
    """Switch dropout off for a block, and give every layer its own mode back, come what may."""
    modes = [(layer, layer.training) for layer in model.sublayers(include_self=True)]
    model.eval()
    try:
        yield
    finally:
        for layer, training in modes:
            layer.training = training


def _encode(
    tokenizer: ConvBertTokenizer,
    text: str | tuple[str, str],
    number: int,
    limit: int,
    pad_to: int | None,
) -> tuple[np.ndarray, np.ndarray]:
    """Return ids and segments of one text."""
    first, second = (text, None) if isinstance(text, str) else text
    if not first.strip() or (second is not None and not second.strip()):
        raise ValueError(f"text {number} is empty: leave it out")
    encoded = tokenizer(first, second, max_length=limit)
    ids, segments = np.array(encoded["input_ids"]), np.array(encoded["token_type_ids"])
    if pad_to is None:
        return ids, segments
    if len(ids) > pad_to:
        raise ValueError(f"text {number} has {len(ids)} tokens, more than pad_to={pad_to}")
    padding = (0, pad_to - len(ids))
    return np.pad(ids, padding, constant_values=tokenizer.pad_token_id), np.pad(segments, padding)


def _run(
    model: PretrainedLayer,
    encoder: ConvBertModel,
    tokenizer: ConvBertTokenizer,
    inputs: list[tuple[np.ndarray, np.ndarray]],
    value_norms: bool,
    about: dict[str, Any],
) -> list[MixingRecord]:
    """Run one batch of texts of one length."""
    import paddle

    ids, segments = (np.stack(arrays) for arrays in zip(*inputs, strict=True))  # [B, n] each
    valid = ids != tokenizer.pad_token_id
    special = np.isin(ids, [tokenizer.cls_token_id, tokenizer.sep_token_id])
    with paddle.no_grad(), evaluating(model):
        output = encoder(
            paddle.to_tensor(ids),
            paddle.to_tensor(segments),
            paddle.to_tensor(valid),
            output_mixing=True,
            output_hidden_states=value_norms,
        )
        attention = np.stack([mixed.attention.numpy() for mixed in output.mixing], 1)
        kernels = np.zeros((*attention.shape[:2], 0, ids.shape[1], 1), attention.dtype)
        if output.mixing[0].kernels is not None:
            kernels = np.stack([mixed.kernels.numpy() for mixed in output.mixing], 1)
        norms = _value_norms(encoder, output.hidden_states, valid) if value_norms else None
    return [
        MixingRecord(
            tokenizer.convert_ids_to_tokens(ids[b].tolist()),
            ids[b],
            valid[b],
            special[b],
            segments[b],
            attention[b],
            kernels[b],
            None if norms is None else norms[b],
            dict(about),
        )
        for b in range(len(ids))
    ]


def _value_norms(encoder: ConvBertModel, states: Any, valid: np.ndarray) -> np.ndarray:
    """Norm of V_j times the head's rows of the output projection [B, L, heads, n]."""
    import paddle

    keep = None
    if not encoder.config.conv_sees_padding:
        keep = paddle.to_tensor(valid[..., None].astype("float32"))
    layers = []
    for layer, x in zip(encoder.encoder.layers, states, strict=False):
        mixed = layer.self_attn
        values = [mixed.split_heads(mixed.v_proj(x))]
        if mixed.conv_type != "noconv":
            values.append(mixed.split_heads(mixed.conv_values(x, keep)))
        value = paddle.concat(values, 1)  # [B, heads, n, D]
        _, heads, _, size = value.shape
        rows = mixed.out_proj.weight.reshape([heads, size, -1])  # [heads, D, d]
        layers.append(paddle.linalg.norm(paddle.matmul(value, rows), axis=-1).numpy())
    return np.stack(layers, 1)


@contextmanager
def masked_heads(model: PretrainedLayer, keep: np.ndarray) -> Iterator[None]:
    """Silence heads for a block, by zeroing what they hand to the output projection.

    Args:
        model: an encoder, or a model with one.
        keep: 1 for a head that speaks, 0 for one that does not [L, heads]; or one such choice for
            each example of the batch [B, L, heads].

    Raises:
        ValueError: `keep` does not fit the model's layers and heads.
    """
    import paddle

    encoder = encoder_of(model)
    shape = (encoder.config.num_hidden_layers, sum(head_counts(encoder.config)))
    if keep.shape[-2:] != shape or keep.ndim not in (2, 3):
        raise ValueError(f"keep has shape {list(keep.shape)}: expected [(B,) L, heads], {shape}")
    hooks = []
    for number, layer in enumerate(encoder.encoder.layers):
        project = layer.self_attn.out_proj
        columns = np.repeat(keep[..., number, :], project.weight.shape[0] // shape[1], axis=-1)
        factor = paddle.to_tensor(columns.astype("float32")).unsqueeze(-2)  # [(B,) 1, columns]
        factor = factor.astype(project.weight.dtype)
        hooks.append(project.register_forward_pre_hook(lambda _, x, f=factor: (x[0] * f,)))
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def swap_variation(
    model: PretrainedLayer,
    ids: np.ndarray,
    content: np.ndarray,
    pool: np.ndarray,
    samples: int = 16,
    seed: int = 0,
) -> np.ndarray:
    """C_swap: how much kernels change with the words around, token and position held fixed.

    Args:
        model: an encoder, or a model with one; has convolution heads.
        ids: token ids of a sentence [n].
        content: True at its content tokens [n].
        pool: ids to draw neighbors from.
        samples: variants of the sentence per token.
        seed: of the draws.

    Returns:
        Variance of the kernel (summed over taps), mean over content tokens [L, h]. It is 0 in the
        first layer if the kernel is made from the token alone (`conv_type="dynamic"`).
    """
    import paddle

    encoder, rng = encoder_of(model), np.random.default_rng(seed)
    reach, places = encoder.config.conv_kernel_size // 2, np.flatnonzero(content)
    found = []
    with paddle.no_grad(), evaluating(model):
        for place in places:
            near = places[(np.abs(places - place) <= reach) & (places != place)]
            variants = np.tile(ids, (samples, 1))
            variants[:, near] = rng.choice(pool, (samples, len(near)))
            mask = paddle.ones(variants.shape)
            mixing = encoder(
                paddle.to_tensor(variants), attention_mask=mask, output_mixing=True
            ).mixing
            taps = np.stack([mixed.kernels[:, :, int(place)].numpy() for mixed in mixing])
            found.append(taps.astype(float).var(1).sum(-1))  # [L, B, h, k] -> [L, h]
    return np.mean(found, axis=0)


def receptive_field(
    model: PretrainedLayer, ids: np.ndarray, probes: int | None = None, seed: int = 0
) -> np.ndarray:
    """E: how much each token's state depends on each token of the input.

    E_ij is the Frobenius norm of the Jacobian of token i's state by token j's embedding.

    Args:
        model: an encoder, or a model with one.
        ids: token ids of a sentence [n].
        probes: estimate the norm from so many random vectors; None: exact, d backward passes for
            each layer.
        seed: of the random vectors.

    Returns:
        E [L, n, n], rows sum to 1.
    """
    import paddle

    encoder, n = encoder_of(model), len(ids)
    shape = (n, encoder.config.hidden_size)
    if probes is None:
        vectors: Iterable[np.ndarray] = np.eye(shape[1])[:, None].repeat(n, 1)
    else:
        rng = np.random.default_rng(seed)
        vectors = [rng.normal(size=shape) for _ in range(probes)]
    # Paddle 3.3's LayerNorm has a wrong gradient by its input on a CPU unless its gain's gradient
    # is computed, too; so those are asked for.
    layers = encoder.encoder.layers
    gains = [norm.weight for layer in layers for norm in (layer.norm1, layer.norm2)]
    # One copy of the sentence per token: a single backward pass serves all rows.
    copies, own = paddle.to_tensor(np.tile(ids, (n, 1))), paddle.arange(n)
    with evaluating(model):
        x, *states = encoder(
            copies, attention_mask=paddle.ones(copies.shape), output_hidden_states=True
        ).hidden_states
        squares = np.zeros((len(states), n, n))
        targets: list[Tensor] = [state[own, own] for state in states]  # [n, d] each
        for vector in vectors:
            z = paddle.to_tensor(vector.astype("float32")).astype(x.dtype)
            for layer, target in enumerate(targets):
                loss = (target * z).sum()
                by_x = paddle.grad([loss], [x, *gains], retain_graph=True, allow_unused=True)[0]
                squares[layer] += (by_x.numpy().astype(float) ** 2).sum(-1)  # of [n, n, d]
    norms = np.sqrt(squares)
    return norms / norms.sum(-1, keepdims=True)
