"""Reads kernelspec folders: what starts a kernel, what it can do, and whether this host has it.

A kernelspec is a folder with a `kernel.json`, as Jupyter defines it, whose `metadata.era_kernels`
has what this server needs besides; a folder without that is the kernelspec of a stock kernel.
Nothing else reads these folders.
"""

from __future__ import annotations

import os
import platform
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from importlib.machinery import PathFinder
from pathlib import Path
from typing import Literal

from era_kernels.errors import StartError
from era_kernels.kernels.environment import fill_placeholders, search_path
from era_kernels.kernels.kernel_executables import (
    environment_prefix,
    find_program,
    installation_roots,
    is_installation,
    search_path_of,
)
from era_kernels.kernels.kernel_json import STOCK_METADATA, KernelJson, load_kernel_json
from era_kernels.kernels.language_ids import language_id
from era_kernels.kernels.wire_protocol import Transport
from era_kernels.models import MIB, Limits, Network
from era_kernels.toolchains.layout import Toolchain, default_toolchain_dir, find_toolchain

NO_MINIMUMS = Limits()
NO_TCP = "it speaks tcp, and programs have no internet sockets behind walls of tier 3"
OPEN_SOCKETS = (
    "it binds its sockets itself, and where all sessions have one uid (tier 3) others may read them"
)


@dataclass(frozen=True, slots=True)
class Kernelspec:
    """Describes a kernel: how it is started, and what it can do.

    `argv` starts it by exec, `entry` ("module:function") in a forked process that has imported
    `preload`. `unavailable_reason` says what is missing on this host, if anything is. A kernel
    without `fence` may deliver output after the end of a run, and takes no variables for one run.
    """

    name: str  # of its folder
    language: str
    aliases: tuple[str, ...]  # of its language
    directory: Path
    argv: tuple[str, ...]
    entry: str | None
    preload: tuple[str, ...]
    env: Mapping[str, str]
    interrupt_mode: Literal["signal", "message"]
    transport: Transport | None  # None: chosen by the network of the walls, see `for_network`
    extension: str
    capabilities: tuple[str, ...]
    dump_signal: str | None = None  # makes the kernel write its stack when it can do nothing else
    display_name: str = ""
    version: str | None = None
    unavailable_reason: str | None = None
    minimums: Limits = NO_MINIMUMS  # what it needs at least
    ipc_separator: Literal["-", ":"] = "-"  # before the number in the names of its sockets
    toolchain: Toolchain | None = None  # what must be installed for it
    min_reserved: int = 0  # bytes that each of its processes must be able to reserve
    network: Network | None = None  # of the walls; None: not known yet
    shares_uid: bool = False  # all sessions have one uid, and nothing else keeps them apart
    can_connect: bool = False  # it connects to its sockets where its connection file says so
    program: tuple[str, ...] = ()  # runs what it reads from descriptor 0; empty: there is none
    fence: bool = True  # it ends the output of each run with a message of ours
    settle: float = 0.0  # seconds of silence until it has ended, for a kernel without a fence
    is_stock: bool = False  # its kernel.json has nothing but Jupyter's own keys
    is_optional: bool = False  # it lies where other programs put theirs: if wrong, it is left out

    @property
    def is_available(self) -> bool:
        """True when nothing is missing on this host."""
        return self.unavailable_reason is None

    @property
    def connects(self) -> bool:
        """True where the kernel connects to sockets of the server, instead of binding its own."""
        return self.can_connect and self.network is Network.NONE

    def for_network(self, network: Network, *, shares_uid: bool) -> Kernelspec:
        """Returns the kernelspec for sandboxes with that network, with a transport.

        A stock kernel speaks tcp where sandboxes have a network of their own, which all such
        kernels do, and else ipc. `shares_uid`: whether all sessions have one uid, in one namespace.
        """
        default: Transport = "tcp" if network is Network.OWN else "ipc"
        transport = self.transport or default
        return replace(self, network=network, transport=transport, shares_uid=shares_uid)

    def command(self, connection_file: Path) -> tuple[str, ...]:
        """Returns the command that starts the kernel, its program as an absolute path."""
        program, *rest = self._fill(self.argv, {"{connection_file}": str(connection_file)})
        return (find_program(program, search_path_of(self.prefix)) or program, *rest)

    def program_command(self) -> tuple[str, ...]:
        """Returns the command that runs a program from descriptor 0; empty where there is none."""
        return self._fill(self.program, {})

    def _fill(self, argv: Sequence[str], more: Mapping[str, str]) -> tuple[str, ...]:
        values = {
            "{python}": sys.executable,
            "{resource_dir}": str(self.directory),
            "{prefix}": str(self.prefix or sys.prefix),
            **more,
        }
        return tuple(fill_placeholders(part, values) for part in argv)

    @property
    def prefix(self) -> Path | None:
        """The installation that the kernelspec lies in, whose programs are its first choice."""
        return environment_prefix(self.directory)

    @property
    def readable_paths(self) -> tuple[Path, ...]:
        """What the kernel must be able to read.

        It is its own folder, that of the installation which it lies in, and those of its program.
        """
        program = Path(self.command(Path())[0])
        if self.entry is not None or not program.is_absolute():
            return (self.directory,)
        own = [self.prefix] if self.prefix is not None and is_installation(self.prefix) else []
        return tuple(dict.fromkeys((self.directory, *own, *installation_roots(program))))


