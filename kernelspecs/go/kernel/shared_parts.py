"""Makes modules of the kernel for Python importable here that depend on nothing else of it.

They are imported as `era_kernel.…`. The package's own start, which prepares an interpreter for
programs that run in it, is left out: no program runs in this process.
"""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType

_package = ModuleType("era_kernel")
_package.__path__ = [str(Path(__file__).parents[2] / "python" / "era_kernel")]
sys.modules["era_kernel"] = _package
