"""The command line, as users call it: exit codes, one line where one line is promised."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
from pathlib import Path

import httpx
import pytest
from click.testing import CliRunner, Result

from era_kernels import __version__, cli, doctor
from era_kernels.doctor import Finding, Level
from era_kernels.errors import LanguageUnavailable, StartError
from era_kernels.install.readiness import prepare, select_languages
from era_kernels.kernels.languages import Languages
from era_kernels.setting_errors import env_variable, flag_name
from era_kernels.settings import Settings
from tests.server_process import Launcher, failed_start, run_command

TOKEN = "0123456789abcdef"
KERNEL = {"argv": ["{python}", "-c", "pass"], "display_name": "Mini", "language": "mini"}


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Commands see no settings of whoever runs the tests, and no data of theirs."""
    for name in os.environ:
        if name.upper().startswith("ERA_"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("ERA_DATA_DIR", str(tmp_path / "data"))
    monkeypatch.setenv("ERA_PORT", "0")


def invoked(*arguments: str) -> Result:
    """What the command does in this process: starting another takes seconds."""
    return CliRunner().invoke(cli.main, arguments)


def kernelspec(directory: Path, **changes: object) -> str:
    """A folder of kernelspecs with one language in it."""
    folder = directory / "specs" / "mini"
    folder.mkdir(parents=True)
    (folder / "kernel.json").write_text(json.dumps({**KERNEL, **changes}), "utf-8")
    return str(folder.parent)


# ---------------------------------------------------------------- help and mistakes


@pytest.mark.command
def test_version() -> None:
    """`--version` prints the name and the version."""
    assert run_command("--version").stdout == f"era-kernels, version {__version__}\n"


@pytest.mark.parametrize("command", ["serve", "doctor"])
def test_every_setting_is_a_flag(command: str) -> None:
    """The help of a command shows each setting with its flag, variable and description."""
    reported = " ".join(CliRunner().invoke(cli.main, [command, "--help"]).output.split())
    for name, field in Settings.model_fields.items():
        assert f"{flag_name(name)} " in reported
        assert env_variable(name) in reported
        assert str(field.description) in reported


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["serve", "--port", "x"], "port (from --port) must be a whole number, not 'x'."),
        (["serve", "--host", "0.0.0.0"], "set one with ERA_API_TOKENS or --api-token-file"),
        (["serve", "--config", "/none.toml"], "The configuration file /none.toml"),
        (["doctor", "--max-queue", "0"], "max_queue (from --max-queue)"),
        (["install", "cobol"], 'The language "cobol" is not supported.'),
    ],
)
def test_misuse(arguments: list[str], expected: str) -> None:
    """What the caller wrote wrong is one sentence on stderr and exit code 2."""
    done = invoked(*arguments)
    assert (done.exit_code, done.stdout) == (2, "")
    assert done.stderr.startswith("Error: ")
    assert expected in done.stderr
    assert done.stderr.count("\n") == 1


@pytest.mark.command
def test_misuse_of_the_command() -> None:
    """The command in a process of its own ends in the same way."""
    done = run_command("serve", "--port", "x")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("Error: port (from --port)")
    assert done.stderr.count("\n") == 1


def test_unknown_flag() -> None:
    """A flag that does not exist is refused by name."""
    done = invoked("serve", "--prot", "1")
    assert done.exit_code == 2
    assert "--prot" in done.stderr


def test_weak_token_is_not_shown() -> None:
    """A token that is refused is not repeated."""
    done = invoked("serve", "--api-tokens", "hunter2")
    assert done.exit_code == 2
    assert "hunter2" not in done.stderr


@pytest.mark.parametrize("problem", [StartError("no"), LanguageUnavailable("no")])
def test_refusal(monkeypatch: pytest.MonkeyPatch, problem: Exception) -> None:
    """What cannot be done here and now is one sentence and exit code 1."""

    def refuse(*_: object) -> None:
        raise problem

    monkeypatch.setattr(doctor, "run_checks", refuse)
    done = CliRunner().invoke(cli.main, ["doctor"])
    assert (done.exit_code, done.output) == (1, "Error: no\n")


# ---------------------------------------------------------------- serve


@pytest.mark.command
def test_serve(launcher: Launcher) -> None:
    """One line on stdout, settings by flag and variable, and a log in JSON.

    The line has the address with the port that was taken, isolation and languages.
    """
    flags = ("--max-queue", "7", "--log-format", "json")
    server = launcher.start(*flags, env={"ERA_MAX_JSON_BODY": "2M"})
    assert server.ready_line.startswith(f"era-kernels on {server.base_url} (")
    assert not server.base_url.endswith(":0")
    isolation = httpx.get(f"{server.base_url}/health").json()["isolation"]
    assert f"isolation tier {isolation['tier']}" in server.ready_line
    assert "starting" in (first := server.log_text.splitlines()[0])
    assert str(server.data_dir) in first
    reported = httpx.get(f"{server.base_url}/api/limits").json()
    assert (reported["max_queue"], reported["max_json_body"]) == (7, 2 * 1024 * 1024)
    assert set(reported) == set(Settings.load().limits())
    server.stop()
    lines = [json.loads(line) for line in server.log_text.splitlines()]
    answered = [line for line in lines if line["message"] == "answered"]
    assert [(one["path"], one["status"]) for one in answered] == [
        ("/health", 200), ("/api/limits", 200)
    ]  # fmt: skip


