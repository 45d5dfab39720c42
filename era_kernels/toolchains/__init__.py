"""Toolchains: what a kernel needs that must be installed, how it is described and where it lies."""
