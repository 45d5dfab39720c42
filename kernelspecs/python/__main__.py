"""Starts the kernel for any Jupyter client: `python kernelspecs/python CONNECTION_FILE`."""

from __future__ import annotations

import os
import sys
from types import ModuleType

from era_kernel.main import main

sys.path[0] = ""  # not this folder, which was needed for the import only
for name, value in tuple(os.environ.items()):
    if value.startswith(("{cache}", "{packages}")):  # placeholders that only our server fills in
        del os.environ[name]
sys.modules["__main__"] = ModuleType("__main__")
main(sys.argv[-1])
