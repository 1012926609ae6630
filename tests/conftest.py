"""Runs before any test module: the CPU settings count only if they are made before Paddle loads."""

import convbert  # noqa: F401
