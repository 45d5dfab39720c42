"""Code in a session attacks the file endpoints, also while they are used.

Without a sandbox code has the server's rights and needs no API to read a file. These tests show
that the API adds no access: whatever code does to its workspace, the server follows no link out, is
never kept waiting, and answers with a status that means something.
"""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx
import pytest

from tests.client import Client, SessionClient
from tests.contract.checks import background_runs, wait_for_file
from tests.server_process import UNSANDBOXED_FLAGS, Server, temporary_launcher
from tests.waiting import wait_until

SECRET = b"SECRET-that-lies-outside"
RACE = 1.5  # seconds
ORDINARY = {200, 206, 304, 400, 404, 409, 412, 413, 416}


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    """Starts a server without sandboxes: its file endpoints must be safe even so."""
    with temporary_launcher() as launcher:
        yield launcher.start(*UNSANDBOXED_FLAGS)


@pytest.fixture
def outside(server: Server) -> Iterator[Path]:
    """Makes a directory with a secret outside of all workspaces, on their file system."""
    place = server.data_dir.parent / "outside"
    place.mkdir()
    (place / "secret").write_bytes(SECRET)
    yield place
    for left in place.iterdir():
        left.unlink()
    place.rmdir()


@pytest.fixture
def workspace(server: Server, session: SessionClient) -> Path:
    """Returns the host's path of the session's workspace."""
    return Path(session.run("import os; print(os.getcwd())")["stdout"].strip())


def ask(session: SessionClient, method: str, path: str, content: bytes = b"") -> httpx.Response:
    """Sends a request whose response must come in time, be no failure, and hold no secret."""
    try:
        answer = session.http.request(
            method, f"{session.path}/files/{quote(path)}", content=content, timeout=30
        )
    except httpx.RemoteProtocolError:  # the file was cut while it was read
        answer = httpx.Response(200)
    assert answer.status_code in ORDINARY, answer.text
    assert SECRET not in answer.content
    assert b"root:" not in answer.content
    return answer


def listed(session: SessionClient) -> list[str]:
    answer = session.http.get(f"{session.path}/files", timeout=20)
    assert answer.status_code == 200, answer.text
    return [file["path"] for file in answer.json()["files"]]


# ---------------------------------------------------------------- links


def test_links_out(session: SessionClient, client: Client, outside: Path) -> None:
    """No symbolic link reaches out: absolute, relative, magic, nested, to another session."""
    other = client.session("python")
    other.run(f"open('secret', 'wb').write({SECRET!r})")
    place = other.run("import os; print(os.getcwd())")["stdout"].strip()
    links = {
        "shadow": "/etc/shadow",
        "passwd": "../../../../../../../../etc/passwd",
        "secret": str(outside / "secret"),
        "out": str(outside),
        "up": "..",
        "root": "/",
        "magic": "/proc/self/root",
        "cwd": "/proc/self/cwd",
        "fd": "/proc/self/fd",
        "other": place,
        "twice": "up/../..",
        "loop": "loop",
    }
    session.run(
        "import os\nos.mkdir('d')\n"
        f"for name, to in {links!r}.items():\n"
        "    os.symlink(to, name)\n    os.symlink('../' + name, 'd/' + name)"
    )
    below = {"out": "secret", "up": "state", "root": "etc/passwd", "magic": "etc/passwd",
             "cwd": "secret", "fd": "0", "other": "secret", "twice": "x"}  # fmt: skip
    for name in links:
        for path in (name, f"d/{name}", f"{name}/{below.get(name, 'x')}"):
            assert ask(session, "GET", path).status_code == 404
            assert ask(session, "HEAD", path).status_code == 404
        inside = f"{name}/{below.get(name, 'x')}-new"
        assert ask(session, "PUT", inside, b"mine").status_code == 409
        assert ask(session, "PUT", f"{name}/new/dir/file", b"mine").status_code == 409
        assert ask(session, "DELETE", f"{name}/{below.get(name, 'x')}").status_code == 404
    assert listed(session) == []
    assert listed(other) == ["secret"]
    assert [path.name for path in outside.iterdir()] == ["secret"]
    for name in links:  # the links themselves are the session's own
        assert ask(session, "DELETE", name).status_code == 200
        assert ask(session, "PUT", f"d/{name}", b"mine").status_code == 200
    assert (outside / "secret").read_bytes() == SECRET
    other.delete()


def test_links_that_stay(session: SessionClient) -> None:
    """A link to a file in the workspace is followed."""
    session.run("import os; os.mkdir('d'); open('d/f', 'w').write('mine'); os.symlink('d', 'l')")
    assert ask(session, "GET", "l/f").content == b"mine"
    assert ask(session, "PUT", "l/new/f", b"x").status_code == 200
    assert listed(session) == ["d/f", "d/new/f"]


