"""Everything that knows Jupyter: kernelspecs, messages, kernels, machines."""
