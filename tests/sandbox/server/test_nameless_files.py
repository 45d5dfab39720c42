"""Files without a name are found, wherever a process holds them."""

from __future__ import annotations

import ctypes
import mmap
import os
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from era_kernels.sandbox.server.nameless_files import NamelessFiles
from tests.waiting import wait_until

MIB = 1024 * 1024


def find(directory: Path, pid: int | None = None, max_bytes: int = 1 << 40) -> NamelessFiles:
    found = NamelessFiles()
    for _ in found.find([pid or os.getpid()], [directory.stat().st_dev], max_bytes):
        pass
    return found


def unlinked(directory: Path, size: int = MIB) -> int:
    descriptor = os.open(directory / "file", os.O_RDWR | os.O_CREAT)
    os.write(descriptor, bytes(size))
    (directory / "file").unlink()
    return descriptor


@contextmanager
def holder(directory: Path, code: str) -> Iterator[int]:
    """A process that holds something; its pid."""
    text = f"import os, mmap, socket, threading, time\nos.chdir({str(directory)!r})\n{code}\n"
    command = [sys.executable, "-c", text + "print(1, flush=True); time.sleep(600)"]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == b"1\n"
            yield process.pid
        finally:
            process.kill()


OPENED = "f = os.open('f', os.O_RDWR | os.O_CREAT); os.write(f, bytes(1 << 20)); os.unlink('f')\n"
HOLDERS = {
    "descriptor": OPENED,
    "O_TMPFILE": "f = os.open('.', os.O_TMPFILE | os.O_RDWR); os.write(f, bytes(1 << 20))",
    "mapping": OPENED + "m = mmap.mmap(f, 4096); os.close(f)",
    "mapping behind odd names": OPENED.replace("'f'", r"b'a \n\r\xff (deleted)'")
    + "m = mmap.mmap(f, 4096); os.close(f)",
    "twice": OPENED + "g = os.dup(f); m = mmap.mmap(f, 4096)",
    # The first thread ends, and with it what /proc shows of the process itself.
    "thread": OPENED
    + "import ctypes\n"
    + "def body(): print(1, flush=True); time.sleep(600)\n"
    + "threading.Thread(target=body).start(); time.sleep(0.1)\n"
    + "ctypes.CDLL(None).pthread_exit(None)",
}


@pytest.mark.parametrize("how", HOLDERS)
def test_held(how: str, tmp_path: Path) -> None:
    """Each counts once, by the blocks that it takes."""
    with holder(tmp_path, HOLDERS[how]) as pid:
        assert wait_until(lambda: MIB <= find(tmp_path, pid).total < MIB + MIB // 2), how


def test_executable_and_directory(tmp_path: Path) -> None:
    """A program that removed itself, in a directory that is gone."""
    (tmp_path / "gone").mkdir()
    program = tmp_path / "sleep"
    program.write_bytes(Path("/bin/sleep").read_bytes())
    program.chmod(0o755)
    with subprocess.Popen([program, "600"], cwd=tmp_path / "gone") as process:
        try:
            assert wait_until(lambda: Path(f"/proc/{process.pid}/exe").samefile(program))
            size = program.stat().st_size
            program_file, gone = (
                (one.stat().st_dev, one.stat().st_ino) for one in (program, tmp_path / "gone")
            )
            program.unlink()
            (tmp_path / "gone").rmdir()
            found = find(tmp_path, process.pid)
            assert {program_file, gone} <= found.sizes.keys()
            assert found.sizes[program_file] >= size
        finally:
            process.kill()


@pytest.mark.parametrize("kind", [socket.SOCK_STREAM, socket.SOCK_DGRAM, socket.SOCK_SEQPACKET])
def test_in_flight(kind: int, tmp_path: Path) -> None:
    """Descriptors in a socket cannot be seen; that there are any can."""
    one, other = socket.socketpair(socket.AF_UNIX, kind)
    with one, other:
        assert find(tmp_path).is_all
        descriptor = unlinked(tmp_path)
        socket.send_fds(one, [b"x"], [descriptor])
        os.close(descriptor)
        assert not find(tmp_path).is_all
        _, (descriptor,), _, _ = socket.recv_fds(other, 1, 1)
        assert find(tmp_path).is_all
        os.close(descriptor)


def test_in_flight_to_nobody(tmp_path: Path) -> None:
    """They are known of in a connection, too, that nobody accepts and whose other end is gone."""
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "s"))
        listener.listen()
        assert find(tmp_path).is_all
        descriptor = unlinked(tmp_path)
        with socket.socket(socket.AF_UNIX) as sender:
            sender.connect(str(tmp_path / "s"))
            socket.send_fds(sender, [b"x"], [descriptor])
        os.close(descriptor)
        assert not find(tmp_path).is_all


