"""Defines the types of settings, parses their values and computes defaults for this host."""

from __future__ import annotations

import ipaddress
import os
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, NoReturn

from pydantic import AfterValidator, BeforeValidator, Field, PlainValidator
from pydantic.fields import FieldInfo
from pydantic_core import PydanticCustomError
from pydantic_settings import NoDecode

from era_kernels.errors import InvalidSetting
from era_kernels.models import GIB, KIB, MIB, MIN_TOKEN_LENGTH, TIB
from era_kernels.models.internet import HostPatterns
from era_kernels.models.storage_namespaces import SCOPE_WORDS, StorageScope
from era_kernels.open_files import max_open_files
from era_kernels.own_cgroups import memory_bound, read_or_empty

IPNetwork = ipaddress.IPv4Network | ipaddress.IPv6Network

ENV_PREFIX = "ERA_"
MEMORY_PER_KERNEL = 64 * MIB
MAX_DEFAULT_KERNELS = 500
MIN_DEFAULT_SESSION_MEMORY, MAX_DEFAULT_SESSION_MEMORY = GIB, 8 * GIB
DEFAULT_SERVER_PERCENT = 80  # of the memory, for all sessions together
MAX_DEFAULT_CONNECTIONS = 1000
OWN_FILES = 256  # open files of the server itself
FILES_PER_KERNEL = 16  # half of them for its sockets, half for connections

_SIZE = re.compile(r"(\d+)([KMGT]?)", re.IGNORECASE)
_UNITS = {"": 1, "K": KIB, "M": MIB, "G": GIB, "T": TIB}
_URL = re.compile(r"https?://[^/?#\s@]+(/[^?#\s]*)?")
_MOUNT = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_DOMAIN = re.compile(r"(?!-)[a-z0-9-]{1,63}(\.[a-z0-9-]{1,63})*")
_ORIGIN = re.compile(r"\*|null|[a-z][a-z0-9+.-]*://[^/?#\s@]+/?", re.IGNORECASE)


# ---------------------------------------------------------------- kinds of values


def must_be(requirement: str, name: str = "") -> NoReturn:
    """Refuses a value; `requirement` completes the sentence "… must be".

    `name` is the setting, where pydantic cannot know it.
    """
    details = {"requirement": requirement, "name": name}
    raise PydanticCustomError("setting", "{requirement}", details)


def _reject_boolean(value: object) -> object:
    """Refuses a boolean, which Python would take for 0 or 1; returns any other value."""
    if isinstance(value, bool):
        must_be("a number")
    return value


def parse_size(value: object) -> int:
    """Returns the bytes of a size as people write it: plain, or with K, M, G, T (powers of 1024).

    >>> parse_size("512M"), parse_size(1000)
    (536870912, 1000)
    """
    found = _SIZE.fullmatch(value.strip()) if isinstance(value, str) else None
    if found is not None:
        return int(found[1]) * _UNITS[found[2].upper()]
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    must_be("a size in bytes, such as 512M or 1G")


def format_size_setting(size: int) -> str:
    """Returns a size as `parse_size` reads it, in the greatest unit that divides it.

    >>> format_size(32 * MIB), format_size(1000)
    ('32M', '1000')
    """
    for unit in ("T", "G", "M", "K"):
        if size and size % _UNITS[unit] == 0:
            return f"{size // _UNITS[unit]}{unit}"
    return str(size)


def _split_list(value: object) -> tuple[str | Path, ...]:
    """Returns the parts of a list written with commas; the file may also use a list of TOML."""
    if isinstance(value, str):
        return tuple(part.strip() for part in value.split(",") if part.strip())
    if isinstance(value, list | tuple) and all(isinstance(part, str | Path) for part in value):
        return tuple(value)
    must_be("a list, written with commas")


def _split_named_paths(value: object) -> object:
    """Returns the pairs of a list such as NAME=VALUE,…; the file may also use a table of TOML."""
    if isinstance(value, Mapping):
        return dict(value)
    parts = [str(part).partition("=") for part in _split_list(value)]
    names = [name.strip() for name, _, _ in parts]
    if not all(sign for _, sign, _ in parts) or len(set(names)) < len(names):
        must_be("names and directories such as data=/srv/data, each name once, between commas")
    return {name: path.strip() for name, (_, _, path) in zip(names, parts, strict=True)}


