"""Runs inside a sandbox: each attack of a module in a process of its own, one line of JSON each."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import select
import signal
import sys
import time
from collections.abc import Callable
from typing import Any


def main(attacks: dict[str, Callable[[dict[str, Any]], object]], host: dict[str, Any]) -> None:
    """Try each; print whether it got `through`, and what it got or what stopped it."""
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)  # one attack signals all that it can
    for name, attack in attacks.items():
        through, by = run_in_fork(attack, host)
        os.write(1, (json.dumps({"attack": name, "through": through, "by": by}) + "\n").encode())


def run_in_fork(
    attack: Callable[[dict[str, Any]], object], host: dict[str, Any], patience: float = 20
) -> tuple[bool, str]:
    """Run it in a fork, which leads a session of its own."""
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(read)
        os.setsid()
        os.write(write, json.dumps(run_attack(attack, host)).encode()[:4000])
        os._exit(0)
    os.close(write)
    ready, _, _ = select.select([read], [], [], patience)
    text = os.read(read, 4096) if ready else b""
    os.close(read)
    if not ready:
        os.killpg(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    with contextlib.suppress(OSError):
        os.killpg(child, signal.SIGKILL)
    time.sleep(0.01)
    if text:
        through, by = json.loads(text)
        return through, by
    return False, "killed" if os.WIFSIGNALED(status) else "ended"


def run_attack(
    attack: Callable[[dict[str, Any]], object], host: dict[str, Any]
) -> tuple[bool, str]:
    try:
        got = attack(dict(host))
    except OSError as error:
        return False, errno.errorcode.get(error.errno or 0, str(error))
    except MemoryError:
        return False, "MemoryError"
    except BaseException as error:
        return True, f"the attack is broken: {error!r}"
    return bool(got), str(got)[:200] if got else "nothing there"


if __name__ == "__main__":
    sys.exit("run by tests.sandbox.attacks")
