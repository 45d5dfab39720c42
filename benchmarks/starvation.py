"""Measures what others notice of a session that starves its init, and how long its end takes.

`python -m benchmarks.starvation` prints one line.
"""

from __future__ import annotations

import time
from contextlib import closing
from statistics import quantiles

from benchmarks.table import ms
from tests.client import Client, SessionClient
from tests.server_process import temporary_launcher
from tests.system.test_session_ends import STUBBORN

RUNS = 200


def main() -> None:
    with temporary_launcher() as launcher:
        server = launcher.start("--session-processes", "256")
        with closing(Client(server.base_url)) as client:
            bystander = client.session("python")
            bystander.run("1")
            idle = p95(bystander)
            culprit = client.session("python")
            culprit.run(STUBBORN.replace("(spin, 40)", "(spin, 200)"), timeout=60)
            starved = p95(bystander)
            began = time.monotonic()
            culprit.delete()
            deletion = time.monotonic() - began
            print(
                f"/run of a bystander, p95: idle {ms(idle)}, beside 200 busy processes "
                f"{ms(starved)} ({starved / idle:.1f} times); DELETE of those: {ms(deletion)}"
            )


def p95(session: SessionClient) -> float:
    """Returns the seconds within which 95 of 100 runs are answered."""
    times = []
    for _ in range(RUNS):
        began = time.monotonic()
        session.run("1")
        times.append(time.monotonic() - began)
    return quantiles(times, n=20)[-1]


if __name__ == "__main__":
    main()
