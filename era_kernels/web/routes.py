"""Lists every path of the API and makes the Tornado application from this list."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tornado.web import Application, RequestHandler

from era_kernels.services.links import PORT_SECRET
from era_kernels.web.all_resources import ResourcesHandler, ResourceStatsHandler
from era_kernels.web.base_handler import BaseHandler, HandlerContext
from era_kernels.web.code import CodeHandler
from era_kernels.web.d1 import D1BatchHandler, D1ExecHandler, D1QueryHandler
from era_kernels.web.duplicate import DuplicateHandler
from era_kernels.web.exec import ExecHandler, ExecStreamHandler
from era_kernels.web.execute import ExecuteHandler
from era_kernels.web.executions import (
    ExecutionHandler,
    ExecutionOutputHandler,
    ExecutionsHandler,
    ExecutionStreamHandler,
)
from era_kernels.web.files import FileHandler, FilesHandler
from era_kernels.web.health import HealthHandler, LanguagesHandler, LimitsHandler
from era_kernels.web.input import InputHandler
from era_kernels.web.inspection import StackHandler, VariablesHandler
from era_kernels.web.interrupt import InterruptHandler, SessionInterruptHandler
from era_kernels.web.kv import KVHandler, KVNamespaceHandler
from era_kernels.web.link_files import FileLinkHandler
from era_kernels.web.link_ports import PortLinkHandler
from era_kernels.web.links import LinkHandler, LinksHandler
from era_kernels.web.log import LogHandler
from era_kernels.web.metrics import MetricsHandler
from era_kernels.web.not_found import NotFoundHandler
from era_kernels.web.openapi import Document, OpenApiHandler
from era_kernels.web.operations import Route
from era_kernels.web.port_host import PortHostHandler, PortHostLinkHandler
from era_kernels.web.ports import HostHandler, PortsHandler
from era_kernels.web.proxy import ProxyHandler
from era_kernels.web.r2 import R2NamespaceHandler, R2ObjectHandler
from era_kernels.web.runs import RunHandler, StreamHandler
from era_kernels.web.sessions import RestartHandler, SessionHandler, SessionsHandler
from era_kernels.web.storage_handler import StoragePathHandler
from era_kernels.web.swagger_ui import DocsFileHandler, DocsHandler, RootHandler

if TYPE_CHECKING:
    from era_kernels.services.executions.service import ExecutionService
    from era_kernels.services.files import FileService
    from era_kernels.services.idempotency import IdempotentRuns
    from era_kernels.services.inspection import InspectionService
    from era_kernels.services.links import LinkService
    from era_kernels.services.port_proxies import PortProxies
    from era_kernels.services.server_info import ServerInfo
    from era_kernels.services.session_logs import SessionLogs
    from era_kernels.services.sessions import SessionService
    from era_kernels.services.stored_code import StoredCodeService
    from era_kernels.services.stored_code_requests import StoredCodeRequests
    from era_kernels.storage.resource_stores import ResourceStores
    from era_kernels.storage.stored_items import StoredItemIndex

log = logging.getLogger(__name__)

_PATH_PARAMETER = re.compile(r"\\\{\w+\\\}")
_REST_OF_PATH = re.compile(r"\\\{(path|key)\\\}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Services:
    """Holds all services that handlers call."""

    sessions: SessionService
    executions: ExecutionService
    server_info: ServerInfo
    codes: StoredCodeService
    files: FileService
    idempotent_runs: IdempotentRuns
    inspection: InspectionService
    links: LinkService
    logs: SessionLogs
    proxies: PortProxies
    stored_code_requests: StoredCodeRequests
    resources: ResourceStores


def make_application(services: Services, context: HandlerContext) -> Application:
    """Returns the Tornado application that serves every path."""
    storage_routes = make_storage_routes(services.resources)
    routes = [*make_routes(services), *make_resource_routes(services.resources.index)]
    for_proxy = {"proxies": services.proxies, "code_requests": services.stored_code_requests}
    for_links = {**for_proxy, "links": services.links}
    for_files = {"files": services.files, "links": services.links, "proxies": services.proxies}
    document = Document([*routes, *make_served_routes(), *storage_routes])
    routes = [
        # First, for paths are tried in order, and these requests are short.
        Route("/proxy/{path}", ProxyHandler, for_proxy),
        Route("/proxy", ProxyHandler, for_proxy),
        *storage_routes,
        *routes,
        Route("/openapi.json", OpenApiHandler, {"document": document}),
        Route("/link/p{path}", PortLinkHandler, for_links),
        Route("/link/{path}", FileLinkHandler, for_files),
        Route("/", RootHandler),
        Route("/docs", DocsHandler),
        Route("/docs/{name}", DocsFileHandler),
    ]
    application = _application(routes, context)
    if context.port_hosts is not None:
        dependencies = {"context": context.for_route("/proxy/{path}"), **for_links}
        rules = [
            (rf"/link/{PORT_SECRET.pattern}(?:/.*)?", PortHostLinkHandler, dependencies),
            (".*", PortHostHandler, dependencies),
        ]
        application.add_handlers(context.port_hosts.pattern, rules)
    return application


def make_storage_application(routes: Iterable[Route], context: HandlerContext) -> Application:
    """Returns an application that serves these routes and no other path.

    It is for the code inside sessions, which gets those of `make_storage_routes`.
    """
    return _application(routes, context)


def _application(routes: Iterable[Route], context: HandlerContext) -> Application:
    return Application(
        [
            (
                _url_pattern(r.path),
                r.handler,
                {"context": context.for_route(r.path), **r.dependencies},
            )
            for r in routes
        ],
        default_handler_class=NotFoundHandler,
        default_handler_args={"context": context},
        log_function=log_request,
    )


def make_routes(services: Services) -> list[Route]:
    """Returns every path of the API, in the order of the OpenAPI document."""
    for_sessions = {"sessions": services.sessions}
    for_codes, for_files = {"codes": services.codes}, {"files": services.files}
    for_inspection, for_links = {"inspection": services.inspection}, {"links": services.links}
    language_names = _language_names(services.server_info)
    for_execute = {**for_sessions, "language_names": language_names}
    for_runs = {**for_sessions, **for_codes, "idempotent_runs": services.idempotent_runs}
    for_executions = {**for_sessions, "executions": services.executions}
    for_stdout = {**for_executions, "stream": "stdout"}
    for_stderr = {**for_executions, "stream": "stderr"}
    session = "/api/sessions/{id}"
    execution = f"{session}/executions/{{execution_id}}"
    return [
        Route("/api/execute", ExecuteHandler, for_execute, "runs"),
        Route("/api/sessions", SessionsHandler, for_sessions, "sessions"),
        Route(session, SessionHandler, for_sessions, "sessions"),
        Route(f"{session}/restart", RestartHandler, for_sessions, "sessions"),
        Route(f"{session}/duplicate", DuplicateHandler, for_sessions, "sessions"),
        Route(f"{session}/code", CodeHandler, for_codes, "code"),
        Route(f"{session}/files", FilesHandler, for_files, "files"),
        Route(f"{session}/files/{{path}}", FileHandler, for_files, "files"),
        Route(f"{session}/run", RunHandler, for_runs, "runs"),
        Route(f"{session}/stream", StreamHandler, for_runs, "runs"),
        Route(f"{session}/exec", ExecHandler, for_sessions, "runs"),
        Route(f"{session}/exec/stream", ExecStreamHandler, for_sessions, "runs"),
        Route(f"{session}/interrupt", SessionInterruptHandler, for_executions, "runs"),
        Route(f"{session}/executions", ExecutionsHandler, for_executions, "executions"),
        Route(execution, ExecutionHandler, for_executions, "executions"),
        Route(f"{execution}/stream", ExecutionStreamHandler, for_executions, "executions"),
        Route(f"{execution}/interrupt", InterruptHandler, for_executions, "executions"),
        Route(f"{execution}/stdout", ExecutionOutputHandler, for_stdout, "executions"),
        Route(f"{execution}/stderr", ExecutionOutputHandler, for_stderr, "executions"),
        Route(f"{execution}/input", InputHandler, for_executions, "executions"),
        Route(f"{execution}/stack", StackHandler, for_inspection, "executions"),
        Route(f"{session}/variables", VariablesHandler, for_inspection, "sessions"),
        Route(f"{session}/log", LogHandler, {**for_sessions, "logs": services.logs}, "executions"),
        Route(f"{session}/host", HostHandler, for_sessions, "proxy"),
        Route(f"{session}/ports", PortsHandler, {"proxies": services.proxies}, "proxy"),
        Route(f"{session}/links", LinksHandler, for_links, "links"),
        Route(f"{session}/links/{{link_id}}", LinkHandler, for_links, "links"),
        *_server_routes(services.server_info),
    ]


def _server_routes(server_info: ServerInfo) -> list[Route]:
    for_server_info = {"server_info": server_info}
    return [
        Route("/health", HealthHandler, for_server_info, "server"),
        Route("/api/health", HealthHandler, for_server_info, "server"),
        Route("/api/languages", LanguagesHandler, for_server_info, "server"),
        Route("/api/limits", LimitsHandler, for_server_info, "server"),
        Route("/metrics", MetricsHandler, {}, "server"),
    ]


def make_storage_routes(stores: ResourceStores) -> list[Route]:
    """Returns the paths of KV, D1 and R2, which the API and the code inside sessions share.

    The last two take what no other takes.
    """
    for_kv, for_d1, for_r2 = {"kv": stores.kv}, {"d1": stores.d1}, {"objects": stores.r2}
    database = "/api/storage/d1/{namespace}"
    return [
        Route("/api/storage/kv/{namespace}", KVNamespaceHandler, for_kv, "kv"),
        Route("/api/storage/kv/{namespace}/{key}", KVHandler, for_kv, "kv"),
        Route(f"{database}/query", D1QueryHandler, for_d1, "d1"),
        Route(f"{database}/exec", D1ExecHandler, for_d1, "d1"),
        Route(f"{database}/batch", D1BatchHandler, for_d1, "d1"),
        Route("/api/storage/r2/{namespace}", R2NamespaceHandler, for_r2, "r2"),
        Route("/api/storage/r2/{namespace}/{key}", R2ObjectHandler, for_r2, "r2"),
        Route("/api/storage", StoragePathHandler),
        Route("/api/storage/{path}", StoragePathHandler),
    ]


def make_resource_routes(index: StoredItemIndex) -> list[Route]:
    """Returns the paths that list and count all that is stored."""
    for_resources = {"resources": index}
    return [
        Route("/api/resources/list", ResourcesHandler, for_resources, "resources"),
        Route("/api/resources/stats", ResourceStatsHandler, for_resources, "resources"),
    ]


def make_served_routes() -> list[Route]:
    """Returns what is served for sessions as the OpenAPI document shows it, each path once."""
    return [
        Route("/proxy/{id}/{port}/{path}", ProxyHandler, tag="proxy"),
        Route("/link/{secret}/{path}", FileLinkHandler, tag="links"),
    ]


def _url_pattern(path: str) -> str:
    """Returns a path as a pattern for Tornado; `{path}` and `{key}` match the rest of the URL."""
    return _PATH_PARAMETER.sub("([^/]+)", _REST_OF_PATH.sub("(.*)", re.escape(path)))


def _language_names(server_info: ServerInfo) -> Mapping[str, str]:
    """Returns a mapping from every name and alias of a language, in lower case, to its name."""
    return {
        name.lower(): language["name"]
        for language in server_info.languages()
        for name in (language["name"], *language["aliases"])
    }


def _who(handler: BaseHandler) -> dict[str, str]:
    """Returns what is known of the caller: an address, and the name of a token."""
    address = handler.context.access.client_address(handler.request)
    known = {"client": address, "token_name": handler.caller.token_name}
    return {name: value for name, value in known.items() if value}


def log_request(handler: RequestHandler) -> None:
    """Counts the answer and logs it in one line.

    The line holds no query, no body, no token and, except for the request id and the address that a
    trusted proxy names, no header of the caller. `token_name` is the name of its token.
    """
    assert isinstance(handler, BaseHandler)
    request, context = handler.request, handler.context
    status, seconds = handler.get_status(), request.request_time()
    context.metrics.request_answered(context.route, str(request.method), status, seconds)
    level = logging.WARNING if status >= 500 else logging.INFO
    if not log.isEnabledFor(level):
        return
    log.log(
        level,
        "answered",
        extra={
            "method": request.method,
            "path": handler.logged_path,
            "status": status,
            "ms": round(seconds * 1000, 2),
            "request_id": handler.request_id,
            **_who(handler),
        },
    )
