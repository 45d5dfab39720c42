"""Ends the body of an answer with trailers, for which Tornado 6 has no way."""

from __future__ import annotations

from tornado.http1connection import HTTP1Connection

from era_kernels.web import proxy_headers
from era_kernels.web.proxy_headers import Headers


async def send_trailers(connection: HTTP1Connection, given: Headers) -> None:
    """Sends the headers that a program sent behind its body, where the body goes out in chunks.

    Tornado is told that the last chunk is written.
    """
    found = proxy_headers.trailers(given)
    if found and connection._chunking_output:
        lines = b"".join(b"%s: %s\r\n" % one for one in proxy_headers.encode(found))
        await connection.stream.write(b"0\r\n" + lines + b"\r\n")
        connection._chunking_output = False
