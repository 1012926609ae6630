"""ConvBERT's encoder: embeddings, grouped feed-forward, layers, model.

Shapes: B batch, L length, e embedding size, d hidden size, g groups, I feed-forward size.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import paddle
import paddle.nn.functional as F
from paddle import Tensor, nn

from convbert.attention import MASKED_SCORE, MixedAttention, Mixing
from convbert.config import ConvBertConfig
from convbert.layers import Linear, add_bias, truncated_normal

if TYPE_CHECKING:
    from typing_extensions import Self

_ACTIVATIONS = {
    "gelu": F.gelu,
    "gelu_new": partial(F.gelu, approximate=True),
    "relu": F.relu,
    "silu": F.silu,
    "tanh": F.tanh,
}


class EncoderOutput(NamedTuple):
    """What `ConvBertModel` returns when more than the last hidden state is asked for."""

    last_hidden_state: Tensor  # [B, L, d]
    hidden_states: tuple[Tensor, ...] | None  # projected embeddings, then each layer [B, L, d]
    mixing: tuple[Mixing, ...] | None  # per layer: attention [B, h, L, L], kernels [B, h, L, k]


def activation(config: ConvBertConfig) -> Any:
    """Return the feed-forward activation as a function of a tensor."""
    return _ACTIVATIONS[config.hidden_act]


def layer_norm(size: int, config: ConvBertConfig) -> nn.LayerNorm:
    """LayerNorm with the model's epsilon; Paddle's default of 1e-5 is not ConvBERT's."""
    return nn.LayerNorm(size, epsilon=config.layer_norm_eps)


class PretrainedLayer(nn.Layer):
    """A model with a configuration that is saved to, and loaded from, a directory."""

    def __init__(self, config: ConvBertConfig) -> None:
        """Keep the configuration."""
        super().__init__()
        self.config = config

    @classmethod
    def from_pretrained(cls, name_or_dir: str | Path, **options: Any) -> Self:
        """Load a directory or a published name; see `convbert.weights.loading.load`."""
        from convbert.weights import loading  # weights build on models, not the reverse

        return cast("Self", loading.load(cls, name_or_dir, **options))

    def save_pretrained(self, directory: str | Path, format: str = "huggingface") -> None:
        """Write `config.json` and `model.safetensors`; see `convbert.weights.saving.save`."""
        from convbert.weights import saving

        saving.save(self, directory, format)


class ConvBertEmbeddings(nn.Layer):
    """Word + position + token type embeddings, LayerNorm, dropout."""

    def __init__(self, config: ConvBertConfig) -> None:
        """Make the three tables, e wide."""
        super().__init__()
        attr = paddle.ParamAttr(initializer=truncated_normal(config.initializer_range))
        e = config.embedding_size
        self.word_embeddings = nn.Embedding(config.vocab_size, e, weight_attr=attr)
        self.position_embeddings = nn.Embedding(config.max_position_embeddings, e, weight_attr=attr)
        self.token_type_embeddings = nn.Embedding(config.type_vocab_size, e, weight_attr=attr)
        self.layer_norm = layer_norm(e, config)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)

    def forward(
        self,
        input_ids: Tensor | None,
        token_type_ids: Tensor | None = None,
        position_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
    ) -> Tensor:
        """Embed tokens [B, L] (or given word embeddings [B, L, e]) as [B, L, e]."""
        words = self.word_embeddings(input_ids) if inputs_embeds is None else inputs_embeds
        batch, length = words.shape[:2]
        # Looked up for every sequence: the gradient of a broadcast row is slow on a CPU.
        if position_ids is None:
            position_ids = paddle.arange(length).expand([batch, length])
        if token_type_ids is None:
            token_type_ids = paddle.zeros([batch, length], "int64")
        positions = self.position_embeddings(position_ids)  # [B, L, e]
        types = self.token_type_embeddings(token_type_ids)  # [B, L, e]
        return self.dropout(self.layer_norm(words + positions + types))


