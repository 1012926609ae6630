"""How long the explorers of notebook 06 take to answer, in processor time.

    python tests/benchmark_widgets.py

32 tokens, random weights of the small size, one core: what a reader waits for after a click.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

from convbert import ConvBertConfig, ConvBertForMaskedLM, ConvBertTokenizer
from convbert.locality import widgets
from convbert.tokenizer import SPECIAL_TOKENS

ROUNDS = 6


def measure(name: str, act: Callable[[int], object]) -> None:
    """Print the median and the range of several rounds, in milliseconds."""
    times = []
    for turn in range(ROUNDS):
        started = time.process_time()
        act(turn)
        times.append(1000 * (time.process_time() - started))
    print(f"{name:<28}{statistics.median(times):6.0f} ms ({min(times):.0f} to {max(times):.0f})")


def main() -> None:
    """Measure a new layer, a new text, and a head switched off."""
    words = ConvBertTokenizer([*SPECIAL_TOKENS, *(f"w{i}" for i in range(80))])
    config = ConvBertConfig.named("convbert-small", vocab_size=words.vocab_size)
    model = ConvBertForMaskedLM(config)
    text = " ".join(f"w{i}" for i in range(10, 40))
    explorer = widgets.MixingExplorer(model, words, text)
    ablation = widgets.HeadAblation(model, words, text)
    measure("another layer", lambda turn: setattr(explorer.layer, "value", 2 + turn))
    typed = [f"{text[:-3]}w{50 + turn}" for turn in range(ROUNDS)]
    measure("another text", lambda turn: setattr(explorer.text, "value", typed[turn]))
    switches = [head for heads in ablation.heads for head in heads][:ROUNDS]
    measure("a head switched off", lambda turn: setattr(switches[turn], "value", False))


if __name__ == "__main__":
    main()
