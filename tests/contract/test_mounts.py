"""Mounts: directories that the operator offers, read-only in the sessions that ask for them."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.client import Client, SessionClient
from tests.contract.checks import Start, check, check_error
from tests.server_process import UNSANDBOXED_FLAGS, Launcher, Server, temporary_launcher

READ = "print(open('/mnt/data/rows').read())"


@pytest.fixture(scope="module")
def offered() -> Iterator[Path]:
    """A directory that everybody may read and write, but for a mount."""
    with tempfile.TemporaryDirectory(prefix="era-offered-") as directory:
        offer(Path(directory) / "data")
        Path(directory).chmod(0o755)
        yield Path(directory) / "data"


def offer(directory: Path) -> None:
    directory.mkdir()
    (directory / "rows").write_text("1,2,3")
    (directory / "rows").chmod(0o666)
    directory.chmod(0o777)


@pytest.fixture(scope="module")
def server(offered: Path) -> Iterator[Server]:
    with temporary_launcher() as launcher:
        yield launcher.start("--mounts", f"data={offered},again={offered}")


@pytest.fixture
def isolated(client: Client) -> Client:
    """Where sessions have mounts of their own."""
    if client.http.get("/health").json()["isolation"]["tier"] > 2:
        pytest.skip("this host has no mount namespaces")
    return client


def test_read_and_not_written(isolated: Client, offered: Path) -> None:
    """Code reads it, and no way of writing changes a byte."""
    session = isolated.session("python", mounts=["data"])
    check(session.get(), mounts=["data"])
    check(session.run(READ), stdout="1,2,3\n")
    for attempt in (
        "open('/mnt/data/rows', 'a')",
        "open('/mnt/data/new', 'w')",
        "import os; os.unlink('/mnt/data/rows')",
        "import os; os.chmod('/mnt/data/rows', 0)",
    ):
        check(session.run(attempt)["exception"], name="OSError")
    assert [path.name for path in offered.iterdir()] == ["rows"]
    assert (offered / "rows").read_text() == "1,2,3"
    session.delete()
    assert (offered / "rows").read_text() == "1,2,3"


def test_programs_beside_the_kernel(isolated: Client) -> None:
    """A program sees it before there is a kernel, and the kernel after it."""
    session = isolated.session("python", mounts=["data"])
    answer = isolated.http.post(f"{session.path}/exec", json={"command": "cat /mnt/data/rows"})
    check(answer.json(), stdout="1,2,3", exit_code=0)
    check(session.run(READ), stdout="1,2,3\n")
    session.delete()


def test_only_who_asked(isolated: Client) -> None:
    """Others see nothing of it; a duplicate sees what its source does."""
    session = isolated.session("python", mounts=["again", "data", "again"])
    check(session.get(), mounts=["again", "data"])
    look = "import os; print(os.path.exists('/mnt') and sorted(os.listdir('/mnt')))"
    check(session.run(look), stdout="['again', 'data']\n")
    other = isolated.session("python")
    assert "mounts" not in other.get()
    check(other.run(look), stdout="False\n")
    answer = isolated.http.post(f"{session.path}/duplicate", json={}).json()
    check(answer, mounts=["again", "data"])
    check(SessionClient(isolated.http, answer["id"]).run(READ), stdout="1,2,3\n")
    isolated.http.delete("/api/sessions")


def test_no_files_of_the_session(isolated: Client) -> None:
    """What is mounted is neither listed nor counted, nor reached by the paths of files."""
    session = isolated.session("python", mounts=["data"])
    session.run("import os; os.symlink('/mnt/data/rows', 'rows')")
    check(session.get(), file_count=0, files=[])
    answer = isolated.http.get(f"{session.path}/files/rows")
    check_error(answer, 404, "FILE_NOT_FOUND")
    session.delete()


@pytest.mark.parametrize(
    ("mounts", "expected"),
    [
        ('["other"]', "`mounts` names 'other', and this server offers again, data"),
        ('["data", ""]', "`mounts` names ''"),
        ('["../data"]', "`mounts` names '../data'"),
        ('"data"', "`mounts` must be a list"),
        ("[1]", "`mounts.0` must be a string"),
    ],
)
def test_refused(client: Client, mounts: str, expected: str) -> None:
    """The answer is 400 and lists the mounts that exist; nothing was made."""
    body = f'{{"language": "python", "session_id": "s", "mounts": {mounts}}}'
    shown = check_error(client.http.post("/api/sessions", content=body), 400, "INVALID_REQUEST")
    assert shown["message"].startswith(expected), shown
    assert "names" not in expected or shown["details"] == {"known": ["again", "data"]}
    check_error(client.http.get("/api/sessions/s"), 404, "SESSION_NOT_FOUND")


@pytest.mark.parametrize("mounts", [None, []])
def test_none(client: Client, mounts: object) -> None:
    """Nothing is asked for, and nothing is shown."""
    session = client.session("python", mounts=mounts)
    assert "mounts" not in session.get()
    session.delete()


@pytest.mark.parametrize(
    "flags",
    [("--strongest-tier", "3", "--min-tier", "3"), UNSANDBOXED_FLAGS],
    ids=["tier 3", "tier 4"],
)
def test_without_namespaces(start: Start, offered: Path, flags: tuple[str, ...]) -> None:
    """Where nothing can be mounted it is 409, and nothing was made."""
    try:
        client = start("--mounts", f"data={offered}", *flags)
    except RuntimeError as error:
        pytest.skip(f"this host has no such tier: {error}")
    body = {"language": "python", "mounts": ["data"]}
    check_error(client.http.post("/api/sessions", json=body), 409, "NOT_ENFORCEABLE")
    assert client.http.get("/api/sessions").json()["total"] == 0
    client.session("python").delete()


def test_end_of_the_server(
    isolated: Client, start: Start, launcher: Launcher, tmp_path: Path
) -> None:
    """A mount is there again after a kill; where it is gone or not offered nothing is lost."""
    directory = tmp_path / "data"
    offer(directory)
    flags = ("--mounts", f"data={directory}")
    client = start(*flags)
    for name in ("kept", "other"):
        session = client.session("python", session_id=name, mounts=["data"], data={"a": 1})
        check(session.run(READ + "; open('mine', 'w').write('1')"), stdout="1,2,3\n")
    launcher.servers[-1].kill()

    client = start(*flags)
    kept = SessionClient(client.http, "kept")
    check(kept.get(), mounts=["data"])
    check(kept.run(READ), stdout="1,2,3\n")
    check_vanished(SessionClient(client.http, "other"), directory)
    launcher.servers[-1].kill()

    kept = SessionClient(start().http, "kept")
    check(kept.get(), mounts=["data"], data={"a": 1})
    assert [file["path"] for file in kept.get()["files"]] == ["mine"]
    answer = kept.http.post(f"{kept.path}/run", json={"code": "1"})
    assert "mount data" in check_error(answer, 503, "UNAVAILABLE")["message"]


def check_vanished(session: SessionClient, directory: Path) -> None:
    """A directory that is gone is 503 at the next run, and nothing is lost when it is back."""
    shutil.rmtree(directory)
    answer = session.http.post(f"{session.path}/run", json={"code": "1"})
    assert "mount data" in check_error(answer, 503, "KERNEL_START_FAILED")["message"]
    assert str(directory.parent) not in answer.text
    assert int(answer.headers["Retry-After"]) > 0
    answer = session.http.post(f"{session.path}/restart")
    check_error(answer, 503, "KERNEL_START_FAILED")
    check(session.get(), status="stopped", data={"a": 1})
    offer(directory)
    check(session.run(READ + "; print(open('mine').read())"), stdout="1,2,3\n1\n")


def test_wrong_setting(launcher: Launcher, tmp_path: Path) -> None:
    """A directory that is not there keeps the server from starting, with a sentence."""
    with pytest.raises(RuntimeError, match=r"mounts \(from --mounts\) must be absolute"):
        launcher.start("--mounts", f"data={tmp_path / 'nowhere'}")