def builtin_dir() -> Path:
    """Returns the folder of kernelspecs that come with the package, or of the source tree."""
    package = Path(__file__).resolve().parent.parent
    shipped = package / "kernelspecs"
    return shipped if shipped.is_dir() else package.parent / "kernelspecs"


@dataclass(frozen=True, slots=True)
class FoundKernelspecs:
    """Holds what a directory has: kernelspecs, and sentences about those that are left out."""

    kernelspecs: tuple[Kernelspec, ...]
    problems: tuple[str, ...] = ()


def find_kernelspecs(directory: Path, toolchain_dir: Path | None = None) -> FoundKernelspecs:
    """Reads the kernelspecs in a directory, sorted by their names. Blocking.

    In one of Jupyter's data directories they are in the folder `kernels`, where other programs
    put them: there a broken one is left out. Else it raises StartError naming the file. Those that
    are left out, and a directory without any, are problems. What they need installed lies in
    `toolchain_dir`, by default that of this environment.
    """
    load = partial(_load_kernelspec, toolchain_dir=toolchain_dir or default_toolchain_dir())
    installed = directory / "kernels"
    is_data_dir = _is_directory(installed) and not _is_kernelspec(installed)
    own = _list_folders(directory)
    if is_data_dir:  # folders of other programs lie there, too
        own = [folder for folder in own if os.access(folder, os.X_OK)]
    kernelspecs = [load(folder) for folder in own]
    problems: list[str] = []
    try:
        folders = _list_folders(installed) if is_data_dir else []
    except StartError as error:
        folders, problems = [], [str(error)]
    for folder in folders:
        try:
            kernelspecs.append(replace(load(folder), is_optional=True))
        except StartError as error:
            problems.append(str(error))
    if not kernelspecs and not problems:
        problems.append(f"{directory} has no kernelspec: {_where_to_look(directory)}.")
    return FoundKernelspecs(tuple(kernelspecs), tuple(problems))


def _where_to_look(directory: Path) -> str:
    """Returns what to name instead of a directory that has no kernelspec."""
    if _is_kernelspec(directory):
        return f"it is one itself, so name the folder above it, {directory.absolute().parent}"
    for data_directory in (directory / "share" / "jupyter", directory / "jupyter"):
        if (data_directory / "kernels").is_dir():
            return f"name {data_directory}"
    return "name a folder whose folders hold a kernel.json, or a data directory of Jupyter's"


def _list_folders(directory: Path) -> list[Path]:
    """Returns the folders with a kernelspec, sorted by their names. Raises StartError."""
    try:
        return sorted(filter(_is_kernelspec, directory.iterdir()))
    except OSError as error:
        raise StartError(f"The kernelspec folder {directory} cannot be read: {error}.") from error


def _is_directory(path: Path) -> bool:
    """Returns whether it is one, and False where this user may not look."""
    return os.path.isdir(path)  # noqa: PTH112


def _is_kernelspec(folder: Path) -> bool:
    """Returns whether a folder has a kernel.json, or may have one that this user may not see."""
    try:
        (folder / "kernel.json").stat()
    except PermissionError:
        return True
    except OSError:
        return False
    return True


def _load_kernelspec(folder: Path, toolchain_dir: Path) -> Kernelspec:
    if not folder.name.isprintable():  # it is a kernel's name in the API and in logs
        raise StartError(f"The kernelspec folder {str(folder)!a} has a name that is no text.")
    kernel_json = load_kernel_json(folder / "kernel.json")
    kernelspec = _to_kernelspec(kernel_json, folder.absolute())
    toolchain = find_toolchain(folder, toolchain_dir, (builtin_dir(),))
    return with_availability(_with_toolchain(kernelspec, toolchain) if toolchain else kernelspec)


