"""Three explorers for a notebook: what heads mix, what a head is for, and how locality forms.

State and controls only: every picture comes from `panels`. A keyboard is enough: numbers are typed
or stepped in number fields, since JupyterLab takes arrow keys away from selects and sliders. With
`CONVBERT_STATIC=1`, which the runner of notebooks sets, an explorer shows the picture of its first
selection instead, and in an exported page that picture stands in for the controls. Nothing is
loaded from a network.

JupyterLab may bring the events of one notebook to several threads of its kernel, and matplotlib's
settings are one for all threads: so one explorer draws at a time.
"""

from __future__ import annotations

import asyncio
import base64
import html
import io
import os
import re
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import ipywidgets
import matplotlib
import numpy as np

from convbert.locality import ablation, measure, panels
from convbert.locality.looks import Picture
from convbert.locality.record import MixingRecord, encoder_of, head_counts, record
from convbert.model import PretrainedLayer
from convbert.tokenizer import ConvBertTokenizer

LIVE_TOKENS = 64  # of a text; longer ones wait for the button
_TYPING, _CLICKING = 0.25, 0.02  # seconds without a further event before a picture is drawn
_NARROW = {"width": "12em"}
_INK = "#010203"  # what text and axes are drawn in; the page puts its own color there
_ONE_AT_A_TIME = threading.Lock()


class _Explorer(ipywidgets.VBox):
    """Controls above a picture that follows them; an error takes the picture's place."""

    def __init__(self, controls: Sequence[ipywidgets.Widget]) -> None:
        self._shown = ipywidgets.HTML()
        self._message = ipywidgets.HTML()
        self._pending: asyncio.TimerHandle | None = None
        self._drawing: int | None = None  # the thread that draws
        self.picture: Picture | None = None  # what is shown
        super().__init__([*controls, self._message, self._shown])
        self._draw()

    def draw(self) -> Picture:
        """Return the picture of the current selection."""
        raise NotImplementedError

    def _later(self, seconds: float) -> Callable[[Any], None]:
        """Return an observer that draws after a pause; the last request of several wins."""

        def request(_: Any) -> None:
            if self._drawing == threading.get_ident():
                return  # options of a select follow the text; that is no request
            if self._pending:
                self._pending.cancel()
            try:
                loop = asyncio.get_running_loop()
            except RuntimeError:  # no kernel: nobody types
                self._draw()
                return
            self._pending = loop.call_later(seconds, self._draw)

        return request

    def _draw(self) -> None:
        with _ONE_AT_A_TIME:
            self._pending, self._drawing = None, threading.get_ident()
            try:
                self._redraw()
            except Exception as error:  # a callback's traceback would reach nobody
                self._message.value = f'<b role="alert">{html.escape(str(error))}</b>'
            finally:
                self._drawing = None

    def _redraw(self) -> None:
        ink: dict[Any, Any] = dict.fromkeys(
            ("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color"), _INK
        )
        with matplotlib.rc_context({**ink, "svg.fonttype": "none"}):
            picture = self.draw()
            self._shown.value = inline_svg(picture)
        self.picture, self._message.value = picture, ""

    def _repr_mimebundle_(self, **options: Any) -> dict[str, Any]:
        bundle = {"text/plain": f"[{type(self).__name__}]"}
        if not is_static():
            bundle.update(super()._repr_mimebundle_(**options) or {})
        with _ONE_AT_A_TIME, matplotlib.rc_context():
            picture = self.draw()
        bundle["text/plain"] = f"[{type(self).__name__}: {picture.alt}]"
        bundle["text/html"] = _image(picture)
        return bundle


class _Tokens(ipywidgets.VBox):
    """A list of tokens to click at, and a field with the same choice as a number from 1."""

    def __init__(self) -> None:
        self.select = ipywidgets.Select(description="token", rows=6)
        self.number = ipywidgets.BoundedIntText(1, 1, 1, description="token no.", layout=_NARROW)
        super().__init__([self.number, self.select])
        self.number.observe(lambda change: setattr(self, "value", change["new"] - 1), "value")
        self.select.observe(lambda _: self.number.set_trait("value", self.value + 1), "value")

    @property
    def value(self) -> int:
        """Position of the chosen token, from 0."""
        return self.select.value or 0

    @value.setter
    def value(self, position: int) -> None:
        self.select.value = position

    def fill(self, tokens: Sequence[str], default: int) -> None:
        """Offer other tokens; the position stays if there is one."""
        options = tuple((f"{i + 1} {token}", i) for i, token in enumerate(tokens))
        if options == tuple(self.select.options):
            return
        chosen = min(self.value if self.select.options else default, len(options) - 1)
        self.number.max = len(options)
        self.select.options = options
        self.value = chosen


