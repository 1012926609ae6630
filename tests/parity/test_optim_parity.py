"""Fine-tuning with AdamW against torch: each library with its own model, gradients, optimizer."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import paddle
import pytest
from make_golden import fill
from support import assert_close, small_config, token_ids

from convbert.heads import ConvBertForSequenceClassification
from convbert.train import optim
from convbert.weights import names

STEPS, WARMUP, PEAK, DECAY, LAYER_DECAY, CLIP = 5, 2, 0.02, 0.1, 0.7, 0.5


def torch_rate(name: str, layers: int) -> float:
    """The rate of one of transformers' parameters, from what the method says in words."""
    steps_down = layers + 2  # the embeddings and their projection
    if name.startswith("classifier."):
        steps_down = 0
    elif ".encoder.layer." in name:
        steps_down = layers + 1 - int(name.split(".")[3])
    return LAYER_DECAY**steps_down


@pytest.mark.parametrize("clip", [CLIP, None])
def test_five_steps_of_fine_tuning(clip: float | None, tmp_path: Path):
    """Layer-wise rates, weight decay, warm-up, and clipping at every step."""
    import torch
    import transformers

    config = small_config(num_hidden_layers=3, num_labels=3)
    shape = {key: value for key, value in config.to_dict().items() if key != "conv_type"}
    rng = np.random.default_rng(0)
    theirs = transformers.ConvBertForSequenceClassification(transformers.ConvBertConfig(**shape))
    theirs = theirs.double().eval()
    fill(theirs, rng)
    theirs.save_pretrained(tmp_path)
    ours = ConvBertForSequenceClassification.from_pretrained(tmp_path, conv_sees_padding=True)
    ours.to(dtype="float64")
    ours.eval()

    no_decay = ("bias", "LayerNorm.weight")
    groups = [
        {
            "params": [parameter],
            "lr": torch_rate(name, 3),
            "weight_decay": 0.0 if name.endswith(no_decay) else DECAY,
        }
        for name, parameter in theirs.named_parameters()
    ]
    adamw = torch.optim.AdamW(groups, betas=(0.9, 0.999), eps=1e-6)
    scheduler = transformers.get_linear_schedule_with_warmup(adamw, WARMUP, STEPS + 2)
    for group in adamw.param_groups:
        group["lr"] *= PEAK
    scheduler.base_lrs = [PEAK * rate for rate in scheduler.base_lrs]
    mine = optim.adamw(
        ours, PEAK, DECAY, layer_lr_decay=LAYER_DECAY, adam_epsilon=1e-6, max_grad_norm=clip
    )
    types = rng.integers(0, 2, (3, 9))
    start = {name: value.detach().numpy().copy() for name, value in theirs.named_parameters()}
    for step in range(STEPS):
        # No [PAD] in the text: torch keeps that word's row from learning, where we learn it.
        inputs = {"input_ids": token_ids(3, 9, seed=step), "token_type_ids": types}
        labels = token_ids(3, seed=step, vocab_size=4) - 1
        loss = theirs(
            **{key: torch.from_numpy(value) for key, value in inputs.items()},
            labels=torch.from_numpy(labels),
        ).loss
        loss.backward()
        if clip:
            norm = torch.nn.utils.clip_grad_norm_(theirs.parameters(), clip)
            assert norm > 2 * clip, "the test wants every step to be clipped"
        adamw.step()
        scheduler.step()
        adamw.zero_grad()
        tensors = {key: paddle.to_tensor(value) for key, value in inputs.items()}
        value = ours.loss(ours(**tensors), paddle.to_tensor(labels))
        assert value.item() == pytest.approx(loss.item(), rel=1e-7)
        value.backward()
        mine.set_lr(PEAK * optim.linear_warmup(step, STEPS + 2, WARMUP))
        mine.step()
        mine.clear_grad()
    state, pairs = dict(ours.named_parameters()), {}
    for name, value in theirs.named_parameters():
        name_here = names.from_huggingface(name)
        moved, reference = state[name_here].numpy(), value.detach().numpy()
        moved = names.swap_layout(name_here, moved) - start[name]
        pairs[name] = (moved, reference - start[name])
    # Movements are compared, not weights: relative to each array's largest one. Paddle keeps rates
    # in float32, torch adds 1e-6 to the norm, and a bias of all keys has a gradient of rounding.
    pairs = {name: pair for name, pair in pairs.items() if not name.endswith("self.key.bias")}
    assert_close(f"5 steps, clip {clip}", pairs, 2e-6 if clip else 2e-8)
