"""numpy without threads of its own, so that a zygote may hold it."""

from __future__ import annotations

import os

os.environ["OPENBLAS_NUM_THREADS"] = "1"

import numpy.random  # noqa: F401
