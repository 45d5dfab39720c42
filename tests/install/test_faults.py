"""Installations that are cut short, really: by SIGKILL, by the network, by a full disk."""

from __future__ import annotations

import os
import random
import resource
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from era_kernels.install.failures import find_cause, hide_secrets
from tests.install.places import Place, step
from tests.install.test_install import BUILD, running_with

LARGE = {"scripts/alpha": "#!/bin/sh\necho 1.2.3\n", "large.txt": "".join(map(str, range(200_000)))}
PASSWORD = "hunter2hunter2"


class Index(ThreadingHTTPServer):
    """A package index that sends only so many bytes of a wheel; None sends all."""

    max_bytes: int | None = None
    requests = 0


@contextmanager
def index_of(wheels: Path) -> Iterator[Index]:
    """Serves the wheels of a directory on loopback."""

    class Handler(BaseHTTPRequestHandler):
        server: Index

        def do_GET(self) -> None:
            self.server.requests += 1
            if self.path.endswith(".whl"):
                body = (wheels / self.path.rpartition("/")[2]).read_bytes()
            else:
                files = [file.name for file in wheels.iterdir()]
                body = "".join(f'<a href="/files/{name}">{name}</a>\n' for name in files).encode()
            self.send_response(200)
            self.send_header("Content-Type", "text/html")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            is_cut = self.path.endswith(".whl") and self.server.max_bytes is not None
            self.wfile.write(body[: self.server.max_bytes] if is_cut else body)
            if is_cut:
                self.wfile.flush()
                self.connection.shutdown(socket.SHUT_RDWR)

        def log_message(self, *args: object) -> None:
            pass

    server = Index(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def use_index(place: Place, index: Index, credentials: str = "") -> None:
    """Lets pip ask the index, by an address with these credentials."""
    place.env = {
        "PIP_NO_INDEX": "",
        "PIP_FIND_LINKS": "",
        "PIP_RETRIES": "0",
        "PIP_INDEX_URL": f"http://{credentials}127.0.0.1:{index.server_port}/secret-path/simple",
    }


def test_broken_download(place: Place) -> None:
    """A connection that breaks in the middle of a wheel is told; the next call gets it."""
    place.add("alpha", place.add_wheel("alpha", LARGE))
    with index_of(place.wheels) as index:
        use_index(place, index)
        place.env["PIP_NO_CACHE_DIR"] = "false"
        place.env["PIP_CACHE_DIR"] = str(place.root / "cache")
        index.max_bytes = 1000
        done = place.install("alpha")
        assert done.returncode == 1
        assert "cut off on its way" in done.stdout or "broke off" in done.stdout
        assert not place.is_complete("alpha")
        index.max_bytes = None
        assert place.install("alpha").stdout == "alpha 1.2.3: ready\n"


def test_other_content(place: Place) -> None:
    """A wheel that is not the one whose checksum is known is not installed."""
    place.add("alpha", place.add_wheel("alpha"))
    place.add_wheel("alpha", LARGE)
    done = place.install("alpha")
    assert "what came has another checksum" in done.stdout
    assert not place.is_complete("alpha")


def test_no_index(place: Place) -> None:
    """Without any index each language is told in one sentence; what is there goes on working."""
    place.add("alpha", BUILD)
    assert place.install("alpha").returncode == 0
    for name in ("beta", "gamma"):
        place.add(name, place.add_wheel(name))
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    place.env = {
        "PIP_NO_INDEX": "", "PIP_FIND_LINKS": "", "PIP_RETRIES": "1",
        "PIP_INDEX_URL": f"http://127.0.0.1:{port}/",
    }  # fmt: skip
    done = place.install("alpha", "beta", "gamma")
    assert done.returncode == 1
    lines = done.stdout.splitlines()
    assert "alpha: ready" in lines
    told = [line for line in lines if line.startswith(("beta:", "gamma:"))]
    assert len(told) == 2
    assert all("cannot be reached" in line for line in told)


def test_secrets_are_not_told(place: Place) -> None:
    """Addresses of indexes may hold passwords: neither the output nor the log has any."""
    place.add("alpha", place.add_wheel("alpha", LARGE))
    place.add("beta", place.add_wheel("beta"))
    (place.wheels / "beta-1.2.3-py3-none-any.whl").rename(place.wheels / "beta-9-py3-none-any.whl")
    leak = f'echo "GET http://u:{PASSWORD}@h/x" >&2; echo "npm token=$npm_config_t" >&2; exit 1'
    place.add("gamma", step("leaking", leak, "x"))
    with index_of(place.wheels) as index:
        use_index(place, index, f"user:{PASSWORD}@")
        place.env["npm_config_t"] = PASSWORD
        index.max_bytes = 10
        done = place.install("alpha", "beta", "gamma")
    logs = [file.read_text() for file in place.toolchains.glob("*/install.log")]
    assert len(logs) == 3
    for text in (done.stdout, done.stderr, *logs):
        assert PASSWORD not in text
        assert "secret-path" not in text


@pytest.mark.parametrize(
    ("line", "kept"),
    [
        ("Looking in indexes: https://u:s3cret@h.org/simple", "https://h.org/…"),
        ("https://s3cret@h.org:8080/x", "https://h.org:8080/…"),
        ("https://u:s3/cret@h.org/x", "h.org"),
        ("https://h.org/s3cret/simple/ gone", "gone"),
        ("https://h.org?token=s3cret", "h.org"),
        ("connection broken by 'X(\"y\")': /s3cret/simple/", "broken"),
        ("proxy u:s3cret@proxy.org:1", "proxy.org:1"),
        ("Authorization: Bearer s3cret", "Authorization"),
        ("//registry/:_authToken=s3cret", "registry"),
        ("npm_config_password = s3cret", "password"),
        ("git+ssh://git:s3cret@host/repo", "git+ssh://host/…"),
    ],
)
def test_hidden(line: str, kept: str) -> None:
    """Whatever form a secret has in a line of a tool, it is hidden, and the rest stays."""
    assert "s3cret" not in hide_secrets(line)
    assert "cret" not in hide_secrets(line)
    assert kept in hide_secrets(line)


@pytest.mark.parametrize(
    ("line", "cause"),
    [
        ("ERROR: Could not install packages: [Errno 28] No space left on device", "disk is full"),
        ("npm error code ENOSPC", "disk is full"),
        ("OSError: [Errno 27] File too large", "ulimit"),
        ("write /x: disk quota exceeded", "disk is full"),
        ("npm error code ENOTFOUND", "cannot be reached"),
        ("dial tcp 1.2.3.4:443: connect: connection refused", "cannot be reached"),
        ("Temporary failure in name resolution", "cannot be reached"),
        ("[SSL: CERTIFICATE_VERIFY_FAILED] certificate verify failed", "cannot be reached"),
        ("ERROR: No matching distribution found for x==1", "has it for this platform"),
        ("ERROR: THESE PACKAGES DO NOT MATCH THE HASHES", "checksum"),
        ("npm error code EINTEGRITY", "checksum"),
        ("verifying x: checksum mismatch", "checksum"),
        ("/usr/bin/python: No module named pip", "has no pip"),
        ("EACCES: permission denied, mkdir '/x'", "cannot be written"),
    ],
)
def test_causes(line: str, cause: str) -> None:
    """What tools say is told in words of ours; what is unknown is left to the log."""
    assert cause in str(find_cause(["something else", line]))
    assert find_cause(["something else"]) is None


# ---------------------------------------------------------------- a full disk


@contextmanager
def small_disk(path: Path, size: str) -> Iterator[None]:
    """A small file system at the path; needs root."""
    path.mkdir(exist_ok=True)
    command = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(path)]
    if os.geteuid() or subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("only root may mount a tmpfs")
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", str(path)], check=True)


