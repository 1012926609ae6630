"""What sits on the encoder: pretraining, masked LM, classification, question answering.

Shapes: B batch, L length, d hidden size, e embedding size, V vocabulary, C classes, N chosen
positions of one sequence. Every model returns logits; `loss` turns them into a scalar.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import paddle
import paddle.nn.functional as F
from paddle import Tensor, nn

from convbert.config import ConvBertConfig
from convbert.layers import Linear, add_bias
from convbert.model import ConvBertModel, PretrainedLayer, activation, layer_norm


def _head_dropout(config: ConvBertConfig) -> nn.Dropout:
    rate = config.classifier_dropout
    return nn.Dropout(config.hidden_dropout_prob if rate is None else rate)


class ClassificationHead(nn.Layer):
    """[CLS] -> dropout -> dense -> activation -> dropout -> C logits."""

    def __init__(self, config: ConvBertConfig) -> None:
        """Make the head for `config.num_labels` outputs."""
        super().__init__()
        self.dense = Linear(config.hidden_size, config.hidden_size, std=None)
        self.out_proj = Linear(config.hidden_size, config.num_labels, std=None)
        self.dropout, self.activation = _head_dropout(config), activation(config)

    def forward(self, hidden: Tensor) -> Tensor:
        """Map hidden states [B, L, d] to logits [B, C]."""
        x = self.activation(self.dense(self.dropout(hidden[:, 0])))  # [B, d]
        return self.out_proj(self.dropout(x))


class ConvBertForSequenceClassification(PretrainedLayer):
    """One decision per sequence or pair, read from [CLS]; one label means regression."""

    def __init__(self, config: ConvBertConfig, num_labels: int | None = None) -> None:
        """Make encoder and head; `num_labels` overrides the configuration's."""
        super().__init__(config if num_labels is None else config.replaced(num_labels=num_labels))
        self.convbert = ConvBertModel(self.config)
        self.classifier = ClassificationHead(self.config)

    def forward(self, input_ids: Tensor, *inputs: Tensor, **options: Any) -> Tensor:
        """Return logits [B, C]; the inputs are those of `ConvBertModel`."""
        return self.classifier(self.convbert(input_ids, *inputs, **options))

    def loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Mean loss of a batch.

        Args:
            logits: [B, C].
            labels: C = 1: targets [B] or [B, 1], squared error. Integer classes [B]: cross-entropy.
                Float targets [B, C]: binary cross-entropy of each label.
        """
        if self.config.num_labels == 1:
            return F.mse_loss(logits.flatten(), labels.flatten().astype(logits.dtype))
        if labels.ndim == 2 and labels.is_floating_point():
            return F.binary_cross_entropy_with_logits(logits, labels.astype(logits.dtype))
        return F.cross_entropy(logits, labels.flatten().astype("int64"))


class ConvBertForTokenClassification(PretrainedLayer):
    """One decision per token."""

    def __init__(self, config: ConvBertConfig, num_labels: int | None = None) -> None:
        """Make encoder and head; `num_labels` overrides the configuration's."""
        super().__init__(config if num_labels is None else config.replaced(num_labels=num_labels))
        self.convbert = ConvBertModel(self.config)
        self.dropout = _head_dropout(self.config)
        self.classifier = Linear(self.config.hidden_size, self.config.num_labels, std=None)

    def forward(self, input_ids: Tensor, *inputs: Tensor, **options: Any) -> Tensor:
        """Return logits [B, L, C]; the inputs are those of `ConvBertModel`."""
        return self.classifier(self.dropout(self.convbert(input_ids, *inputs, **options)))

    def loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Mean cross-entropy over the tokens whose label [B, L] is not negative."""
        return labeled_mean(logits, labels)


class ConvBertForQuestionAnswering(PretrainedLayer):
    """Start and end of an answer in the text."""

    def __init__(self, config: ConvBertConfig) -> None:
        """Make encoder and the two-output head; no dropout in the head."""
        super().__init__(config.replaced(num_labels=2))  # what readers size the head by
        self.convbert = ConvBertModel(self.config)
        self.classifier = Linear(config.hidden_size, 2, std=None)

    def forward(self, input_ids: Tensor, *inputs: Tensor, **options: Any) -> tuple[Tensor, Tensor]:
        """Return start logits and end logits, [B, L] each."""
        start, end = self.classifier(self.convbert(input_ids, *inputs, **options)).unbind(-1)
        return start, end

    def loss(self, logits: tuple[Tensor, Tensor], labels: tuple[Tensor, Tensor]) -> Tensor:
        """Mean of the start's and the end's cross-entropy; labels are positions, [B] each."""
        start, end = (
            F.cross_entropy(scores, position.flatten().astype("int64"))
            for scores, position in zip(logits, labels, strict=True)
        )
        return (start + end) / 2


class ConvBertForMultipleChoice(PretrainedLayer):
    """Which of several texts fits; each choice is one sequence."""

    def __init__(self, config: ConvBertConfig) -> None:
        """Make encoder and the one-output head."""
        super().__init__(config)
        self.convbert = ConvBertModel(config)
        self.dropout = _head_dropout(config)
        self.classifier = Linear(config.hidden_size, 1, std=None)

    def forward(
        self,
        input_ids: Tensor,
        token_type_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
    ) -> Tensor:
        """Score choices: inputs [B, choices, L] give logits [B, choices]."""
        if input_ids.ndim != 3:
            shape = list(input_ids.shape)
            raise ValueError(f"input_ids has shape {shape}: expected [B, choices, L]")
        inputs = (input_ids, token_type_ids, attention_mask, position_ids)
        hidden = self.convbert(*(None if x is None else x.flatten(0, 1) for x in inputs))
        scores = self.classifier(self.dropout(hidden[:, 0]))  # [B·choices, 1]
        return scores.reshape(input_ids.shape[:2])

    def loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Mean cross-entropy over the choices; labels [B] are the right ones."""
        return F.cross_entropy(logits, labels.flatten().astype("int64"))