def test_no_isolation(launcher: Launcher) -> None:
    """Where code is not isolated, the line and the log say so."""
    server = launcher.start("--strongest-tier", "4", "--allow-unsandboxed")
    assert "no isolation" in server.ready_line
    assert "code is not isolated" in server.log_text


def test_no_isolation_unwanted(tmp_path: Path) -> None:
    """Without isolation there is no server, unless that was asked for."""
    assert "--allow-unsandboxed" in failed_start(tmp_path, "--strongest-tier", "4")


def test_weak_tier_3(tmp_path: Path) -> None:
    """Where only that can be had, the server and `doctor` say what to start with.

    Root's sessions have uids of their own, and a capability to reach what is private.
    """
    (tmp_path / "d").mkdir(0o700)
    is_root = os.geteuid() == 0
    told = failed_start(tmp_path / "d" / "data", "--strongest-tier", "3")
    assert ("CAP_DAC_READ_SEARCH" if is_root else "one uid for all sessions") in told
    assert "--min-tier 3" in told
    flags = ("--strongest-tier", "3", "--data-dir", tmp_path / "d" / "data", "--port", "0")
    done = run_command("doctor", *flags)
    assert done.returncode == 1
    assert "Start with --min-tier 3" in done.stdout
    done = run_command("doctor", *flags, "--min-tier", "3")
    assert done.returncode == 0, done.stdout
    missing = "code has CAP_DAC_READ_SEARCH" if is_root else "all sessions have the server's uid"
    assert missing in done.stdout


def test_no_isolation_to_try(tmp_path: Path) -> None:
    """Settings that leave no tier are reported as such: the host is not to blame."""
    told = failed_start(tmp_path, "--strongest-tier", "2", "--min-tier", "1")
    assert "strongest_tier (2)" in told
    assert "min_tier" in told
    assert "host" not in told