def _check_mountable(directories: dict[str, Path]) -> dict[str, Path]:
    """Checks the names and paths of directories that sessions may mount (blocking)."""
    for name, path in directories.items():
        if not _MOUNT.fullmatch(name):
            must_be(f"names of up to 64 letters, digits, dots, _ and -, which {name!r:.70} is not")
        is_valid = path.is_absolute() and "\0" not in str(path)
        if not is_valid or not os.access(path, os.R_OK | os.X_OK) or not path.is_dir():
            must_be(f"absolute paths of directories that this user can read, which {path} is not")
    return directories


def _to_absolute_path(path: Path) -> Path:
    if "\0" in str(path):
        must_be("a path without NUL")
    try:
        return path.expanduser().absolute()
    except RuntimeError:
        must_be("a path whose ~ names a home directory")


def _check_token_lengths(tokens: tuple[str, ...]) -> tuple[str, ...]:
    if any(len(token) < MIN_TOKEN_LENGTH for token in tokens):
        must_be(
            f"tokens of at least {MIN_TOKEN_LENGTH} characters "
            "(make one with: openssl rand -hex 32)"
        )
    return tokens


def _check_url(value: str) -> str:
    if not _URL.fullmatch(value):
        must_be("an address such as https://era.example.org")
    return value.rstrip("/")


def _check_domain(value: str) -> str:
    if not _DOMAIN.fullmatch(value.lower()):
        must_be("the name of a domain such as apps.example.org")
    return value.lower()


def _check_origins(values: tuple[str, ...]) -> tuple[str, ...]:
    if not all(_ORIGIN.fullmatch(value) for value in values):
        must_be("origins such as https://app.example.org, or *")
    return values


def _parse_scope(value: object) -> StorageScope:
    """Returns a scope from a word or from patterns between commas."""
    is_word = isinstance(value, str) and value.strip() in SCOPE_WORDS
    parts = value.strip() if isinstance(value, str) and is_word else _split_list(value)
    try:
        return StorageScope.parse(parts if isinstance(parts, str) else [str(one) for one in parts])
    except ValueError:
        must_be("all, none, or namespaces and beginnings such as app,tmp-*")


def _parse_hosts(value: object) -> HostPatterns:
    """Returns the hosts of a list with commas."""
    try:
        return HostPatterns.parse([str(one) for one in _split_list(value)])
    except ValueError:
        must_be("hosts and domains such as example.org,*.example.net")


def _parse_networks(value: object) -> tuple[IPNetwork, ...]:
    """Returns the networks of a list with commas."""
    try:
        return tuple(ipaddress.ip_network(str(one)) for one in _split_list(value))
    except ValueError:
        must_be("networks such as 10.1.0.0/16,10.2.3.4,fd00::/64, whose host bits are zero")


RejectBoolean = BeforeValidator(_reject_boolean)
Size = Annotated[int, BeforeValidator(parse_size), Field(ge=1)]
SizeOrZero = Annotated[int, BeforeValidator(parse_size), Field(ge=0)]
Seconds = Annotated[float, RejectBoolean, Field(gt=0, allow_inf_nan=False)]
Count = Annotated[int, RejectBoolean, Field(ge=1)]
AbsolutePath = Annotated[Path, AfterValidator(_to_absolute_path)]
NonNegativeSeconds = Annotated[float, RejectBoolean, Field(ge=0, allow_inf_nan=False)]
Tier = Annotated[int, RejectBoolean, Field(ge=1, le=3)]
AnyTier = Annotated[int, RejectBoolean, Field(ge=1, le=4)]
Port = Annotated[int, RejectBoolean, Field(ge=0, le=65535)]
Scope = Annotated[StorageScope, NoDecode, PlainValidator(_parse_scope)]
HostList = Annotated[HostPatterns, NoDecode, PlainValidator(_parse_hosts)]
NetworkList = Annotated[tuple[IPNetwork, ...], NoDecode, PlainValidator(_parse_networks)]
StringList = Annotated[tuple[str, ...], NoDecode, BeforeValidator(_split_list)]
TokenList = Annotated[StringList, AfterValidator(_check_token_lengths)]
OriginList = Annotated[StringList, AfterValidator(_check_origins)]
Url = Annotated[str, AfterValidator(_check_url)]
Domain = Annotated[str, AfterValidator(_check_domain)]
NamedDirectories = Annotated[
    dict[str, Path], NoDecode, BeforeValidator(_split_named_paths), AfterValidator(_check_mountable)
]
PathList = Annotated[tuple[AbsolutePath, ...], NoDecode, BeforeValidator(_split_list)]


