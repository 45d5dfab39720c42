"""The `EventSource` of a real browser follows an execution over a connection that breaks."""

from __future__ import annotations

import re
import time
from contextlib import closing

import pytest

from tests import browser
from tests.browser import PageServer, Relay, open_browser
from tests.client import Client, parse_sse
from tests.contract.checks import check
from tests.server_process import Launcher
from tests.waiting import wait_until

RETRY_SECONDS = 3  # after which Chromium connects again
LINES = 50
CODE = f"import time\nfor n in range({LINES}): print(n, flush=True); time.sleep(0.1)"
PAGE = """<!DOCTYPE html><title>Events</title><script>
const source = new EventSource("URL"), events = [];
let serial = 0;
function report() {
  const body = JSON.stringify({serial: serial++, events, state: source.readyState});
  fetch("/report", {method: "POST", body});
}
for (const type of ["stdout", "stderr", "done"]) {
  source.addEventListener(type, (event) => {
    events.push([Number(event.lastEventId), type, JSON.parse(event.data)]);
    report();
  });
}
source.onerror = report;
</script>"""
CLOSED = 2  # EventSource.CLOSED


@pytest.mark.timeout(300)  # a browser takes its time where much else is tested
@pytest.mark.skipif(browser.PROGRAM is None, reason="chromium is not installed")
def test_event_source(launcher: Launcher) -> None:
    """It gets every event once, over a cut in the middle of a frame, and stops after `done`."""
    with closing(PageServer()) as pages:
        server = launcher.start("--allowed-origins", pages.origin)
        target_port = int(server.base_url.rpartition(":")[2])
        client = Client(server.base_url)
        session = client.session("python")
        session.run("pass")
        with closing(client), closing(Relay(target_port, cut_after=1500)) as relay:
            started = session.http.post(
                f"{session.path}/run", json={"code": CODE, "background": True}
            ).json()
            path = f"{session.path}/executions/{started['execution_id']}"
            url = f"http://127.0.0.1:{relay.port}{path}/stream"
            pages.page = PAGE.replace("URL", url)
            with open_browser(pages.origin):
                assert wait_until(
                    lambda: any(one["state"] == CLOSED for one in pages.reports), 180
                ), (pages.reports[-1:], relay.requests, relay.statuses)
                time.sleep(RETRY_SECONDS + 1.5)
                reported = max(pages.reports, key=lambda one: int(one["serial"]))
            with session.http.stream("GET", f"{path}/stream") as replay:
                expected = [[one.id, one.event, one.data] for one in parse_sse(replay.iter_lines())]
            assert reported["events"] == expected
            check(expected[-1][2], type="done", exit_code=0)
            assert "".join(one[2]["content"] for one in expected[:-1]) == "".join(
                f"{n}\n" for n in range(LINES)
            )
            last_id = re.compile(r"(?im)^Last-Event-ID: (\d+)\r?$")
            found = [last_id.search(one) for one in relay.requests]
            first, second, third = found  # and nothing after the 204
            assert (first, relay.statuses) == (None, [200, 200, 204])
            assert second is not None
            assert 0 < int(second[1]) < len(expected)
            assert third is not None
            assert int(third[1]) == len(expected)
