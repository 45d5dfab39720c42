"""Content types: noted at the file, else guessed; what code notes counts only if it is one."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tornado.web import RequestHandler

from era_kernels.storage import content_types

ATTRIBUTE = "user.era_kernels.content_type"


@pytest.fixture
def file(tmp_path: Path) -> Iterator[int]:
    descriptor = os.open(tmp_path / "file", os.O_RDWR | os.O_CREAT)
    try:
        os.setxattr(descriptor, ATTRIBUTE, b"a/b")
        os.removexattr(descriptor, ATTRIBUTE)
    except OSError:
        pytest.skip("the file system has no user attributes")
    yield descriptor
    os.close(descriptor)


@pytest.mark.parametrize(
    "stored",
    ["image/png", "text/plain; charset=utf-8", "text/plain;charset=utf-8", 'a/b; c="d e"; f=g',
     "multipart/form-data; boundary=----x", "application/vnd.api+json", "a/b;  x*=utf-8''%20"],
)  # fmt: skip
def test_stored_types_are_detected(file: int, stored: str) -> None:
    """A media type that the uploader named is detected as it was."""
    content_types.store(file, stored)
    assert content_types.detect(file, "x.html") == stored


@pytest.mark.parametrize(
    "stored",
    ["", "nonsense", "a/", "/b", "a/b;", "a/b; c", "a/b; c=", "a/b\r\nX: y", 'a/b; c="\t"',
     'a/b; c="\x01"', 'a/b; c="\x7f"', "a/b;\tc=d", "ü/b", "a/b; c=é", "a/b " * 80, "*/*", " a/b"],
)  # fmt: skip
def test_only_media_types_are_detected(file: int, stored: str) -> None:
    """What is no media type is neither noted nor, where code noted it, believed."""
    content_types.store(file, stored)
    assert os.listxattr(file) == []
    os.setxattr(file, ATTRIBUTE, stored.encode())
    assert content_types.detect(file, "x.html") == "text/html"


@pytest.mark.parametrize(
    ("path", "expected"),
    [("a.txt", "text/plain"), ("d.html/a", content_types.DEFAULT), ("A.PNG", "image/png"),
     ("a.tar.gz", content_types.DEFAULT), ("a.txt.gz", content_types.DEFAULT),
     ("noname", content_types.DEFAULT), (".html", content_types.DEFAULT),
     ("http://[x", content_types.DEFAULT), ("data:text/html,x", content_types.DEFAULT),
     ("a?b.json", "application/json"), ("\udcff.json", "application/json")],
)  # fmt: skip
def test_guessed(file: int, path: str, expected: str) -> None:
    """The end of the name decides; packed files and unknown names are just bytes."""
    assert content_types.detect(file, path) == expected


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.binary(max_size=300), st.text())
def test_always_a_header(file: int, noted: bytes, path: str) -> None:
    """Whatever code notes and however it names a file, the detected type can stand in a header."""
    os.setxattr(file, ATTRIBUTE, noted)
    detected = content_types.detect(file, path.replace("\0", ""))
    assert detected.isascii() and detected.isprintable()
    assert RequestHandler._convert_header_value(None, detected) == detected  # type: ignore[arg-type]
