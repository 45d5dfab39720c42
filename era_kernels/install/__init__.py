"""Installs what languages need: the command `era-kernels install`."""
