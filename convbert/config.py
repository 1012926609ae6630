"""The configuration of a ConvBERT: one dataclass, the published sizes, and what is refused."""

from __future__ import annotations

import difflib
import json
import math
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

ACTIVATIONS = ("gelu", "gelu_new", "relu", "silu", "tanh")
CONV_TYPES = ("sdconv", "dynamic", "static", "depthwise", "noconv")

# Keys that other libraries write into config.json and that mean nothing to this model. They are
# dropped by name; any other unknown key is an error, because a misspelled key must not pass.
FOREIGN_KEYS = frozenset(
    """_name_or_path add_cross_attention architectures bos_token_id chunk_size_feed_forward
    decoder_start_token_id do_lower_case dtype eos_token_id finetuning_task initializer_factor
    is_decoder is_encoder_decoder label2id model_type output_attentions output_hidden_states
    output_past paddlenlp_version pool_act pooler problem_type return_dict sep_token_id
    summary_activation summary_last_dropout summary_type summary_use_proj tie_word_embeddings
    tokenizer_class torch_dtype torchscript transformers_version use_cache""".split()
)


@dataclass(frozen=True)
class ConvBertConfig:
    """The shape of a ConvBERT; field names as in the published `config.json` files.

    Letters in the comments are those of the paper and of the docstrings in this package:
    B batch, L length, V vocabulary, e embedding, d hidden, h heads per branch, D head size,
    A = h·D, k taps, g groups, I feed-forward.

    Raises:
        ValueError: a value that no ConvBERT can have; the message names key, value and rule.
    """

    vocab_size: int = 30522  # V, entries of the word table
    embedding_size: int = 768  # e, width of the embeddings; projected to d when it differs
    hidden_size: int = 768  # d, width of the residual stream
    num_hidden_layers: int = 12  # encoder layers
    num_attention_heads: int = 12  # nominal heads, counted as BERT would: d / 64 in base
    intermediate_size: int = 3072  # I, width of the feed-forward layer (4·d when published)
    hidden_act: str = "gelu"  # activation of the feed-forward layer; "gelu" is the exact one
    hidden_dropout_prob: float = 0.1  # dropout on embeddings and both sublayer outputs
    attention_probs_dropout_prob: float = 0.1  # dropout on attention probabilities
    max_position_embeddings: int = 512  # longest input, in tokens
    type_vocab_size: int = 2  # segments
    initializer_range: float = 0.02  # standard deviation of the initial weights
    layer_norm_eps: float = 1e-12  # epsilon of every LayerNorm
    pad_token_id: int = 0  # id of [PAD]; decides what padding is when no mask is given
    head_ratio: int = 2  # γ, h = nominal heads / γ in each branch (paper, section 3.3)
    conv_kernel_size: int = 9  # k, taps of the convolution; odd
    num_groups: int = 1  # g, groups of the feed-forward layer (eq. 6)
    classifier_dropout: float | None = None  # dropout of task heads; None: hidden_dropout_prob
    num_labels: int = 2  # outputs of a classification head
    conv_type: str = "sdconv"  # sdconv (eq. 4), dynamic (eq. 3), static (eq. 2), depthwise, noconv
    conv_sees_padding: bool = False  # True: convolve over [PAD], as the released code does
    generator_fraction: float = 0.25  # width of the ELECTRA generator relative to d
    generator_conv_type: str = ""  # conv_type of that generator; empty: as here

    def __post_init__(self) -> None:
        _check(self)

    @property
    def heads(self) -> int:
        """h: real heads in each branch, max(1, nominal heads // γ); all of them for `noconv`."""
        if self.conv_type == "noconv":
            return self.num_attention_heads
        return max(1, self.num_attention_heads // self.head_ratio)

    @property
    def head_size(self) -> int:
        """D: width of one head.

        Each branch is d/2 wide, so D = d / (2h), which is d / nominal heads for γ = 2. With a
        single nominal head (the smallest generator) the authors keep one attention head and one
        convolution head of full width d; `noconv` shares d among all its attention heads.
        """
        if self.conv_type == "noconv" or self.num_attention_heads == 1:
            return self.hidden_size // self.num_attention_heads
        return self.hidden_size // (2 * self.heads)

    @property
    def branch_size(self) -> int:
        """A = h·D: width of one branch of the mixed attention."""
        return self.heads * self.head_size

    @classmethod
    def named(cls, name: str, **overrides: Any) -> ConvBertConfig:
        """Return a published size, e.g. "convbert-base", or "convbert-tiny" for CPUs.

        Append "-generator" for the ELECTRA generator that belongs to a size.

        Args:
            name: a key of `SIZES`, with or without "-generator".
            **overrides: fields to change.

        Raises:
            ValueError: no such name.
        """
        size, is_generator = name.removesuffix("-generator"), name.endswith("-generator")
        if size not in SIZES:
            raise ValueError(f"no ConvBERT named {name!r}; choose one of {', '.join(SIZES)}")
        config = cls(**SIZES[size])
        return (config.generator() if is_generator else config).replaced(**overrides)

    def generator(self) -> ConvBertConfig:
        """Return the generator's configuration, by ELECTRA's rule.

        Width and nominal heads shrink by `generator_fraction`, the feed-forward layer is four
        times the new width; layers, embeddings, kernel, γ and groups stay, and so does the kind
        of convolution unless `generator_conv_type` names another.
        """
        hidden = round(self.hidden_size * self.generator_fraction)
        heads = max(1, int(self.num_attention_heads * self.generator_fraction + 1e-6))
        return self.replaced(
            hidden_size=hidden,
            intermediate_size=4 * hidden,
            num_attention_heads=heads,
            conv_type=self.generator_conv_type or self.conv_type,
            generator_conv_type="",
        )

    def replaced(self, **overrides: Any) -> ConvBertConfig:
        """Return a copy with some fields changed; an unknown field is a ValueError."""
        _refuse_unknown(overrides)
        return replace(self, **overrides)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> ConvBertConfig:
        """Build from the content of a `config.json` of transformers, PaddleNLP or this package.

        Raises:
            ValueError: an unknown key; the fixed list of foreign keys is dropped.
        """
        known = {key: value for key, value in values.items() if key not in FOREIGN_KEYS}
        labels = known.pop("id2label", None)
        if labels is not None:
            known["num_labels"] = len(labels)
        _refuse_unknown(known)
        return cls(**known)

    def to_dict(self) -> dict[str, Any]:
        """Return all fields, with the keys that transformers needs to recognize the model."""
        labels = [f"LABEL_{i}" for i in range(self.num_labels)]
        values = asdict(self)
        del values["num_labels"]  # transformers reads the number of labels from these two
        if not self.generator_conv_type:
            del values["generator_conv_type"]  # a file is as it would be without this field
        values["id2label"] = {str(i): label for i, label in enumerate(labels)}
        values["label2id"] = {label: i for i, label in enumerate(labels)}
        return {"model_type": "convbert", **values}

    @classmethod
    def from_json_file(cls, path: str | Path) -> ConvBertConfig:
        """Read a `config.json`.

        Raises:
            ValueError: not a JSON object, or an unknown key or unusable value in it.
        """
        try:
            values = json.loads(Path(path).read_text(encoding="utf-8"))
            if not isinstance(values, dict):
                raise ValueError(f"expected a JSON object, found {type(values).__name__}")
            return cls.from_dict(values)
        except (ValueError, TypeError) as error:
            raise ValueError(f"{path}: {error}") from error


_SMALL = dict(embedding_size=128, hidden_size=256, num_attention_heads=4, intermediate_size=1024)
_MEDIUM = dict(embedding_size=128, hidden_size=384, num_attention_heads=8, intermediate_size=1536)

# Published sizes (paper, section 4.1 and the released code), and one that two CPU cores train.
SIZES: dict[str, dict[str, Any]] = {
    "convbert-small": _SMALL,
    "convbert-medium-small": dict(_MEDIUM, num_groups=2),
    "convbert-base": dict(generator_fraction=1 / 3),
    # Not published: small enough to learn from real text in minutes on two CPU cores.
    "convbert-tiny": dict(
        vocab_size=4096,
        embedding_size=128,
        hidden_size=128,
        num_hidden_layers=3,
        num_attention_heads=4,
        intermediate_size=512,
        max_position_embeddings=128,
        initializer_range=0.05,
        generator_fraction=0.5,
    ),
}


# Upper limits; Paddle's LayerNorm takes no larger epsilon.
_MOST = {"generator_fraction": 1.0, "layer_norm_eps": 0.001}


def _refuse_unknown(values: dict[str, Any]) -> None:
    """Raise a ValueError that names unknown keys and the nearest known one."""
    known = [field.name for field in fields(ConvBertConfig)]
    for key in values:
        if key not in known:
            near = difflib.get_close_matches(key, known, 1)
            hint = f"; did you mean {near[0]!r}?" if near else f"; known: {', '.join(known)}"
            raise ValueError(f"unknown configuration key {key!r}{hint}")


def _check(config: ConvBertConfig) -> None:
    """Raise a ValueError for a value that no ConvBERT can have."""

    def require(holds: bool, key: str, rule: str) -> None:
        if not holds:
            raise ValueError(f"{key}={getattr(config, key)!r}: {rule}")

    _check_types(config, require)
    heads, ratio, d = config.num_attention_heads, config.head_ratio, config.hidden_size
    require(d % heads == 0, "hidden_size", f"must be divisible by num_attention_heads={heads}")
    if config.conv_type != "noconv" and heads > 1:
        require(
            heads % ratio == 0,
            "num_attention_heads",
            f"must be 1 or divisible by head_ratio={ratio}",
        )
        rule = f"must be divisible by 2·(num_attention_heads/head_ratio)={2 * heads // ratio}"
        require(d % (2 * heads // ratio) == 0, "hidden_size", rule)
    require(config.conv_kernel_size % 2 == 1, "conv_kernel_size", "must be odd")
    for key in ("hidden_size", "intermediate_size"):
        rule = f"must be divisible by num_groups={config.num_groups}"
        require(getattr(config, key) % config.num_groups == 0, key, rule)
    require(
        config.hidden_act in ACTIVATIONS, "hidden_act", f"must be one of {', '.join(ACTIVATIONS)}"
    )
    kinds = f"must be one of {', '.join(CONV_TYPES)}"
    require(config.conv_type in CONV_TYPES, "conv_type", kinds)
    known = config.generator_conv_type in ("", *CONV_TYPES)
    require(known, "generator_conv_type", f"{kinds}, or empty")
    require(
        config.pad_token_id < config.vocab_size,
        "pad_token_id",
        f"must be below vocab_size={config.vocab_size}",
    )


def _check_types(config: ConvBertConfig, require: Any) -> None:
    """Check each field's type and range; `require(holds, key, rule)` raises."""
    for field in fields(config):
        value, key = getattr(config, field.name), field.name
        if field.type == "bool":
            require(isinstance(value, bool), key, "must be true or false")
        elif field.type == "int":
            least = 0 if key == "pad_token_id" else 1
            whole = isinstance(value, int) and not isinstance(value, bool)
            require(whole and value >= least, key, f"must be a whole number, at least {least}")
        elif field.type == "str":
            require(isinstance(value, str), key, "must be a string")
        elif value is not None or key != "classifier_dropout":
            number = isinstance(value, (int, float)) and not isinstance(value, bool)
            require(number, key, "must be a number")
            if key.endswith(("dropout", "dropout_prob")):
                require(0 <= value < 1, key, "must be at least 0 and below 1")
            else:
                top = _MOST.get(key, math.inf)
                rule = "must be positive" + (f" and at most {top:g}" if key in _MOST else "")
                require(0 < value <= top and math.isfinite(value), key, rule)
