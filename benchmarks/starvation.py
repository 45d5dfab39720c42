"""Measures what others notice of a session that starves its init, and how long its end takes.

`python -m benchmarks.starvation` prints one line.
"""

from __future__ import annotations

from contextlib import closing

from benchmarks.bystander import Bystander, seconds_of
from benchmarks.table import ms
from tests.client import Client
from tests.server_process import temporary_launcher
from tests.system.test_session_ends import STUBBORN


def main() -> None:
    with temporary_launcher() as launcher:
        server = launcher.start("--session-processes", "256")
        with closing(Client(server.base_url)) as client:
            bystander, culprit = Bystander(client), client.session("python")
            culprit.run(STUBBORN.replace("(spin, 40)", "(spin, 200)"), timeout=60)
            compared = bystander.beside("200 busy processes")
            print(f"{compared}; DELETE of those: {ms(seconds_of(culprit.delete))}")


if __name__ == "__main__":
    main()