def test_hard_links(session: SessionClient, outside: Path) -> None:
    """A hard link is read, as making one needs the rights to the file.

    Replacing and deleting a hard link never touch the file's other names.
    """
    if session.run(f"import os; os.link({str(outside / 'secret')!r}, 'hard')")["exit_code"]:
        pytest.skip("links across file systems cannot be made")
    answer = session.http.get(f"{session.path}/files/hard")
    assert answer.content == SECRET
    assert ask(session, "PUT", "hard", b"mine").status_code == 200
    assert (outside / "secret").read_bytes() == SECRET
    assert ask(session, "DELETE", "hard").status_code == 200
    assert (outside / "secret").read_bytes() == SECRET


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to make a file of another user")
def test_hard_link_to_the_file_of_another_user(
    session: SessionClient, workspace: Path, outside: Path
) -> None:
    """Where the host lets users link files of others, the server does not read such links."""
    os.chown(outside / "secret", 65534, 65534)
    (workspace / "hard").hardlink_to(outside / "secret")
    assert ask(session, "GET", "hard").status_code == 404


# ---------------------------------------------------------------- what is no file


def test_what_is_no_file(session: SessionClient) -> None:
    """FIFOs, sockets, devices and directories are not opened, and block no request."""
    code = (
        "import os, socket\nos.mkfifo('fifo'); os.mkdir('dir'); os.mkdir('full')\n"
        "open('full/f', 'w').close()\n"
        "s = socket.socket(socket.AF_UNIX); s.bind('socket')\nos.symlink('fifo', 'link')\n"
        "os.geteuid() or os.mknod('null', 0o20666, os.makedev(1, 3))\n"
        "os.geteuid() or os.mknod('tty', 0o20666, os.makedev(5, 0))\n"
    )
    assert session.run(code)["exit_code"] == 0
    for name in ("fifo", "dir", "full", "socket", "link", "null", "tty"):
        assert ask(session, "GET", name).status_code == (409 if name in ("dir", "full") else 404)
        assert ask(session, "GET", f"{name}/x").status_code == 404
    assert listed(session) == ["full/f"]
    for name in ("fifo", "socket", "link", "null", "tty"):
        assert ask(session, "PUT", f"{name}/x", b"").status_code in (409, 200)
    assert ask(session, "PUT", "dir", b"x").status_code == 409
    assert ask(session, "PUT", "full", b"x").status_code == 409
    assert ask(session, "DELETE", "dir").status_code == 409
    for name in ("fifo", "socket"):
        assert ask(session, "PUT", name, b"x").status_code == 200


def test_shut_and_kept(session: SessionClient) -> None:
    """Modes and attributes lead to a refusal with a message, or have no effect."""
    code = (
        "import os, subprocess\n"
        "for n in ('shut', 'fixed'): open(n, 'w').write('mine')\n"
        "os.mkdir('dir'); open('dir/f', 'w').close()\n"
        "os.chmod('shut', 0); os.chmod('dir', 0)\n"
        "subprocess.run(['chattr', '+i', 'fixed'], stderr=subprocess.DEVNULL)\n"
    )
    assert session.run(code)["exit_code"] == 0
    try:
        for name in ("shut", "fixed", "dir/f"):
            for method in ("GET", "PUT", "DELETE"):
                ask(session, method, name, b"x" if method == "PUT" else b"")
        assert set(listed(session)) <= {"shut", "fixed", "dir/f"}
    finally:
        session.run("subprocess.run(['chattr', '-i', 'fixed'], stderr=subprocess.DEVNULL)")


@pytest.mark.parametrize(
    "act",
    [
        "shutil.rmtree(w)",
        "os.rename(w, w + '-moved')",
        "os.rename(w, w + '-moved'); os.symlink('/etc', w)",
        "os.rename(w, w + '-moved'); open(w, 'w').close()",
        "os.rename(w, w + '-moved'); os.mkfifo(w)",
        "os.chmod(w, 0)",
    ],
)
def test_the_workspace_itself(session: SessionClient, act: str) -> None:
    """Code that removes or replaces its own workspace harms no session.

    There are no files then, and an upload makes the directory anew.
    """
    code = f"import os, shutil\nw = os.getcwd()\nopen('f', 'w').close()\nos.chdir('/')\n{act}"
    session.run(code)
    ask(session, "GET", "passwd")
    ask(session, "GET", "f")
    ask(session, "DELETE", "passwd")
    listed(session)
    assert ask(session, "PUT", "d/new", b"new").status_code == 200
    assert ask(session, "GET", "d/new").content == b"new"
    assert "d/new" in listed(session)
    assert Path("/etc/passwd").exists()
    assert not Path("/etc/d").exists()


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to mount")
def test_mounts(session: SessionClient, workspace: Path, outside: Path) -> None:
    """A file system mounted into a workspace, which may never answer, is not entered."""
    (workspace / "mounted").mkdir()
    done = subprocess.run(
        ["mount", "--bind", str(outside), str(workspace / "mounted")],
        capture_output=True,
        check=False,
    )
    if done.returncode:
        pytest.skip(f"nothing may be mounted here: {done.stderr!r}")
    try:
        assert ask(session, "GET", "mounted/secret").status_code == 404
        assert ask(session, "PUT", "mounted/new", b"x").status_code == 409
        assert ask(session, "DELETE", "mounted/secret").status_code == 404
        assert listed(session) == []
    finally:
        subprocess.run(["umount", "--lazy", str(workspace / "mounted")], check=True)


