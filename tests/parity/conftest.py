"""Parity tests compare with other people's code, live.

They need the extra `parity`; where it is missing they fail, because a comparison that was not
made must not look like one that passed. The default run leaves this folder out.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))  # support.py and make_golden.py

import convbert  # noqa: F401  (before Paddle, whoever imports it first)
