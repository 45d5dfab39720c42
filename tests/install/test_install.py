"""`era-kernels install`: what it makes, that it can be repeated, and what it says when it fails."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import signal
import stat
import subprocess
import threading
import time
from contextlib import suppress
from pathlib import Path

import pytest

from era_kernels.install.toolchain_builder import LOCK_INTERVAL
from era_kernels.kernels.languages import Languages
from era_kernels.toolchains.layout import find_toolchain, hold_in_use
from tests.install.places import Place, step

BUILD = step("building", "echo '#!/bin/sh' > bin/alpha && chmod 755 bin/alpha", "bin/alpha")


def reason(place: Place, name: str) -> str | None:
    """Why the language is unavailable, if it is."""
    languages = Languages.load([place.specs], toolchain_dir=place.toolchains)
    return languages.resolve(name).default.unavailable_reason


def test_a_language_becomes_available(place: Place) -> None:
    """Tools and steps make a kernel available; a second call has nothing to do and says no more."""
    tool = place.add_wheel("alpha")
    place.add("alpha", tool + step("made", "alpha > made && cat in.txt >> made", "made",
              more='inputs = ["in.txt"]\n'), **{"in.txt": "from the folder\n"})  # fmt: skip
    assert reason(place, "alpha") == "it is not installed: run `era-kernels install alpha`"
    first = place.install("alpha")
    assert (first.returncode, first.stdout) == (0, "alpha 1.2.3: ready\n"), first.stderr
    assert first.stderr.splitlines() == ["alpha: alpha==1.2.3", "alpha: made", "alpha: installed"]
    assert (place.directory("alpha") / "made").read_text() == "tool 1.2.3\nfrom the folder\n"
    languages = Languages.load([place.specs], toolchain_dir=place.toolchains)
    kernel = languages.resolve("alpha").default
    assert (kernel.unavailable_reason, kernel.version) == (None, "1.2.3")
    assert kernel.argv == (f"{place.directory('alpha')}/bin/alpha",)
    assert kernel.env == {"WHERE": f"{place.directory('alpha')}/x"}
    second = place.install("alpha")
    assert (second.returncode, second.stdout, second.stderr) == (0, "alpha 1.2.3: ready\n", "")


def test_everybody_may_read_it(place: Place) -> None:
    """Sessions under other users can read all of it, whatever the umask of whoever installs."""
    place.add("alpha", place.add_wheel("alpha") + step("made", "mkdir d; touch d/made", "d/made"))
    umask = os.umask(0o077)
    try:
        assert place.install("alpha").returncode == 0
    finally:
        os.umask(umask)
    root = place.directory("alpha")
    assert root.parent.joinpath("lock").stat().st_mode & 0o777 == 0o200  # but not lock it
    for path in (root.parent.parent, root.parent, root, *root.rglob("*")):
        wanted = 0o555 if path.is_dir() else 0o444
        assert path.stat().st_mode & wanted == wanted, path
    assert (root / "bin" / "alpha").stat().st_mode & stat.S_IXOTH


def test_required_folders_come_first(place: Place) -> None:
    """What a folder requires is installed before, once, and its programs are there."""
    place.add("alpha", place.add_wheel("tool") + BUILD)
    place.add("beta", 'requires = ["alpha"]\n' + step("made", "tool > made", "made"))
    place.add("gamma", 'requires = ["alpha", "beta"]\nversion_argv = ["/bin/echo", "7"]\n')
    done = place.install("beta", "gamma")
    assert done.stdout == (
        "beta 1.2.3: not ready: the program {0}/beta/{1}/bin/beta is not installed\n"
        "gamma 7: not ready: the program {0}/gamma/{2}/bin/gamma is not installed\n"
    ).format(place.toolchains, place.directory("beta").name, place.directory("gamma").name)
    assert done.stderr.splitlines() == [
        "alpha: tool==1.2.3", "alpha: building", "alpha: installed",
        "beta: made", "beta: installed", "gamma: installed",
    ]  # fmt: skip
    assert (place.directory("gamma") / "bin" / "alpha").exists()


def test_steps_may_replace_programs(place: Place) -> None:
    """A program of its own stays in the place of a required one, which is left as it was."""
    place.add("alpha", BUILD)
    own = step("own", "echo mine > bin/alpha; chmod 755 bin/alpha", "bin/alpha")
    late = step("late", "test -e ../../allowed && touch late", "late")
    place.add("beta", 'requires = ["alpha"]\n' + own + late)
    place.install("beta")
    (place.toolchains / "allowed").touch()
    assert place.install("beta").stderr == "beta: late\nbeta: installed\n"
    assert (place.directory("beta") / "bin" / "alpha").read_text() == "mine\n"
    assert (place.directory("alpha") / "bin" / "alpha").read_text() == "#!/bin/sh\n"


def test_one_that_fails_leaves_the_others(place: Place) -> None:
    """What fails is told in a sentence with its log, and the rest is installed."""
    place.add("alpha", BUILD)
    script = "echo begin; echo gone wrong >&2; exit 3"
    place.add("beta", step("breaking", script, "x"))
    place.add("gamma", 'requires = ["beta"]\n' + BUILD)
    done = place.install()
    log = place.toolchains / "beta" / "install.log"
    assert done.returncode == 0
    assert "alpha: ready\n" in done.stdout
    assert f"beta: not ready: breaking failed (see {log})\n" in done.stdout
    why = f"breaking failed (see {log})"
    assert f"gamma: not ready: beta, which it requires, is not ready: {why}\n" in done.stdout
    assert log.read_text() == "breaking: exit code 3\n\ngone wrong\n"
    assert place.install("beta").returncode == 1
    assert place.install("--require-all").returncode == 1
    place.add("beta", step("breaking", "touch x", "x"))
    assert "see" not in place.install("beta").stdout
    assert not log.exists()


@pytest.mark.parametrize(
    ("made", "told"),
    [
        (step("idle", "true", "x/y", "z"), "idle ended well but made no x/y, z"),
        (step("slow", "sleep 60", "x", more="timeout = 0.3\n"), "slow took more than 0.3 seconds"),
        ('[[step]]\nname = "none"\nargv = ["/no/such"]\noutputs = ["x"]\n', "none failed (see"),
    ],
    ids=["no output", "timeout", "no program"],
)
def test_steps_that_fail(place: Place, made: str, told: str) -> None:
    """A step fails when it makes not all of its outputs, takes too long, or cannot start."""
    place.add("alpha", made)
    done = place.install("alpha")
    assert done.returncode == 1
    assert f"alpha: not ready: {told}" in done.stdout


def test_failures_of_earlier_parts_are_not_repeated(place: Place) -> None:
    """What was done before a failure is not done again; what an earlier try left does not count."""
    again = "test -e ../../allowed || { touch second; exit 1; }; test ! -e second && touch second"
    place.add("alpha", step("first", "echo x >> count", "count") + step("second", again, "second"))
    assert place.install("alpha").returncode == 1
    (place.root / "allowed").touch()
    assert not place.is_complete("alpha")
    (place.toolchains / "allowed").touch()
    done = place.install("alpha")
    assert place.is_complete("alpha"), done.stdout
    assert done.stderr == "alpha: second\nalpha: installed\n"
    assert (place.directory("alpha") / "count").read_text() == "x\n"


def test_what_was_damaged_is_made_again(place: Place) -> None:
    """An output or a tool that somebody removed is found missing and made again."""
    place.add("alpha", place.add_wheel("alpha") + step("made", "touch made", "made"))
    place.install("alpha")
    root = place.directory("alpha")
    (root / "made").unlink()
    assert place.install("alpha").stderr == "alpha: made\nalpha: installed\n"
    (root / "tools" / "alpha" / "bin" / "alpha").unlink()
    assert reason(place, "alpha") is not None
    assert place.install("alpha").stderr == "alpha: alpha==1.2.3\nalpha: installed\n"
    assert reason(place, "alpha") is None


def test_other_versions(place: Place) -> None:
    """A changed input makes another toolchain; the old one stays as long as a server uses it."""
    place.add("alpha", BUILD + 'inputs = ["in"]\n', **{"in": "1"})
    place.install("alpha")
    old = find_toolchain(place.specs / "alpha", place.toolchains)
    assert old is not None
    place.add("alpha", BUILD + 'inputs = ["in"]\n', **{"in": "2"})
    with hold_in_use([old]):
        done = place.install("alpha")
        assert f"alpha: {old.directory} stays, for a server uses it" in done.stderr
        assert old.read_installed() is not None
    assert place.install("alpha").stderr == ""
    assert not old.directory.exists()
    assert place.directory("alpha").name != old.directory.name
    assert reason(place, "alpha") is None


def test_two_at_once(place: Place) -> None:
    """Of two installers one works, the other says that it waits, and finds all complete."""
    script = "echo x >> ../count; sleep 1; touch made"
    place.add("alpha", step("slow", script, "made") + BUILD)
    both = [place.start("alpha") for _ in range(2)]
    told = [process.communicate(timeout=60) for process in both]
    assert [process.returncode for process in both] == [0, 0]
    assert [stdout for stdout, _ in told] == ["alpha: ready\n"] * 2
    assert sorted(stderr for _, stderr in told) == [
        "alpha: another installation is at work; waiting for it\n",
        "alpha: slow\nalpha: building\nalpha: installed\n",
    ]
    assert (place.toolchains / "alpha" / "count").read_text() == "x\n"


def test_reasons(place: Place) -> None:
    """A language that is not there says whether it is being installed, failed, or was never tried.

    What holds for a folder holds for those that require it.
    """
    never = "it is not installed: run `era-kernels install alpha`"
    script = "until test -e ../go-on; do sleep 0.05; done; exit 1"
    place.add("alpha", step("waiting", script, "made"))
    place.add("beta", 'requires = ["alpha"]\n' + BUILD)
    assert reason(place, "alpha") == never
    process = place.start("beta")
    assert process.stderr is not None
    assert process.stderr.readline() == "alpha: waiting\n"
    assert reason(place, "alpha") == reason(place, "beta") == "it is being installed"
    (place.toolchains / "alpha" / "go-on").touch()
    assert process.wait(60) == 1
    for name in ("alpha", "beta"):
        command = f"run `era-kernels install {name}`"
        told = f"its installation failed: {command}, which goes on and tells what is wrong"
        assert reason(place, name) == told
    process.communicate()


def test_a_look_at_the_lock_is_no_installation(place: Place) -> None:
    """An installer says nothing of a server that has just looked whether another is at work."""
    place.add("alpha", BUILD)
    assert place.install("alpha").stderr == "alpha: building\nalpha: installed\n"
    (place.directory("alpha") / "installed.json").unlink()
    looking = os.open(place.toolchains / "alpha" / "lock", os.O_WRONLY)
    fcntl.flock(looking, fcntl.LOCK_SH)
    timer = threading.Timer(LOCK_INTERVAL / 4, os.close, [looking])
    timer.start()
    assert place.install("alpha").stderr == "alpha: installed\n"


def test_side_by_side(place: Place) -> None:
    """Steps of different languages run beside each other: each waits for the other's here."""
    meet = "touch ../../{0}; until test -e ../../{1}; do sleep 0.05; done; touch made"
    place.add("alpha", step("one", meet.format("a", "b"), "made", more="timeout = 30\n"))
    place.add("beta", step("two", meet.format("b", "a"), "made", more="timeout = 30\n"))
    place.install("alpha", "beta")
    assert place.is_complete("alpha")
    assert place.is_complete("beta")


