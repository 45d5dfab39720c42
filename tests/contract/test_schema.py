"""The OpenAPI document is true: whatever it allows to be sent is answered as it says.

schemathesis makes requests of the document, good and bad ones; what they do is kept harmless.
"""

from __future__ import annotations

import time
from typing import Any

import httpx
import pytest
import requests
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from schemathesis import Case, GenerationMode
from schemathesis.core.failures import FailureGroup
from schemathesis.openapi.checks import JsonSchemaError, UndefinedContentType
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from tests.client import Client
from tests.server_process import Server

CHECKS = [status_code_conformance, content_type_conformance, response_schema_conformance]
MODES = [GenerationMode.POSITIVE, GenerationMode.NEGATIVE]
ANSWER_TIMEOUT = 20.0  # seconds until an answer counts as a hang
FEW = 4  # examples of an operation in a mode
MANY = 40
LONG = 600.0  # seconds
KNOWN = "known"

# What is run instead of the text that was made up, which is only printed.
PROGRAMS = [
    "1/0",
    "import os; os._exit(3)",
    "import time; time.sleep(9)",
    "print('x' * 300_000)",
    "open('a.txt', 'w').write('a')",
    "raise SystemExit(2)",
    "input()",
]
COMMANDS = ["true", "exit 3", "kill -9 $$", "sleep 9", "no-such-program", "seq 100000"]

# A server whose runs are short.
SERVER_FLAGS = (
    "--max-timeout", "1", "--default-timeout", "0.5", "--max-kernels", "8",
    "--max-background-timeout", "1",
    "--max-answer-output", "64K", "--max-execution-output", "1M",
)  # fmt: skip


@pytest.fixture(scope="module")
def schema(client: Client) -> Any:
    """What the server says of itself."""
    schema = schemathesis.openapi.from_dict(client.http.get("/openapi.json").json())
    schema.config.update(base_url=client.base_url)
    return schema


class ServerState:
    """A session with an execution, there again whenever a request has deleted it."""

    def __init__(self, http: httpx.Client) -> None:
        self._http = http
        self.execution_id = ""
        self.link: dict[str, str] = {}

    def clear(self) -> None:
        self._http.delete("/api/sessions").raise_for_status()

    def ensure(self) -> None:
        path = f"/api/sessions/{KNOWN}"
        answer = self._http.post("/api/sessions", json={"language": "python", "id": KNOWN})
        if answer.status_code == 409:
            return
        run = self._http.post(f"{path}/run", json={"code": "print(1)"})
        assert run.status_code in (200, 408)  # within half a second, or not
        self.execution_id = run.json()["execution_id"]
        self._http.put(f"{path}/files/a.txt", content=b"abc").raise_for_status()
        self._http.put(f"{path}/code", json={"code": "print(2)"}).raise_for_status()
        link = self._http.post(f"{path}/links", json={"path": "a.txt"}).raise_for_status().json()
        self.link = {"link_id": link["id"], "secret": link["url"].split("/")[-2]}


def use_known_ids(case: Case, server_state: ServerState, choices: st.DataObject) -> None:
    """Let most requests meet something that is there, and run nothing that was made up."""
    server_state.ensure()
    known = {"id": KNOWN, "execution_id": server_state.execution_id, "path": "a.txt"}
    known |= server_state.link
    for name, value in known.items():
        if name in (case.path_parameters or {}) and choices.draw(st.integers(0, 3)):
            case.path_parameters[name] = value
    body = case.body
    if not isinstance(body, dict):
        return
    if isinstance(body.get("code"), str):
        printed = f"print({body['code'][:1000]!r})"
        body["code"] = choices.draw(st.sampled_from([printed, printed, *PROGRAMS]))
    if isinstance(body.get("command"), str):
        body["command"] = choices.draw(st.sampled_from(COMMANDS))
    if isinstance(body.get("argv"), list) and body["argv"]:
        body["argv"][0] = "true"
    if isinstance(body.get("language"), str) and choices.draw(st.booleans()):
        body["language"] = "python"


def check(case: Case, session: requests.Session) -> None:
    """The answer comes in time, is no bug, and is what the document says."""
    answer = case.call(session=session, timeout=ANSWER_TIMEOUT)
    status = answer.status_code
    documented = str(status) in case.operation.definition.raw["responses"]
    of_programs = (502, 504) if case.path.startswith("/proxy/") else ()
    fine = documented if status < 400 else status < 500 or status in (503, 507, *of_programs)
    assert fine, f"{status} {answer.text}\n{case.as_curl_command()}"
    case.validate_response(answer, checks=CHECKS)


def exercise(operation: Any, mode: GenerationMode, examples: int, **options: Any) -> None:
    """Send requests that schemathesis makes of an operation."""
    client, session = options.pop("client"), requests.Session()
    server_state = ServerState(client.http)
    server_state.clear()

    @settings(
        max_examples=examples,
        deadline=None,
        database=None,
        phases=[Phase.explicit, Phase.generate],
        suppress_health_check=list(HealthCheck),
        **options,
    )
    @given(operation.as_strategy(generation_mode=mode), st.data())
    def send(case: Case, choices: st.DataObject) -> None:
        use_known_ids(case, server_state, choices)
        check(case, session)

    with session:
        send()


def operations(schema: Any) -> list[Any]:
    found = [result.ok() for result in schema.get_all_operations()]
    assert len(found) > 15
    return found


def modes_of(operation: Any) -> list[GenerationMode]:
    """Where nothing is taken, nothing can be wrong."""
    return MODES if operation.body or operation.query or operation.path_parameters else MODES[:1]


@pytest.mark.timeout(300)  # beside others
def test_answers_are_as_documented(client: Client, server: Server, schema: Any) -> None:
    """A few good and bad requests to every operation: no bug, no hang, nothing undocumented."""
    for operation in operations(schema):
        for mode in modes_of(operation):
            exercise(operation, mode, FEW, client=client, derandomize=True)
    assert "Traceback" not in server.log_text


@pytest.mark.long
@pytest.mark.timeout(LONG + 120)
def test_answers_are_as_documented_for_long(client: Client, server: Server, schema: Any) -> None:
    """Ten minutes of good and bad requests, other ones each time."""
    end = time.monotonic() + LONG
    while time.monotonic() < end:
        for operation in operations(schema):
            for mode in modes_of(operation):
                exercise(operation, mode, MANY, client=client)
    assert "Traceback" not in server.log_text


def test_document_that_lies_is_found(client: Client, schema: Any) -> None:
    """The checks see an answer of another shape and of another kind than the document says."""
    case = schema["/health"]["GET"].Case()
    for path, mistake in (("/api/limits", JsonSchemaError), ("/docs", UndefinedContentType)):
        with pytest.raises(FailureGroup) as found:
            case.validate_response(client.http.get(path), checks=CHECKS)
        assert isinstance(found.value.exceptions[0], mistake)
