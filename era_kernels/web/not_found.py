"""Answers requests to unknown paths."""

from __future__ import annotations

import re
from typing import Any

from tornado.web import HTTPError

from era_kernels.errors import EraError, NotFound
from era_kernels.services.links import FILE_SECRET, PORT_SECRET
from era_kernels.web.base_handler import BaseHandler, HandlerContext

_SECRET = re.compile(f"{FILE_SECRET.pattern}|{PORT_SECRET.pattern}")  # of a mistyped link
_HINT = "GET /openapi.json tells what is, and the page /docs shows it."


class NotFoundHandler(BaseHandler):
    """Answers 404 to a request with any method."""

    def initialize(self, context: HandlerContext, *args: Any, **kwargs: Any) -> None:
        super().initialize(context)
        self.logged_path = _SECRET.sub("*", self.logged_path)

    @property
    def requires_token(self) -> bool:
        return self.request.path.startswith(("/api/", "/mcp", "/jupyter/", "/metrics"))

    def check_path(self) -> None:
        raise _not_found()

    def allowed_methods(self) -> str:
        """Allows the request's own method, so that the answer is 404 and not 405."""
        return str(self.request.method)

    def to_domain_error(self, cause: BaseException | None, status: int) -> EraError:
        if isinstance(cause, HTTPError) and status == 405:
            return _not_found()
        return super().to_domain_error(cause, status)


def _not_found() -> NotFound:
    return NotFound("There is nothing at this path.", hint=_HINT)
