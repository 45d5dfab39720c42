"""Redirects and cookies of a program stay where the program is served."""

from __future__ import annotations

from contextlib import suppress
from urllib.parse import urlsplit

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from era_kernels.web.proxy_headers import Place, confine_address, confine_cookie

PREFIX = "/proxy/s1/80"
HERE = Place(PREFIX, "era.example:8787", 80, "/a/b", ("api.example", "127.0.0.1:8787"))
OWN_HOST = Place("", "80-s1.apps.example", 80, "/a/b")


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("/login", f"{PREFIX}/login"),
        ("/", f"{PREFIX}/"),
        ("login?x=1#y", f"{PREFIX}/a/login?x=1#y"),
        ("../login", f"{PREFIX}/login"),
        ("../../../../api/sessions", f"{PREFIX}/api/sessions"),
        ("/../../api", f"{PREFIX}/api"),
        ("?x=1", f"{PREFIX}/a/b?x=1"),
        ("", f"{PREFIX}/a/b"),
        (f"{PREFIX}/login", f"{PREFIX}/login"),
        (f"{PREFIX}", f"{PREFIX}/"),
        (f"{PREFIX}?x", f"{PREFIX}/?x"),
        (f"{PREFIX}/../81/x", f"{PREFIX}/81/x"),
        ("/proxy/s1/8000/x", f"{PREFIX}/proxy/s1/8000/x"),
        ("http://era.example:8787/x?y", f"{PREFIX}/x?y"),
        ("https://ERA.example:8787", f"{PREFIX}/"),
        (f"http://era.example:8787{PREFIX}/x", f"{PREFIX}/x"),
        ("//era.example:8787/api", f"{PREFIX}/api"),
        ("http://u@era.example:8787/api", f"{PREFIX}/api"),
        ("http://127.0.0.1:80/x", f"{PREFIX}/x"),
        ("http://localhost/x", f"{PREFIX}/x"),
        ("http://[::1]:80/x", f"{PREFIX}/x"),
        ("http://localhost:3000/x?y", "/proxy/s1/3000/x?y"),
        ("https://other.example/x", "https://other.example/x"),
        ("//other.example/x", "//other.example/x"),
        ("http://era.example:1/x", "http://era.example:1/x"),
        ("mailto:x@y", "mailto:x@y"),
        ("///api", f"{PREFIX}/api"),
        ("/\\api", f"{PREFIX}/"),
        ("/\\era.example:8787\\api", f"{PREFIX}/api"),
        ("http://[bad", f"{PREFIX}/"),
        ("http://x:port/", f"{PREFIX}/"),
        ("/%2e%2e/%2E./.%2e/api", f"{PREFIX}/api"),
        ("/x\\..\\..\\..\\..\\api", f"{PREFIX}/api"),
        ("/x?\\..%2e", f"{PREFIX}/x?\\..%2e"),
        ("http:\\\\era.example:8787\\api", f"{PREFIX}/api"),
        ("http:/api", f"{PREFIX}/api"),
        ("https://api.example:443/api", f"{PREFIX}/api"),
        ("http://api.example./api", f"{PREFIX}/api"),
        ("//api.example:443/api", f"{PREFIX}/api"),
        ("https://api.example:080/api", "https://api.example:080/api"),
        ("http://era.example:08787/api", f"{PREFIX}/api"),
        ("http://api%2eexample/api", f"{PREFIX}/api"),
        ("http://%61pi.example/api", f"{PREFIX}/"),
        ("http://api.ex\xadample/api", f"{PREFIX}/"),
        ("http://127.1:8787/api", f"{PREFIX}/api"),
        ("http://0x7f000001:8787/api", f"{PREFIX}/api"),
        ("http://other.example/%2e%2e\\x", "http://other.example/%2e%2e\\x"),
    ],
)
def test_addresses(given: str, expected: str) -> None:
    """An address of the program leads below its prefix, whatever its form; others' are theirs."""
    assert confine_address(given, HERE) == expected


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("/login", "/login"),
        ("login", "login"),
        ("http://80-s1.apps.example/x", "/x"),
        ("http://127.0.0.1:80/x?y", "/x?y"),
        ("http://localhost:3000/x", "http://localhost:3000/x"),
        ("https://other.example/x", "https://other.example/x"),
    ],
)
def test_addresses_on_an_own_host(given: str, expected: str) -> None:
    """Where a port has a host of its own, only the program's own name for it is changed."""
    assert confine_address(given, OWN_HOST) == expected


def test_addresses_below_a_link() -> None:
    """Where only this port is reached, an address of another port is left as it is."""
    link = Place("/link/p1", "era.example", 80, "/a/b", has_other_ports=False)
    assert confine_address("http://127.0.0.1:81/x", link) == "http://127.0.0.1:81/x"
    assert confine_address("http://127.0.0.1:80/x", link) == "/link/p1/x"
    assert confine_address("/x", link) == "/link/p1/x"


@given(st.text("/.\\?#:@a%280eE[]", max_size=12))
def test_no_way_out(address: str) -> None:
    """No address without a host of its own leads out of the prefix."""
    with suppress(ValueError):
        parts = urlsplit(address)
        assume(not parts.scheme and not parts.netloc)
    path = confine_address(address, HERE).partition("?")[0].partition("#")[0]
    assert path.startswith(f"{PREFIX}/")
    assert "/../" not in path.lower().replace("%2e", ".").replace("\\", "/") + "/"


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("a=b", f"a=b; Path={PREFIX}/a"),
        ("a=b; Path=/", f"a=b; Path={PREFIX}"),
        ("a=b; path=/x; HttpOnly", f"a=b; Path={PREFIX}/x; HttpOnly"),
        (f"a=b; Path={PREFIX}/x", f"a=b; Path={PREFIX}/x"),
        ("a=b; Path=/proxy/s1/800", f"a=b; Path={PREFIX}/proxy/s1/800"),
        (f"a=b; Path={PREFIX}/../81", f"a=b; Path={PREFIX}{PREFIX}/../81"),
        ("a=b; Domain=era.example; Secure", f"a=b; Path={PREFIX}/a; Secure"),
        ("a=b; Path=/; Path=", f"a=b; Path={PREFIX}"),
        ("a=b; Path=x", f"a=b; Path={PREFIX}/a"),
        ("a=b; domain = era.example ;Max-Age=1", f"a=b; Path={PREFIX}/a; Max-Age=1"),
    ],
)  # fmt: skip
def test_cookies(given: str, expected: str) -> None:
    """A cookie is of this host, and of this port's path."""
    assert confine_cookie(given, HERE) == expected


def test_cookies_on_an_own_host() -> None:
    """A host of its own needs no other path, and shares no cookie with others."""
    assert confine_cookie("a=b; Path=/; Domain=apps.example", OWN_HOST) == "a=b; Path=/"
