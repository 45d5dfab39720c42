"""Measures what others notice of descriptors in flight, and how soon a dead zygote is replaced.

`python -m benchmarks.in_flight` prints a line for each; it needs root.
"""

from __future__ import annotations

import time
from contextlib import closing

from benchmarks.bystander import Bystander, seconds_of
from benchmarks.table import ms
from tests.client import Client
from tests.server_process import temporary_launcher
from tests.system.test_answers import zygote_of
from tests.system.test_in_flight import FILL, OPEN_FILES
from tests.system.test_ordinary_user import USER, served
from tests.waiting import wait_until

DEATHS = 5  # each of the zygote of a new server: the next deaths of one are paced


def main() -> None:
    for tier, user in ((1, 0), (1, USER + 1), (3, USER + 2)):
        _measure_in_flight(tier, user)
    times = sorted(_replace_zygote() for _ in range(DEATHS))
    print(f"/health is 200 after SIGKILL of an idle zygote: {', '.join(map(ms, times))}")


def _measure_in_flight(tier: int, user: int) -> None:
    with (
        served(tier, user, open_files=OPEN_FILES) as (url, _),
        closing(Client(url)) as client,
    ):
        bystander, culprit = Bystander(client), client.session("python")
        culprit.run("1")
        count = int(culprit.run(FILL)["stdout"])
        compared = bystander.beside(f"{count} descriptors in flight")
        deletion = ms(seconds_of(culprit.delete))
        print(f"tier {tier}, uid {user}: {compared}; DELETE of those: {deletion}")


def _replace_zygote() -> float:
    """Kills the zygote of an idle server; returns the seconds until it is well with another."""
    with temporary_launcher() as launcher, closing(Client(launcher.start().base_url)) as client:
        session = client.session("python")
        session.run("1")
        time.sleep(1)
        old = zygote_of(launcher)
        began = time.monotonic()
        old.kill()

        def is_replaced() -> bool:
            return not old.is_running() and client.http.get("/health").status_code == 200

        assert wait_until(is_replaced, 60)
        seconds = time.monotonic() - began
        assert zygote_of(launcher).pid != old.pid
        return seconds


if __name__ == "__main__":
    main()
