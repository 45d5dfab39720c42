"""Metrics: what runs, kernels, requests and the store did is counted."""

from __future__ import annotations

import re
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.client import Client
from tests.contract.checks import (
    SLEEPING_CODE,
    background_runs,
    send_and_parse,
    wait_for_executions,
    wait_for_file,
)
from tests.server_process import Server
from tests.waiting import wait_until

# A server whose runs may print little.
SERVER_FLAGS = ("--max-execution-output", "1M")


class Scrape(dict[tuple[str, str], float]):
    """Samples by name and labels: a number that is not there is 0."""

    def __init__(self, client: Client) -> None:
        answer = client.http.get("/metrics").raise_for_status()
        assert answer.headers["Content-Type"].startswith("text/plain; version=0.0.4")
        self.text = answer.text
        for family in text_string_to_metric_families(answer.text):
            for sample in family.samples:
                labels = ",".join(f"{key}={value}" for key, value in sorted(sample.labels.items()))
                self[sample.name, labels] = sample.value

    def __missing__(self, key: tuple[str, str]) -> float:
        return 0.0

    def since(self, before: Scrape) -> dict[tuple[str, str], float]:
        """What has changed."""
        return {key: value - before[key] for key, value in self.items() if value != before[key]}


def test_runs(client: Client) -> None:
    """Runs are counted by language and outcome, with their times and their output."""
    session, before = client.session("python"), Scrape(client)
    session.run("print('abc')")
    session.run("import sys; sys.stderr.write('ab')")
    session.run("1/0")
    session.run("import time; time.sleep(60)", timeout=0.3)
    changed = Scrape(client).since(before)
    assert changed["era_runs_total", "language=python,outcome=ok"] == 2
    assert changed["era_runs_total", "language=python,outcome=error"] == 1
    assert changed["era_runs_total", "language=python,outcome=timeout"] == 1
    assert changed["era_run_seconds_count", "language=python"] == 4
    assert 0.3 <= changed["era_run_seconds_sum", "language=python"] < 10
    assert changed["era_run_queued_seconds_count", ""] == 4
    assert changed["era_run_output_bytes_total", "stream=stdout"] == 4
    assert changed["era_run_output_bytes_total", "stream=stderr"] > 2


def test_kernels(client: Client) -> None:
    """A kernel is counted when it starts, while it lives, and by what it dies of."""
    client.http.delete("/api/sessions")
    before = Scrape(client)
    assert before["era_kernels_alive", "language=python"] == 0
    session = client.session("python")
    session.run("import os; os._exit(7)")
    session.run("import os, signal; os.kill(os.getpid(), signal.SIGKILL)")
    session.run("while True: print('x' * 10_000)")
    session.run("1")
    client.http.post(f"{session.path}/restart").raise_for_status()
    now = Scrape(client)
    changed = now.since(before)
    assert now["era_kernels_alive", "language=python"] == 1
    assert now["era_sessions", ""] == 1
    assert changed["era_kernel_start_seconds_count", "language=python"] == 5
    for cause in ("exit", "SIGKILL", "output limit", "restarted"):
        assert changed["era_kernel_deaths_total", f"cause={cause},language=python"] == 1
    assert changed["era_runs_total", "language=python,outcome=lost"] == 2
    assert changed["era_runs_total", "language=python,outcome=output limit"] == 1
    session.delete()
    gone = Scrape(client)
    assert gone["era_kernels_alive", "language=python"] == 0
    assert gone.since(now)["era_kernel_deaths_total", "cause=session deleted,language=python"] == 1


def test_throw_away_runs(client: Client) -> None:
    """Runs of `execute` count like others, and leave no kernel."""
    before = Scrape(client)
    client.http.post("/api/execute", json={"language": "py", "code": "1"}).raise_for_status()
    key = ("era_runs_total", "language=python,outcome=ok")
    assert Scrape(client).since(before)[key] == 1
    alive = ("era_kernels_alive", "language=python")
    assert wait_until(lambda: Scrape(client)[alive] == before[alive])