def test_environment_of_steps(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """Steps see the ways into the network of the caller, and nothing else of theirs."""
    passed = {
        "HTTPS_PROXY": "http://proxy:1", "no_proxy": "x", "SSL_CERT_FILE": "/c", "GOPROXY": "off",
        "npm_config_registry": "http://r", "NODE_EXTRA_CA_CERTS": "/n", "GONOSUMDB": "*",
    }  # fmt: skip
    for name, text in {**passed, "MY_SECRET": "s", "LD_PRELOAD_X": "x"}.items():
        monkeypatch.setenv(name, text)
    more = 'env = { MINE = "{toolchain}|{user_home}" }\n'
    script = "env -0 > env; test -d $TMPDIR && test -w $HOME"
    place.add("alpha", step("env", script, "env", more=more))
    done = place.install("alpha")
    root = place.directory("alpha")
    entries = (root / "env").read_text().split("\0")[:-1]
    seen = dict(entry.split("=", 1) for entry in entries)
    assert {name: seen.get(name) for name in passed} == passed, done.stdout
    assert seen["MINE"] == f"{root}|{os.environ['HOME']}"
    assert seen["HOME"].startswith(str(root.parent))
    assert seen["PATH"].startswith(f"{root}/bin:")
    assert not seen.keys() & {"MY_SECRET", "LD_PRELOAD_X", "ERA_TOOLCHAIN_DIR", "USER", "LOGNAME"}


def test_configurations_of_pip(place: Place) -> None:
    """A configuration of pip for other purposes does not lead the files elsewhere, nor stop it."""
    config = place.root / "pip.conf"
    config.write_text(
        "[install]\nuser = true\nno-binary = :all:\n[global]\nrequire-virtualenv = 1\n"
    )
    constraint = place.root / "constraints.txt"
    constraint.write_text("alpha==9\n")
    place.env = {
        "PIP_CONFIG_FILE": str(config), "PIP_TARGET": str(place.root / "elsewhere"),
        "PIP_PREFIX": str(place.root / "elsewhere"), "PIP_CONSTRAINT": str(constraint),
        "PIP_QUIET": "3", "PIP_DRY_RUN": "1", "PYTHONPATH": str(place.root),
    }  # fmt: skip
    (place.root / "pip.py").write_text("raise SystemExit('not pip')\n")
    place.add("alpha", place.add_wheel("alpha"))
    done = place.install("alpha")
    assert done.stdout == "alpha 1.2.3: ready\n"
    assert not (place.root / "elsewhere").exists()


def test_system_tools(place: Place) -> None:
    """A system's tool of sufficient version is taken where that is preferred, else the wheel's."""
    tool = place.add_wheel("sh", {"scripts/sh": "#!/bin/sh\necho 9.9.9\n"})
    version = 'version_argv = ["{program}", "-c", "echo 5.1"]\n'
    place.add("alpha", f'{tool}minimum = "5.0"\n{version}' + BUILD)
    place.add("beta", f'{tool}minimum = "5.2"\n{version}' + BUILD)
    place.env["ERA_SYSTEM_TOOLS"] = "true"
    place.install("alpha", "beta")
    assert (place.directory("alpha") / "bin" / "sh").readlink() == Path("/usr/bin/sh")
    assert "tools" in str((place.directory("beta") / "bin" / "sh").readlink())
    installed = json.loads((place.directory("alpha") / "installed.json").read_text())
    assert installed == {"version": "5.1", "tools": {"sh": "/usr/bin/sh"}}


def test_ctrl_c(place: Place) -> None:
    """Ctrl-C ends the installer and what it started, also what went into the background."""
    script = "(setsid sleep 98765 &) ; sleep 98765"
    place.add("alpha", step("endless", script, "x"))
    process = place.start("alpha")
    assert process.stderr is not None
    process.stderr.readline()
    time.sleep(0.5)
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=20)
    assert process.returncode != 0
    assert running_with("98765") == []