class MixingExplorer(_Explorer):
    """W1: type one or two sentences, pick layer, heads and a token; see both branches."""

    def __init__(
        self, model: PretrainedLayer, tokenizer: ConvBertTokenizer, text: str, other: str = ""
    ) -> None:
        """Make the explorer.

        Args:
            model: an encoder, or a model with one.
            tokenizer: its tokenizer.
            text: shown first.
            other: a second text beside it, for instance one that differs in a word; may be empty.
        """
        self._model, self._tokenizer = model, tokenizer
        self._records: dict[str, MixingRecord] = {}
        config = encoder_of(model).config
        attention, convolution = head_counts(config)
        self.text, self.other = _text("text A", text), _text("text B", other)
        self.layer = _choice("layer", config.num_hidden_layers)
        self.attention = _choice("attention", attention)
        self.convolution = _choice("convolution", max(1, convolution))
        self.convolution.disabled = not convolution
        self.token = _Tokens()
        self.long = ipywidgets.Button(description="Show long text", disabled=True)
        choices = ipywidgets.VBox([self.layer, self.attention, self.convolution, self.long])
        self._read(None)
        super().__init__([self.text, self.other, ipywidgets.HBox([choices, self.token])])
        for control in (self.layer, self.attention, self.convolution, self.token.select):
            control.observe(self._later(_CLICKING), "value")
        for field in (self.text, self.other):
            field.observe(self._later(_TYPING), "value")
        self.long.on_click(self._read_long)

    def draw(self) -> Picture:
        """Record texts that changed, and draw the selection."""
        self._read(LIVE_TOKENS)
        chosen = (self.layer.value - 1, self.attention.value - 1, self.convolution.value - 1)
        return panels.explorer(self._records, *chosen, self.token.value)

    def _read(self, limit: int | None) -> None:
        """Bring the records up to date; at most `limit` tokens unless they are there already."""
        texts = {"A": self.text.value, "B": self.other.value}
        wanted = {name: text for name, text in texts.items() if text.strip() or name == "A"}
        for name, text in wanted.items():
            known = self._records.get(name)
            if known is not None and known.metadata["text"] == text:
                continue
            count = len(self._tokenizer(text)["input_ids"])
            if limit and count > limit:
                self.long.disabled = False
                raise ValueError(f"text {name} has {count} tokens: press “Show long text” to wait")
            made = record(self._model, self._tokenizer, [text], text=text)
            self._records[name] = made[0]
        self._records = {name: self._records[name] for name in wanted}
        self.long.disabled = True
        self.token.fill(self._records["A"].tokens, default=1)

    def _read_long(self, _: Any) -> None:
        try:
            self._read(None)
        except ValueError:
            pass  # drawing says what is wrong
        self._draw()


