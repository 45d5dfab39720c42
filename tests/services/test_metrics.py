"""The metrics count runs, kernels, requests and transactions."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from era_kernels.errors import InsufficientStorage, KernelStartFailed
from era_kernels.models import EndReason, ErrorEvent, ExecutionEnd, ExitInfo
from era_kernels.services.executions.last_events import (
    Timing,
    error_event,
    metric_label,
    session_closed,
)
from era_kernels.services.metrics import OTHER_LABEL, Metrics, ScrapedGauge, cause_label

DOCUMENT = Path(__file__).parents[2] / "docs" / "metrics.md"


async def values(metrics: Metrics) -> dict[str, float]:
    """Returns every rendered sample by its name and labels."""
    text = (await metrics.render()).decode()
    return {
        " ".join([sample.name, *sample.labels.values()]): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


@pytest.fixture
def metrics() -> Iterator[Metrics]:
    yield Metrics()


async def test_runs(metrics: Metrics) -> None:
    """Runs are counted by language and outcome, with their times and bytes."""
    timing = Timing(queued=0.2, execution=3)
    metrics.run_ended("alpha", "ok", timing, {"stdout": 5, "stderr": 0})
    metrics.run_ended("alpha", "ok", timing, {"stdout": 5, "stderr": 1})
    metrics.run_ended("beta", "timeout", timing, {})
    samples = await values(metrics)
    assert samples["era_runs_total alpha ok"] == 2
    assert samples["era_runs_total beta timeout"] == 1
    assert samples["era_run_seconds_sum alpha"] == 6
    assert samples["era_run_queued_seconds_count"] == 3
    assert samples["era_run_output_bytes_total stdout"] == 10
    assert samples["era_run_output_bytes_total stderr"] == 1


async def test_kernels(metrics: Metrics) -> None:
    """A kernel lives from the end of its start to its death; a failed start is no kernel."""
    for _ in range(2):
        with metrics.kernel_starting("alpha"):
            pass
    with pytest.raises(KernelStartFailed), metrics.kernel_starting("alpha"):
        raise KernelStartFailed("It did not.")
    metrics.kernel_ended("alpha", ExitInfo(signal=9))
    samples = await values(metrics)
    assert samples["era_kernels_alive alpha"] == 1
    assert samples["era_kernel_start_seconds_count alpha"] == 2
    assert samples["era_kernel_start_failures_total alpha"] == 1
    deaths = {name: samples[name] for name in samples if name.startswith("era_kernel_deaths")}
    assert list(deaths.values()) == [1]
    assert "SIGKILL" in next(iter(deaths))


async def test_cancelled_start(metrics: Metrics) -> None:
    """A cancelled start is neither a kernel nor a failure."""
    with pytest.raises(asyncio.CancelledError), metrics.kernel_starting("alpha"):
        raise asyncio.CancelledError
    assert not [name for name in await values(metrics) if name.startswith("era_kernel")]


async def test_store(metrics: Metrics) -> None:
    """Transactions are timed; their writes and failures are counted."""
    metrics.transaction_ended(0.25, 3, 0)
    metrics.transaction_ended(0.25, 2, 2)
    samples = await values(metrics)
    assert samples["era_store_commit_seconds_count"] == 2
    assert samples["era_store_commit_seconds_sum"] == 0.5
    assert samples["era_store_writes_total"] == 5
    assert samples["era_store_write_failures_total"] == 2


async def test_requests(metrics: Metrics) -> None:
    """Methods and paths that a caller makes up share one label."""
    metrics.request_answered("/api/x", "GET", 200, 0.1)
    for number in range(100):
        metrics.request_answered("", f"BREW{number}", 405, 0.1)
    names = [name for name in await values(metrics) if name.startswith("era_http_requests")]
    assert len(names) == 2
    assert not [name for name in names if "BREW" in name]


async def test_scraped_gauges(metrics: Metrics) -> None:
    """Gauges are read at each scrape."""
    numbers = iter([5, 7])
    metrics.register(ScrapedGauge.SESSIONS, lambda: next(numbers))
    assert (await values(metrics))["era_sessions"] == 5
    assert (await values(metrics))["era_sessions"] == 7


async def test_two_servers_share_nothing(metrics: Metrics) -> None:
    """Everything that is counted belongs to one server of the process."""
    metrics.transaction_ended(1, 1, 0)
    assert (await values(Metrics()))["era_store_writes_total"] == 0


@pytest.mark.parametrize(
    ("ending", "cause"),
    [
        (ExitInfo(code=0), "exit"),
        (ExitInfo(code=7), "exit"),
        (ExitInfo(signal=11), "SIGSEGV"),
        (ExitInfo(signal=50), OTHER_LABEL),
        (ExitInfo(code=1, reason=EndReason.RESTARTED), "restarted"),
        (ExitInfo(reason="output limit 1 GiB"), "output limit"),
        (ExitInfo(reason="output limit 2 GiB"), "output limit"),
        (ExitInfo(reason="anything that a kernel may say"), OTHER_LABEL),
        *[(ExitInfo(reason=one), one.value) for one in EndReason],
    ],
)
def test_causes_are_few(ending: ExitInfo, cause: str) -> None:
    """However kernels end, their number of labels is bounded."""
    assert cause_label(ending) == cause


@pytest.mark.parametrize(
    ("finished", "outcome"),
    [
        (ExecutionEnd(0), "ok"),
        (ExecutionEnd(3), "error"),
        (ExecutionEnd(130), "interrupted"),
        (ExecutionEnd(124, timed_out=True), "timeout"),
        (
            ExecutionEnd(124, None, "lost", ExitInfo(reason=EndReason.TIMEOUT), timed_out=True),
            "timeout",
        ),
        (ExecutionEnd(7, None, "lost", ExitInfo(code=7)), "lost"),
        (ExecutionEnd(137, None, "lost", ExitInfo(reason="output limit 1 GiB")), "output limit"),
        (session_closed(EndReason.DELETED), "deleted"),
        (session_closed(EndReason.RESTARTED), "restarted"),
        (session_closed(EndReason.STOPPED), "stopped"),
        (session_closed(EndReason.CLIENT_DISCONNECTED), "client gone"),
    ],
)
def test_outcomes(finished: ExecutionEnd, outcome: str) -> None:
    """Every way in which a run can end has its label."""
    assert metric_label(finished, error_event(finished, 30)) == outcome


def test_failed_run() -> None:
    """A run that the server could not do counts as failed, whatever the error."""
    error = InsufficientStorage("No room.")
    failure: ErrorEvent | None = error_event(ExecutionEnd(1), 30, error)
    assert metric_label(ExecutionEnd(1), failure) == "failed"


async def test_everything_is_documented(metrics: Metrics) -> None:
    """docs/metrics.md names every metric."""
    page = DOCUMENT.read_text("utf-8")
    text = (await metrics.render()).decode()
    names = [line.split()[2] for line in text.splitlines() if line.startswith("# TYPE era_")]
    assert len(names) > 12
    assert [name for name in names if f"`{name}`" not in page] == []
