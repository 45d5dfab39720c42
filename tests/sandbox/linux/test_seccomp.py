"""The filter of system calls is made by names."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path

import pytest

from era_kernels.sandbox.linux import seccomp, syscalls
from tests.sandbox.linux.reserving import outcomes


@pytest.mark.skipif(not seccomp.is_available(), reason="libseccomp is not installed")
@pytest.mark.parametrize("internet", [True, False])
def test_export(internet: bool) -> None:
    """A BPF program: whole instructions, and few enough to be quick."""
    program = seccomp.export_filter(internet=internet)
    assert program is not None
    assert len(program) % 8 == 0
    assert 50 < len(program) // 8 < 300


def test_missing_library(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without libseccomp there is no filter, and that is said elsewhere."""
    monkeypatch.setattr(seccomp, "_library", lambda: None)
    assert seccomp.export_filter(internet=True) is None
    assert not seccomp.is_available()


@pytest.mark.skipif(not seccomp.is_available(), reason="libseccomp is not installed")
def test_disk_is_not_reserved(tmp_path: Path) -> None:
    """What takes disk without writing is refused; room is still given back, and libc writes."""
    program = seccomp.export_filter(internet=True)
    assert program is not None
    read, write = os.pipe()
    if (pid := os.fork()) == 0:
        try:
            syscalls.prctl(syscalls.PR_SET_NO_NEW_PRIVS, 1)
            syscalls.set_seccomp_filter(program)
            os.write(write, json.dumps(outcomes(str(tmp_path / "file"))).encode())
        finally:
            os._exit(0)
    os.close(write)
    told = json.loads(os.read(read, 65536))
    os.close(read)
    os.waitpid(pid, 0)
    refused = {name: by for name, by in told.items() if name.startswith(("fallocate", "ioctl"))}
    assert set(refused.values()) == {"ENOTSUP"}, refused  # the same number
    assert (told["blocks"], told["libc"]) == ("0", "2")
    assert told["ruleset"] == "ENOSYS"  # it would keep files that have no name
    assert told["punch"] in ("0", str(errno.EOPNOTSUPP))  # as the file system says
