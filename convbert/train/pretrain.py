"""The command `pretrain`: its options, its text and vocabulary, and what it leaves behind."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import paddle

from convbert import runtime
from convbert.config import SIZES, ConvBertConfig
from convbert.data import corpus, shards, training_text
from convbert.heads import ConvBertForPreTraining
from convbert.results import write_json
from convbert.tokenizer import ConvBertTokenizer
from convbert.train import checkpoint, electra, loop, optim, parallel
from convbert.train.electra import Trainer
from convbert.train.log import announce


@dataclass(frozen=True)
class PretrainConfig:
    """Options of `convbert pretrain`; names as in earlier ConvBERT reproductions on Paddle."""

    output_dir: str  # folder for log.jsonl, results.json, step-…/, best/ and final/
    model_type: str = "convbert"  # the only choice
    # convbert-tiny, -small, -medium-small, -base; or a checkpoint to resume
    model_name_or_path: str = "convbert-small"
    # folder with token shards (of convbert corpus), train.data, or train.txt and valid.txt;
    # empty: text found as the data README says
    input_dir: str = ""
    # vocab.txt; empty: the shards', else BERT's, for convbert-tiny one trained on the text
    vocab_file: str = ""
    max_seq_length: int = 128  # tokens of an example
    objective: str = "electra"  # electra; mlm: no discriminator; uniform: no generator
    mask_prob: float = 0.15  # share of the tokens that the generator replaces
    mask_scheme: str = "electra"  # electra: 85 % [MASK]; bert: 80 %, and 10 % random words
    share: str = "all"  # embeddings that both networks share: all, words or none
    generator_conv: str = ""  # conv_type of the generator; empty: as the discriminator's
    temperature: float = 1.0  # of the generator's softmax in sampling
    disallow_correct: bool = False  # never sample the original token
    gen_weight: float = 1.0  # weight of the generator's loss
    disc_weight: float = 50.0  # weight of the discriminator's loss
    train_batch_size: int = 96  # examples of one step on each device
    gradient_accumulation_steps: int = 1  # compute a batch in so many parts, to save memory
    eval_batch_size: int = 96  # examples of one evaluation batch
    eval_examples: int = 512  # held-out examples to evaluate on
    learning_rate: float = 5e-4  # peak
    schedule: str = "linear"  # linear, linear_tf (the authors' code) or cosine
    weight_decay: float = 0.01  # not on biases and LayerNorms
    adam_epsilon: float = 1e-6  # added to the root of Adam's second moment
    adam_beta2: float = 0.999  # decay of Adam's second moment
    max_grad_norm: float = 1.0  # clip the global gradient norm; 0: do not clip
    num_train_epochs: float = 4.0  # passes over the text, unless max_steps is given
    max_steps: int = -1  # > 0 overrides epochs
    warmup_steps: int = 10000  # steps of rising learning rate
    logging_steps: int = 100  # log the loss every so many steps
    save_steps: int = 1000  # write a checkpoint every so many steps
    keep_checkpoints: int = 2  # newest checkpoints to keep, at least 2
    eval_steps: int = 0  # evaluate every so many steps; 0: at the end only
    resume: bool = False  # continue the newest checkpoint of output_dir, if there is one
    init_from_ckpt: bool = False  # like resume, from the checkpoint that model_name_or_path names
    # a checkpoint, step-…/: a new run starts from its weights, with other options or other text
    init_weights: str = ""
    dropout: float = 0.1  # of hidden states and attention, in both networks
    conv_type: str = "sdconv"  # or dynamic, static, depthwise; noconv: attention heads only
    conv_kernel_size: int = 0  # taps of the convolution; 0: the size's own
    head_ratio: int = 0  # γ: a branch has nominal heads / γ; 0: the size's own
    intermediate_size: int = 0  # width of the feed-forward layer; 0: the size's own
    seed: int = 42  # of weights, order, masks, samples and dropout
    device: str = "auto"  # auto, cpu or gpu
    precision: str = "auto"  # auto (bfloat16 where a GPU has it), float32, bfloat16, float16
    use_amp: bool = False  # the same as precision=float16
    eager_run: str = ""  # accepted for old command lines; changes nothing

    @property
    def precision_name(self) -> str:
        """The precision asked for, by either option."""
        return "float16" if self.use_amp else self.precision

    @property
    def checkpoint(self) -> Path | None:
        """The checkpoint that `model_name_or_path` names; None if it names a size."""
        path = Path(self.model_name_or_path)
        if self.model_name_or_path in SIZES or not path.is_dir():
            return None
        return path if path.name.startswith("step-") else checkpoint.newest(path)

    @property
    def size(self) -> str:
        """The model's size by name, as given or as the checkpoint has it."""
        if self.checkpoint is None:
            return self.model_name_or_path
        return str(checkpoint.read_state(self.checkpoint)["fingerprint"]["size"])