class GroupedLinear(nn.Layer):
    """Grouped linear map (eq. 6): group i maps slice i of the input to slice i of the output."""

    def __init__(self, size_in: int, size_out: int, groups: int, std: float) -> None:
        """Make a weight [g, in/g, out/g] and a bias [out]."""
        super().__init__()
        self.groups = groups
        self.weight = self.create_parameter(
            [groups, size_in // groups, size_out // groups],
            default_initializer=truncated_normal(std),
        )
        self.bias = self.create_parameter([size_out], is_bias=True)

    def forward(self, x: Tensor) -> Tensor:
        """Map [B, L, in] to [B, L, out]."""
        batch, length, size = x.shape
        x = x.reshape([batch * length, self.groups, size // self.groups])  # [B·L, g, in/g]
        x = paddle.matmul(x.transpose([1, 0, 2]), self.weight)  # [g, B·L, out/g]
        x = x.transpose([1, 0, 2]).reshape([batch, length, -1])  # [B, L, out]
        return add_bias(x, self.bias)


def _feed_forward(size_in: int, size_out: int, config: ConvBertConfig) -> nn.Layer:
    if config.num_groups == 1:
        return Linear(size_in, size_out, config.initializer_range)
    return GroupedLinear(size_in, size_out, config.num_groups, config.initializer_range)


class ConvBertLayer(nn.Layer):
    """One encoder layer: mixed attention, feed-forward; each with residual and post-LayerNorm."""

    def __init__(self, config: ConvBertConfig) -> None:
        """Make the layer: d -> d."""
        super().__init__()
        d, wide = config.hidden_size, config.intermediate_size
        self.self_attn = MixedAttention(config)
        self.linear1 = _feed_forward(d, wide, config)
        self.linear2 = _feed_forward(wide, d, config)
        self.norm1, self.norm2 = layer_norm(d, config), layer_norm(d, config)
        self.activation = activation(config)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)

    def forward(
        self,
        x: Tensor,
        scores_mask: Tensor | None,
        keep: Tensor | None,
        return_mixing: bool = False,
    ) -> tuple[Tensor, Mixing | None]:
        """Map hidden states [B, L, d] to [B, L, d]; on request also return what was mixed."""
        mixed, mixing = self.self_attn(x, scores_mask, keep, return_mixing), None
        if return_mixing:
            mixed, mixing = mixed
        x = self.norm1(x + self.dropout(mixed))
        wide = self.activation(self.linear1(x))  # [B, L, I]
        return self.norm2(x + self.dropout(self.linear2(wide))), mixing


class ConvBertEncoder(nn.Layer):
    """The stack of layers; holds them under the name `layers`."""

    def __init__(self, config: ConvBertConfig) -> None:
        """Make `num_hidden_layers` layers."""
        super().__init__()
        self.layers = nn.LayerList([ConvBertLayer(config) for _ in range(config.num_hidden_layers)])


class ConvBertModel(PretrainedLayer):
    """The encoder: token ids in, hidden states out."""

    def __init__(self, config: ConvBertConfig) -> None:
        """Make a randomly initialized model."""
        super().__init__(config)
        self.embeddings = ConvBertEmbeddings(config)
        self.is_projected = config.embedding_size != config.hidden_size
        if self.is_projected:
            self.embeddings_project = Linear(config.embedding_size, config.hidden_size, std=None)
        self.encoder = ConvBertEncoder(config)

    def forward(
        self,
        input_ids: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        output_hidden_states: bool = False,
        output_mixing: bool = False,
    ) -> Tensor | EncoderOutput:
        """Encode a batch.

        Args:
            input_ids: token ids [B, L], integers.
            token_type_ids: segment of each token [B, L]; missing means all 0.
            attention_mask: 1 for tokens, 0 for padding [B, L], any dtype. Missing: tokens are what
                differs from `pad_token_id` (with `inputs_embeds`: everything).
            position_ids: position of each token [B, L]; missing means 0 … L-1.
            inputs_embeds: word embeddings [B, L, e] instead of `input_ids`.
            output_hidden_states: return every layer's output.
            output_mixing: return every layer's attention probabilities and kernels.

        Returns:
            The last hidden state [B, L, d], or an `EncoderOutput` if more is asked for.

        Raises:
            ValueError: an input of the wrong rank or shape, or longer than the position table.
        """
        self._check_inputs(input_ids, token_type_ids, attention_mask, position_ids, inputs_embeds)
        tokens = self._tokens(input_ids, attention_mask)
        x = self.embeddings(input_ids, token_type_ids, position_ids, inputs_embeds)  # [B, L, e]
        x = self.embeddings_project(x) if self.is_projected else x  # [B, L, d]
        scores_mask = keep = None
        if tokens is not None:
            tokens = tokens.astype(x.dtype)
            scores_mask = ((1.0 - tokens) * MASKED_SCORE).unsqueeze([1, 2])  # [B, 1, 1, L]
            keep = None if self.config.conv_sees_padding else tokens.unsqueeze(-1)  # [B, L, 1]
        states, mixing = [x], []
        for layer in self.encoder.layers:
            x, mixed = layer(x, scores_mask, keep, output_mixing)
            states.append(x)
            mixing.append(mixed)
        if not (output_hidden_states or output_mixing):
            return x
        return EncoderOutput(
            x,
            tuple(states) if output_hidden_states else None,
            tuple(mixing) if output_mixing else None,
        )

    def _tokens(self, input_ids: Tensor | None, attention_mask: Tensor | None) -> Tensor | None:
        """Return which positions are tokens, bool [B, L]; None where all are."""
        if attention_mask is not None:
            tokens = attention_mask if attention_mask.dtype == paddle.bool else attention_mask > 0
        elif input_ids is not None:
            tokens = input_ids != self.config.pad_token_id
        else:
            return None
        return None if bool(tokens.all()) else tokens

    def _check_inputs(
        self, input_ids: Any, types: Any, mask: Any, positions: Any, embeds: Any
    ) -> None:
        """Raise a ValueError for inputs that do not fit together."""
        if (input_ids is None) == (embeds is None):
            raise ValueError("give either input_ids or inputs_embeds, and not both")
        given = input_ids if embeds is None else embeds
        rank = 2 if embeds is None else 3
        if given.ndim != rank:
            name = "input_ids" if embeds is None else "inputs_embeds"
            raise ValueError(
                f"{name} has shape {list(given.shape)}: "
                f"expected {rank} axes, [B, L{', e' * (rank - 2)}]"
            )
        shape, limit = given.shape[:2], self.config.max_position_embeddings
        for name, value in (
            ("token_type_ids", types),
            ("attention_mask", mask),
            ("position_ids", positions),
        ):
            if value is not None and list(value.shape) != list(shape):
                raise ValueError(
                    f"{name} has shape {list(value.shape)}: expected [B, L] = {list(shape)}"
                )
        if shape[1] < 1 or (positions is None and shape[1] > limit):
            raise ValueError(
                f"input of {shape[1]} tokens: this model takes 1 to {limit}; truncate it, "
                "or configure a larger max_position_embeddings"
            )
