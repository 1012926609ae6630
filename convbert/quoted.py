"""Results of others on GLUE, in percent: quoted, never shown as ours. No Paddle."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple


class Row(NamedTuple):
    """Somebody's results, the metrics of a task in the order of `data.glue.TASKS`."""

    who: str
    on: str  # the data, and how the numbers came about
    source: str
    scores: Mapping[str, tuple[float, ...]]  # by task; of mnli matched and mismatched


def _row(who: str, on: str, source: str, **scores: tuple[float, ...]) -> Row:
    named = {name.replace("_", "-"): values for name, values in scores.items()}
    return Row(who, on, source, MappingProxyType(named))


_TABLE_3 = "arXiv 2008.02496, table 3"
_BOARD = "GLUE leaderboard, entries of the authors"
_PADDLE = "github.com/JunnYu/paddle_convbert, README"

# The paper's table gives one metric per task: of mrpc and qqp the accuracy, of sts-b Spearman.
GLUE = (
    _row(
        "ConvBERT-base, the paper, 1 M updates",
        "test; mrpc and qqp: accuracy, sts-b: Spearman",
        _TABLE_3,
        cola=(66.0,),
        sst_2=(95.0,),
        mrpc=(88.2,),
        sts_b=(88.2,),
        qqp=(89.6,),
        mnli=(85.3,),
        qnli=(92.4,),
        rte=(74.7,),
    ),
    _row(
        "ConvBERT-small, the authors",
        "test, by the leaderboard",
        _BOARD,
        cola=(56.7,),
        sst_2=(91.2,),
        mrpc=(85.1, 89.1),
        sts_b=(84.6, 83.8),
        qqp=(88.4, 69.9),
        mnli=(82.1, 80.8),
        qnli=(88.5,),
        rte=(65.1,),
        wnli=(65.1,),
    ),
    _row(
        "ConvBERT-base, the authors",
        "test, by the leaderboard",
        _BOARD,
        cola=(67.8,),
        sst_2=(95.7,),
        mrpc=(88.3, 91.4),
        sts_b=(90.4, 89.7),
        qqp=(90.0, 73.0),
        mnli=(88.3, 87.4),
        qnli=(93.2,),
        rte=(77.9,),
        wnli=(65.1,),
    ),
    _row(
        "ConvBERT-base, earlier Paddle reproduction",
        "test, by the leaderboard",
        _PADDLE,
        cola=(66.3,),
        sst_2=(95.4,),
        mrpc=(88.6, 91.6),
        sts_b=(90.0, 89.2),
        qqp=(90.0, 73.9),
        mnli=(88.2, 87.7),
        qnli=(93.3,),
        rte=(78.2,),
        wnli=(65.1,),
    ),
    _row(
        "ConvBERT-base, earlier Paddle reproduction",
        "dev, one seed, the best checkpoint chosen on dev",
        _PADDLE,
        cola=(69.24,),
        sst_2=(94.61,),
        mrpc=(90.44, 93.12),
        sts_b=(90.84, 90.66),
        qqp=(92.04, 89.36),
        mnli=(88.07, 87.89),
        qnli=(93.21,),
        rte=(83.39,),
        wnli=(56.34,),
    ),
)