def pretrain(config: PretrainConfig) -> Path:
    """Pretrain and write log, results, checkpoints, `best/` and `final/` to the output folder.

    Returns:
        `final/`, a directory that `from_pretrained` reads.

    Raises:
        ValueError: an option without meaning, or a checkpoint of another run.
        FileNotFoundError: text or vocabulary is missing.
        FileExistsError: the output folder holds an unfinished run, and `resume` is off.
    """
    config = replace(config, resume=config.resume or config.init_from_ckpt)
    _check(config)
    output, device = Path(config.output_dir), runtime.set_device(config.device)
    loop.refuse_unfinished(output, config.resume)
    found, length = training_text.find(config.input_dir), config.max_seq_length
    tokenizer = make_tokenizer(config, found)
    train, valid = training_text.open_training(
        found, tokenizer, length, config.seed, output / "corpus"
    )
    batch = config.train_batch_size * parallel.world()
    per_epoch = len(train) / batch
    steps = (
        config.max_steps
        if config.max_steps > 0
        else max(1, round(config.num_train_epochs * per_epoch))
    )
    announce(
        text=f"{found}: {len(train)} examples of {length} tokens; {len(valid)} held out",
        vocabulary=f"{tokenizer.vocab_size} entries",
        steps=f"{steps} of {batch} examples, {steps / per_epoch:.2f} epochs",
        device=f"{device}, {runtime.choose_precision(config.precision_name).name}",
        **({"eager_run": "ignored; training is always eager"} if config.eager_run else {}),
    )
    paddle.seed(config.seed)
    model = electra.make_model(config, model_config(config, tokenizer))
    if config.init_weights:
        checkpoint.load_weights(Path(config.init_weights), model)
        print(f"weights: those of {config.init_weights}, to start from", flush=True)
    trainer = Trainer(model, tokenizer, train, valid, config, steps)
    progress = loop.train(trainer, trainer.plan())
    results = {"steps": steps, "options": asdict(config), **progress.last}
    del results["step"]
    if parallel.rank() == 0:
        trainer.save(output / "final")
        write_json(output / "results.json", results | {"best": progress.best})
    return output / "final"


def guess_word(
    model: ConvBertForPreTraining, tokenizer: ConvBertTokenizer, sentence: str, guesses: int = 5
) -> dict[str, object]:
    """Hide the middle word of a sentence and let the generator guess it.

    Args:
        model: in evaluation mode.
        tokenizer: its tokenizer.
        sentence: some words of text.
        guesses: how many of the most probable words to return.

    Returns:
        The sentence with the blank, the hidden word, the guesses, and the hidden word's rank.
    """
    ids = np.array(tokenizer(sentence)["input_ids"])
    place = len(ids) // 2
    masked = ids.copy()
    masked[place] = tokenizer.mask_token_id
    position = paddle.to_tensor([[place]])
    with paddle.no_grad():
        logits = model.generator(paddle.to_tensor(masked[None]), positions=position).numpy()[0, 0]
    order = np.argsort(-logits)
    return {
        "sentence": tokenizer.decode(masked[1:-1].tolist()),
        "hidden": tokenizer.convert_ids_to_tokens(int(ids[place])),
        "guesses": ", ".join(tokenizer.convert_ids_to_tokens(order[:guesses].tolist())),
        "rank": int(np.flatnonzero(order == ids[place])[0]) + 1,
    }


def judge_words(
    model: ConvBertForPreTraining, tokenizer: ConvBertTokenizer, sentence: str, seed: int = 0
) -> dict[str, list]:
    """Let the generator replace some words of a sentence, and the discriminator judge all.

    Args:
        model: in evaluation mode.
        tokenizer: its tokenizer.
        sentence: some words of text.
        seed: decides which words are replaced, and by what.

    Returns:
        For each token but [CLS] and [SEP]: the `original`, what is `shown` to the discriminator,
        whether the position was `chosen`, and the probability of being `replaced` that the
        discriminator gives it.
    """
    ids = np.array([tokenizer(sentence)["input_ids"]])  # [1, L]
    text = corpus.Packed(ids, np.zeros_like(ids), np.array([ids.shape[1]]))
    batch = corpus.mask_batch(text, np.arange(1), tokenizer, (seed,), visible=0.0)
    inputs = (batch.ids, batch.masked_ids, batch.positions, batch.weights, batch.uniform)
    with paddle.no_grad():
        output = model(*map(paddle.to_tensor, inputs))
    chosen = np.isin(np.arange(ids.shape[1]), batch.positions[batch.weights > 0])
    logits = output.discriminator_logits.numpy()[0].astype(float)
    shown = output.corrupted_ids.numpy()[0]
    return {
        "original": tokenizer.convert_ids_to_tokens(ids[0, 1:-1].tolist()),
        "shown": tokenizer.convert_ids_to_tokens(shown[1:-1].tolist()),
        "chosen": chosen[1:-1].tolist(),
        "replaced": (1 / (1 + np.exp(-logits)))[1:-1].tolist(),
    }


