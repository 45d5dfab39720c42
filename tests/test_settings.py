"""Settings: where values come from, how they are written, and what is said when one is wrong."""

from __future__ import annotations

import os
from pathlib import Path
from resource import RLIM_INFINITY

import pytest
from pydantic import ValidationError

from era_kernels import open_files, setting_types
from era_kernels.errors import InvalidSetting, StartError
from era_kernels.models import GIB, MIB
from era_kernels.setting_types import format_default, format_size_setting, parse_size
from era_kernels.settings import Settings

TOKEN = "0123456789abcdef"
WEAK = "hunter2"


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No variable of whoever runs the tests counts."""
    for name in os.environ:
        if name.upper().startswith("ERA_"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "share"))


def refusal(**flags: object) -> str:
    with pytest.raises(InvalidSetting) as caught:
        Settings.load(flags)
    return str(caught.value)


def written(path: Path, text: str) -> str:
    path.write_text(text, "utf-8")
    return str(path)


# ---------------------------------------------------------------- where values come from


def test_defaults_are_those_of_the_contract() -> None:
    """Without flags, environment and file the documented numbers are in force."""
    limits = Settings.load().limits()
    kernels = limits.pop("max_kernels")
    assert isinstance(kernels, int)
    assert 1 <= kernels <= 500
    connections = limits.pop("max_connections")
    assert isinstance(connections, int)
    assert 1 <= connections <= 1000
    session_memory, server_memory = limits.pop("session_memory"), limits.pop("server_memory")
    assert isinstance(session_memory, int)
    assert GIB <= session_memory <= 8 * GIB
    disk = limits.pop("disk_reserve")
    assert isinstance(disk, int)
    assert 0 < disk <= GIB
    assert server_memory == setting_types.total_memory() * 80 // 100 // MIB * MIB
    assert limits == {
        "default_timeout": 30,
        "memory_in_work": 512 * MIB,
        "max_timeout": 3600,
        "max_background_timeout": 86400,
        "max_queue": 100,
        "max_sessions": None,
        "max_json_body": 32 * MIB,
        "max_upload": 5 * GIB,
        "max_answer_output": 10 * MIB,
        "max_execution_output": GIB,
        "keep_executions": 100,
        "keep_executions_bytes": GIB,
        "session_workspace": 2 * GIB,
        "session_processes": 256,
        "session_cpu": None,
        "session_open_files": 1024,
        "session_file_size": None,
        "session_tmp": 256 * MIB,
        "session_shm": 256 * MIB,
        "max_kv_value": 25 * MIB,
        "max_object": 5 * GIB,
        "storage_quota": None,
        "namespace_quota": None,
        "sql_timeout": 30,
        "sql_max_rows": 10_000,
        "sql_max_result": 32 * MIB,
        "sql_max_database": GIB,
    }


def test_default_address() -> None:
    """A server without settings is reachable from this machine only."""
    settings = Settings.load()
    assert (settings.host, settings.port, settings.has_tokens) == ("127.0.0.1", 8787, False)


def test_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Flags win over environment, environment over file, file over default."""
    file = written(tmp_path / "era.toml", "port = 1\nmax_queue = 1\nmax_kernels = 1\n")
    monkeypatch.setenv("ERA_CONFIG", file)
    monkeypatch.setenv("ERA_PORT", "2")
    monkeypatch.setenv("ERA_MAX_QUEUE", "2")
    settings = Settings.load({"port": "3"})
    assert (settings.port, settings.max_queue, settings.max_kernels) == (3, 2, 1)
    assert settings.keep_executions == 100


def test_config_flag_wins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file that the flag names is read, not the one of the environment."""
    monkeypatch.setenv("ERA_CONFIG", written(tmp_path / "one.toml", "port = 1"))
    other = written(tmp_path / "two.toml", "port = 2")
    assert Settings.load({"config": other}).port == 2


def test_file_has_types_of_its_own(tmp_path: Path) -> None:
    """TOML's numbers, lists and booleans are taken as they are, texts as in the environment."""
    file = written(
        tmp_path / "era.toml",
        f'max_json_body = "2M"\nmax_answer_output = 4096\nmax_timeout = 1.5\n'
        f'trust_forwarded = true\napi_tokens = ["{TOKEN}"]\nallowed_hosts = "a.example, b"\n',
    )
    settings = Settings.load({"config": file})
    assert settings.max_json_body == 2 * MIB
    assert settings.max_answer_output == 4096
    assert settings.max_timeout == 1.5
    assert settings.trust_forwarded is True
    assert settings.api_tokens == (TOKEN,)
    assert settings.allowed_hosts == ("a.example", "b")


def test_unknown_variables_are_ignored(monkeypatch: pytest.MonkeyPatch) -> None:
    """A server started inside a session finds that session's variables, which mean nothing."""
    monkeypatch.setenv("ERA_SESSION", "true")
    monkeypatch.setenv("ERA_BASE_URL", "http://127.0.0.1:1")
    Settings.load()


