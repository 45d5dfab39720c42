"""The page that renders the document: everything it needs comes from this server."""

from __future__ import annotations

import re

import pytest

from tests.web.serving import ServerUnderTest

ADDRESS = re.compile(r"""(?:src|href)=["']([^"']+)["']""")


def test_page(server: ServerUnderTest) -> None:
    """The page is HTML that loads files of this server only, by relative addresses."""
    answer = server.http.get("/docs")
    assert answer.headers["Content-Type"] == "text/html; charset=utf-8"
    addresses = ADDRESS.findall(answer.text)
    assert len(addresses) == 4
    for address in addresses:
        assert address.startswith("docs/")
        assert server.http.get("/" + address).status_code == 200
    assert "//" not in answer.text.replace("<!DOCTYPE html>", "")


def test_root(server: ServerUnderTest) -> None:
    """The address without a path leads to the page, and says to programs where things are."""
    answer = server.http.get("/")
    assert (answer.status_code, answer.headers["Location"]) == (302, "docs")
    assert answer.json() == {"docs": "/docs", "openapi": "/openapi.json"}
    assert server.http.get("/", follow_redirects=True).url.path == "/docs"


def test_policy(server: ServerUnderTest) -> None:
    """The browser may load nothing from anywhere else, whatever the scripts want."""
    policy = dict(
        part.strip().partition(" ")[::2]
        for part in server.http.get("/docs").headers["Content-Security-Policy"].split(";")
    )
    assert policy["default-src"] == "'none'"
    assert policy["script-src"] == policy["connect-src"] == "'self'"
    assert policy["frame-ancestors"] == "'none'"
    assert not any("http" in sources or "*" in sources for sources in policy.values())


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("swagger-ui.css", "text/css"),
        ("swagger-ui-bundle.js", "text/javascript"),
        ("start.js", "text/javascript"),
        ("favicon-32x32.png", "image/png"),
    ],
)
def test_files(server: ServerUnderTest, name: str, kind: str) -> None:
    """What the page loads has its type and may be kept for a while."""
    answer = server.http.get(f"/docs/{name}")
    assert answer.status_code == 200
    assert answer.headers["Content-Type"].startswith(kind)
    assert "max-age" in answer.headers["Cache-Control"]
    assert len(answer.content) > 100


def test_starting_script(server: ServerUnderTest) -> None:
    """The script reads the document next to the page and uses no validator on the net."""
    text = server.http.get("/docs/start.js").text
    assert 'url: "openapi.json"' in text
    assert "validatorUrl: null" in text
    assert "http" not in text


@pytest.mark.parametrize(
    "name",
    ["index.html", "swagger-ui.js.map", "nothing", "__init__.py", "%2e%2e%2fbase.py", "start.JS"],
)
def test_other_files(server: ServerUnderTest, name: str) -> None:
    """Nothing but the named files is there."""
    assert server.http.get(f"/docs/{name}").status_code in (400, 404)
