"""Opens a store of D1 for tests, and names statements that take long."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from era_kernels.models import StorageQuotas
from era_kernels.storage.d1.replies import D1Limits, D1Result
from era_kernels.storage.d1.store import D1Statement, D1Store
from era_kernels.storage.d1.worker_pool import WORKERS
from era_kernels.storage.database import Database
from era_kernels.storage.disk_room import always_room, none_to_leave
from era_kernels.storage.migrations import MIGRATIONS

# SQLite looks at the clock while it counts, and does not while it searches in one value.
ENDLESS = "WITH RECURSIVE c (x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM c) SELECT count(*) FROM c"
DEAF = "SELECT instr(zeroblob(30000000), CAST(zeroblob(15000000) || 'x' AS BLOB))"


@dataclass
class D1:
    """A store of D1, with ways to use it in one line."""

    store: D1Store
    database: Database
    directory: Path
    namespace: str = "n"  # that is meant where none is named

    async def query(self, sql: str, params: Any = None, namespace: str | None = None) -> Any:
        """Returns the rows."""
        result = await self.store.query(namespace or self.namespace, D1Statement(sql, params))
        return json.loads(result.rows or b"null")

    async def exec(self, sql: str, params: Any = None, namespace: str | None = None) -> D1Result:
        return await self.store.execute(namespace or self.namespace, D1Statement(sql, params))

    async def batch(self, statements: Sequence[D1Statement]) -> list[D1Result]:
        return await self.store.batch(self.namespace, statements)

    async def index(self) -> dict[tuple[str, str], int]:
        """Returns the sizes of all tables, as era.db knows them."""
        return await self.database.read(
            lambda connection: {
                (namespace, name): size
                for namespace, name, size in connection.execute(
                    "SELECT namespace, name, size FROM d1_tables"
                )
            }
        )

    async def usage(self, namespace: str = "n") -> tuple[int, int]:
        """Returns the number of tables and of bytes, as they are counted."""
        return await self.database.read(
            lambda connection: (
                connection.execute(
                    "SELECT count, size FROM storage_usage WHERE type = 'd1' AND namespace = ?",
                    (namespace,),
                ).fetchone()
                or (0, 0)
            )
        )


@asynccontextmanager
async def open_d1(
    path: Path,
    quotas: StorageQuotas | None = None,
    workers: int = WORKERS,
    check_room: Callable[[], None] = always_room,
    find_least_free: Callable[[], int] = none_to_leave,
    **limits: Any,
) -> AsyncIterator[D1]:
    """Opens a store in a directory; it is closed in the end."""
    database = await Database.open(path / "era.db", MIGRATIONS)
    store = D1Store(
        database, path / "d1", D1Limits(**limits), quotas, workers, check_room, find_least_free
    )
    await store.open()
    try:
        yield D1(store, database, path / "d1")
    finally:
        await store.aclose()
        await database.aclose()