@pytest.mark.parametrize("size", ["64k", "900k"])
def test_full_disk(place: Place, size: str) -> None:
    """A disk that is full is told as such; with room again, the next call goes on."""
    fill = "head -c 300000 /dev/zero > made"
    place.add("alpha", place.add_wheel("alpha", LARGE) + step("made", fill, "made"))
    with small_disk(place.toolchains, size):
        done = place.install("alpha")
        assert done.returncode == 1
        assert "the disk is full" in done.stdout
        assert not place.is_complete("alpha")
        subprocess.run(["mount", "-o", "remount,size=16M", str(place.toolchains)], check=True)
        assert place.install("alpha").stdout == "alpha 1.2.3: ready\n"


@pytest.mark.parametrize("writer", ["head -c 300000 /dev/zero > made", "by pip"])
def test_bounded_files(place: Place, writer: str) -> None:
    """So is a limit on the size of files, which every user can meet."""
    by_pip = place.add_wheel("alpha", LARGE)
    place.add("alpha", by_pip if writer == "by pip" else step("made", writer, "made") + BUILD)
    command, env = place.command("alpha")
    bound = (100_000, resource.getrlimit(resource.RLIMIT_FSIZE)[1])
    done = subprocess.run(
        command, env=env, capture_output=True, text=True, check=False,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, bound),
    )  # fmt: skip
    assert done.returncode == 1
    assert "larger than this user may write" in done.stdout
    assert place.install("alpha").stdout.endswith(": ready\n")


