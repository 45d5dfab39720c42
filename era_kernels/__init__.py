"""A live interpreter that you can curl: sessions on managed Jupyter kernels behind HTTP."""

from __future__ import annotations

from importlib.metadata import version

__version__ = version("era-kernels")
