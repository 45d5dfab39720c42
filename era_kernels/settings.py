"""Reads all settings once from flags, environment (`ERA_…`), a TOML file and defaults."""

from __future__ import annotations

import os
import tomllib
from collections.abc import Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import Field, ValidationError, model_validator
from pydantic_settings import (
    BaseSettings,
    InitSettingsSource,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
)

from era_kernels.errors import InvalidSetting
from era_kernels.models import ALL_STORAGE, GIB, MIB, MIN_TOKEN_LENGTH, default_disk_reserve
from era_kernels.setting_errors import error_sentence
from era_kernels.setting_types import (
    DEFAULT_SERVER_PERCENT,
    ENV_PREFIX,
    FILES_PER_KERNEL,
    MAX_DEFAULT_CONNECTIONS,
    MAX_DEFAULT_KERNELS,
    OWN_FILES,
    AbsolutePath,
    AnyTier,
    Count,
    Domain,
    HostList,
    NamedDirectories,
    NetworkList,
    NonNegativeSeconds,
    OriginList,
    PathList,
    Port,
    Scope,
    Seconds,
    Size,
    SizeOrZero,
    StringList,
    Tier,
    TokenList,
    Url,
    default_data_dir,
    default_max_connections,
    default_max_kernels,
    default_server_memory,
    default_session_memory,
    disk_size,
    is_loopback,
    must_be,
)
from era_kernels.toolchains.layout import default_toolchain_dir

PUBLIC_LIMITS = (  # settings that `GET /api/limits` shows
    "default_timeout",
    "max_timeout",
    "max_background_timeout",
    "max_queue",
    "max_sessions",
    "max_kernels",
    "max_connections",
    "max_json_body",
    "max_upload",
    "max_answer_output",
    "max_execution_output",
    "keep_executions",
    "keep_executions_bytes",
    "session_workspace",
    "disk_reserve",
    "session_memory",
    "server_memory",
    "memory_in_work",
    "session_processes",
    "session_cpu",
    "session_open_files",
    "session_file_size",
    "session_tmp",
    "session_shm",
    "max_kv_value",
    "max_object",
    "storage_quota",
    "namespace_quota",
    "sql_timeout",
    "sql_max_rows",
    "sql_max_result",
    "sql_max_database",
)

# ---------------------------------------------------------------- the settings