def _with_toolchain(kernelspec: Kernelspec, toolchain: Toolchain) -> Kernelspec:
    values = {"{toolchain}": str(toolchain.directory)}
    return replace(
        kernelspec,
        toolchain=toolchain,
        argv=tuple(fill_placeholders(part, values) for part in kernelspec.argv),
        program=tuple(fill_placeholders(part, values) for part in kernelspec.program),
        env={name: fill_placeholders(text, values) for name, text in kernelspec.env.items()},
    )


def _to_kernelspec(kernel_json: KernelJson, folder: Path) -> Kernelspec:
    metadata = kernel_json.metadata.era_kernels or STOCK_METADATA
    is_stock = kernel_json.metadata.era_kernels is None
    name = language_id(kernel_json.language)
    own_spelling = [] if kernel_json.language == name else [kernel_json.language]
    return Kernelspec(
        name=folder.name,
        language=name,
        aliases=(*metadata.aliases, *own_spelling),
        directory=folder,
        argv=tuple(kernel_json.argv),
        entry=metadata.entry,
        preload=tuple(metadata.preload),
        env={
            **_tools_env(kernel_json, folder),
            **{
                name: fill_placeholders(template, {"{resource_dir}": str(folder)})
                for name, template in kernel_json.env.items()
            },
        },
        interrupt_mode=kernel_json.interrupt_mode,
        transport=None if is_stock else metadata.transport,
        extension=metadata.extension,
        capabilities=tuple(metadata.capabilities),
        dump_signal=metadata.dump_signal,
        display_name=kernel_json.display_name,
        minimums=metadata.minimums.to_limits(),
        ipc_separator=metadata.ipc_separator,
        min_reserved=metadata.minimums.reserved_mb * MIB,
        program=tuple(metadata.program),
        fence=metadata.fence,
        settle=metadata.settle_ms / 1000,
        is_stock=is_stock,
        can_connect=metadata.connects,
    )


def _tools_env(kernel_json: KernelJson, folder: Path) -> dict[str, str]:
    """Returns the PATH of a stock kernel: as in a shell, the tools of its installation come first.

    It is empty where those are on the path of all kernels anyway.
    """
    program, prefix = Path(kernel_json.argv[0]), environment_prefix(folder)
    tools = program.parent if program.is_absolute() else prefix and prefix / "bin"
    if kernel_json.metadata.era_kernels or tools is None or str(tools) in search_path().split(":"):
        return {}
    return {"PATH": f"{tools}:${{PATH}}"}


def with_availability(kernelspec: Kernelspec) -> Kernelspec:
    """Returns it with what is missing on this host now, and its version when known. Blocking."""
    if kernelspec.transport == "tcp" and kernelspec.network is Network.NONE:
        return replace(kernelspec, unavailable_reason=NO_TCP)
    if kernelspec.shares_uid and not kernelspec.can_connect:
        return replace(kernelspec, unavailable_reason=OPEN_SOCKETS)
    if kernelspec.toolchain is not None:
        installed = kernelspec.toolchain.read_installed()
        if installed is None:
            reason = _why_not_installed(kernelspec.toolchain, kernelspec.language)
            return replace(kernelspec, version=None, unavailable_reason=reason)
        kernelspec = replace(kernelspec, version=installed.version)
    if kernelspec.entry is None:
        program = kernelspec.command(Path())[0]
        is_found = find_program(program, search_path_of(kernelspec.prefix)) is not None
        missing = None if is_found else f"the program {program} is not installed"
        return replace(kernelspec, unavailable_reason=missing)
    module = kernelspec.entry.partition(":")[0]
    find = partial(_is_importable, paths=[str(kernelspec.directory), *sys.path])
    names = [name for name in (module, *kernelspec.preload) if not find(name)]
    if names:
        missing = f"modules are not installed: {', '.join(names)}"
        return replace(kernelspec, unavailable_reason=missing)
    own = kernelspec.version or platform.python_version()
    return replace(kernelspec, version=own, unavailable_reason=None)


def _why_not_installed(toolchain: Toolchain, language: str) -> str:
    if toolchain.is_being_installed():
        return "it is being installed"
    command = f"run `era-kernels install {language}`"
    if toolchain.has_failed():
        return f"its installation failed: {command}, which goes on and tells what is wrong"
    return f"it is not installed: {command}"


def _is_importable(name: str, paths: Sequence[str]) -> bool:
    """Returns whether there is such a module.

    Nothing is imported, unlike by `importlib.util.find_spec`.
    """
    full = ""
    for part in name.split("."):
        full = f"{full}.{part}" if full else part
        if full in sys.builtin_module_names:
            paths = []
            continue
        spec = PathFinder.find_spec(full, list(paths))
        if spec is None:
            return False
        paths = spec.submodule_search_locations or []
    return True
