"""The kernels that the tests of `kernels/` run, for those of the kernel's own code."""

from tests.kernels.conftest import host, machine, runner

__all__ = ["host", "machine", "runner"]