def is_loopback(host: str) -> bool:
    """Returns whether a host to listen on is reached from this machine alone."""
    try:
        return host.lower() == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


# ---------------------------------------------------------------- defaults of this host


def default_data_dir() -> Path:
    """Returns `$XDG_DATA_HOME/era_kernels`, else `~/.local/share/era_kernels`.

    Raises InvalidSetting where there is no home directory.
    """
    base = os.environ.get("XDG_DATA_HOME", "")
    try:
        home = Path(base) if Path(base).is_absolute() else Path.home() / ".local" / "share"
    except RuntimeError:
        raise InvalidSetting(
            "There is no home directory to keep data in: name a directory with --data-dir "
            f"or {ENV_PREFIX}DATA_DIR."
        ) from None
    return home / "era_kernels"


def total_memory() -> int:
    """Returns the bytes of memory that this process may use: the host's, or its groups' bound."""
    total = _host_memory()
    bound = memory_bound()
    return total if bound is None else min(total, bound)


def _host_memory() -> int:
    """Returns MemTotal of /proc/meminfo, which containers may have of their own."""
    for line in read_or_empty(Path("/proc/meminfo")).splitlines():
        if line.startswith("MemTotal:"):
            return int(line.split()[1]) * KIB
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def default_session_memory() -> int:
    """Returns a quarter of the memory in whole MiB, but from 1 to 8 GiB."""
    quarter = total_memory() // 4 // MIB * MIB
    return max(MIN_DEFAULT_SESSION_MEMORY, min(MAX_DEFAULT_SESSION_MEMORY, quarter))


def default_server_memory() -> int:
    """Returns 80 % of the memory in whole MiB; the rest is for the server and the system."""
    return max(MIB, total_memory() * DEFAULT_SERVER_PERCENT // 100 // MIB * MIB)


def disk_size(path: Path) -> int:
    """Returns the bytes of the disk on which a path lies, or will lie."""
    existing = next(one for one in (path, *path.parents) if one.exists())
    status = os.statvfs(existing)
    return status.f_blocks * status.f_frsize


def default_max_kernels() -> int:
    """Returns how many idle kernels fit into memory and open files, at most 500."""
    by_memory = total_memory() // MEMORY_PER_KERNEL
    return max(1, min(MAX_DEFAULT_KERNELS, by_memory, _kernels_by_files()))


def default_max_connections() -> int:
    """Returns the share of connections in the files that may be open, at most 1000."""
    return max(1, min(MAX_DEFAULT_CONNECTIONS, _kernels_by_files() * FILES_PER_KERNEL // 2))


def default_max_programs() -> int:
    """Returns how many programs may run beside runs: each has some files open while it runs."""
    return max(1, _kernels_by_files())


def _kernels_by_files() -> int:
    files = max_open_files()
    return sys.maxsize if files is None else max(0, files - OWN_FILES) // FILES_PER_KERNEL


def format_default(field: FieldInfo) -> str:
    """Returns the default as a person would write it; `none` when there is none."""
    extra = field.json_schema_extra
    if isinstance(extra, dict):
        return str(extra["default"])
    value = field.default
    if isinstance(value, bool):
        return str(value).lower()
    if value is None or value in ((), {}):
        return "none"
    if isinstance(value, int) and value >= KIB and value % KIB == 0:
        return format_size_setting(value)
    return f"{value:g}" if isinstance(value, float) else str(value)
