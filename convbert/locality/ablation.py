"""What a prediction loses without a head: the effect, where mixing shows only the contribution."""

from __future__ import annotations

import numpy as np
import paddle

from convbert.locality.record import encoder_of, evaluating, head_counts, masked_heads
from convbert.model import PretrainedLayer
from convbert.tokenizer import ConvBertTokenizer

_BATCH = 64  # variants of a sentence that run at once


def describe_prediction(model: PretrainedLayer) -> str:
    """Say in words what `predict` gives for a model.

    Raises:
        ValueError: an encoder without a head predicts nothing.
    """
    if hasattr(model, "generator_predictions"):
        return "probability of the word behind [MASK]"
    if hasattr(model, "discriminator") or hasattr(model, "discriminator_predictions"):
        return "probability that the token is original"
    if type(model).__name__ == "ConvBertForSequenceClassification":
        return "probability of the predicted class"
    raise ValueError(
        f"{type(model).__name__} predicts nothing to lose: load ConvBertForMaskedLM, "
        "ConvBertForPreTraining or ConvBertForSequenceClassification"
    )


def predict(
    model: PretrainedLayer,
    tokenizer: ConvBertTokenizer,
    ids: np.ndarray,
    position: int,
    keep: np.ndarray | None = None,
) -> np.ndarray:
    """Return one probability per choice of heads.

    Args:
        model: a masked LM, a discriminator (also within a pretraining model) or a classifier.
        tokenizer: its tokenizer.
        ids: token ids of a sentence [n].
        position: the token that is asked about; a classifier does not need it.
        keep: 1 for heads that speak [B, L, heads]; None: all heads, B = 1.

    Returns:
        What `describe_prediction` says [B], float64.
    """
    describe_prediction(model)
    if not 0 <= position < len(ids):
        raise ValueError(f"position={position}: the sentence has tokens 0 to {len(ids) - 1}")
    if keep is None:
        keep = np.ones((1, *head_shape(model)))
    shown = ids.copy()
    if hasattr(model, "generator_predictions"):
        shown[position] = tokenizer.mask_token_id
    network = getattr(model, "discriminator", model)
    answer = None
    if type(model).__name__ == "ConvBertForSequenceClassification":
        answer = int(_logits(network, shown, np.ones((1, *keep.shape[1:])))[0].argmax())
    found = []
    for start in range(0, len(keep), _BATCH):
        logits = _logits(network, shown, keep[start : start + _BATCH])
        if logits.ndim == 2 and answer is None:  # of a discriminator [B, n]: positive is "replaced"
            found.append(1 / (1 + np.exp(logits[:, position])))
            continue
        scores = logits if logits.ndim == 2 else logits[:, position]  # [B, C] or [B, V]
        scores = np.exp(scores - scores.max(-1, keepdims=True))
        chosen = int(ids[position]) if answer is None else answer
        found.append(scores[:, chosen] / scores.sum(-1))
    return np.concatenate(found)


def head_shape(model: PretrainedLayer) -> tuple[int, int]:
    """Return how many layers there are, and how many heads each has in both families."""
    config = encoder_of(model).config
    return config.num_hidden_layers, sum(head_counts(config))


def rank(
    model: PretrainedLayer, tokenizer: ConvBertTokenizer, ids: np.ndarray, position: int
) -> np.ndarray:
    """Silence each head alone, all of them in one batch.

    Returns:
        Change of the probability [L, heads]; negative where the head had helped.
    """
    layers, heads = head_shape(model)
    count = layers * heads
    keep = np.ones((count + 1, count))  # the first variant is the whole model
    keep[np.arange(1, count + 1), np.arange(count)] = 0
    found = predict(model, tokenizer, ids, position, keep.reshape(-1, layers, heads))
    return (found[1:] - found[0]).reshape(layers, heads)


def _logits(network: PretrainedLayer, ids: np.ndarray, keep: np.ndarray) -> np.ndarray:
    """Run one sentence once per choice of heads: logits [B, ...], float64."""
    batch = paddle.to_tensor(np.tile(ids, (len(keep), 1)))
    with paddle.no_grad(), evaluating(network), masked_heads(network, keep):
        return network(batch, attention_mask=paddle.ones(batch.shape)).numpy().astype(float)
