"""Serves the metrics of the server in Prometheus' text format."""

from __future__ import annotations

from era_kernels.services.metrics import CONTENT_TYPE
from era_kernels.web.base_handler import BaseHandler
from era_kernels.web.operations import Media, Operation


class MetricsHandler(BaseHandler):
    """Serves the metrics; needs a token like the API, since metrics show how busy the server is."""

    operations = {
        "GET": Operation("Measure", {200: Media("text/plain", "Metrics as Prometheus reads them.")})
    }

    async def get(self) -> None:
        text = await self.context.metrics.render()
        self.set_header("Content-Type", CONTENT_TYPE)
        self.finish(text)
