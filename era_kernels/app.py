"""Builds every object of the server, opens them in order and closes them in reverse."""

from __future__ import annotations

import asyncio
import logging
import socket
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager
from dataclasses import dataclass, replace

from tornado.web import Application

from era_kernels.concurrency.loop_threads import start_loop_threads
from era_kernels.concurrency.memory_in_work import MemoryInWork
from era_kernels.egress.addresses import AddressPolicy
from era_kernels.egress.connector import Connector
from era_kernels.egress.host_network import HostNetwork
from era_kernels.egress.proxy import EgressProxy
from era_kernels.egress.resolver import Resolver
from era_kernels.errors import StartError
from era_kernels.kernels.languages import Languages
from era_kernels.kernels.machines import Machines
from era_kernels.limits_from_settings import service_limits, session_limits
from era_kernels.models import UNSANDBOXED_TIER, Isolation
from era_kernels.sandbox.linux.heap_trimmer import HeapTrimmer
from era_kernels.sandbox.server import runtime_dirs
from era_kernels.sandbox.server.disk_reserve import DiskReserve
from era_kernels.sandbox.server.sandboxes import Sandboxes
from era_kernels.sandbox.server.tiers import IsolationPolicy
from era_kernels.services.context import ServiceContext
from era_kernels.services.executions.service import ExecutionService
from era_kernels.services.files import FileService
from era_kernels.services.idempotency import IdempotentRuns
from era_kernels.services.inspection import InspectionService
from era_kernels.services.kernel_limiter import KernelLimiter
from era_kernels.services.links import LinkService
from era_kernels.services.metrics import Metrics, ScrapedGauge
from era_kernels.services.mounts import Mounts
from era_kernels.services.port_proxies import PortProxies
from era_kernels.services.public_cutoff import PublicCutoff
from era_kernels.services.server_info import ServerInfo
from era_kernels.services.session_logs import SessionLogs
from era_kernels.services.sessions import SessionService
from era_kernels.services.stored_code import StoredCodeService
from era_kernels.services.stored_code_requests import StoredCodeRequests
from era_kernels.services.submission_memory import SubmissionMemory
from era_kernels.setting_types import default_max_programs
from era_kernels.settings import Settings
from era_kernels.start_checks import load_languages, make_toolchain_dir
from era_kernels.stop_signals import StopSignals
from era_kernels.storage.data_directory import note_server_url
from era_kernels.storage.lost_database import damage_errors
from era_kernels.stores import Stores, open_stores
from era_kernels.toolchains.layout import hold_in_use
from era_kernels.web.access import Access
from era_kernels.web.answer_memory import AnswerMemory
from era_kernels.web.base_handler import HandlerContext
from era_kernels.web.port_hosts import PortHosts
from era_kernels.web.routes import Services, make_application, make_storage_routes
from era_kernels.web.server import WebServer, bound_sockets
from era_kernels.web.storage_listener import StorageListener

log = logging.getLogger(__name__)

# Seconds. A run goes to threads a dozen times, and while the loop is busy each thread waits this
# long for the interpreter; Python's own 5 ms would be most of the time of a run.
SWITCH_INTERVAL = 0.0005


@dataclass(frozen=True, slots=True)
class App:
    """Holds the parts of a running server."""

    url: str
    isolation: Isolation
    languages: list[str]
    sessions: SessionService
    web: WebServer
    stopping: asyncio.Event  # set while runs get their time to finish