def test_empty_variables_are_ignored(monkeypatch: pytest.MonkeyPatch) -> None:
    """An empty variable is one that is not set, as compose files write it."""
    monkeypatch.setenv("ERA_PORT", "")
    assert Settings.load().port == 8787


def test_lists_are_written_with_commas(monkeypatch: pytest.MonkeyPatch) -> None:
    """In the environment and in flags a list is one text."""
    monkeypatch.setenv("ERA_API_TOKENS", f"{TOKEN}, {TOKEN[::-1]},")
    assert Settings.load().api_tokens == (TOKEN, TOKEN[::-1])
    dirs = Settings.load({"kernelspec_dirs": "/a,b"}).kernelspec_dirs
    assert dirs == (Path("/a"), Path.cwd() / "b")


def test_frozen() -> None:
    """Nobody changes a setting while the server runs."""
    settings = Settings.load()
    with pytest.raises(ValidationError):
        settings.port = 1  # type: ignore[misc]


# ---------------------------------------------------------------- how values are written


@pytest.mark.parametrize(
    ("text", "size"),
    [("512M", 512 * MIB), ("1g", GIB), ("10K", 10240), ("2T", 2048 * GIB), ("77", 77), (77, 77)],
)
def test_sizes(text: str | int, size: int) -> None:
    """Sizes are bytes, or K, M, G and T in powers of 1024."""
    assert parse_size(text) == size
    assert parse_size(format_size_setting(size)) == size


@pytest.mark.parametrize("text", ["", "M", "1.5G", "-1", "1 M", "1MB", True, 1.5, None])
def test_no_sizes(text: object) -> None:
    """What is no size is refused, not guessed."""
    assert "max_json_body (from --max-json-body) must be a size" in refusal(max_json_body=text)


def test_a_bound_of_nothing_is_refused() -> None:
    """Zero is no bound: it would refuse everything."""
    assert "must be at least 1" in refusal(max_json_body="0")
    assert "must be at least 1" in refusal(max_queue="0")
    assert "must be above 0" in refusal(max_timeout="0")


