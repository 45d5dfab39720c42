"""What the system refuses to send waits in order for a bounded time, and is told then."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

# Runs in a process of its own with few open files, and as root under a uid of its own: descriptors
# in flight are counted by uid, and root may have any number of them.
PREPARE = """
import errno, os, resource, socket, sys, time
from era_kernels.sandbox.init import send_queue
from era_kernels.sandbox.init.fd_messages import DescriptorsLost, receive, send

LIMIT = 64

def pair():
    return socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)

def null():
    return os.open(os.devnull, os.O_RDONLY)

def read_all(peer):
    peer.setblocking(False)
    found = []
    try:
        while received := receive(peer):
            found.append(received[0]["n"])
            for descriptor in received[1]:
                os.close(descriptor)
    except BlockingIOError:
        return found

sender, peer = pair()
queue = send_queue.SendQueue(sender)
block, blocked = pair()
refused = []
resource.setrlimit(resource.RLIMIT_NOFILE, (LIMIT, LIMIT))
if os.geteuid() == 0:
    os.setresuid(*3 * [700_000 + os.getpid()])

def fill():
    for _ in range(LIMIT + 1):
        socket.send_fds(block, [b"x"], [0])

def put(n, *descriptors):
    queue.put({"n": n}, descriptors, lambda error: refused.append((n, error.errno)))
"""

WAITS = """
fill()
before = len(os.listdir("/proc/self/fd"))
put(1)
put(2, null())
put(3)
assert queue.flush() and queue.refusal.errno == errno.ETOOMANYREFS and not queue.is_unread
assert read_all(peer) == [1]
blocked.close()  # with all that is in flight to it
assert queue.flush() is None and queue.refusal is None
assert read_all(peer) == [2, 3] and not refused
assert len(os.listdir("/proc/self/fd")) == before - 1
"""

IS_TOLD = """
send_queue.SEND_TIMEOUT = 0.2
fill()
before = len(os.listdir("/proc/self/fd"))
put(1, null())
put(2)
queue.put({"n": 3})  # nobody is to be told, so it waits
late = time.monotonic() + 5
while (pause := queue.flush()) is not None and time.monotonic() < late:
    time.sleep(pause)
assert [n for n, _ in refused] == [1, 2], refused
assert {number for _, number in refused} == {errno.ETOOMANYREFS}
assert read_all(peer) == [3]
assert len(os.listdir("/proc/self/fd")) == before
"""

UNREAD = """
send_queue.UNREAD_TIMEOUT = 0.2
for n in range(100):
    put(n)
    queue.put({"n": "x" * 20_000})
assert queue.flush() and queue.is_unread
time.sleep(0.3)
queue.flush()
assert refused and {number for _, number in refused} == {errno.EAGAIN}
queue.clear()
"""

GONE = """
peer.close()
put(1, null())
try:
    queue.flush()
except BrokenPipeError:
    assert not refused and queue.flush() is None
else:
    raise AssertionError
"""

NO_DESCRIPTORS_LEFT = """
for size in (1, 100_000):
    message = {"op": "open", "number": 7, "n": "x" * size}
    send(sender, message, (0,))
    held = []
    try:
        while True:
            held.append(null())
    except OSError as error:
        assert error.errno == errno.EMFILE
    try:
        receive(peer)
    except DescriptorsLost as lost:
        assert lost.message["number"] == 7 and lost.message["op"] == "open"
    else:
        raise AssertionError
    put(1)
    queue.put({"n": "y" * 100_000})  # needs a memfd, for which there is no descriptor
    pause = queue.flush()
    assert pause and queue.refusal.errno == errno.EMFILE
    for descriptor in held:
        os.close(descriptor)
    assert queue.flush() is None
    assert read_all(peer) == [1, "y" * 100_000]
"""


@pytest.mark.parametrize("code", [WAITS, IS_TOLD, UNREAD, GONE, NO_DESCRIPTORS_LEFT])
def test_refusals(code: str) -> None:
    """Refused messages arrive in order later, or are told; only a peer that is gone is gone."""
    command = [sys.executable, "-c", PREPARE + code]
    env = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, env=env, check=False)
    assert done.returncode == 0, done.stderr
