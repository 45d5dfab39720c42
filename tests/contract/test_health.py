"""Health and the rest: health, limits, languages, the document and its page."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

import era_kernels
from tests.client import Client
from tests.contract.checks import TIME, check_error
from tests.server_process import temporary_launcher

KIB, MIB, GIB = 1 << 10, 1 << 20, 1 << 30
LIMITS: dict[str, Any] = {
    "default_timeout": 30,
    "max_timeout": 3600,
    "max_queue": 100,
    "max_json_body": 32 * MIB,
    "max_answer_output": 10 * MIB,
    "max_execution_output": GIB,
    "keep_executions": 100,
    "keep_executions_bytes": GIB,
}
# A language that is known, but whose program is not there.
MISSING_LANGUAGE_SPEC = """{
  "argv": ["a-program-that-is-nowhere", "{connection_file}"],
  "display_name": "Lingo", "language": "lingo",
  "metadata": {"era_kernels": {"aliases": ["li"]}}
}"""


@pytest.mark.parametrize("path", ["/health", "/api/health"])
def test_health(client: Client, path: str) -> None:
    """Health shows version, time under two names, isolation and languages."""
    answer = client.http.get(path)
    assert answer.status_code == 200
    shown = answer.json()
    assert set(shown) == {
        "status", "timestamp", "time", "version", "isolation", "languages",
    }  # fmt: skip
    assert shown["status"] == "healthy"
    assert TIME.fullmatch(shown["timestamp"])
    assert shown["time"] == shown["timestamp"]
    assert shown["version"] == era_kernels.__version__
    assert shown["isolation"]["tier"] in (1, 2, 3, 4)
    assert all(isinstance(text, str) for text in shown["isolation"]["missing"])
    assert shown["languages"]["python"] is True


def test_limits(client: Client) -> None:
    """Limits are shown by their settings' names, in plain numbers of bytes and seconds."""
    shown = client.http.get("/api/limits").json()
    assert {name: shown.get(name) for name in LIMITS} == LIMITS
    assert 1 <= shown["max_kernels"] <= 500
    assert "api_tokens" not in shown
    assert "data_dir" not in shown


def test_settings_of_limits(lacking: Client) -> None:
    """Flags win over the environment, the environment over the file; sizes are powers of 1024."""
    shown = lacking.http.get("/api/limits").json()
    assert shown["max_json_body"] == 512 * KIB
    assert (shown["max_queue"], shown["keep_executions"]) == (2, 3)


def test_languages(client: Client) -> None:
    """Languages are listed with aliases, version, kernels and capabilities."""
    [python] = [
        one for one in client.http.get("/api/languages").json()["languages"]
        if one["name"] == "python"
    ]  # fmt: skip
    names = {"name", "aliases", "available", "version", "kernels", "capabilities", "kernel_details"}
    assert set(python) == names
    assert python["aliases"] == ["py", "python3"]
    assert python["available"] is True
    assert python["version"].startswith("3.")


@pytest.fixture(scope="module")
def lacking(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    """A server with settings of all kinds; it knows a language that is not installed."""
    directory = tmp_path_factory.mktemp("kernelspecs")
    (directory / "lingo").mkdir()
    (directory / "lingo" / "kernel.json").write_text(MISSING_LANGUAGE_SPEC)
    config = directory / "era.toml"
    config.write_text('max_queue = 3\nmax_json_body = "3M"\nkeep_executions = 3\n')
    env = {"ERA_CONFIG": str(config), "ERA_MAX_QUEUE": "2", "ERA_MAX_JSON_BODY": "2M"}
    flags = ["--max-json-body", "512K", "--kernelspec-dirs", str(directory)]
    with temporary_launcher() as launcher:
        client = Client(launcher.start(*flags, env=env).base_url)
        yield client
        client.close()


def test_language_that_is_not_installed(lacking: Client) -> None:
    """A known language that is not installed is listed with the reason, and is not available."""
    [shown] = [
        one for one in lacking.http.get("/api/languages").json()["languages"]
        if one["name"] == "lingo"
    ]  # fmt: skip
    assert shown["available"] is False
    assert "a-program-that-is-nowhere" in shown["reason"]
    assert lacking.http.get("/health").json()["languages"]["lingo"] is False


@pytest.mark.parametrize("language", ["lingo", "LI"])
def test_use_of_what_is_not_installed(lacking: Client, language: str) -> None:
    """Running it is 503 LANGUAGE_UNAVAILABLE, saying what is missing and when to come again."""
    answer = lacking.http.post("/api/execute", json={"language": language, "code": ""})
    shown = check_error(answer, 503, "LANGUAGE_UNAVAILABLE")
    assert "a-program-that-is-nowhere" in shown["message"]
    assert int(answer.headers["Retry-After"]) > 0


def test_session_of_what_is_not_installed(lacking: Client) -> None:
    """A session of it never runs: 503 at its creation or, at the latest, at its run."""
    answer = lacking.http.post("/api/sessions", json={"language": "lingo", "id": "l1"})
    if answer.status_code == 201:
        answer = lacking.http.post("/api/sessions/l1/run", json={"code": ""})
    check_error(answer, 503, "LANGUAGE_UNAVAILABLE")


def test_document(client: Client) -> None:
    """The OpenAPI document lists every path of the API."""
    shown = client.http.get("/openapi.json").json()
    session = "/api/sessions/{id}"
    execution = f"{session}/executions/{{execution_id}}"
    assert set(shown["paths"]) >= {
        "/api/execute", "/api/sessions", session, f"{session}/run", f"{session}/stream",
        f"{session}/restart", f"{session}/executions", execution, f"{execution}/stream",
        f"{execution}/stdout", f"{execution}/stderr", "/health", "/api/health",
        "/api/languages", "/api/limits",
    }  # fmt: skip


def test_page(client: Client) -> None:
    """The page that renders the document loads nothing from anywhere else."""
    answer = client.http.get("/docs")
    assert answer.headers["Content-Type"].startswith("text/html")
    assert "http:" not in answer.text
    assert "https:" not in answer.text
    assert "default-src 'none'" in answer.headers["Content-Security-Policy"]
