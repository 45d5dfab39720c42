"""Names the hosts on which ports of sessions are served, where each has one of its own."""

from __future__ import annotations

import re
from urllib.parse import urlsplit

from era_kernels.services.port_proxies import host_label

_LABEL = r"[1-9][0-9]{0,4}-[a-z0-9-]{1,50}"


class PortHosts:
    """Makes and reads names of hosts below a domain: `{port}-{session}.{domain}`."""

    def __init__(self, domain: str) -> None:
        """Takes the domain in lower case."""
        self._domain = domain
        self.pattern = rf"{_LABEL}\.{re.escape(domain)}\.?"

    def url(self, base_url: str, session_id: str, port: int) -> str:
        """Returns the address of a port; scheme and port of the server are those of `base_url`."""
        parts = urlsplit(base_url)
        server_port = "" if parts.port is None else f":{parts.port}"
        return f"{parts.scheme}://{port}-{host_label(session_id)}.{self._domain}{server_port}"


def parse_host(host_name: str) -> tuple[int, str]:
    """Returns the port and the session's label of a host that has the pattern."""
    port, _, label = host_name.partition(".")[0].partition("-")
    return int(port), label