def test_what_has_a_name(tmp_path: Path) -> None:
    """It is found in its directory; so is memory elsewhere."""
    (tmp_path / "x (deleted)").write_bytes(bytes(MIB))
    memory = os.memfd_create("m")
    os.write(memory, bytes(MIB))
    with (
        (tmp_path / "x (deleted)").open("rb") as file,
        mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ),
    ):
        assert find(tmp_path).total < MIB  # pytest itself has some
    os.close(memory)


def test_enough(tmp_path: Path) -> None:
    """Past the bound it does not matter how much more there is."""
    descriptor = unlinked(tmp_path)
    assert find(tmp_path, max_bytes=1).total > 1
    os.close(descriptor)
    assert find(tmp_path).total < MIB  # pytest itself has some


def test_process_that_denies_a_look() -> None:
    """Where the server is no root, what a process hides is known to be hidden."""
    with tempfile.TemporaryDirectory(dir="/tmp") as name:
        directory = Path(name)
        directory.chmod(0o777)
        code = "import ctypes; ctypes.CDLL(None).prctl(4, 0, 0, 0, 0)\n" + OPENED
        assert _as_ordinary_user(lambda: _is_hidden(directory, code)) == 0


def _is_hidden(directory: Path, code: str) -> bool:
    read, write = os.pipe()
    if (pid := os.fork()) == 0:
        os.chdir(directory)
        exec(code, {"os": os})
        os.write(write, b"x")
        signal.pause()
    os.read(read, 1)
    try:
        return not find(directory, pid).is_all
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


def _as_ordinary_user(body: Callable[[], bool]) -> int:
    if (pid := os.fork()) == 0:
        status = 2
        try:
            if os.geteuid() == 0:
                os.setgroups([])
                os.setresgid(65534, 65534, 65534)
                os.setresuid(65534, 65534, 65534)
            status = 0 if body() else 1
        finally:
            os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


EXECUTING = """
import os, sys, threading, time
threading.Thread(target=time.sleep, args=(600,), daemon=True).start()
print(os.getpid(), *set(os.listdir("/proc/self/task")) - {str(os.getpid())}, flush=True)
input()
os.execv("/bin/true", ["true"])
"""
PTRACE_SEIZE, PTRACE_CONT, PTRACE_O_TRACEEXIT = 0x4206, 7, 0x40
WALL = 0x40000000  # waitpid(2): threads that one traces, too


def test_waiting_exec(tmp_path: Path) -> None:
    """A program that is to be executed is held by no descriptor until all other threads ended."""
    libc = ctypes.CDLL(None, use_errno=True)
    command = [sys.executable, "-c", EXECUTING]
    other = None
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        try:
            assert process.stdin is not None
            assert process.stdout is not None
            pid, other = map(int, process.stdout.readline().split())
            assert find(tmp_path, pid).is_all
            options = ctypes.c_ulong(PTRACE_O_TRACEEXIT)
            assert libc.ptrace(PTRACE_SEIZE, other, ctypes.c_ulong(0), options) == 0
            process.stdin.write(b"\n")
            process.stdin.flush()
            assert wait_until(lambda: not find(tmp_path, pid).is_all)
        finally:
            process.kill()
            if other is not None:
                # One that was killed just before it stopped stands still all the same.
                while os.WIFSTOPPED(os.waitpid(other, WALL)[1]):
                    libc.ptrace(PTRACE_CONT, other, None, None)
