"""Holds the rules that combine kernels and stores: sessions, executions, files, limits, metrics."""
