"""The table of paths, and the application made of it."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING

from tornado.web import Application, RequestHandler

from era_kernels.web.base import BaseHandler, Edge
from era_kernels.web.code import CodeHandler
from era_kernels.web.docs import DocsFileHandler, DocsHandler, RootHandler
from era_kernels.web.duplicate import DuplicateHandler
from era_kernels.web.exec import ExecHandler
from era_kernels.web.execute import ExecuteHandler
from era_kernels.web.executions import (
    ExecutionHandler,
    ExecutionsHandler,
    ReplayHandler,
    TextHandler,
)
from era_kernels.web.files import FileHandler, FilesHandler
from era_kernels.web.health import HealthHandler, LanguagesHandler, LimitsHandler
from era_kernels.web.inputs import InputHandler
from era_kernels.web.inside import StackHandler, VariablesHandler
from era_kernels.web.interrupts import InterruptHandler
from era_kernels.web.log import LogHandler
from era_kernels.web.metrics import MetricsHandler
from era_kernels.web.not_found import NotFoundHandler
from era_kernels.web.openapi import Document, OpenApiHandler
from era_kernels.web.operations import Route
from era_kernels.web.runs import RunHandler, StreamHandler
from era_kernels.web.sessions import RestartHandler, SessionHandler, SessionsHandler

if TYPE_CHECKING:
    from era_kernels.services.executions.service import ExecutionService
    from era_kernels.services.files import FileService
    from era_kernels.services.idempotency import IdempotentRuns
    from era_kernels.services.inspection import InspectionService
    from era_kernels.services.server_info import ServerInfo
    from era_kernels.services.session_logs import SessionLogs
    from era_kernels.services.sessions import SessionService
    from era_kernels.services.stored_code import StoredCodeService

log = logging.getLogger(__name__)

_PART = re.compile(r"\\\{\w+\\\}")
_REST = re.escape("{path}")


def make_application(
    *,
    sessions: SessionService,
    executions: ExecutionService,
    status: ServerInfo,
    codes: StoredCodeService,
    files: FileService,
    repeats: IdempotentRuns,
    insights: InspectionService,
    logs: SessionLogs,
    edge: Edge,
) -> Application:
    """The whole HTTP side."""
    routes = make_routes(sessions, executions, status, codes, files, repeats, insights, logs)
    document = Document(routes)
    routes = [
        *routes,
        Route("/openapi.json", OpenApiHandler, {"document": document}),
        Route("/", RootHandler),
        Route("/docs", DocsHandler),
        Route("/docs/{name}", DocsFileHandler),
    ]
    return Application(
        [(_pattern(r.path), r.handler, {"edge": edge.at(r.path), **r.needs}) for r in routes],
        default_handler_class=NotFoundHandler,
        default_handler_args={"edge": edge},
        log_function=log_request,
    )


def make_routes(
    sessions: SessionService,
    executions: ExecutionService,
    status: ServerInfo,
    codes: StoredCodeService,
    files: FileService,
    repeats: IdempotentRuns,
    insights: InspectionService,
    logs: SessionLogs,
) -> list[Route]:
    """Every path of the API, in the order of the document."""
    one = {"sessions": sessions}
    running = {"sessions": sessions, "codes": codes, "repeats": repeats}
    many = {"sessions": sessions, "executions": executions}
    how = {"status": status}
    look = {"insights": insights}
    session = "/api/sessions/{id}"
    execution = f"{session}/executions/{{execution_id}}"
    return [
        Route("/api/execute", ExecuteHandler, {**one, "names": _names(status)}, "runs"),
        Route("/api/sessions", SessionsHandler, one, "sessions"),
        Route(session, SessionHandler, one, "sessions"),
        Route(f"{session}/restart", RestartHandler, one, "sessions"),
        Route(f"{session}/duplicate", DuplicateHandler, one, "sessions"),
        Route(f"{session}/code", CodeHandler, {"codes": codes}, "code"),
        Route(f"{session}/files", FilesHandler, {"files": files}, "files"),
        Route(f"{session}/files/{{path}}", FileHandler, {"files": files}, "files"),
        Route(f"{session}/run", RunHandler, running, "runs"),
        Route(f"{session}/stream", StreamHandler, running, "runs"),
        Route(f"{session}/exec", ExecHandler, one, "runs"),
        Route(f"{session}/executions", ExecutionsHandler, many, "executions"),
        Route(execution, ExecutionHandler, many, "executions"),
        Route(f"{execution}/stream", ReplayHandler, many, "executions"),
        Route(f"{execution}/interrupt", InterruptHandler, many, "executions"),
        Route(f"{execution}/stdout", TextHandler, {**many, "stream": "stdout"}, "executions"),
        Route(f"{execution}/stderr", TextHandler, {**many, "stream": "stderr"}, "executions"),
        Route(f"{execution}/input", InputHandler, many, "executions"),
        Route(f"{execution}/stack", StackHandler, look, "executions"),
        Route(f"{session}/variables", VariablesHandler, look, "sessions"),
        Route(f"{session}/log", LogHandler, {**one, "logs": logs}, "executions"),
        Route("/health", HealthHandler, how, "server"),
        Route("/api/health", HealthHandler, how, "server"),
        Route("/api/languages", LanguagesHandler, how, "server"),
        Route("/api/limits", LimitsHandler, how, "server"),
        Route("/metrics", MetricsHandler, {}, "server"),
    ]


def _pattern(path: str) -> str:
    """`/api/sessions/{id}` as Tornado matches it; `{path}` is all that follows."""
    return _PART.sub("([^/]+)", re.escape(path).replace(_REST, "(.*)"))


def _names(status: ServerInfo) -> Mapping[str, str]:
    """From every name and alias of a language, in lower case, to its name."""
    return {
        word.lower(): language["name"]
        for language in status.languages()
        for word in (language["name"], *language["aliases"])
    }


def log_request(handler: RequestHandler) -> None:
    """Count the answer, and log it in one line.

    Never a query, a body or a header of the caller but the request id.
    """
    assert isinstance(handler, BaseHandler)
    request, edge = handler.request, handler.edge
    status, seconds = handler.get_status(), request.request_time()
    edge.meters.request_answered(edge.route, str(request.method), status, seconds)
    level = logging.WARNING if status >= 500 else logging.INFO
    if not log.isEnabledFor(level):
        return
    log.log(
        level,
        "answered",
        extra={
            "method": request.method,
            "path": request.path,
            "status": status,
            "ms": round(seconds * 1000, 2),
            "request_id": handler.request_id,
        },
    )