def test_a_directory_that_cannot_be_written(place: Place) -> None:
    """A file in the way of the directory is told by its name."""
    place.add("alpha", place.add_wheel("alpha"))
    place.toolchains.touch()
    done = place.install("alpha")
    assert done.returncode == 1
    assert str(place.toolchains) in done.stdout


# ---------------------------------------------------------------- SIGKILL


@pytest.mark.parametrize(
    ("rounds", "longest"),
    [(3, 2), pytest.param(40, 6, marks=[pytest.mark.long, pytest.mark.timeout(600)])],
)
def test_killed(place: Place, rounds: int, longest: float) -> None:
    """Installers that are killed at any moment leave what the next one goes on with."""
    generator = random.Random(place.root.name)
    slow = "sleep 0.2; echo begun > part; sleep 0.1; cat part > {0}; sleep 0.2"
    steps = "".join(step(name, slow.format(name), name) for name in ("one", "two"))
    place.add("alpha", place.add_wheel("alpha", LARGE) + steps)
    place.add("beta", 'requires = ["alpha"]\n' + place.add_wheel("beta") + steps)
    for _ in range(rounds):
        process = place.start("alpha", "beta")
        time.sleep(generator.uniform(0, longest))
        process.kill()
        process.communicate(timeout=20)
        for name in ("alpha", "beta"):
            if place.is_complete(name):
                root = place.directory(name)
                assert (root / "two").read_text() == "begun\n"
                assert os.access(root / "bin" / name, os.X_OK)
    done = place.install("alpha", "beta")
    assert done.stdout == "alpha 1.2.3: ready\nbeta 1.2.3: ready\n"
    again = place.install("alpha", "beta")
    assert (again.stdout, again.stderr) == (done.stdout, "")
    assert sum(len((place.directory(one) / "bin" / one).read_bytes()) for one in ("alpha", "beta"))
    leftovers = [path.name for path in place.toolchains.rglob("*") if "partial" in path.name]
    assert leftovers == []


def test_killed_installers_leave_no_processes(place: Place) -> None:
    """What a killed installer had started ends, and the next one is not kept waiting."""
    place.add("alpha", step("endless", "sleep 98768", "x", more="timeout = 1\n"))
    process = place.start("alpha")
    assert process.stderr is not None
    process.stderr.readline()
    while not running_with("98768"):
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=20)
    place.add("alpha", step("endless", "touch x", "x"))
    done = place.install("alpha")
    assert place.is_complete("alpha"), done.stdout
    assert running_with("98768") == []
