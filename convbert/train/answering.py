"""Questions to answers with a trained model: many at once, one at a time, measured, in files."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import paddle
from tqdm import tqdm

from convbert import runtime
from convbert.data.answers import Answer, Decoder, Predictions
from convbert.data.squad import Features, Question
from convbert.heads import ConvBertForQuestionAnswering
from convbert.metrics import squad as metrics
from convbert.results import write_atomically, write_json
from convbert.tokenizer import ConvBertTokenizer
from convbert.train import loop

FLOAT32 = runtime.Precision("float32")


def predict(
    model: ConvBertForQuestionAnswering,
    features: Features,
    version_2: bool = False,
    n_best_size: int = 20,
    max_answer_length: int = 30,
    batch_size: int = 32,
    precision: runtime.Precision = FLOAT32,
    show: bool = False,
) -> Predictions:
    """Answer all questions; only the best candidates of each are kept while batches pass.

    Args:
        model: dropout is off meanwhile.
        features: windows of the questions; those of like length share a batch.
        version_2: a question may have no answer.
        n_best_size: answers to keep of each question.
        max_answer_length: in tokens.
        batch_size: windows at a time.
        precision: of autocast.
        show: a progress bar.
    """
    decoder = Decoder(features, n_best_size, max_answer_length)
    order = np.argsort(-features.lengths, kind="stable")

    def run() -> Predictions:
        starts = range(0, len(order), batch_size)
        for first in tqdm(starts, "predict", unit="batch", mininterval=1.0, disable=not show):
            rows = order[first : first + batch_size]
            inputs = {name: paddle.to_tensor(x) for name, x in features.batch(rows).items()}
            with runtime.autocast(precision):
                logits = model(**inputs)
            decoder.add(rows, *(scores.astype("float32").numpy() for scores in logits))
        return decoder.finish(version_2)

    return loop.evaluating(model, run)


def answer(
    model: ConvBertForQuestionAnswering,
    tokenizer: ConvBertTokenizer,
    question: str,
    context: str,
    null_score_diff_threshold: float | None = None,
) -> Answer:
    """Answer one question.

    Args:
        model: fine-tuned.
        tokenizer: the model's.
        question: any text.
        context: of any length.
        null_score_diff_threshold: for a model that was trained on impossible questions too: how
            much better "no answer" must be than the best answer (0: not at all); None: always
            answer.

    Returns:
        Text, place (`context[start:end]`) and probability among the best answers.
    """
    length = min(512, model.config.max_position_embeddings)
    features = Features([Question("q", question, context)], tokenizer, length)
    found = predict(model, features, version_2=null_score_diff_threshold is not None)
    text = found.final(null_score_diff_threshold)["q"]
    return next(candidate for candidate in found.nbest["q"] if candidate.text == text)


def measure(
    file: str | os.PathLike, predictions: Predictions, threshold: float | None
) -> dict[str, float]:
    """Return the official evaluation of the answers, as they are written.

    The best thresholds are searched on the answers before "" replaces any. They are tuned on the
    very data they are measured on.

    Args:
        file: with the right answers; decides the version of the evaluation.
        predictions: for all its questions.
        threshold: of null odds; None: every question is answered.

    Returns:
        The official keys, and for version 2.0 `best_exact_attainable` and `best_f1_attainable`:
        the best of any threshold, where the official search steps between equal odds.
    """
    scores = metrics.score(file, predictions.final(threshold))
    if threshold is not None and "total" in scores:
        full = metrics.score(file, predictions.texts, predictions.null_odds)
        scores |= {key: value for key, value in full.items() if key.startswith("best_")}
        for metric in ("exact", "f1"):
            _, curve = metrics.threshold_curve(
                file, predictions.texts, predictions.null_odds, metric
            )
            scores[f"best_{metric}_attainable"] = float(curve.max())
    return scores


def write(folder: Path, predictions: Predictions, threshold: float | None) -> None:
    """Write predictions.json, nbest_predictions.json and null_odds.json."""
    nbest = {
        name: [candidate._asdict() for candidate in candidates]
        for name, candidates in predictions.nbest.items()
    }
    text = json.dumps(nbest, ensure_ascii=False) + "\n"  # in one line: it is large
    write_atomically(folder / "nbest_predictions.json", text.encode("utf-8", "surrogatepass"))
    write_json(folder / "null_odds.json", predictions.null_odds)
    write_json(folder / "predictions.json", predictions.final(threshold))
