"""Runs code in sessions on managed Jupyter kernels, behind an HTTP API."""

__version__ = "0.1.0"
