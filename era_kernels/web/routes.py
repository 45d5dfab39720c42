"""The table of paths, and the application made of it."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING

from tornado.web import Application, RequestHandler

from era_kernels.web.base import BaseHandler, Edge, NotFoundHandler
from era_kernels.web.docs import DocsFileHandler, DocsHandler
from era_kernels.web.execute import ExecuteHandler
from era_kernels.web.executions import (
    ExecutionHandler,
    ExecutionsHandler,
    ReplayHandler,
    RunHandler,
    StreamHandler,
    TextHandler,
)
from era_kernels.web.health import HealthHandler, LanguagesHandler, LimitsHandler
from era_kernels.web.openapi import Document, OpenApiHandler
from era_kernels.web.operations import Route
from era_kernels.web.sessions import RestartHandler, SessionHandler, SessionsHandler

if TYPE_CHECKING:
    from era_kernels.services.executions import Executions
    from era_kernels.services.sessions import LiveSessions
    from era_kernels.services.status import Status

log = logging.getLogger(__name__)

_PART = re.compile(r"\\\{\w+\\\}")


def make_application(
    *,
    sessions: LiveSessions,
    executions: Executions,
    status: Status,
    edge: Edge,
) -> Application:
    """The whole HTTP side."""
    routes = make_routes(sessions, executions, status)
    document = Document(routes)
    routes = [
        *routes,
        Route("/openapi.json", OpenApiHandler, {"document": document}),
        Route("/docs", DocsHandler),
        Route("/docs/{name}", DocsFileHandler),
    ]
    return Application(
        [(_pattern(r.path), r.handler, {"edge": edge, **r.needs}) for r in routes],
        default_handler_class=NotFoundHandler,
        default_handler_args={"edge": edge},
        log_function=log_request,
    )


def make_routes(sessions: LiveSessions, executions: Executions, status: Status) -> list[Route]:
    """Every path of the API, in the order of the document."""
    one = {"sessions": sessions}
    many = {"sessions": sessions, "executions": executions}
    how = {"status": status}
    session = "/api/sessions/{id}"
    execution = f"{session}/executions/{{execution_id}}"
    return [
        Route("/api/execute", ExecuteHandler, {**one, "names": _names(status)}, "runs"),
        Route("/api/sessions", SessionsHandler, one, "sessions"),
        Route(session, SessionHandler, one, "sessions"),
        Route(f"{session}/restart", RestartHandler, one, "sessions"),
        Route(f"{session}/run", RunHandler, one, "runs"),
        Route(f"{session}/stream", StreamHandler, one, "runs"),
        Route(f"{session}/executions", ExecutionsHandler, many, "executions"),
        Route(execution, ExecutionHandler, many, "executions"),
        Route(f"{execution}/stream", ReplayHandler, many, "executions"),
        Route(f"{execution}/stdout", TextHandler, {**many, "stream": "stdout"}, "executions"),
        Route(f"{execution}/stderr", TextHandler, {**many, "stream": "stderr"}, "executions"),
        Route("/health", HealthHandler, how, "server"),
        Route("/api/health", HealthHandler, how, "server"),
        Route("/api/languages", LanguagesHandler, how, "server"),
        Route("/api/limits", LimitsHandler, how, "server"),
    ]


def _pattern(path: str) -> str:
    """`/api/sessions/{id}` as Tornado matches it."""
    return _PART.sub("([^/]+)", re.escape(path))


def _names(status: Status) -> Mapping[str, str]:
    """From every name and alias of a language, in lower case, to its name."""
    return {
        word.lower(): language["name"]
        for language in status.languages()
        for word in (language["name"], *language["aliases"])
    }


def log_request(handler: RequestHandler) -> None:
    """One line per answer; never a query, a body or a header of the caller but the request id."""
    status = handler.get_status()
    level = logging.WARNING if status >= 500 else logging.INFO
    if not log.isEnabledFor(level):
        return
    assert isinstance(handler, BaseHandler)
    log.log(
        level,
        "answered",
        extra={
            "method": handler.request.method,
            "path": handler.request.path,
            "status": status,
            "ms": round(handler.request.request_time() * 1000, 2),
            "request_id": handler.request_id,
        },
    )