def test_port_in_use(tmp_path: Path) -> None:
    """A taken port is one sentence and exit code 1."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        told = failed_start(tmp_path / "data", "--port", port)
    assert f"cannot listen on 127.0.0.1 port {port}" in told


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signals(launcher: Launcher, number: signal.Signals) -> None:
    """SIGTERM and Ctrl-C end the server in order, also when they come twice."""
    server = launcher.start()
    server.process.send_signal(number)
    server.process.send_signal(number)
    assert server.process.wait(30) == 0
    assert "stopped" in server.log_text.splitlines()[-1]
    assert "Traceback" not in server.log_text


# ---------------------------------------------------------------- install


def test_install_everything(tmp_path: Path) -> None:
    """Without a name every language is tried; with one ready it is a success."""
    no_index = {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(tmp_path)}
    done = run_command("install", "--plain", "--toolchain-dir", str(tmp_path), **no_index)
    assert done.returncode == 0, done.stderr
    told = {line.split()[0].rstrip(":") for line in done.stdout.splitlines() if "ready" in line}
    assert told == {language.name for language in Languages.load()}


def test_install_takes_aliases_once(tmp_path: Path) -> None:
    """Names and aliases in any case choose languages, each once."""
    specs = kernelspec(tmp_path, metadata={"era_kernels": {"aliases": ["mi"]}})
    done = run_command("install", "mini", "MI", "--kernelspec-dirs", specs)
    assert (done.returncode, done.stdout) == (0, "mini: ready\n")


def test_install_of_what_is_missing(tmp_path: Path) -> None:
    """A named language that cannot run is reported with the reason, and exit code 1."""
    specs = kernelspec(tmp_path, argv=["no-such-program"])
    done = run_command("install", "mini", "--kernelspec-dirs", specs)
    assert done.returncode == 1
    assert done.stdout == "mini: not ready: the program no-such-program is not installed\n"


def test_install_really_imports(tmp_path: Path) -> None:
    """A module that is there and cannot be imported is found out."""
    extras = {"entry": "broken:main", "preload": ["json"]}
    specs = kernelspec(tmp_path, metadata={"era_kernels": extras})
    module = Path(specs, "mini", "broken.py")
    module.write_text("raise RuntimeError('out of order')\n", "utf-8")
    [language] = select_languages([Path(specs)], ["mini"])
    assert prepare(language.default).missing == "RuntimeError: out of order"
    module.write_text("", "utf-8")
    assert prepare(language.default).missing is None
    assert (module.parent / "__pycache__").is_dir()


# ---------------------------------------------------------------- doctor


def test_doctor(tmp_path: Path) -> None:
    """On a host of the tests the server can run; what it has is told, and nothing is made.

    Of the memory it tells what one session and all together may use, as the host has it.
    """
    done = run_command("doctor")
    assert done.returncode == 0, done.stdout
    assert "isolation: " in done.stdout
    assert done.stdout.endswith("The server can run.\n")
    (told,) = (line for line in done.stdout.splitlines() if " memory: " in line)
    assert re.search(
        r"GiB for a session \(session_memory\), .* all together \(server_memory\)", told
    )
    assert not (tmp_path / "data").exists()


def test_doctor_for_programs() -> None:
    """`--json` is one object with the verdict and every finding, here with memory as it is set."""
    memory = ("--session-memory", "1536M", "--server-memory", "3G")
    reported = json.loads(run_command("doctor", "--json", *memory).stdout)
    assert reported["can_serve"] is True
    assert {finding["level"] for finding in reported["findings"]} <= set(Level)
    texts = {finding["subject"]: finding["text"] for finding in reported["findings"]}
    assert set(texts) >= {
        "interpreter", "data directory", "disk", "address", "memory", "isolation"
    }  # fmt: skip
    asked = "1.5 GiB for a session (session_memory), 3.0 GiB for all together"
    assert asked in texts["memory"]


def test_doctor_says_no(tmp_path: Path) -> None:
    """Where the server cannot run, the exit code is 1 and every problem comes with advice."""
    blocked = tmp_path / "file"
    blocked.touch()
    done = run_command("doctor", "--json", "--data-dir", str(blocked / "data"))
    reported = json.loads(done.stdout)
    broken = [one for one in reported["findings"] if one["level"] == Level.BROKEN]
    assert (done.returncode, reported["can_serve"]) == (1, False)
    assert [one["subject"] for one in broken] == ["data directory"]
    assert all(one["advice"] for one in reported["findings"] if one["level"] != Level.OK)


def test_doctor_knows_what_the_walls_allow(tmp_path: Path) -> None:
    """A kernel that speaks only tcp cannot run in tier 3, and the doctor says why."""
    metadata = {"era_kernels": {"transport": "tcp"}}
    specs = kernelspec(tmp_path, metadata=metadata)
    for tier, level in (("1", "ok"), ("3", "lacks")):
        options = ("--kernelspec-dirs", specs, "--strongest-tier", tier, "--min-tier", "3")
        reported = json.loads(run_command("doctor", "--json", *options).stdout)
        by_subject = {one["subject"]: one for one in reported["findings"]}
        if by_subject["isolation"]["text"] != f"tier {tier}":
            pytest.skip(f"this host has no tier {tier}")
        assert by_subject["mini"]["level"] == level
        assert ("no internet sockets" in by_subject["mini"]["text"]) == (tier == "3")


def test_doctor_beside_a_server(launcher: Launcher) -> None:
    """A directory and port that a server of ours uses are no reason to say that it cannot run."""
    server = launcher.start()
    port = server.base_url.rpartition(":")[2]
    done = run_command("doctor", "--data-dir", str(server.data_dir), "--port", port)
    assert done.returncode == 0, done.stdout
    assert "in use by a server that runs" in done.stdout
    assert httpx.get(f"{server.base_url}/health").status_code == 200


def test_doctor_finds_a_taken_port() -> None:
    """A port that something else uses is."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        done = run_command("doctor", "--port", str(taken.getsockname()[1]))
    assert done.returncode == 1
    assert "Choose another with --host and --port" in done.stdout


def test_doctor_finds_broken_kernelspecs(tmp_path: Path) -> None:
    """A kernelspec that cannot be read would stop the server."""
    specs = kernelspec(tmp_path, argv=[])
    done = run_command("doctor", "--kernelspec-dirs", specs)
    assert done.returncode == 1
    assert "kernel.json" in done.stdout


def test_doctor_leaves_out_broken_kernelspecs_of_others(tmp_path: Path) -> None:
    """One in a data directory of Jupyter's is told, and stops no server."""
    folder = tmp_path / "kernels" / "mini"
    folder.mkdir(parents=True)
    (folder / "kernel.json").write_text("{")
    done = run_command("doctor", "--port", "0", "--kernelspec-dirs", str(tmp_path))
    assert done.returncode == 0, done.stdout
    assert "mini/kernel.json" in done.stdout


def test_verdict() -> None:
    """Lacks are no hindrance, one broken thing is."""
    lacks = Finding(Level.LACKS, "a", "b", "c")
    assert doctor.can_serve([lacks])
    assert not doctor.can_serve([lacks, Finding(Level.BROKEN, "a", "b", "c")])
