"""Reports the server's health, isolation, languages and limits."""

from __future__ import annotations

from collections.abc import Mapping

from era_kernels.errors import EraError
from era_kernels.kernels.machines import Machines
from era_kernels.models import Isolation, JsonObject
from era_kernels.storage.database import Database
from era_kernels.storage.r2 import R2Store


class ServerInfo:
    """Asks the parts of the server for their health, and tells the languages and limits."""

    def __init__(
        self,
        host: Machines,
        database: Database,
        objects: R2Store,
        limits: Mapping[str, object],
    ) -> None:
        self._host = host
        self._database = database
        self._objects = objects
        self._limits = dict(limits)

    async def failures(self) -> dict[str, str]:
        """Returns the parts that are down, with a sentence each; empty when all is well."""
        failed = {}
        for name, check in (("store", self._database.check), ("kernels", self._host.check)):
            try:
                await check()
            except EraError as error:
                failed[name] = error.message
        return failed

    def damages(self) -> dict[str, str]:
        """Returns what was lost while everything works, with a sentence each."""
        count = self._objects.lost_count
        if not count:
            return {}
        return {
            "r2": f"Objects that have lost their bytes: {count}. Put or delete them, or bring back "
            "the files that the log names."
        }

    @property
    def isolation(self) -> Isolation:
        return self._host.isolation

    async def refresh(self) -> None:
        """Looks again for what languages lack on this host."""
        await self._host.languages.refresh()

    def availability(self) -> dict[str, bool]:
        """Returns for each language whether it runs on this host."""
        return {language.name: language.default.is_available for language in self._host.languages}

    def languages(self) -> list[JsonObject]:
        """Returns the list of `GET /api/languages`."""
        return [language.describe() for language in self._host.languages]

    def limits(self) -> dict[str, object]:
        """Returns the limits: setting → value, in bytes and seconds."""
        return dict(self._limits)