class Settings(BaseSettings):
    """Holds every setting of the server, frozen; sizes are in bytes, times in seconds.

    `load` reports a wrong value in a sentence.
    """

    model_config = SettingsConfigDict(
        env_prefix=ENV_PREFIX,
        env_ignore_empty=True,
        extra="forbid",
        frozen=True,
        validate_default=False,
    )

    config: AbsolutePath | None = Field(None, description="A TOML file with settings.")
    host: str = Field("127.0.0.1", min_length=1, description="The address to listen on.")
    port: Port = Field(8787, description="The port to listen on; 0 takes any free one.")
    data_dir: AbsolutePath = Field(
        default_factory=default_data_dir,
        description="Where sessions and everything stored lie.",
        json_schema_extra={
            "default": "$XDG_DATA_HOME/era_kernels, else ~/.local/share/era_kernels"
        },
    )
    log_format: Literal["human", "json"] = Field(
        "human", description="How log lines look: human or json."
    )
    shutdown_grace: NonNegativeSeconds = Field(
        5.0, description="Seconds that runs get to finish when the server stops."
    )
    kernelspec_dirs: PathList = Field(
        (),
        description="Folders with kernelspecs, or data directories of Jupyter's; they win over "
        "what comes along.",
    )
    toolchain_dir: AbsolutePath = Field(
        default_factory=default_toolchain_dir,
        description="Where `era-kernels install` puts what languages need; sessions may read it.",
        json_schema_extra={"default": "share/era_kernels in the Python environment"},
    )
    system_tools: bool = Field(
        False,
        description="Let `era-kernels install` prefer the system's tools that are new enough.",
    )

    api_tokens: TokenList = Field(
        (),
        repr=False,
        description=f"Tokens of {MIN_TOKEN_LENGTH} characters or more, "
        "one of which callers must show.",
    )
    api_token_file: AbsolutePath | None = Field(
        None, description="A file with a token or `name:token` a line; read again when it changes."
    )
    allowed_hosts: StringList = Field(
        (), description="Host names that a server without tokens answers to, beside loopback ones."
    )
    allowed_origins: OriginList = Field(
        (), description="Origins of web pages that may call the API; * for all."
    )
    public_url: Url | None = Field(
        None, description="The address under which callers reach this server."
    )
    proxy_domain: Domain | None = Field(
        None,
        description="Serve each port of a session on a host of its own below this domain, such as "
        "8080-demo.localhost for localhost.",
    )
    trust_forwarded: bool = Field(
        False, description="Believe X-Forwarded-Host and X-Forwarded-Proto of a proxy."
    )

    default_timeout: Seconds = Field(
        30.0, description="Seconds that a run may take when nothing else is said."
    )
    max_timeout: Seconds = Field(
        3600.0, description="The longest timeout to be asked for, in seconds."
    )
    max_background_timeout: Seconds = Field(
        86400.0, description="The longest time that a run in the background may take, in seconds."
    )
    max_queue: Count = Field(100, description="How many runs may wait in one session.")
    max_sessions: Count | None = Field(None, description="How many sessions there may be.")
    max_kernels: Count = Field(
        default_factory=default_max_kernels,
        description="How many kernels may run at once.",
        json_schema_extra={
            "default": f"the least of memory / 64M, (open files - {OWN_FILES}) / "
            f"{FILES_PER_KERNEL}, {MAX_DEFAULT_KERNELS}"
        },
    )
    max_connections: Count = Field(
        default_factory=default_max_connections,
        description="How many connections of clients may be open at once.",
        json_schema_extra={
            "default": f"(open files - {OWN_FILES}) / 2, at most {MAX_DEFAULT_CONNECTIONS}"
        },
    )
    max_json_body: Size = Field(32 * MIB, description="The largest JSON body that is taken.")
    max_upload: Size = Field(5 * GIB, description="The largest file that is taken.")
    max_answer_output: Size = Field(
        10 * MIB,
        description="How much output and results one answer holds; the rest is a download.",
    )
    max_execution_output: Size = Field(
        GIB, description="How much one run may print before it is ended."
    )
    keep_executions: Count = Field(100, description="How many executions are kept per session.")
    keep_executions_bytes: Size = Field(
        GIB, description="How much the kept executions of a session may take together."
    )
    session_workspace: Size = Field(
        2 * GIB, description="How much the files of one session may take together."
    )

    disk_reserve: SizeOrZero | None = Field(
        None,
        description="How much of the disk stays free: near it, who takes the most is ended.",
        json_schema_extra={"default": "1G or 5 % of the disk, the smaller"},
    )

    mounts: NamedDirectories = Field(
        {},
        description="Directories that sessions may read, where they ask for it, at /mnt/NAME: "
        "data=/srv/data,models=/srv/models.",
    )
    min_tier: Tier = Field(
        3,
        description="The weakest isolation to start with: 1 (all walls) to 3. Where tier 3 is weak "
        "(one uid for all sessions, or CAP_DAC_READ_SEARCH) it must be given, as 3; see "
        "isolation.md.",
    )
    strongest_tier: AnyTier = Field(
        1, description="The strongest isolation to try, for tests and in case of trouble."
    )
    allow_unsandboxed: bool = Field(
        False, description="Start even where no walls can be had: code may do what the server may."
    )
    allow_internet: bool = Field(
        True, description="Whether callers may give sessions internet access; without, none has it."
    )
    allow_hosts: HostList | None = Field(
        None,
        description="Hosts that sessions with internet access may reach, as a.org,*.b.org.",
        json_schema_extra={"default": "all"},
    )
    egress_allow_cidrs: NetworkList = Field(
        (), description="Private networks that sessions with internet access may reach, too."
    )
    session_memory: Size = Field(
        default_factory=default_session_memory,
        description="How much memory one session may use.",
        json_schema_extra={"default": "memory / 4, from 1G to 8G"},
    )
    memory_in_work: Size = Field(
        512 * MIB,
        description="How much bodies, uploads and kernels' messages may take in the server's "
        "memory together; past it the greediest wait.",
    )
    server_memory: Size = Field(
        default_factory=default_server_memory,
        description="How much memory all sessions may use together; the largest ends near it.",
        json_schema_extra={"default": f"{DEFAULT_SERVER_PERCENT} % of memory"},
    )
    session_processes: Count = Field(
        256, description="How many processes and threads one session may have."
    )
    session_cpu: Seconds | None = Field(
        None, description="How many processors one session may keep busy, such as 0.5."
    )
    session_open_files: Count = Field(
        1024, description="How many files one process of a session may have open."
    )
    session_file_size: Size | None = Field(
        None,
        description="How large one file of a session may grow.",
        json_schema_extra={"default": "as session_workspace"},
    )
    session_tmp: Size = Field(256 * MIB, description="How much the /tmp of one session may hold.")
    session_shm: Size = Field(
        256 * MIB, description="How much the /dev/shm of one session may hold."
    )

    max_kv_value: Size = Field(25 * MIB, description="The largest value of a key in KV.")
    max_object: Size = Field(5 * GIB, description="The largest object in R2.")
    storage_quota: Size | None = Field(
        None, description="How much KV, D1 and R2 may hold together."
    )
    namespace_quota: Size | None = Field(
        None, description="How much KV, D1 and R2 may hold in one namespace."
    )
    default_storage: Scope = Field(
        ALL_STORAGE,
        description="Which namespaces a session's code may use that says nothing of its own: "
        "all, none, or patterns such as app,tmp-*.",
        json_schema_extra={"default": "all"},
    )
    sql_timeout: Seconds = Field(30.0, description="Seconds that a request to D1 may take.")
    sql_max_rows: Count = Field(10_000, description="How many rows a query of D1 may return.")
    sql_max_result: Size = Field(32 * MIB, description="How large the rows of a query may be.")
    sql_max_database: Size = Field(GIB, description="How large one database of D1 may grow.")

    @classmethod
    def load(cls, flags: Mapping[str, object] | None = None) -> Settings:
        """Reads settings from these flags (by field name), else environment, file or default.

        Raises InvalidSetting naming the setting and where its value came from.
        """
        values = dict(flags or {})
        try:
            return cls(**values)  # type: ignore[arg-type]
        except ValidationError as error:
            first = error.errors(include_url=False, include_context=True)[0]
            raise InvalidSetting(error_sentence(first, values, cls.model_fields)) from None

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        config_path = init_settings().get("config") or env_settings().get("config")
        file = InitSettingsSource(
            settings_cls, _load_toml(Path(str(config_path))) if config_path else {}
        )
        return init_settings, env_settings, file

    @model_validator(mode="after")
    def _check_combinations(self) -> Self:
        has_default_timeout = "default_timeout" in self.model_fields_set
        if has_default_timeout and self.default_timeout > self.max_timeout:
            must_be(f"at most max_timeout, which is {self.max_timeout:g}", "default_timeout")
        if not self.has_tokens and not is_loopback(self.host):
            must_be(
                "localhost, 127.0.0.1 or ::1 as long as there is no API token, since anybody could "
                "run code otherwise; set one with ERA_API_TOKENS or --api-token-file",
                "host",
            )
        home = Path(os.path.realpath(self.data_dir))
        for path in self.mounts.values():
            real = Path(os.path.realpath(path))
            if real.is_relative_to(home) or home.is_relative_to(real):
                must_be(f"apart from the data directory, which {path} is not", "mounts")
        return self

    @property
    def allow_weak_tier3(self) -> bool:
        """True when somebody has said that tier 3 will do, also where it is weak."""
        return "min_tier" in self.model_fields_set and self.min_tier == 3

    @property
    def has_tokens(self) -> bool:
        """True when callers must show a token."""
        return bool(self.api_tokens) or self.api_token_file is not None

    def limits(self) -> dict[str, int | float | None]:
        """Returns the limits in force, as `GET /api/limits` shows them; None means no limit."""
        values = {name: getattr(self, name) for name in PUBLIC_LIMITS}
        if self.disk_reserve is None:
            values["disk_reserve"] = default_disk_reserve(disk_size(self.data_dir))
        values["default_timeout"] = min(self.default_timeout, self.max_timeout)
        return {
            name: int(value) if isinstance(value, float) and value.is_integer() else value
            for name, value in values.items()
        }


# ---------------------------------------------------------------- reading


def _load_toml(path: Path) -> dict[str, Any]:
    """Returns the settings of a TOML file. Raises InvalidSetting."""
    try:
        found = tomllib.loads(path.expanduser().read_text("utf-8"))
    except (OSError, RuntimeError) as error:
        raise InvalidSetting(f"The configuration file {path} cannot be read: {error}.") from error
    except ValueError as error:  # no TOML, no UTF-8
        raise InvalidSetting(f"The configuration file {path} is no TOML: {error}.") from error
    known = set(Settings.model_fields) - {"config"}
    for key in found:
        if key not in known:
            near = get_close_matches(key, known, 1)
            hint = f" Did you mean {near[0]}?" if near else ""
            raise InvalidSetting(f'There is no setting "{key}", which {path} holds.{hint}')
    return found