def test_queue(client: Client) -> None:
    """Runs that wait are counted apart from those that run."""
    session, before = client.session("python"), Scrape(client)
    with background_runs(session) as start:
        first = start(SLEEPING_CODE)
        wait_for_file(session)
        rest = [start("1") for _ in range(3)]
        wait_for_executions(session, 4)
        changed = Scrape(client).since(before)
        assert changed["era_runs_running", ""] == 1
        assert changed["era_runs_waiting", ""] == 3
        session.delete()
        for one in (first, *rest):
            one.result()
    after = Scrape(client).since(before)
    assert ("era_runs_running", "") not in after
    assert after["era_runs_total", "language=python,outcome=deleted"] == 4


def test_requests(client: Client) -> None:
    """Requests are counted by the pattern of their path, method and status."""
    session, before = client.session("python"), Scrape(client)
    for _ in range(3):
        client.http.get(session.path).raise_for_status()
    client.http.get("/api/sessions/gone")
    client.http.get("/api/sessions/-")
    client.http.head("/health")
    client.http.request("BREW", "/health")
    for number in range(20):
        client.http.get(f"/made/up/{number}")
    changed = Scrape(client).since(before)
    counted = {
        tuple(re.findall(r"=([^,]*)", labels)): value
        for (name, labels), value in changed.items()
        if name == "era_http_requests_total" and "/metrics" not in labels
    }
    assert counted == {
        ("GET", "/api/sessions/{id}", "200"): 3,
        ("GET", "/api/sessions/{id}", "404"): 1,
        ("GET", "/api/sessions/{id}", "400"): 1,
        ("HEAD", "/health", "200"): 1,
        ("other", "/health", "405"): 1,
        ("GET", "other", "404"): 20,
    }
    assert changed["era_http_request_seconds_count", "method=GET,route=/api/sessions/{id}"] == 5


def test_store(client: Client) -> None:
    """Writes are counted and their transactions timed; none has failed."""
    before = Scrape(client)
    client.session("python")
    now = Scrape(client)
    changed = now.since(before)
    assert changed["era_store_writes_total", ""] >= 1
    assert changed["era_store_commit_seconds_count", ""] >= 1
    assert now["era_store_write_failures_total", ""] == 0


def test_malformed_requests(client: Client, server: Server) -> None:
    """Malformed HTTP is counted as rejected."""
    before, port = Scrape(client), int(server.base_url.rpartition(":")[2])
    assert send_and_parse(port, b"GARBAGE\r\n\r\n").status == 400
    changed = Scrape(client).since(before)
    assert changed["era_http_turned_away_total", "why=malformed"] == 1


def test_process(client: Client) -> None:
    """The server shows what it uses of the machine."""
    scrape = Scrape(client)
    for name in ("process_resident_memory_bytes", "process_open_fds", "process_cpu_seconds_total"):
        assert scrape[name, ""] > 0
    assert scrape["era_connections", ""] >= 1


def test_nothing_per_session(client: Client) -> None:
    """However much is done, the number of series stays, and no id is among them."""

    def work(number: int) -> None:
        session = client.session("python", session_id=f"secret-{number}")
        session.http.get(f"{session.path}/executions/exec-{number}")
        session.http.get(f"/nowhere/{number}")
        session.delete()

    def work_all(numbers: range) -> Scrape:
        with ThreadPoolExecutor(4) as pool:
            list(pool.map(work, numbers))
        return Scrape(client)

    first, second = work_all(range(20)), work_all(range(20, 60))
    assert len(first) == len(second)
    assert "secret" not in second.text
    assert "exec-" not in second.text


def test_format(client: Client) -> None:
    """Each metric is described once, and only by what everybody reads."""
    text = Scrape(client).text
    types: dict[str, Any] = dict(re.findall(r"^# TYPE (\S+) (\S+)$", text, re.MULTILINE))
    described = re.findall(r"^# HELP (\S+) .+$", text, re.MULTILINE)
    assert described == list(types)
    assert "_created" not in text
    assert {"counter", "gauge", "histogram"} == set(types.values())


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE"])
def test_read_only(client: Client, method: str) -> None:
    """Metrics can only be read."""
    assert client.http.request(method, "/metrics").status_code == 405
