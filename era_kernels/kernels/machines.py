"""Opens the machines of all sessions, and ends those that are left."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping

from era_kernels.concurrency.memory_in_work import MemoryInWork
from era_kernels.kernels.kernel import discard_output
from era_kernels.kernels.kernel_ports import KernelPorts
from era_kernels.kernels.languages import Languages
from era_kernels.kernels.machine import Machine
from era_kernels.kernels.receive_budget import ReceiveBudget
from era_kernels.kernels.sandbox_interface import Sandboxes
from era_kernels.kernels.services_in_machine import (
    DEFAULT_PERMISSIONS,
    Permissions,
    ServeInternet,
    ServerOffer,
    ServeStorage,
)
from era_kernels.models import (
    Isolation,
    Limits,
    Network,
    Output,
    SessionPaths,
)


class Machines:
    """Opens machines and keeps track of all of them."""

    def __init__(
        self,
        languages: Languages,
        sandboxes: Sandboxes,
        serve_storage: ServeStorage | None = None,
        memory: MemoryInWork | None = None,
        serve_internet: ServeInternet | None = None,
    ) -> None:
        """Takes what serves storage and the internet to each machine; None: no machine has any.

        The internet is served only where machines have a network of their own. `memory` bounds
        what is there of their messages.
        """
        profile = sandboxes.profile
        has_own_network = profile.network is Network.OWN
        languages.set_network(profile.network, shares_uid=profile.shares_uid)
        self.languages = languages
        self._sandboxes = sandboxes
        self._kernel_ports = KernelPorts(sandboxes.profile.network)
        self._offer = ServerOffer(serve_storage, serve_internet if has_own_network else None)
        self._machines: set[Machine] = set()
        self._receive_budget = ReceiveBudget(memory)

    @property
    def isolation(self) -> Isolation:
        """The strength of the isolation that every machine has."""
        return self._sandboxes.isolation

    @property
    def enforceable(self) -> frozenset[str]:
        """The settings of one session that are enforced: names of `Limits`, and `mounts`."""
        return self._sandboxes.profile.enforceable

    async def open(
        self,
        language: str,
        paths: SessionPaths,
        limits: Limits,
        env: Mapping[str, str],
        *,
        kernel_name: str | None = None,
        kernel: bool = True,
        permissions: Permissions = DEFAULT_PERMISSIONS,
        on_late_output: Callable[[list[Output]], None] = discard_output,
    ) -> Machine:
        """Opens a machine in the directories `paths`, with a ready kernel or with none yet.

        `kernel_name` is one of the language's kernels, None is the default. `env` is what the
        session adds to the kernel's environment, which is built from empty otherwise;
        `permissions` tell what it may use at each moment; `on_late_output` is Machine's.
        Raises UnsupportedLanguage, InvalidRequest, LanguageUnavailable, KernelStartFailed,
        ShuttingDown.
        """
        kernelspec = await self.languages.available_kernel(language, kernel_name)
        sandbox = await self._sandboxes.open_sandbox(paths, limits, kernelspec.min_reserved)
        budget, ports = self._receive_budget, self._kernel_ports
        machine = Machine(kernelspec, sandbox, budget, ports, on_late_output)
        self._machines.add(machine)
        machine.ended.add_done_callback(lambda _: self._machines.discard(machine))
        await machine.serve(self._offer, permissions)
        if kernel:
            await machine.start_kernel(env)
        return machine

    async def check(self) -> None:
        """Raises Unavailable, with what is wrong, when kernels cannot be started."""
        await self._sandboxes.check()

    async def aclose(self) -> None:
        """Ends all machines that are still there."""
        await asyncio.gather(*(machine.aclose() for machine in tuple(self._machines)))