def test_home_is_expanded(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """`~` in a path means the home directory, wherever the path is written."""
    monkeypatch.setenv("HOME", str(tmp_path))
    assert Settings.load({"data_dir": "~/era"}).data_dir == tmp_path / "era"


def test_data_directory(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Data lies in XDG_DATA_HOME when that is an absolute path, else below the home."""
    assert Settings.load().data_dir == tmp_path / "share" / "era_kernels"
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_DATA_HOME", "relative")
    assert Settings.load().data_dir == tmp_path / ".local" / "share" / "era_kernels"


def test_no_home(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a home directory the error asks for a directory."""

    def no_home() -> Path:
        raise RuntimeError

    monkeypatch.delenv("XDG_DATA_HOME")
    monkeypatch.setattr(Path, "home", no_home)
    assert "--data-dir" in refusal()


def test_default_timeout_fits() -> None:
    """A lower max_timeout lowers the default timeout, but not one that was asked for."""
    assert Settings.load({"max_timeout": "10"}).limits()["default_timeout"] == 10
    assert "at most max_timeout" in refusal(max_timeout="10", default_timeout="20")


def test_kernels_by_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """64 MiB a kernel, at least one and at most 500."""
    monkeypatch.setattr(open_files, "getrlimit", lambda _: (1, RLIM_INFINITY))
    for memory, kernels in ((MIB, 1), (640 * MIB, 10), (1024 * GIB, 500)):
        monkeypatch.setattr(setting_types, "total_memory", lambda memory=memory: memory)
        assert Settings.load().max_kernels == kernels


@pytest.mark.parametrize(
    ("host", "session", "server"),
    [
        (512 * MIB, GIB, 409 * MIB),
        (2 * GIB, GIB, 1638 * MIB),
        (6 * GIB, 1536 * MIB, 4915 * MIB),
        (8 * GIB, 2 * GIB, 6553 * MIB),
        (24 * GIB, 6 * GIB, 19660 * MIB),
        (32 * GIB, 8 * GIB, 26214 * MIB),
        (1024 * GIB, 8 * GIB, 838860 * MIB),
    ],
)
def test_memory_by_the_host(
    host: int, session: int, server: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A quarter for a session, but from 1 to 8 GiB, and 80 % for all; what is asked for wins."""
    monkeypatch.setattr(setting_types, "total_memory", lambda: host)
    limits = Settings.load().limits()
    assert (limits["session_memory"], limits["server_memory"]) == (session, server)
    asked = Settings.load({"session_memory": "600M", "server_memory": "1G"}).limits()
    assert (asked["session_memory"], asked["server_memory"]) == (600 * MIB, GIB)


def test_total_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is the host's, or what the control groups of this process leave it."""
    monkeypatch.setattr(setting_types, "memory_bound", lambda: None)
    host = setting_types.total_memory()
    assert host == os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    for bound, expected in ((GIB, GIB), (2**63 - 4096, host)):
        monkeypatch.setattr(setting_types, "memory_bound", lambda bound=bound: bound)
        assert setting_types.total_memory() == min(host, expected)


def test_connections_by_descriptors(monkeypatch: pytest.MonkeyPatch) -> None:
    """16 files a kernel beside the server's own 256, half of them for connections; hard limits."""
    monkeypatch.setattr(setting_types, "total_memory", lambda: 1024 * GIB)
    table = ((1, 1, 1), (1024, 384, 48), (1 << 20, 1000, 500), (RLIM_INFINITY, 1000, 500))
    for most, connections, kernels in table:
        monkeypatch.setattr(open_files, "getrlimit", lambda _, most=most: (1, most))
        settings = Settings.load()
        assert (settings.max_connections, settings.max_kernels) == (connections, kernels)


# ---------------------------------------------------------------- what is said


def test_origin_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who wrote a wrong value learns which setting it is and where it stands."""
    assert refusal(port="x") == "port (from --port) must be a whole number, not 'x'."
    file = written(tmp_path / "era.toml", "port = 70000")
    assert refusal(config=file) == (
        "port (from the configuration file) must be at most 65535, not 70000."
    )
    monkeypatch.setenv("ERA_PORT", "y")
    assert refusal(config=file) == "port (from ERA_PORT) must be a whole number, not 'y'."


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("port", "-1", "at least 0"),
        ("port", True, "a number"),
        ("max_timeout", "soon", "a number"),
        ("max_timeout", "inf", "a finite number"),
        ("shutdown_grace", "-1", "at least 0"),
        ("max_kernels", "5.5", "a whole number"),
        ("log_format", "xml", "'human' or 'json'"),
        ("trust_forwarded", "maybe", "true or false"),
        ("host", "", "text that is not empty"),
        ("public_url", "era.example.org", "an address such as https://era.example.org"),
        ("proxy_domain", "http://a", "the name of a domain such as apps.example.org"),
        ("proxy_domain", "a..b", "the name of a domain such as apps.example.org"),
        ("allowed_origins", "app.example.org", "origins such as"),
        ("allow_hosts", "a.org,*", "hosts and domains such as"),
        ("egress_allow_cidrs", "10.0.0.1/8", "networks such as"),
        ("egress_allow_cidrs", "db.example.org", "networks such as"),
        ("allowed_hosts", 5, "a list, written with commas"),
        ("data_dir", "~nobody-has-this-name/x", "a path whose ~ names a home directory"),
    ],
)
def test_wrong_values(name: str, value: object, expected: str) -> None:
    """Every kind of setting says in one sentence what it must be."""
    said = refusal(**{name: value})
    assert said.startswith(f"{name} (from --{name.replace('_', '-')}) must be {expected}")
    assert "\n" not in said


def test_every_kind_of_mistake_has_a_sentence() -> None:
    """No setting falls back to the sentence that says nothing."""
    for name in Settings.model_fields:
        for value in (True, -1, 1.5, "\0", [], {}, object()):
            try:
                Settings.load({"api_tokens": TOKEN, name: value})
            except StartError as problem:
                assert "a valid value" not in str(problem), (name, value)


@pytest.mark.parametrize(
    ("text", "begin", "part"),
    [
        ("max_ques = 1", 'There is no setting "max_ques"', "Did you mean max_queue?"),
        ('config = "x"', 'There is no setting "config"', ""),  # it cannot name another file
        ("port =", "The configuration file {0} is no TOML", "(at "),
        ("port = 1\nport = 2", "The configuration file {0} is no TOML", "(at "),
    ],
)
def test_mistakes_in_the_file(tmp_path: Path, text: str, begin: str, part: str) -> None:
    """A key that is misspelt or none is refused by name, what is no TOML with its place."""
    file = written(tmp_path / "era.toml", text)
    said = refusal(config=file)
    assert said.startswith(begin.format(file))
    assert part in said


def test_missing_file(tmp_path: Path) -> None:
    """A file that was named and is not there is a mistake, not an empty file."""
    assert "cannot be read" in refusal(config=str(tmp_path / "none.toml"))


# ---------------------------------------------------------------- tokens


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1", "era.example.org"])
def test_open_door(host: str) -> None:
    """Without a token only loopback is bound; the refusal says how to set one."""
    said = refusal(host=host)
    assert said.startswith("host (from --host) must be localhost, 127.0.0.1 or ::1")
    assert "ERA_API_TOKENS" in said
    assert Settings.load({"host": host, "api_tokens": TOKEN}).host == host
    assert Settings.load({"host": host, "api_token_file": "/run/token"}).has_tokens


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.8.8", "::1", "localhost"])
def test_loopback(host: str) -> None:
    """Loopback needs no token."""
    assert Settings.load({"host": host}).host == host


@pytest.mark.parametrize("value", [WEAK, f"{TOKEN},{WEAK}", [WEAK], {"a": WEAK}, 12345])
def test_tokens_are_never_shown(value: object) -> None:
    """A refusal of tokens does not repeat them."""
    said = refusal(api_tokens=value)
    assert said.startswith("api_tokens (from --api-tokens) must be")
    assert WEAK not in said
    assert "12345" not in said


def test_tokens_are_not_in_the_repr() -> None:
    """Printing the settings, also by a debugger or a log, shows no token."""
    settings = Settings.load({"api_tokens": TOKEN})
    assert TOKEN not in f"{settings!r} {settings} {settings.limits()}"


def test_limits_are_numbers_only() -> None:
    """What every caller may ask for holds numbers only."""
    values = Settings.load().limits().values()
    assert all(value is None or isinstance(value, int | float) for value in values)


# ---------------------------------------------------------------- telling about settings


def test_everything_is_described() -> None:
    """Each setting has a sentence and a default as text: the help and the docs show them."""
    for name, field in Settings.model_fields.items():
        assert (field.description or "").endswith("."), name
        assert format_default(field), name


# ---------------------------------------------------------------- mounts


def test_mounts_are_written_in_three_ways(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As one text for flag, environment and file, or as a table of the file."""
    one, two = tmp_path / "one", tmp_path / "a=b"
    one.mkdir()
    two.mkdir()
    text = f"data={one}, x.1-y_Z={two},"
    expected = {"data": one, "x.1-y_Z": two}
    assert Settings.load({"mounts": text}).mounts == expected
    table = f'[mounts]\ndata = "{one}"\n"x.1-y_Z" = "{two}"\n'
    assert Settings.load({"config": written(tmp_path / "1.toml", table)}).mounts == expected
    line = f'mounts = "{text}"'
    assert Settings.load({"config": written(tmp_path / "2.toml", line)}).mounts == expected
    monkeypatch.setenv("ERA_MOUNTS", text)
    assert Settings.load().mounts == expected


def test_mounts_are_not_merged(tmp_path: Path) -> None:
    """A flag replaces the table of the file as a whole."""
    directory = tmp_path / "mine"
    directory.mkdir()
    file = written(tmp_path / "era.toml", f'[mounts]\ndata = "{directory}"\n')
    flags = {"config": file, "mounts": f"other={directory}"}
    assert Settings.load(flags).mounts == {"other": directory}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("/srv", "must be names and directories such as data=/srv/data"),
        ("a={0},a={0}", "each name once"),
        ("={0}", "must be names of up to 64 letters"),
        (".a={0}", "must be names of up to 64 letters"),
        ("a/b={0}", "must be names of up to 64 letters"),
        ("a" * 65 + "={0}", "must be names of up to 64 letters"),
        ("a=", "must be absolute paths of directories"),
        ("a=relative", "must be absolute paths of directories"),
        ("a={0}/nowhere", "must be absolute paths of directories"),
        ("a={0}/file", "must be absolute paths of directories"),
        ("a={0}/loop", "must be absolute paths of directories"),
    ],
)
def test_mounts_that_cannot_be(tmp_path: Path, text: str, expected: str) -> None:
    """What is wrong is said at the start."""
    (tmp_path / "file").touch()
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    said = refusal(mounts=text.format(tmp_path))
    assert said.startswith("mounts (from --mounts) must be ")
    assert expected in said


@pytest.mark.parametrize("where", ["/", "{0}", "{0}/data", "{0}/data/sessions", "{0}/link"])
def test_mounts_apart_from_the_data(tmp_path: Path, where: str) -> None:
    """No session is shown the data directory, by whatever name or from above."""
    (tmp_path / "data" / "sessions").mkdir(parents=True)
    (tmp_path / "link").symlink_to(tmp_path / "data")
    mounts = f"all={where.format(tmp_path)}"
    said = refusal(mounts=mounts, data_dir=str(tmp_path / "data"))
    assert "apart from the data directory" in said


def test_one_uid_is_accepted_by_hand(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A flag, a variable and the file count; the default and stronger tiers do not."""
    assert not Settings.load().allow_weak_tier3
    assert Settings.load({"min_tier": "3"}).allow_weak_tier3
    assert not Settings.load({"min_tier": "2"}).allow_weak_tier3
    assert Settings.load({"config": written(tmp_path / "a.toml", "min_tier = 3")}).allow_weak_tier3
    monkeypatch.setenv("ERA_MIN_TIER", "3")
    assert Settings.load().allow_weak_tier3
