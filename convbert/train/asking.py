"""Ask a model: two text fields and a button in a notebook, a picture of the first answer elsewhere.

With `CONVBERT_STATIC=1`, which the runner of notebooks sets, and in an exported page, the first
question and its answer stand in for the controls. Nothing is loaded from a network.
"""

from __future__ import annotations

import html
import os
import threading
from typing import Any

import ipywidgets

from convbert.heads import ConvBertForQuestionAnswering
from convbert.tokenizer import ConvBertTokenizer
from convbert.train import answering

_FIELD: dict[str, Any] = {
    "layout": {"width": "46em", "max_width": "98%"},
    "continuous_update": False,  # a field asks when it is left, not at each letter
}


class AskWidget(ipywidgets.VBox):
    """A question, a text, and the answer marked in the text."""

    def __init__(
        self,
        model: ConvBertForQuestionAnswering,
        tokenizer: ConvBertTokenizer,
        question: str,
        context: str,
    ) -> None:
        """Make the widget, and answer once.

        Args:
            model: fine-tuned.
            tokenizer: the model's.
            question: shown first.
            context: the text that is asked, shown first.
        """
        self._model, self._tokenizer = model, tokenizer
        self.question = ipywidgets.Text(question, description="question", **_FIELD)
        self.context = ipywidgets.Textarea(context, description="text", rows=5, **_FIELD)
        self.button = ipywidgets.Button(description="Ask")
        self.shown = ipywidgets.HTML()
        super().__init__([self.question, self.context, self.button, self.shown])
        self.button.on_click(self.ask)
        # JupyterLab may bring a click and the words typed ahead of it to two threads of the
        # kernel: whoever comes last must answer last, with what the fields hold by then.
        self._one_at_a_time = threading.Lock()
        for field in (self.question, self.context):
            field.observe(self.ask, "value")
        self.ask()

    def ask(self, _: Any = None) -> None:
        """Answer what the fields hold; what is wrong with them is shown in the answer's place."""
        with self._one_at_a_time:
            asked = (self.question.value, self.context.value)
            try:
                self.shown.value = answer_as_html(self._model, self._tokenizer, *asked)
            except ValueError as error:  # a callback's traceback would reach nobody
                self.shown.value = f'<b role="alert">{html.escape(str(error))}</b>'

    def _repr_mimebundle_(self, **options: Any) -> dict[str, Any]:
        is_static = os.environ.get("CONVBERT_STATIC", "") not in ("", "0")
        bundle = {} if is_static else dict(super()._repr_mimebundle_(**options) or {})
        asked = f"<p><b>{html.escape(self.question.value)}</b></p>"
        return bundle | {
            "text/plain": f"[AskWidget: {self.question.value}]",
            "text/html": asked + self.shown.value,
        }


def answer_as_html(
    model: ConvBertForQuestionAnswering, tokenizer: ConvBertTokenizer, question: str, context: str
) -> str:
    """Answer a question, and return the context with the answer marked.

    Raises:
        ValueError: question or context is empty, or the question leaves no room for its context.
    """
    for name, text in (("question", question), ("text", context)):
        if not text.strip():
            raise ValueError(f"the {name} is empty: type some words")
    found = answering.answer(model, tokenizer, question, context)
    before, inside, after = (
        html.escape(part) for part in (context[: found.start], found.text, context[found.end :])
    )
    share = f"probability {found.probability:.2f} among its best answers"
    return f"<p>{before}<mark>{inside}</mark>{after}</p><p><small>{share}</small></p>"