# ---------------------------------------------------------------- names and depth


def test_names_that_code_makes(session: SessionClient) -> None:
    """Names of any bytes are listed as JSON; those that are UTF-8 are read by what is listed."""
    code = (
        "import os\nnames = [b'a\\nb', b'\\xff\\xfe', b'n' * 255, b'\"', b'\\\\', b' ', b'%2e%2e',"
        " b'\\x01\\x7f', '\\u202e\\U0001f600'.encode(), b'-', b'..a', b'\\xed\\xa0\\x80', b'con']\n"
        "for n in names: open(n, 'w').close()\n"
    )
    assert session.run(code)["exit_code"] == 0
    found = listed(session)
    assert len(found) == 13
    for name in found:
        expected = 404 if "\ufffd" in name else 200
        assert ask(session, "GET", name).status_code == expected
    assert session.http.get(f"{session.path}/files/%FF%FE").status_code == 200
    assert session.http.delete(f"{session.path}/files/%FF%FE").status_code == 200


def test_depth(session: SessionClient) -> None:
    """A path of as many directories as a path can hold is made, listed, read and removed.

    Deeper ones, which code can make, are left out.
    """
    path = "d/" * 2000 + "f"
    assert ask(session, "PUT", path, b"deep").status_code == 200
    assert ask(session, "GET", path).content == b"deep"
    assert listed(session) == [path]
    assert ask(session, "DELETE", path).status_code == 200
    deeper = "import os\nfor _ in range(6000):\n    os.mkdir('x'); os.chdir('x')\n"
    session.run(f"{deeper}open('f', 'w').close()")
    assert listed(session) == []
    assert ask(session, "PUT", "x/x/f", b"").status_code == 200


def test_any_time_and_size(session: SessionClient) -> None:
    """Holes of any size and times of any year do not break an answer."""
    code = (
        "import os\nfor n, t in enumerate([0, -(2**40), 2**33, 2**34 - 1, 2**62]):\n"
        "    open(f't{n}', 'w').close()\n    os.utime(f't{n}', (0, t))\n"
        "with open('hole', 'w') as f: os.truncate(f.fileno(), 8 * 1024**4)\n"
    )
    session.run(code)
    for number in range(5):
        assert ask(session, "GET", f"t{number}").status_code in (200, 404)
    head = ask(session, "HEAD", "hole")
    assert head.headers["Content-Length"] == str(8 * 1024**4)
    part = session.http.get(
        f"{session.path}/files/hole", headers={"Range": f"bytes={8 * 1024**4 - 3}-"}
    )
    assert (part.status_code, part.content) == (206, b"\0\0\0")
    assert ask(session, "PUT", "hole", b"x").status_code == 200


@pytest.mark.parametrize(
    "noted",
    [b"text/html\r\nX-Evil: 1", b"a/b; c=\"\x01\"", b"\xff/\xfe", b"x" * 256, b"a/b; c=\"\t\"",
     b"", b"text/html\0", b"text/html; a=\"\x7f\""],
)  # fmt: skip
def test_noted_types(session: SessionClient, noted: bytes) -> None:
    """A content type that code noted at its file counts only when it is one."""
    code = f"import os; os.setxattr('f.txt', 'user.era_kernels.content_type', {noted!r})"
    ask(session, "PUT", "f.txt", b"x")
    if session.run(code)["exit_code"]:
        pytest.skip("the file system takes no such attribute")
    answer = ask(session, "GET", "f.txt")
    assert (answer.status_code, answer.headers["Content-Type"]) == (200, "text/plain")
    assert "X-Evil" not in answer.headers


# ---------------------------------------------------------------- races

