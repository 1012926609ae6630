"""Parity tests compare with other people's code, live.

They need the extra `parity`; where it is missing they fail, because a comparison that was not
made must not look like one that passed. The default run leaves this folder out.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parents[1]))  # support.py and make_golden.py

import convbert  # noqa: F401  (before Paddle, whoever imports it first)


@pytest.fixture(scope="module")
def paddlenlp(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """Import PaddleNLP with another home directory, and take its log handler off again."""
    home = tmp_path_factory.mktemp("home")
    handlers = list(logging.getLogger().handlers)
    with pytest.MonkeyPatch.context() as patch:
        for name in ("HOME", "PPNLP_HOME", "HF_HOME", "HUB_HOME", "XDG_CACHE_HOME"):
            patch.setenv(name, str(home))
        import paddlenlp.transformers

        yield paddlenlp.transformers
    logging.getLogger().handlers[:] = handlers