@asynccontextmanager
async def open_app(settings: Settings) -> AsyncIterator[App]:
    """Builds and opens everything; on exit, closes everything in the reverse order.

    Raises StartError with a sentence that tells the operator how to proceed.
    """
    async with AsyncExitStack() as stack:
        # What often fails is tried before anything is made; `undo` takes back what was made.
        undo, stopping = ExitStack(), asyncio.Event()
        sockets = stack.enter_context(bound_sockets(settings.host, settings.port))
        languages = load_languages(settings)
        metrics, memory, public = Metrics(), MemoryInWork(settings.memory_in_work), PublicCutoff()
        _start_trimming(stack, memory)
        stores = await open_stores(stack, undo, settings, metrics)
        context = _handler_context(settings, metrics, memory)
        storage = _open_storage_listener(stack, settings, stores, context)
        internet = _open_egress_proxy(stack, settings, metrics)
        host = await _open_host(stack, undo, settings, languages, storage, memory, internet)
        await _recover(stores)
        executions, logs = _execution_service(settings, stores), SessionLogs(stores.logs)
        sessions = await _open_sessions(
            stack, settings, stores, host, executions, logs, metrics, public
        )
        idempotent_runs = IdempotentRuns(sessions, executions, stores.secret)
        stack.push_async_callback(idempotent_runs.aclose)
        context = replace(context, touch_session=sessions.touch, is_stopping=stopping.is_set)
        codes = StoredCodeService(sessions, stores.codes)
        services = Services(
            sessions=sessions,
            executions=executions,
            server_info=ServerInfo(host, stores.database, stores.resources.r2, settings.limits()),
            codes=codes,
            inspection=InspectionService(sessions, executions, host.languages),
            files=FileService(sessions, stores.files, settings.session_workspace),
            idempotent_runs=idempotent_runs,
            links=LinkService(sessions, stores.links),
            logs=logs,
            proxies=PortProxies(sessions, public, max(1, settings.max_connections // 2)),
            stored_code_requests=StoredCodeRequests(sessions, codes, host.languages),
            resources=stores.resources,
        )
        web = _listen(settings, make_application(services, context), context, sockets)
        undo.pop_all()
        await asyncio.to_thread(note_server_url, stores.directory.path, web.url)
        _register_gauges(metrics, sessions, web)
        stack.push_async_callback(web.aclose)
        stack.push_async_callback(logs.aclose)
        # Closed first: running executions end, and their clients still get the last events.
        stack.push_async_callback(sessions.aclose)
        names = [language.name for language in host.languages if language.default.is_available]
        yield App(web.url, host.isolation, names, sessions, web, stopping)


def _start_trimming(stack: AsyncExitStack, memory: MemoryInWork) -> None:
    trimmer = HeapTrimmer(in_work=lambda: memory.total)
    stack.push_async_callback(trimmer.aclose)
    trimmer.start()


def _open_storage_listener(
    stack: AsyncExitStack, settings: Settings, stores: Stores, context: HandlerContext
) -> StorageListener:
    routes, max_connections = make_storage_routes(stores.resources), settings.max_connections
    storage = StorageListener(routes, context, max(1, max_connections // 2))
    stack.push_async_callback(storage.aclose)
    return storage


def _open_egress_proxy(stack: AsyncExitStack, settings: Settings, metrics: Metrics) -> EgressProxy:
    connector = Connector(AddressPolicy(settings.egress_allow_cidrs), Resolver())
    # Each takes two files, and those of the API and of storage have their share already.
    max_connections = max(1, settings.max_connections // 8)
    proxy = EgressProxy(connector, max_connections, metrics.internet_requested)
    stack.push_async_callback(proxy.aclose)
    return proxy


async def _recover(stores: Stores) -> None:
    """Tidies up what a former server left, now that this one can run."""
    with damage_errors(stores.directory.database):
        await stores.executions.close_unfinished()
        await stores.files.remove_unfinished()
        await stores.resources.kv.open()
        await stores.resources.d1.open()
        await stores.resources.r2.sweep()
        await stores.links.sweep()


async def _open_host(
    stack: AsyncExitStack,
    undo: ExitStack,
    settings: Settings,
    languages: Languages,
    storage: StorageListener,
    memory: MemoryInWork,
    internet: EgressProxy,
) -> Machines:
    runtime = stack.enter_context(runtime_dirs.private_runtime_dir())
    stack.enter_context(hold_in_use(languages.toolchains))
    make_toolchain_dir(undo, settings.toolchain_dir)
    network = HostNetwork(settings.egress_allow_cidrs)
    policy = IsolationPolicy(
        strongest_tier=settings.strongest_tier,
        weakest_tier=UNSANDBOXED_TIER if settings.allow_unsandboxed else settings.min_tier,
        allow_weak_tier3=settings.allow_weak_tier3,
        readable_paths=(*languages.readable_paths, settings.toolchain_dir),
        hidden_paths=(settings.data_dir,),
    )
    sandboxes = await Sandboxes.open(
        runtime,
        languages.preload,
        languages.entry_paths,
        policy,
        spare_count=1,
        server_memory=settings.server_memory,
        disk_reserve=DiskReserve(settings.disk_reserve),
        find_rules=network.find_rules,
    )
    stack.push_async_callback(sandboxes.aclose)
    network.watch(sandboxes.outbounds.refresh)
    stack.callback(network.close)
    host = Machines(languages, sandboxes, storage.attach, memory, internet.attach)
    stack.push_async_callback(host.aclose)
    return host


async def _open_sessions(
    stack: AsyncExitStack,
    settings: Settings,
    stores: Stores,
    host: Machines,
    executions: ExecutionService,
    logs: SessionLogs,
    metrics: Metrics,
    public_cutoff: PublicCutoff,
) -> SessionService:
    limits = service_limits(settings)
    sessions = SessionService(
        ServiceContext(
            host=host,
            store=stores.sessions,
            codes=stores.codes,
            workspaces=stores.workspaces,
            files=stores.files,
            executions=executions,
            logs=logs,
            kernel_limiter=KernelLimiter(limits.max_kernels, default_max_programs()),
            submission_memory=SubmissionMemory(settings.memory_in_work),
            service_limits=limits,
            limits=session_limits(settings),
            mounts=Mounts(settings.mounts, host),
            metrics=metrics,
            public_cutoff=public_cutoff,
            default_storage=settings.default_storage,
            allow_hosts=settings.allow_hosts,
        )
    )
    stack.push_async_callback(sessions.aclose)
    with damage_errors(stores.directory.database):
        await sessions.open()
    return sessions


def _register_gauges(metrics: Metrics, sessions: SessionService, web: WebServer) -> None:
    """Registers the gauges whose values are counted only when the metrics are scraped."""
    metrics.register(ScrapedGauge.SESSIONS, lambda: sessions.count)
    metrics.register(ScrapedGauge.RUNS_RUNNING, lambda: len(sessions.run_counts()))
    metrics.register(
        ScrapedGauge.RUNS_WAITING, lambda: sum(sessions.run_counts()) - len(sessions.run_counts())
    )
    metrics.register(ScrapedGauge.CONNECTIONS, lambda: web.connections)


async def serve(settings: Settings, on_ready: Callable[[str], None]) -> None:
    """Runs the server until SIGTERM, SIGINT or SIGHUP, then closes everything in order.

    A second SIGTERM or SIGINT ends the process at once.
    """
    sys.setswitchinterval(SWITCH_INTERVAL)
    signals = StopSignals()
    signals.install()
    try:
        start_loop_threads()
    except RuntimeError:
        raise StartError(
            "The system starts no more threads for this user: end some processes, or raise the "
            "limit (ulimit -u, pids.max of the container)."
        ) from None
    async with open_app(settings) as app:
        if app.isolation.tier == UNSANDBOXED_TIER:
            log.warning("code is not isolated: it runs with this server's rights")
        else:
            log.info("isolation", extra={"tier": app.isolation.tier})
        for text in app.isolation.missing:
            log.info("not in force", extra={"what": text})
        on_ready(ready_line(app))
        await signals.wait()
        await _drain(app, settings.shutdown_grace)
    log.info("stopped")


async def _drain(app: App, grace: float) -> None:
    """Gives runs `grace` seconds to finish; meanwhile `/health` tells that the server stops."""
    app.stopping.set()
    log.info("stopping", extra={**_run_counts(app.sessions), "seconds": grace})
    await app.sessions.drain(grace)
    app.web.stop()
    if left := _run_counts(app.sessions):
        log.warning("runs that have not finished are ended", extra=left)


def _run_counts(sessions: SessionService) -> dict[str, int]:
    """Returns how many runs are under way and how many wait; empty when there are none."""
    counts = sessions.run_counts()
    return {"running": len(counts), "waiting": sum(counts) - len(counts)} if counts else {}


def ready_line(app: App) -> str:
    """Returns one line with the address, the strength of the isolation and the languages."""
    tier = app.isolation.tier
    isolation = "no isolation" if tier == UNSANDBOXED_TIER else f"isolation tier {tier}"
    return f"era-kernels on {app.url} ({isolation}; {', '.join(app.languages) or 'no language'})"


def _listen(
    settings: Settings,
    application: Application,
    context: HandlerContext,
    sockets: list[socket.socket],
) -> WebServer:
    host, port, connections = settings.host, settings.port, settings.max_connections
    return WebServer.open(application, context, host, port, connections, sockets=sockets)


def _execution_service(settings: Settings, stores: Stores) -> ExecutionService:
    return ExecutionService(
        stores.executions,
        max_kept=settings.keep_executions,
        max_kept_bytes=settings.keep_executions_bytes,
        max_result_bytes=settings.max_answer_output,
    )


def _handler_context(settings: Settings, metrics: Metrics, memory: MemoryInWork) -> HandlerContext:
    domain = settings.proxy_domain
    return HandlerContext(
        _access(settings),
        settings.max_json_body,
        settings.max_upload,
        metrics=metrics,
        memory=memory,
        answer_memory=AnswerMemory(settings.memory_in_work // 2),
        port_hosts=None if domain is None else PortHosts(domain),
    )


def _access(settings: Settings) -> Access:
    return Access(
        tokens=settings.api_tokens,
        token_file=settings.api_token_file,
        allowed_hosts=settings.allowed_hosts,
        allowed_origins=settings.allowed_origins,
        public_url=settings.public_url,
        trust_forwarded=settings.trust_forwarded,
    )