# Each swaps a file until `stop` exists; {secret} and {out} are outside of the workspace.
RACES = {
    "directory and link": """
        os.makedirs('a'); open('a/f', 'w').write('mine'); os.symlink({out!r}, 'b')
        while go():
            os.rename('a', 'c'); os.rename('b', 'a'); os.rename('a', 'b'); os.rename('c', 'a')
            open('a/f', 'w').write('mine')
    """,
    "exchanged at once": """
        import ctypes
        libc = ctypes.CDLL(None)
        os.makedirs('a'); open('a/f', 'w').write('mine'); os.symlink({out!r}, 'b')
        while go():
            libc.renameat2(-100, b'a', -100, b'b', 2)
    """,
    "file and link": """
        os.mkdir('a')
        while go():
            with contextlib.suppress(OSError):
                open('new', 'w').write('mine'); os.rename('new', 'a/f')
                os.symlink({secret!r}, 'new'); os.rename('new', 'a/f')
    """,
    "file and FIFO": """
        os.mkdir('a')
        while go():
            with contextlib.suppress(OSError):
                open('new', 'w').write('mine'); os.rename('new', 'a/f')
                os.mkfifo('new'); os.rename('new', 'a/f')
    """,
    "file and directory": """
        os.mkdir('a')
        while go():
            with contextlib.suppress(OSError):
                open('a/f', 'w').write('mine'); os.unlink('a/f')
            with contextlib.suppress(OSError):
                os.mkdir('a/f'); os.rmdir('a/f')
    """,
    "moved up and down": """
        os.makedirs('x/y'); os.makedirs('a'); open('a/f', 'w').write('mine')
        os.symlink('x/y/../../a', 'l'); os.symlink('../' * 9 + 'etc', 'x/e')
        while go():
            os.rename('a', 'x/y/a'); os.rename('x/y', 'y'); os.rename('y', 'x/y')
            os.rename('x/y/a', 'a')
    """,
    "removed and made": """
        while go():
            with contextlib.suppress(OSError):
                os.makedirs('a/b'); open('a/f', 'w').write('mine')
            shutil.rmtree('a', ignore_errors=True)
    """,
    "cut and grown": """
        os.mkdir('a')
        while go():
            with contextlib.suppress(OSError), open('a/f', 'w') as f:
                f.write('mine' * 500000); f.flush(); f.truncate(3)
    """,
    "renamed while listed": """
        for n in range(300): open(f'f{{n}}', 'w').close()
        while go():
            for n in range(300):
                with contextlib.suppress(OSError):
                    os.rename(f'f{{n}}', f'g{{n}}'); os.rename(f'g{{n}}', f'f{{n}}')
    """,
}


@pytest.mark.parametrize("race", RACES)
def test_races(session: SessionClient, outside: Path, race: str) -> None:
    """Code that swaps files between check and use gains nothing.

    Nothing outside is read or written, and no request fails or waits.
    """
    code = RACES[race].format(out=str(outside), secret=str(outside / "secret"))
    lines = "\n".join(line.removeprefix("        ") for line in code.splitlines())
    begin = (
        "import contextlib, os, shutil, time\nopen('ready', 'w').close()\nuntil = time.time() + 60"
        "\ndef go(): return time.time() < until and not os.path.lexists('stop')\n"
    )
    with background_runs(session) as start:
        running = start(begin + lines)
        wait_for_file(session)
        with ThreadPoolExecutor(4) as pool:
            works = [pool.submit(_keep_asking, session, act) for act in ACTS]
            for work in works:
                work.result()
        ask(session, "PUT", "stop", b"")
        answer = running.result().json()
    assert answer["exit_code"] == 0 or "Error" in answer["stderr"], answer
    assert sorted(path.name for path in outside.iterdir()) == ["secret"]
    assert (outside / "secret").read_bytes() == SECRET
    assert session.http.get("/health").status_code == 200


def _keep_asking(session: SessionClient, act: Callable[[SessionClient], Any]) -> None:
    """Asks again and again: for a while, and often enough."""
    end, count = time.monotonic() + RACE, 0
    while time.monotonic() < end or count <= 10:
        act(session)
        count += 1


def _put_and_delete(session: SessionClient) -> None:
    ask(session, "PUT", "a/f", b"from the API")
    ask(session, "PUT", "a/new/deep/f", b"from the API")
    ask(session, "DELETE", "a/f")
    ask(session, "DELETE", "a/new/deep/f")


def _read(session: SessionClient) -> None:
    for path in ("a/f", "a/secret", "b/secret", "l/f", "x/e/passwd"):
        ask(session, "GET", path)


ACTS: list[Callable[[SessionClient], Any]] = [_read, _read, _put_and_delete, listed]


def test_server_outlives_all_of_it(server: Server, client: Client) -> None:
    """After the attacks no upload is left over, and no failure was logged."""
    assert wait_until(lambda: not any((server.data_dir / "incoming").iterdir()))
    assert client.http.get("/health").status_code == 200
    failures = [line for line in server.log_text.splitlines() if '"a request failed"' in line]
    assert failures == []