def running_with(word: str) -> list[int]:
    """The processes that have this word in their command line."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            words = (entry / "cmdline").read_bytes().split(b"\0")
        except OSError:
            continue
        if word.encode() in words:
            found.append(int(entry.name))
    return found


def test_ends_with_another_process(place: Place) -> None:
    """`--end-with` ends the installer, and what it started, when that process ends."""
    place.add("alpha", step("endless", "sleep 98766", "x"))
    with subprocess.Popen(["true"]) as other:
        other.wait()
    late = place.start("alpha", "--end-with", str(other.pid))
    late.communicate(timeout=30)
    assert late.returncode == -signal.SIGTERM

    with subprocess.Popen(["sleep", "60"]) as sleeper:
        process = place.start("alpha", "--end-with", str(sleeper.pid))
        assert process.stderr is not None
        process.stderr.readline()
        sleeper.kill()
        process.communicate(timeout=20)
    assert process.returncode == -signal.SIGTERM
    deadline = time.monotonic() + 10
    while running_with("98766") and time.monotonic() < deadline:
        time.sleep(0.05)
    assert running_with("98766") == []


def test_bars_on_a_terminal(place: Place) -> None:
    """On a terminal there are bars, which are gone at the end; with `--plain` there are lines."""
    place.add("alpha", step("slow[red]", "sleep 0.5; touch made", "made") + BUILD)
    shown = run_on_a_terminal(place, "alpha")
    assert "0/2" in shown
    assert "slow[red]" in shown
    assert "alpha: slow" not in shown
    place.add("alpha", step("slow[red]", "touch made; # 2", "made") + BUILD)
    shown = run_on_a_terminal(place, "alpha", "--plain")
    lines = ["alpha: slow[red]", "alpha: building", "alpha: installed"]
    assert shown.splitlines() == lines


def run_on_a_terminal(place: Place, *arguments: str) -> str:
    """What the command writes to a terminal that is its stderr."""
    ours, terminal = pty.openpty()
    command, env = place.command(*arguments)
    with subprocess.Popen(
        command, env={**env, "TERM": "xterm"}, stdout=subprocess.DEVNULL, stderr=terminal
    ):
        os.close(terminal)
        shown = b""
        with suppress(OSError):  # the end of a terminal
            while part := os.read(ours, 65536):
                shown += part
    os.close(ours)
    return shown.decode()
