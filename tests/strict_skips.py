"""Makes pytest report unexpected skips as failures, where `ERA_TEST_STRICT_SKIPS` is set.

A skip hides a broken set-up as easily as a host that cannot do something. `.ci/run` sets the
variable, `pyproject.toml` loads the plugin.
"""

from __future__ import annotations

import os
from collections.abc import Generator

import pytest

VARIABLE = "ERA_TEST_STRICT_SKIPS"
# Features that the hosts of the CI lack; a reason that contains one of these is expected.
EXPECTED = ("cgroup v2", "/dev/net/tun", "Docker")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    _check(report)
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report() -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    report = yield
    _check(report)
    return report


def _check(report: pytest.TestReport | pytest.CollectReport) -> None:
    """Turns an unexpected skip into a failure; a test that is expected to fail is no skip."""
    if not os.environ.get(VARIABLE) or not report.skipped or hasattr(report, "wasxfail"):
        return
    longrepr = report.longrepr
    reason = longrepr[2] if isinstance(longrepr, tuple) else str(longrepr)
    if not any(text in reason for text in EXPECTED):
        report.outcome = "failed"
        report.longrepr = f"unexpected skip ({VARIABLE} is set): {reason}"
