"""What operators measure."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from era_kernels.errors import InsufficientStorage, KernelStartFailed
from era_kernels.models import Ending, Failure, Finished, Reason
from era_kernels.services.meters import OTHER, Meters, Watched, cause_of
from era_kernels.services.outcome import Timing, ended_for, failure_of, outcome_of

DOCUMENT = Path(__file__).parents[2] / "docs" / "metrics.md"


def values(meters: Meters) -> dict[str, float]:
    """Every sample that is told, by its name and labels."""
    text = asyncio.run(meters.text()).decode()
    return {
        " ".join([sample.name, *sample.labels.values()]): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


@pytest.fixture
def meters() -> Iterator[Meters]:
    yield Meters()


def test_runs(meters: Meters) -> None:
    """Runs are counted by language and outcome, with their times and bytes."""
    timing = Timing(queued=0.2, execution=3)
    meters.run_ended("alpha", "ok", timing, {"stdout": 5, "stderr": 0})
    meters.run_ended("alpha", "ok", timing, {"stdout": 5, "stderr": 1})
    meters.run_ended("beta", "timeout", timing, {})
    told = values(meters)
    assert told["era_runs_total alpha ok"] == 2
    assert told["era_runs_total beta timeout"] == 1
    assert told["era_run_seconds_sum alpha"] == 6
    assert told["era_run_queued_seconds_count"] == 3
    assert told["era_run_output_bytes_total stdout"] == 10
    assert told["era_run_output_bytes_total stderr"] == 1


def test_kernels(meters: Meters) -> None:
    """A kernel lives from the end of its start to its death; a failed start is no kernel."""
    for _ in range(2):
        with meters.kernel_starting("alpha"):
            pass
    with pytest.raises(KernelStartFailed), meters.kernel_starting("alpha"):
        raise KernelStartFailed("It did not.")
    meters.kernel_ended("alpha", Ending(signal=9))
    told = values(meters)
    assert told["era_kernels_alive alpha"] == 1
    assert told["era_kernel_start_seconds_count alpha"] == 2
    assert told["era_kernel_start_failures_total alpha"] == 1
    deaths = {name: told[name] for name in told if name.startswith("era_kernel_deaths")}
    assert list(deaths.values()) == [1]
    assert "SIGKILL" in next(iter(deaths))


def test_cancelled_start(meters: Meters) -> None:
    """A start that nobody wants any more is neither a kernel nor a failure."""
    with pytest.raises(asyncio.CancelledError), meters.kernel_starting("alpha"):
        raise asyncio.CancelledError
    assert not [name for name in values(meters) if name.startswith("era_kernel")]


def test_store(meters: Meters) -> None:
    """Transactions are timed; their writes and failures are counted."""
    meters.committed(0.25, 3, 0)
    meters.committed(0.25, 2, 2)
    told = values(meters)
    assert told["era_store_commit_seconds_count"] == 2
    assert told["era_store_commit_seconds_sum"] == 0.5
    assert told["era_store_writes_total"] == 5
    assert told["era_store_write_failures_total"] == 2


def test_requests(meters: Meters) -> None:
    """Methods and paths that a caller makes up share one label."""
    meters.answered("/api/x", "GET", 200, 0.1)
    for number in range(100):
        meters.answered("", f"BREW{number}", 405, 0.1)
    names = [name for name in values(meters) if name.startswith("era_http_requests")]
    assert len(names) == 2
    assert not [name for name in names if "BREW" in name]


def test_watched(meters: Meters) -> None:
    """What changes all the time is looked at when somebody asks."""
    numbers = iter([5, 7])
    meters.watch(Watched.SESSIONS, lambda: next(numbers))
    assert values(meters)["era_sessions"] == 5
    assert values(meters)["era_sessions"] == 7


def test_two_servers_share_nothing(meters: Meters) -> None:
    """Everything that is counted belongs to one server of the process."""
    meters.committed(1, 1, 0)
    assert values(Meters())["era_store_writes_total"] == 0


@pytest.mark.parametrize(
    ("ending", "cause"),
    [
        (Ending(code=0), "exit"),
        (Ending(code=7), "exit"),
        (Ending(signal=11), "SIGSEGV"),
        (Ending(signal=50), OTHER),
        (Ending(code=1, reason=Reason.RESTARTED), "restarted"),
        (Ending(reason="output limit 1 GiB"), "output limit"),
        (Ending(reason="output limit 2 GiB"), "output limit"),
        (Ending(reason="anything that a kernel may say"), OTHER),
        *[(Ending(reason=one), one.value) for one in Reason],
    ],
)
def test_causes_are_few(ending: Ending, cause: str) -> None:
    """However kernels end, there are few words for it."""
    assert cause_of(ending) == cause


@pytest.mark.parametrize(
    ("finished", "outcome"),
    [
        (Finished(0), "ok"),
        (Finished(3), "error"),
        (Finished(130), "interrupted"),
        (Finished(124, timed_out=True), "timeout"),
        (Finished(124, None, "lost", Ending(reason=Reason.TIMEOUT), timed_out=True), "timeout"),
        (Finished(7, None, "lost", Ending(code=7)), "lost"),
        (Finished(137, None, "lost", Ending(reason="output limit 1 GiB")), "output limit"),
        (ended_for(Reason.DELETED), "deleted"),
        (ended_for(Reason.RESTARTED), "restarted"),
        (ended_for(Reason.STOPPED), "stopped"),
        (ended_for(Reason.CLIENT_GONE), "client gone"),
    ],
)
def test_outcomes(finished: Finished, outcome: str) -> None:
    """Every way in which a run can end has its word."""
    assert outcome_of(finished, failure_of(finished, 30)) == outcome


def test_failed_run() -> None:
    """A run that the server could not do is its failure, whatever the problem."""
    problem = InsufficientStorage("No room.")
    failure: Failure | None = failure_of(Finished(1), 30, problem)
    assert outcome_of(Finished(1), failure) == "failed"


def test_everything_is_documented(meters: Meters) -> None:
    """docs/metrics.md names every metric."""
    page = DOCUMENT.read_text("utf-8")
    text = asyncio.run(meters.text()).decode()
    names = [line.split()[2] for line in text.splitlines() if line.startswith("# TYPE era_")]
    assert len(names) > 12
    assert [name for name in names if f"`{name}`" not in page] == []
