"""What operators measure, in Prometheus' text format."""

from __future__ import annotations

from era_kernels.services.metrics import CONTENT_TYPE
from era_kernels.web.base import BaseHandler
from era_kernels.web.operations import Media, Operation


class MetricsHandler(BaseHandler):
    """Protected like the API: it tells how much is going on."""

    operations = {
        "GET": Operation("Measure", {200: Media("text/plain", "Metrics as Prometheus reads them.")})
    }

    async def get(self) -> None:
        text = await self.context.metrics.render()
        self.set_header("Content-Type", CONTENT_TYPE)
        self.finish(text)
