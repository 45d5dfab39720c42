"""A live interpreter that you can curl: sessions on managed Jupyter kernels behind HTTP."""

__version__ = "0.1.0"
