"""The filter of system calls is made by names."""

from __future__ import annotations

import pytest

from era_kernels.sandbox.linux import seccomp


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
