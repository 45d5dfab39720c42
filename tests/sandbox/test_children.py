"""Children: listed, reaped, and ended to the last, whatever they do about it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from tests.sandbox.house import STUBBORN, living

ROOT = Path(__file__).parents[2]


def alone(code: str) -> str:
    """Run code in a process of its own, for it ends all its children; its standard output."""
    head = (
        "from era_kernels.sandbox import children, syscalls\nimport os, signal, subprocess, sys\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", head + code, STUBBORN],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
        check=True,
        timeout=60,
    )
    return done.stdout


def test_a_subreaper_ends_everything() -> None:
    """Deaf processes that double-forked into sessions of their own are ended, too."""
    code = """
syscalls.prctl(syscalls.PR_SET_CHILD_SUBREAPER, 1)
program = subprocess.Popen([sys.executable, "-c", sys.argv[1]], stdout=subprocess.PIPE, text=True)
pids = [program.stdout.readline().strip() for _ in range(4)]
print(*pids)
print(children.end_all(), children.children())
"""
    pids, outcome = alone(code).splitlines()
    assert outcome == "True []"
    assert len(pids.split()) == 4
    assert living([int(pid) for pid in pids.split()]) == []


def test_the_spared_live_on() -> None:
    """end_all leaves alone whom it is told to spare."""
    code = """
sleepers = [subprocess.Popen(["sleep", "600"]) for _ in range(3)]
print(children.end_all(spared={sleepers[1].pid}), children.children() == [sleepers[1].pid])
print(children.end_all(), children.children())
"""
    assert alone(code).splitlines() == ["True True", "True []"]


def test_who_cannot_be_ended_is_told() -> None:
    """After its patience end_all gives up and says so."""
    code = """
children.os.kill = lambda *_: None  # as if the process belonged to somebody else
sleeper = subprocess.Popen(["sleep", "600"])
print(children.end_all(patience=0.05))
signal.pidfd_send_signal(os.pidfd_open(sleeper.pid), signal.SIGKILL)
sleeper.wait()
"""
    assert alone(code) == "False\n"


def test_children_are_found_without_help_of_the_kernel() -> None:
    """A kernel without lists of children gives the same answer by a walk through /proc."""
    code = """
sleepers = [subprocess.Popen(["sleep", "600"]) for _ in range(3)]
assert sorted(children.children()) == [sleeper.pid for sleeper in sleepers]
class NoList(children.Path):
    _flavour = getattr(type(children.Path()), "_flavour", None)
    def read_text(self, *args, **named):
        if self.name == "children":
            raise FileNotFoundError
        return super().read_text(*args, **named)
children.Path = NoList
print(sorted(children.children()) == [sleeper.pid for sleeper in sleepers])
children.end_all()
"""
    assert alone(code) == "True\n"


def test_a_death_wakes() -> None:
    """The descriptor becomes readable at a death, and everything is as before after close."""
    code = """
import select
deaths = children.Deaths()
sleeper = subprocess.Popen(["sleep", "600"])
print(select.select([deaths.descriptor], [], [], 0)[0])
sleeper.kill()
print(select.select([deaths.descriptor], [], [], 10)[0] == [deaths.descriptor])
deaths.clear()
print(children.reaped() == [(sleeper.pid, signal.SIGKILL)], children.reaped())
print(select.select([deaths.descriptor], [], [], 0)[0])
deaths.close()
print(signal.getsignal(signal.SIGCHLD) == signal.SIG_DFL, signal.set_wakeup_fd(-1))
sleeper.returncode = 0
"""
    assert alone(code).splitlines() == ["[]", "True", "True []", "[]", "True -1"]


def test_the_dead_keep_their_numbers_until_they_are_reaped() -> None:
    """What is called before a child is reaped meets a dead one that is still there."""
    code = """
sleeper = subprocess.Popen(["sleep", "600"], start_new_session=True)
sleeper.kill()
os.waitid(os.P_PID, sleeper.pid, os.WEXITED | os.WNOWAIT)
state = lambda pid: open(f"/proc/{pid}/stat").read().rpartition(")")[2].split()[0]
print(children.reaped(lambda pid: print(pid == sleeper.pid, state(pid), os.getpgid(pid) == pid)) ==
      [(sleeper.pid, signal.SIGKILL)], os.path.exists(f"/proc/{sleeper.pid}"))
sleeper.returncode = 0
"""
    assert alone(code).splitlines() == ["True Z True", "True False"]