def text_files(config: PretrainConfig) -> tuple[Path, Path]:
    """Return the training and the held-out text, where the input is such a pair of files."""
    found = training_text.find(config.input_dir)
    if found.name != "train.txt":
        raise ValueError(f"input_dir={config.input_dir!r}: {found.name} is not plain text")
    return found, found.with_name("valid.txt")


def make_tokenizer(config: PretrainConfig, found: Path) -> ConvBertTokenizer:
    """Return a run's tokenizer: the given one, the shards' own, BERT's, or one for the text."""
    if config.vocab_file:
        return ConvBertTokenizer(config.vocab_file)
    if found.name == shards.MANIFEST:
        return ConvBertTokenizer.from_pretrained(found.parent)
    if config.size != "convbert-tiny":
        return ConvBertTokenizer.from_pretrained(config.size)
    size = ConvBertConfig.named(config.size).vocab_size
    return ConvBertTokenizer.train([found], vocab_size=size)


def model_config(config: PretrainConfig, tokenizer: ConvBertTokenizer) -> ConvBertConfig:
    """Return the discriminator's configuration of a run."""
    names = ("conv_kernel_size", "head_ratio", "intermediate_size")
    given = {name: getattr(config, name) for name in names if getattr(config, name)}
    return ConvBertConfig.named(
        config.size,
        **given,
        vocab_size=tokenizer.vocab_size,
        hidden_dropout_prob=config.dropout,
        attention_probs_dropout_prob=config.dropout,
        conv_type=config.conv_type,
    )


def _check(config: PretrainConfig) -> None:
    """Raise a ValueError for an option without meaning."""
    choices = {
        "model_type": ("convbert",),
        "objective": electra.OBJECTIVES,
        "mask_scheme": tuple(electra.MASK_SCHEMES),
        "share": ("all", "words", "none"),
        "schedule": tuple(optim.SCHEDULES),
    }
    for name, allowed in choices.items():
        if getattr(config, name) not in allowed:
            raise ValueError(
                f"{name}={getattr(config, name)!r}: choose one of {', '.join(allowed)}"
            )
    for name in (
        "train_batch_size",
        "eval_batch_size",
        "eval_examples",
        "logging_steps",
        "save_steps",
        "learning_rate",
        "num_train_epochs",
        "temperature",
    ):
        if getattr(config, name) <= 0:
            raise ValueError(f"{name}={getattr(config, name)}: must be positive")
    if config.max_seq_length < 8:
        raise ValueError(f"max_seq_length={config.max_seq_length}: must be at least 8")
    if not 0 < config.mask_prob < 1:
        raise ValueError(f"mask_prob={config.mask_prob}: must be between 0 and 1")
    if config.use_amp and config.precision not in ("auto", "float16"):
        raise ValueError(f"precision={config.precision!r}: contradicts use_amp, which is float16")
    loop.check_options(
        config.keep_checkpoints, config.gradient_accumulation_steps, config.train_batch_size
    )
    _check_start(config)
    if config.init_weights and (damage := checkpoint.find_damage(Path(config.init_weights))):
        raise ValueError(f"init_weights={config.init_weights!r} is no valid checkpoint: {damage}")


def _check_start(config: PretrainConfig) -> None:
    """Raise a ValueError if `model_name_or_path` names neither a size nor what can be resumed."""
    name, start = config.model_name_or_path, config.checkpoint
    if name not in SIZES and not start:
        raise ValueError(f"model_name_or_path={name!r}: choose one of {', '.join(SIZES)}")
    if start and not config.resume:
        raise ValueError(f"model_name_or_path={name!r}: add --resume to continue this checkpoint")
    if start and (damage := checkpoint.find_damage(start)):
        raise ValueError(f"{start} is no valid checkpoint: {damage}")
    if config.init_from_ckpt and not start:
        raise ValueError(f"init_from_ckpt: model_name_or_path={name!r} is no checkpoint's folder")