class HeadAblation(_Explorer):
    """W2: silence heads of either family and see what the prediction loses."""

    def __init__(self, model: PretrainedLayer, tokenizer: ConvBertTokenizer, text: str) -> None:
        """Make the explorer.

        Args:
            model: one that predicts; see `ablation.describe_prediction`.
            tokenizer: its tokenizer.
            text: shown first.

        Raises:
            ValueError: the model predicts nothing.
        """
        self._what = ablation.describe_prediction(model)
        self._model, self._tokenizer = model, tokenizer
        self._attention, _ = head_counts(encoder_of(model).config)
        layers, heads = ablation.head_shape(model)
        self.text = _text("text", text)
        self.token = _Tokens()
        self.rank = ipywidgets.Button(description="Rank all heads")
        self.heads = [[self._box(row, head) for head in range(heads)] for row in range(layers)]
        self._ranked = is_static()
        self._read()
        wrap = {"flex_flow": "row wrap"}
        rows = [ipywidgets.HBox(boxes, layout=wrap) for boxes in self.heads]
        first = ipywidgets.VBox([self.token, self.rank])
        super().__init__([self.text, ipywidgets.HBox([first, ipywidgets.VBox(rows)])])
        for box in (box for boxes in self.heads for box in boxes):
            box.observe(self._unrank, "value")
            box.observe(self._later(_CLICKING), "value")
        self.token.select.observe(self._later(_CLICKING), "value")
        self.text.observe(self._later(_TYPING), "value")
        self.rank.on_click(self._rank)

    @property
    def keep(self) -> np.ndarray:
        """1 for heads that speak [L, heads]."""
        return np.array([[float(box.value) for box in boxes] for boxes in self.heads])

    def draw(self) -> Picture:
        """Run the model with the chosen heads, or with each head silenced alone."""
        self._read()
        ids, position = self._ids, self.token.value
        if self._ranked:
            changes = ablation.rank(self._model, self._tokenizer, ids, position)
            (made,) = record(self._model, self._tokenizer, [self.text.value])
            mixing = measure.mixing(made.attention, made.kernels)
            distances = measure.distance(mixing, made.content)
            return panels.ranking(changes, distances, self._attention, self._what)
        keep = np.stack([np.ones_like(self.keep), self.keep])
        before, after = ablation.predict(self._model, self._tokenizer, ids, position, keep)
        silent = int((self.keep == 0).sum())
        return panels.silenced(float(before), float(after), self._what, silent)

    def _read(self) -> None:
        if not self.text.value.strip():
            raise ValueError("the text is empty: type some words")
        self._ids = np.array(self._tokenizer(self.text.value)["input_ids"])
        if len(self._ids) > LIVE_TOKENS:
            raise ValueError(f"the text has {len(self._ids)} tokens, at most {LIVE_TOKENS} here")
        tokens = self._tokenizer.convert_ids_to_tokens(self._ids.tolist())
        self.token.fill(tokens, default=len(tokens) // 2)

    def _box(self, layer: int, head: int) -> ipywidgets.Checkbox:
        family = "attention" if head < self._attention else "conv"
        place = head % self._attention + 1
        return ipywidgets.Checkbox(
            True,
            description=f"{layer + 1}: {family} {place}",
            indent=False,
            layout={"width": "9.5em"},
        )

    def _unrank(self, _: Any) -> None:
        self._ranked = False

    def _rank(self, _: Any) -> None:
        self._ranked = True
        self._draw()


class CheckpointScrubber(_Explorer):
    """W3: move through the checkpoints of a pretraining run and watch heads become local."""

    def __init__(self, records: Mapping[int, Sequence[MixingRecord]], reach: int = 12) -> None:
        """Measure the records; the model is not needed any more.

        Args:
            records: step -> records of the same sentences by the model after so many updates.
            reach: largest offset drawn.

        Raises:
            ValueError: no step.
        """
        if not records:
            raise ValueError("no checkpoints: give records for at least one step")
        self.steps = sorted(records)
        profiles, distances = [], []
        for step in self.steps:
            mixing = [(measure.mixing(r.attention, r.kernels), r.content) for r in records[step]]
            each = np.array([measure.offset_profile(m, content, reach)[0] for m, content in mixing])
            count = np.isfinite(each).sum(0)  # 0 for offsets longer than every sentence
            mean = np.nansum(each, 0) / np.where(count > 0, count, np.nan)
            profiles.append(mean.reshape(-1, 2 * reach + 1))
            distances.append(np.nanmean([measure.distance(m, c) for m, c in mixing], axis=0))
        self._profiles, self._distances = np.array(profiles), np.array(distances)
        self._attention = records[self.steps[0]][0].attention.shape[1]
        last = len(self.steps) - 1
        self.place = ipywidgets.IntSlider(last, 0, last, description="slide", readout=False)
        self.number = ipywidgets.BoundedIntText(
            last, 0, last, description="checkpoint", layout=_NARROW
        )
        ipywidgets.link((self.place, "value"), (self.number, "value"))
        super().__init__([ipywidgets.HBox([self.number, self.place])])
        self.place.observe(self._later(_CLICKING), "value")

    def draw(self) -> Picture:
        """Draw the chosen step; without a kernel, up to four of them side by side."""
        chosen = np.array([self.place.value])
        if is_static():
            last = len(self.steps) - 1
            chosen = np.unique(np.linspace(0, last, min(4, last + 1)).round().astype(int))
        steps = [self.steps[place] for place in chosen]
        return panels.checkpoints(
            steps, self._profiles[chosen], self._distances[chosen], self._attention
        )


def is_static() -> bool:
    """Whether explorers show pictures only: nobody is there to move them."""
    return os.environ.get("CONVBERT_STATIC", "") not in ("", "0")


def inline_svg(picture: Picture) -> str:
    """Write a picture as SVG that takes text color and background from the page around it."""
    file = io.StringIO()
    picture.figure.savefig(file, format="svg", transparent=True, metadata={"Date": None})
    svg = file.getvalue()
    svg = svg[svg.index("<svg") :].replace(_INK, "currentColor")
    # matplotlib's style sheet would apply to the whole page; its two rules go to the picture.
    svg = re.sub(r"<style.*?</style>", "", svg, count=1, flags=re.DOTALL)
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, count=1, flags=re.DOTALL)
    alt = html.escape(picture.alt, quote=True)
    style = "max-width:100%;height:auto;stroke-linejoin:round;stroke-linecap:butt"
    return svg.replace("<svg ", f'<svg role="img" aria-label="{alt}" style="{style}" ', 1)


def _image(picture: Picture) -> str:
    """Write a picture as an HTML image with its alt text."""
    file = io.BytesIO()
    picture.figure.savefig(file, format="png", dpi=100, facecolor="white")
    data = base64.b64encode(file.getvalue()).decode()
    alt = html.escape(picture.alt, quote=True)
    return f'<img alt="{alt}" style="max-width:100%" src="data:image/png;base64,{data}">'


def _text(name: str, value: str) -> ipywidgets.Text:
    return ipywidgets.Text(value, description=name, layout={"width": "42em", "max_width": "98%"})


def _choice(name: str, count: int) -> ipywidgets.BoundedIntText:
    return ipywidgets.BoundedIntText(1, 1, count, description=name, layout=_NARROW)
