"""Opens the stores, which keep everything on disk."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack, ExitStack
from dataclasses import dataclass

from era_kernels.limits_from_settings import d1_limits
from era_kernels.models import StorageQuotas
from era_kernels.services.metrics import Metrics
from era_kernels.settings import Settings
from era_kernels.storage.d1.store import D1Store
from era_kernels.storage.data_directory import DataDirectory
from era_kernels.storage.database import Database
from era_kernels.storage.disk_room import DiskRoom
from era_kernels.storage.execution_log import ExecutionStore
from era_kernels.storage.files import FileStore
from era_kernels.storage.kv import KVStore
from era_kernels.storage.links import LinkStore
from era_kernels.storage.lost_database import open_database
from era_kernels.storage.r2 import R2Store
from era_kernels.storage.resource_stores import ResourceStores
from era_kernels.storage.secret import load_or_create_secret
from era_kernels.storage.session_log import SessionLogStore
from era_kernels.storage.sessions import SessionStore
from era_kernels.storage.stored_code import CodeStore
from era_kernels.storage.stored_items import StoredItemIndex
from era_kernels.storage.workspaces import Workspaces


@dataclass(frozen=True, slots=True)
class Stores:
    """Holds the stores, which keep everything on disk."""

    directory: DataDirectory
    secret: bytes
    database: Database
    sessions: SessionStore
    codes: CodeStore
    links: LinkStore
    executions: ExecutionStore
    workspaces: Workspaces
    files: FileStore
    logs: SessionLogStore
    resources: ResourceStores


async def open_stores(
    stack: AsyncExitStack, undo: ExitStack, settings: Settings, metrics: Metrics
) -> Stores:
    """Opens all stores; `stack` closes them, and `undo` takes back what was made for them."""
    directory = DataDirectory.open(settings.data_dir)
    stack.callback(directory.close)
    undo.callback(directory.undo)
    stack.enter_context(undo)
    room = DiskRoom(directory.path, settings.disk_reserve)
    await room.open()
    stack.push_async_callback(room.aclose)
    database = await open_database(directory, metrics.transaction_ended, room.adjust)
    stack.push_async_callback(database.aclose)
    # After the database: a directory that has a secret and no database has lost it.
    secret = await asyncio.to_thread(load_or_create_secret, directory.secret)
    executions = ExecutionStore(database, directory.sessions, room.adjust, room.check)
    stack.push_async_callback(executions.aclose)
    workspaces = Workspaces(directory.sessions, room.check)
    stack.push_async_callback(workspaces.aclose)
    files = FileStore(directory.sessions, directory.incoming, room.check)
    stack.push_async_callback(files.aclose)
    logs = SessionLogStore(directory.sessions)
    stack.callback(logs.close)
    sessions, codes = SessionStore(database), CodeStore(database, room.check)
    links = LinkStore(database, room.check)
    resources = _open_resources(stack, settings, directory, database, room)
    return Stores(
        directory=directory,
        secret=secret,
        database=database,
        sessions=sessions,
        codes=codes,
        links=links,
        executions=executions,
        workspaces=workspaces,
        files=files,
        logs=logs,
        resources=resources,
    )


def _open_resources(
    stack: AsyncExitStack,
    settings: Settings,
    directory: DataDirectory,
    database: Database,
    room: DiskRoom,
) -> ResourceStores:
    quotas = StorageQuotas(settings.storage_quota, settings.namespace_quota)
    kv = KVStore(database, quotas, settings.max_kv_value, room.check)
    stack.push_async_callback(kv.aclose)
    d1 = D1Store(
        database,
        directory.d1,
        d1_limits(settings),
        quotas,
        check_room=room.check,
        find_least_free=room.find_least_free,
    )
    stack.push_async_callback(d1.aclose)
    r2 = R2Store(
        database, directory.objects, directory.unlink_lock, quotas, settings.max_object, room.check
    )
    stack.push_async_callback(r2.aclose)
    return ResourceStores(kv, d1, r2, StoredItemIndex(database))
