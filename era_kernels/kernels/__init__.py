"""Holds everything that knows Jupyter: kernelspecs, messages, kernels, machines."""
