"""Children: listed, reaped, and ended to the last, whatever they do about it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from tests.sandbox.sandboxes import STUBBORN, running_pids

ROOT = Path(__file__).parents[3]


def run_alone(code: str) -> str:
    """Run code in a process of its own, for it ends all its children; its standard output."""
    head = (
        "from era_kernels.sandbox.init import reaper; "
        "from era_kernels.sandbox.linux import syscalls\nimport os, signal, subprocess, sys\n"
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
print(reaper.kill_all(), reaper.list_children())
"""
    pids, outcome = run_alone(code).splitlines()
    assert outcome == "True []"
    assert len(pids.split()) == 4
    assert running_pids([int(pid) for pid in pids.split()]) == []


def test_the_spared_live_on() -> None:
    """kill_all spares the excluded children."""
    code = """
sleepers = [subprocess.Popen(["sleep", "600"]) for _ in range(3)]
print(reaper.kill_all(exclude={sleepers[1].pid}), reaper.list_children() == [sleepers[1].pid])
print(reaper.kill_all(), reaper.list_children())
"""
    assert run_alone(code).splitlines() == ["True True", "True []"]


def test_who_cannot_be_ended_is_told() -> None:
    """After its patience kill_all gives up and says so."""
    code = """
reaper.os.kill = lambda *_: None  # as if the process belonged to somebody else
sleeper = subprocess.Popen(["sleep", "600"])
print(reaper.kill_all(timeout=0.05))
signal.pidfd_send_signal(os.pidfd_open(sleeper.pid), signal.SIGKILL)
sleeper.wait()
"""
    assert run_alone(code) == "False\n"


def test_children_are_found_without_help_of_the_kernel() -> None:
    """A kernel without lists of children gives the same answer by a walk through /proc."""
    code = """
sleepers = [subprocess.Popen(["sleep", "600"]) for _ in range(3)]
assert sorted(reaper.list_children()) == [sleeper.pid for sleeper in sleepers]
class NoList(reaper.Path):
    _flavour = getattr(type(reaper.Path()), "_flavour", None)
    def read_text(self, *args, **named):
        if self.name == "children":
            raise FileNotFoundError
        return super().read_text(*args, **named)
reaper.Path = NoList
print(sorted(reaper.list_children()) == [sleeper.pid for sleeper in sleepers])
reaper.kill_all()
"""
    assert run_alone(code) == "True\n"


def test_a_death_wakes() -> None:
    """The descriptor becomes readable at a death, and everything is as before after close."""
    code = """
import select
sigchld = reaper.SigchldPipe()
sleeper = subprocess.Popen(["sleep", "600"])
print(select.select([sigchld.descriptor], [], [], 0)[0])
sleeper.kill()
print(select.select([sigchld.descriptor], [], [], 10)[0] == [sigchld.descriptor])
sigchld.drain()
print(reaper.reap_all() == [(sleeper.pid, signal.SIGKILL)], reaper.reap_all())
print(select.select([sigchld.descriptor], [], [], 0)[0])
sigchld.close()
print(signal.getsignal(signal.SIGCHLD) == signal.SIG_DFL, signal.set_wakeup_fd(-1))
sleeper.returncode = 0
"""
    assert run_alone(code).splitlines() == ["[]", "True", "True []", "[]", "True -1"]


def test_the_dead_keep_their_numbers_until_they_are_reaped() -> None:
    """What is called before a child is reaped meets a dead one that is still there."""
    code = """
sleeper = subprocess.Popen(["sleep", "600"], start_new_session=True)
sleeper.kill()
os.waitid(os.P_PID, sleeper.pid, os.WEXITED | os.WNOWAIT)
state = lambda pid: open(f"/proc/{pid}/stat").read().rpartition(")")[2].split()[0]
print(reaper.reap_all(lambda pid: print(pid == sleeper.pid, state(pid), os.getpgid(pid) == pid)) ==
      [(sleeper.pid, signal.SIGKILL)], os.path.exists(f"/proc/{sleeper.pid}"))
sleeper.returncode = 0
"""
    assert run_alone(code).splitlines() == ["True Z True", "True False"]


def test_a_traced_child_has_not_ended() -> None:
    """A child that makes its parent its tracer and stops is no end: it goes on untraced."""
    code = """
import ctypes, time
pipe = reaper.SigchldPipe()
read, write = os.pipe()
child = os.fork()
if not child:
    libc = ctypes.CDLL(None)
    signal.signal(signal.SIGUSR1, lambda *_: os.write(write, b"heard"))
    libc.ptrace(0, 0, None, None)
    os.kill(os.getpid(), signal.SIGUSR1)
    libc.ptrace(0, 0, None, None)
    os.execvp("sh", ["sh", "-c", "exit 3"])
found = []
limit = time.monotonic() + 20
while not found and time.monotonic() < limit:
    found = reaper.reap_all()
print(os.read(read, 9).decode(), [(pid == child, os.waitstatus_to_exitcode(s)) for pid, s in found])
"""
    assert run_alone(code).strip() == "heard [(True, 3)]"


def test_reaping_has_a_bound() -> None:
    """With more dead children than one call takes, SIGCHLD asks for the next call."""
    code = """
pipe = reaper.SigchldPipe()
reaper.MAX_REAPED = 4
children = [os.fork() or os._exit(0) for _ in range(10)]
for child in children:
    os.waitid(os.P_PID, child, os.WEXITED | os.WNOWAIT)
counts = []
while len(counts) < 5 and select.select([pipe.descriptor], [], [], 0.5)[0]:
    pipe.drain()
    counts.append(len(reaper.reap_all()))
print(counts)
"""
    assert run_alone("import select\n" + code).strip() == "[4, 4, 2]"
