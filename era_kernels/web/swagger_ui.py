"""Serves the page that renders the OpenAPI document, and all files that the page loads."""

from __future__ import annotations

import asyncio
import mimetypes

from openapi_ui_bundles import swagger_ui

from era_kernels.errors import NotFound
from era_kernels.web.base_handler import BaseHandler
from era_kernels.web.operations import Operation

# The renderer uses inline styles; scripts come from this server only.
CONTENT_SECURITY_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data:; font-src 'self' data:; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
# Addresses are relative, so that the page also works below a path of a proxy.
_PAGE = b"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<title>ERA kernels API</title>
<link rel="stylesheet" href="docs/swagger-ui.css">
<link rel="icon" type="image/png" href="docs/favicon-32x32.png">
</head>
<body>
<div id="swagger-ui"></div>
<script src="docs/swagger-ui-bundle.js"></script>
<script src="docs/start.js"></script>
</body>
</html>
"""
_START_SCRIPT = b"""window.ui = SwaggerUIBundle({
  url: "openapi.json",
  dom_id: "#swagger-ui",
  deepLinking: true,
  validatorUrl: null,
});
"""
_BUNDLE_FILES = frozenset({"swagger-ui.css", "swagger-ui-bundle.js", "favicon-32x32.png"})


class RootHandler(BaseHandler):
    """Redirects the address without a path, which people type, to the page."""

    operations = {"GET": Operation("Where the page is", in_schema=False)}

    @property
    def requires_token(self) -> bool:
        return False

    async def get(self) -> None:
        self.set_header("Location", "docs")  # relative, like the addresses in the page
        await self.finish_json({"docs": "/docs", "openapi": "/openapi.json"}, 302)


class DocsHandler(BaseHandler):
    """Serves the page."""

    operations = {"GET": Operation("The page that renders the document", in_schema=False)}

    @property
    def requires_token(self) -> bool:
        return False

    def get(self) -> None:
        self.set_header("Content-Type", "text/html; charset=utf-8")
        self.set_header("Content-Security-Policy", CONTENT_SECURITY_POLICY)
        self.set_header("Referrer-Policy", "no-referrer")
        self.finish(_PAGE)


class DocsFileHandler(BaseHandler):
    """Serves the files that the page loads: a fixed list of the installed package, and a script."""

    operations = {"GET": Operation("A file of the page", in_schema=False)}

    @property
    def requires_token(self) -> bool:
        return False

    async def get(self, name: str) -> None:
        if name == "start.js":
            data = _START_SCRIPT
        elif name in _BUNDLE_FILES:
            data = await asyncio.to_thread((swagger_ui.static_path / name).read_bytes)
        else:
            raise NotFound("There is nothing at this path.")
        self.set_header("Content-Type", mimetypes.guess_type(name)[0] or "text/plain")
        self.set_header("Cache-Control", "public, max-age=86400")
        self.finish(data)