class GeneratorPredictions(nn.Layer):
    """dense d -> e, gelu, LayerNorm: what is compared with the word table."""

    def __init__(self, config: ConvBertConfig) -> None:
        """Make the transformation."""
        super().__init__()
        e = config.embedding_size
        self.dense = Linear(config.hidden_size, e, config.initializer_range)
        self.layer_norm = layer_norm(e, config)

    def forward(self, hidden: Tensor) -> Tensor:
        """Map [..., d] to [..., e]."""
        return self.layer_norm(F.gelu(self.dense(hidden)))


class ConvBertForMaskedLM(PretrainedLayer):
    """Guess the words behind [MASK]; ELECTRA's generator is one of these."""

    def __init__(self, config: ConvBertConfig) -> None:
        """Make encoder and head; the decoder is tied to the word table, with its own bias."""
        super().__init__(config)
        self.convbert = ConvBertModel(config)
        self.generator_predictions = GeneratorPredictions(config)
        self.generator_lm_head_bias = self.create_parameter([config.vocab_size], is_bias=True)

    def forward(
        self, input_ids: Tensor, *inputs: Tensor, positions: Tensor | None = None, **options: Any
    ) -> Tensor:
        """Return logits over the vocabulary.

        Args:
            input_ids: [B, L]; further inputs are those of `ConvBertModel`.
            positions: project only these positions [B, N], which is most of the cost saved.

        Returns:
            Logits [B, L, V], or [B, N, V] with `positions`.
        """
        hidden = self.convbert(input_ids, *inputs, **options)
        if positions is not None:
            hidden = paddle.take_along_axis(hidden, positions.unsqueeze(-1), 1)  # [B, N, d]
        table = self.convbert.embeddings.word_embeddings.weight  # [V, e]
        scores = paddle.matmul(self.generator_predictions(hidden), table, transpose_y=True)
        return add_bias(scores, self.generator_lm_head_bias)

    def loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Mean cross-entropy over the positions whose label is not negative."""
        return labeled_mean(logits, labels)


class DiscriminatorPredictions(nn.Layer):
    """dense d -> d, gelu, dense d -> 1."""

    def __init__(self, config: ConvBertConfig) -> None:
        """Make the head."""
        super().__init__()
        d = config.hidden_size
        self.dense = Linear(d, d, config.initializer_range)
        self.dense_prediction = Linear(d, 1, std=None)

    def forward(self, hidden: Tensor) -> Tensor:
        """Map [B, L, d] to [B, L]; only the last axis goes, also for a batch of one."""
        return self.dense_prediction(F.gelu(self.dense(hidden))).squeeze(-1)


class ConvBertDiscriminator(PretrainedLayer):
    """Tell for each token whether it was replaced."""

    def __init__(self, config: ConvBertConfig) -> None:
        """Make encoder and head."""
        super().__init__(config)
        self.convbert = ConvBertModel(config)
        self.discriminator_predictions = DiscriminatorPredictions(config)

    def forward(self, input_ids: Tensor, *inputs: Tensor, **options: Any) -> Tensor:
        """Return one logit per token [B, L], positive for "replaced"."""
        return self.discriminator_predictions(self.convbert(input_ids, *inputs, **options))


class PreTrainingOutput(NamedTuple):
    """One pass of generator and discriminator."""

    generator_logits: Tensor  # [B, N, V]
    corrupted_ids: Tensor  # the original with the generator's samples in it [B, L]
    replaced: Tensor  # 1 where a sample differs from the original [B, L], float
    discriminator_logits: Tensor  # [B, L]
    tokens: Tensor  # 1 for tokens, 0 for padding [B, L], float


class PreTrainingLoss(NamedTuple):
    """Sums and counts, so that several batches or processes can be added before dividing."""

    generator_sum: Tensor  # cross-entropy summed over chosen positions
    generator_count: Tensor  # number of chosen positions
    discriminator_sum: Tensor  # binary cross-entropy summed over tokens
    discriminator_count: Tensor  # number of tokens


class ConvBertForPreTraining(PretrainedLayer):
    """ELECTRA's replaced token detection, with a ConvBERT as generator and as discriminator.

    Embeddings (words, positions, types and their LayerNorm) are one object in both networks, as in
    the authors' code; `share="words"` shares the word table only, `share="none"` nothing.
    """

    def __init__(
        self,
        config: ConvBertConfig,
        generator_config: ConvBertConfig | None = None,
        share: str = "all",
    ) -> None:
        """Make both networks; the generator's configuration follows ELECTRA's rule if not given."""
        super().__init__(config)
        if share not in ("all", "words", "none"):
            raise ValueError(f"share={share!r}: choose all, words or none")
        self.generator = ConvBertForMaskedLM(generator_config or config.generator())
        self.discriminator = ConvBertDiscriminator(config)
        ours, theirs = self.generator.convbert, self.discriminator.convbert
        if share == "all":
            ours.embeddings = theirs.embeddings
        elif share == "words":
            ours.embeddings.word_embeddings = theirs.embeddings.word_embeddings

    def forward(
        self,
        original_ids: Tensor,
        masked_ids: Tensor,
        positions: Tensor,
        weights: Tensor,
        uniform: Tensor,
        token_type_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        temperature: float = 1.0,
        disallow_correct: bool = False,
    ) -> PreTrainingOutput:
        """Corrupt a batch with the generator's samples and judge every token.

        Args:
            original_ids: the text [B, L].
            masked_ids: the text with [MASK] at most chosen positions [B, L].
            positions: chosen positions [B, N]; unused slots hold any position and weight 0.
            weights: 1 for a chosen position, 0 for an unused slot [B, N], float.
            uniform: random numbers in [0, 1) that decide the samples [B, N].
            token_type_ids: segments [B, L].
            attention_mask: 1 for tokens [B, L]; missing: from the *original* ids, for both
                networks, so that a sampled [PAD] changes nothing.
            temperature: of the generator's softmax when sampling.
            disallow_correct: never sample the original, so that every chosen token is replaced.
        """
        if attention_mask is None:
            attention_mask = original_ids != self.config.pad_token_id
        inputs = (token_type_ids, attention_mask)
        logits = self.generator(masked_ids, *inputs, positions=positions)  # [B, N, V]
        with paddle.no_grad():
            originals = paddle.take_along_axis(original_ids, positions, 1)  # [B, N]
            scores = logits / temperature
            if disallow_correct:
                penalty = paddle.full_like(scores[..., :1], -1000.0)  # ELECTRA's
                scores = paddle.put_along_axis(scores, originals.unsqueeze(-1), penalty, -1, "add")
            samples = sample(scores, uniform).astype(original_ids.dtype)  # [B, N]
            # Differences are added, so that an unused slot may hold a chosen slot's position.
            change = paddle.where(weights > 0, samples - originals, paddle.zeros_like(samples))
            corrupted = paddle.put_along_axis(original_ids, positions, change, 1, "add")  # [B, L]
            replaced = (corrupted != original_ids).astype(logits.dtype)
        judged = self.discriminator(corrupted, *inputs)  # [B, L]
        return PreTrainingOutput(
            logits, corrupted, replaced, judged, attention_mask.astype(logits.dtype)
        )

    def loss(self, output: PreTrainingOutput, labels: Tensor, weights: Tensor) -> PreTrainingLoss:
        """Return both losses as sums and counts.

        Args:
            output: of `forward`.
            labels: the original ids at the chosen positions [B, N].
            weights: as given to `forward` [B, N].
        """
        return PreTrainingLoss(
            masked_word_sum(output.generator_logits, labels, weights),
            weights.sum(),
            replaced_token_sum(output.discriminator_logits, output.replaced, output.tokens),
            output.tokens.sum(),
        )


def masked_word_sum(logits: Tensor, labels: Tensor, weights: Tensor) -> Tensor:
    """Sum the cross-entropy of logits [B, N, V] over labels [B, N], weighted by [B, N]."""
    each = F.cross_entropy(logits.flatten(0, 1), labels.flatten(), reduction="none").flatten()
    return (each * weights.flatten().astype(each.dtype)).sum()  # of [B·N]


def replaced_token_sum(logits: Tensor, replaced: Tensor, tokens: Tensor) -> Tensor:
    """Sum the binary cross-entropy of logits [B, L] over tokens; all three are [B, L]."""
    each = F.binary_cross_entropy_with_logits(logits, replaced, reduction="none")
    return (each * tokens).sum()


def sample(logits: Tensor, uniform: Tensor) -> Tensor:
    """Draw one class per row from softmax(logits), by inverting its cumulative distribution.

    The same distribution as ELECTRA's Gumbel noise with one random number instead of V, so the
    draw can be derived from (seed, step, example).

    Args:
        logits: [..., V].
        uniform: numbers in [0, 1), [...].

    Returns:
        Class ids [...], int64.
    """
    below = F.softmax(logits.astype("float32"), -1).cumsum(-1)  # [..., V]
    # The last entry can miss 1 by rounding; scaling keeps every draw inside the vocabulary.
    threshold = uniform.unsqueeze(-1) * below[..., -1:]
    return (below[..., :-1] <= threshold).astype("int64").sum(-1)  # at most V - 1


def labeled_mean(logits: Tensor, labels: Tensor) -> Tensor:
    """Mean cross-entropy of logits [B, L, C] where the label [B, L] is not negative; else 0."""
    weights = (labels >= 0).flatten().astype(logits.dtype)
    labels = paddle.clip(labels, min=0).flatten().astype("int64")
    each = F.cross_entropy(logits.flatten(0, 1), labels, reduction="none").flatten()
    return weighted_mean(each, weights)


def weighted_mean(values: Tensor, weights: Tensor) -> Tensor:
    """Return sum(values·weights) / sum(weights), and 0 if all weights are 0.

    Paddle's own mean over a negative `ignore_index` divides by all positions, ignored ones too.
    """
    total = weights.sum()
    return (values * weights).sum() / paddle.clip(total, min=1e-6)
