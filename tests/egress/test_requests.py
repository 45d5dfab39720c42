"""What the proxy takes for a request, and what it passes on of one."""

from __future__ import annotations

import h11
import pytest

from era_kernels.egress.connector import Refused
from era_kernels.egress.requests import end_to_end, read_target
from era_kernels.models.internet import HostPatterns, InternetAccess, normalize_host


def request(method: str, target: str, *headers: tuple[str, str]) -> h11.Request:
    return h11.Request(method=method, target=target, headers=[("Host", "other.example"), *headers])


@pytest.mark.parametrize(
    ("target", "expected"),
    [
        ("example.org:443", ("example.org", 443)),
        ("EXAMPLE.org.:8443", ("example.org", 8443)),
        ("192.0.2.1:1", ("192.0.2.1", 1)),
        ("[2001:DB8::0:1]:65535", ("2001:db8::1", 65535)),
        ("127.1:80", ("127.1", 80)),
        ("0x7f.1:80", ("0x7f.1", 80)),
    ],
)
def test_tunnels(target: str, expected: tuple[str, int]) -> None:
    """CONNECT names a host and a port; the header Host says nothing."""
    found = read_target(request("CONNECT", target))
    assert (found.host, found.port, found.head) == (*expected, None)


@pytest.mark.parametrize(
    "target",
    [
        "example.org", "example.org:", ":443", "example.org:0", "example.org:65536",
        "example.org:443443", "example.org:+1", "user@example.org:443", "example.org:443/x",
        "[::1%25eth0]:80", "[fe80::1%eth0]:80", "2001:db8::1:443", "[example.org]:443",
        "exa%6Dple.org:443", "http://example.org", "a/b:1", "*", "/", ".:443", "x" * 300 + ":1",
    ],
)  # fmt: skip
def test_no_tunnels(target: str) -> None:
    """Anything else is malformed."""
    with pytest.raises(Refused) as caught:
        read_target(request("CONNECT", target))
    assert caught.value.status == 400


@pytest.mark.parametrize(
    "headers", [[("Content-Length", "4")], [("Transfer-Encoding", "chunked")]], ids=str
)
def test_tunnels_have_no_body(headers: list[tuple[str, str]]) -> None:
    """What follows a CONNECT belongs to the tunnel: two would differ about where it begins."""
    with pytest.raises(Refused, match="no body"):
        read_target(request("CONNECT", "example.org:443", *headers))


@pytest.mark.parametrize(
    ("target", "expected"),
    [
        ("http://example.org", ("example.org", 80, b"/", b"example.org")),
        ("HTTP://Example.org:81/a?b=c", ("example.org", 81, b"/a?b=c", b"Example.org:81")),
        ("http://example.org?x=//y", ("example.org", 80, b"/?x=//y", b"example.org")),
        ("http://[::1]:8/", ("::1", 8, b"/", b"[::1]:8")),
    ],
)
def test_addresses(target: str, expected: tuple[str, int, bytes, bytes]) -> None:
    """A request is passed on with the host of its address, whatever its header says."""
    found = read_target(request("GET", target, ("X", "y")))
    assert found.head is not None
    hosts = [value for name, value in found.head.headers if name == b"host"]
    assert (found.host, found.port, found.head.target, hosts[0]) == expected
    assert len(hosts) == 1


@pytest.mark.parametrize(
    "target",
    [
        "/", "/path", "*", "https://example.org/", "ftp://example.org/", "http:///x", "http://",
        "http://a@b/", "http://a:b@c/", "http://example.org:x/", "http://example.org#f",
        "http://example.org\\@10.0.0.1/", "http://ex%61mple.org/", "http:example.org",
    ],
)  # fmt: skip
def test_no_addresses(target: str) -> None:
    """Requests to the proxy itself, other schemes and ambiguous hosts are malformed."""
    with pytest.raises(Refused) as caught:
        read_target(request("GET", target))
    assert caught.value.status == 400


def test_two_lengths() -> None:
    """A request with two framings is refused: servers differ in which of them they believe."""
    headers = [("Content-Length", "5"), ("Transfer-Encoding", "chunked")]
    with pytest.raises(Refused, match="not both"):
        read_target(request("POST", "http://example.org/", *headers))


def test_headers_for_the_proxy_alone() -> None:
    """What is meant for one connection is not passed on; lengths are, whatever is named."""
    headers = [
        (b"connection", b"X-Private, content-length"), (b"x-private", b"1"), (b"te", b"trailers"),
        (b"proxy-authorization", b"secret"), (b"proxy-connection", b"keep-alive"),
        (b"upgrade", b"x"), (b"keep-alive", b"1"), (b"content-length", b"3"), (b"x-public", b"2"),
    ]  # fmt: skip
    assert end_to_end(headers) == [(b"content-length", b"3"), (b"x-public", b"2")]


PATTERNS = HostPatterns.parse(
    ["example.org", "*.Example.net", "192.0.2.7", "2001:DB8::1", "a_b.example"]
)


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        ("example.org", True), ("EXAMPLE.ORG.", True), ("www.example.org", False),
        ("a.example.net", True), ("a.b.example.net", True), ("example.net", False),
        ("badexample.net", False), ("example.net.evil.org", False), ("192.0.2.7", True),
        ("192.0.2.70", False), ("2001:db8:0::1", True), ("0xc0.0.2.7", False), ("", False),
    ],
)  # fmt: skip
def test_patterns(host: str, expected: bool) -> None:
    """A name is itself, `*.` and a name are all below it; addresses are compared as such."""
    assert PATTERNS.allows(normalize_host(host)) is expected


def test_access() -> None:
    """A host must match the server's patterns and the session's, while access is on."""
    other = HostPatterns.parse(["*.org"])
    assert InternetAccess(is_on=True).allows("anything.example")
    assert InternetAccess(is_on=True, hosts=(PATTERNS, other)).allows("example.org")
    assert not InternetAccess(is_on=True, hosts=(PATTERNS, other)).allows("a.example.net")
    assert not InternetAccess(is_on=True, hosts=(HostPatterns(()),)).allows("example.org")
    assert not InternetAccess(hosts=(PATTERNS,)).allows("example.org")


@pytest.mark.parametrize(
    "pattern",
    ["", "*", "*.", ".example.org", "a..b", "*a.org", "a.*.org", "http://a", "a/b", "a:1", "ä.org",
     "a b", "-a.org", "a-.org", "a" * 64, "*.*.org", "a@b", "a\n", ".".join(["a"] * 130)],
)  # fmt: skip
def test_what_is_no_pattern(pattern: str) -> None:
    """Anything else is refused with the number of the pattern."""
    with pytest.raises(ValueError, match="number 2 is not"):
        HostPatterns.parse(["example.org", pattern])
