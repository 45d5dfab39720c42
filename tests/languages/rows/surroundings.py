"""Rows about what programs find: variables, files, input, storage."""

from __future__ import annotations

from tests.client import SessionClient
from tests.languages.rows.table_rows import check, row


@row(leaves_nothing=True)
def environment(session: SessionClient, read_env: str, read_env_in_child: str) -> None:
    """Variables of a run are seen by the code and its children, and are gone afterwards."""
    for program in (read_env, read_env_in_child):
        code = program.format(name="FLAVOUR")
        check(session.run(code), stdout="absent\n")
        check(session.run(code, env={"FLAVOUR": "lemon"}), stdout="lemon\n")
        check(session.run(code), stdout="absent\n")


@row(leaves_nothing=True)
def previous_environment(session: SessionClient, read_env: str, fail: str) -> None:
    """A variable that a run overrides has its previous value back, also after a failure."""
    for name in ("HOME", "PATH"):
        code = read_env.format(name=name)
        before = session.run(code)["stdout"]
        session.run(fail, env={name: "/elsewhere"})
        check(session.run(code), stdout=before)


@row(leaves_nothing=True)
def era_variables(session: SessionClient, read_env: str) -> None:
    """The server's own variables are there."""
    base = str(session.http.base_url).rstrip("/")
    expected = {
        "ERA_SESSION": "true",
        "ERA_SESSION_ID": session.id,
        "ERA_LANGUAGE": session.get()["language"],
        "ERA_BASE_URL": base,
        "ERA_PROXY_URL": f"{base}/proxy/{session.id}",
    }
    for name, value in expected.items():
        check(session.run(read_env.format(name=name)), stdout=f"{value}\n")


@row(leaves_nothing=True)
def era_variables_hold(session: SessionClient, read_env: str) -> None:
    """The server's own variables cannot be overridden by a run."""
    for name in ("ERA_SESSION_ID", "ERA_MEMORY_MB"):
        own = session.run(read_env.format(name=name))["stdout"]
        answer = session.run(read_env.format(name=name), env={name: "forged"})
        check(answer, stdout=own)
        assert own.strip() not in ("", "forged"), own


@row(leaves_nothing=True)
def workspace(session: SessionClient, print_cwd_and_home: str) -> None:
    """Home and working directory are the workspace."""
    lines = session.run(print_cwd_and_home)["stdout"].splitlines()
    assert lines[0] == lines[1]


@row()
def written_file(session: SessionClient, hello: str, write_file: str) -> None:
    """A file that code wrote is counted as modified once, and listed."""
    check(session.run(hello), files_modified=0)
    check(session.run(write_file), files_modified=1)
    check(session.run(hello), files_modified=0)
    answer = session.get()
    assert [(f["path"], f["size"]) for f in answer["files"]] == [("made.txt", 4)]
    check(answer, file_count=1, total_size_bytes=4)


@row()
def uploaded_module(
    session: SessionClient, module_name: str, module_text: str, import_module: str
) -> None:
    """A file that was uploaded can be imported."""
    content = module_text.format(value=7).encode()
    session.http.put(f"{session.path}/files/{module_name}", content=content).raise_for_status()
    check(session.run(import_module), stdout="7\n", exit_code=0)


@row()
def edited_module(session: SessionClient, write_module: str, import_module: str) -> None:
    """A module that changed on disk is new in the next run, even within the same second."""
    for value in (1, 2, 3):
        session.run(write_module.format(value=value))
        check(session.run(import_module), stdout=f"{value}\n", exit_code=0)


@row(leaves_nothing=True)
def standard_input(session: SessionClient, read_stdin: str) -> None:
    """Standard input is at its end."""
    check(session.run(read_stdin), stdout="[]\n")


@row(leaves_nothing=True)
def storage(session: SessionClient, use_storage: str) -> None:
    """A program stores a value and reads it without any set-up."""
    check(session.run(use_storage), stdout="lemon\n", stderr="", exit_code=0)
