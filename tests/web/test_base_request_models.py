"""Fields that endpoints share: strictness, units, double names, sentences for mistakes."""

from __future__ import annotations

import json
from typing import Any

import pytest

from era_kernels.errors import InvalidRequest
from era_kernels.web import base_request_models
from era_kernels.web.execute import ExecuteRequest
from era_kernels.web.runs import RunRequest
from era_kernels.web.sessions import ChangeSession, CreateSession

RUN = {"code": "x"}
CREATE = {"language": "lingo"}


@pytest.mark.parametrize(
    ("body", "seconds"),
    [
        ({}, None),
        ({"timeout": None, "timeout_ms": None}, None),
        ({"timeout": 0}, None),
        ({"timeout_ms": 0, "timeout": 5}, None),
        ({"timeout_ms": None, "timeout": 5}, 5),
        ({"timeout": 2}, 2),
        ({"timeout": 0.25}, 0.25),
        ({"timeout_ms": 1500, "timeout": 5}, 1.5),
        ({"timeout_ms": 0.5}, 0.0005),
        ({"timeout": 10**30}, 1e12),
    ],
)
def test_timeout(body: dict[str, Any], seconds: float | None) -> None:
    """Both units are taken, milliseconds win, and absent, null and 0 mean the default."""
    assert base_request_models.validate(RunRequest, {**RUN, **body}).timeout_seconds() == seconds


@pytest.mark.parametrize(
    ("model", "body", "message"),
    [
        (RunRequest, {"timeout": "1"}, "`timeout` must be a number."),
        (RunRequest, {"timeout_ms": True}, "`timeout_ms` must be a number."),
        (RunRequest, {"timeout": -1}, "`timeout` must be at least 0."),
        (RunRequest, {"timeout": [1]}, "`timeout` must be a number."),
        (RunRequest, {"code": 3}, "`code` must be a string."),
        (RunRequest, {"update_data": [1]}, "`update_data` must be an object."),
        (RunRequest, {"env": []}, "`env` must be an object."),
        (ExecuteRequest, {"language": "x"}, "`code` is required."),
        (ExecuteRequest, {"code": "x", "language": None}, "`language` must be a string."),
        (CreateSession, {}, "`language` is required."),
        (CreateSession, {**CREATE, "persistent": 1}, "`persistent` must be true or false."),
        (CreateSession, {**CREATE, "data": "x"}, "`data` must be an object."),
        (CreateSession, {**CREATE, "metadata": []}, "`metadata` must be an object."),
        (CreateSession, {**CREATE, "session_id": 1}, "`session_id` must be a string."),
        (CreateSession, {**CREATE, "default_timeout": 0}, "`default_timeout` must be above 0."),
        (
            ChangeSession,
            {"allowInternetAccess": "yes"},
            "`allowInternetAccess` must be true or false.",
        ),
        (ChangeSession, {"metadata": None}, "`metadata` must be an object."),
        (ChangeSession, {"default_timeout": False}, "`default_timeout` must be a number."),
    ],
)  # fmt: skip
def test_wrong_type(
    model: type[base_request_models.RequestModel], body: dict[str, Any], message: str
) -> None:
    """A wrong type is a wrong request whose message names the field."""
    with pytest.raises(InvalidRequest) as caught:
        base_request_models.validate(model, body)
    assert caught.value.message == message
    assert type(caught.value) is InvalidRequest


def test_mistakes_do_not_repeat_values() -> None:
    """Values are the user's: neither message nor details hold them."""
    with pytest.raises(InvalidRequest) as caught:
        base_request_models.validate(
            RunRequest, {"code": ["hush"], "env": {"A": ["hush"]}, "timeout": "hush"}
        )
    assert "hush" not in json.dumps([caught.value.message, caught.value.details])
    assert [one["field"] for one in caught.value.details] == ["timeout", "code", "env"]


async def read_env(body: str) -> dict[str, str]:
    parsed = base_request_models.validate(RunRequest, json.loads(body))
    return await base_request_models.env_strings(parsed.env, body.encode())


async def test_env_values() -> None:
    """Strings stay, numbers are what is written, booleans are true and false."""
    body = '{"code":"x","env":{"A":"é","B":1.50,"C":-0,"D":1e3,"E":true,"F":false,"G":12,"H":""}}'
    assert await read_env(body) == {
        "A": "é", "B": "1.50", "C": "-0", "D": "1e3", "E": "true", "F": "false", "G": "12", "H": "",
    }  # fmt: skip


@pytest.mark.parametrize("body", ['{"code":"x"}', '{"env":null}', '{"env":{}}'])
async def test_no_env(body: str) -> None:
    """No variables are no variables, however it is said."""
    assert await read_env(body) == {}


@pytest.mark.parametrize(
    ("env", "part"),
    [
        ('{"A":null}', "for A"),
        ('{"A":{}}', "for A"),
        ('{"A":[1]}', "for A"),
        ('{"":"x"}', "name"),
        ('{"A=B":"x"}', "name"),
        ('{"A\\u0000":"x"}', "name"),
        ('{"A":"x\\u0000"}', "for A"),
    ],
)
async def test_bad_env(env: str, part: str) -> None:
    """Null, objects and impossible names or values are refused, naming the variable."""
    with pytest.raises(InvalidRequest, match="`env` has") as caught:
        await read_env(f'{{"env":{env}}}')
    assert part in caught.value.message


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ({}, (None, 0)),
        ({"limit": [b"5"], "offset": [b"2"]}, (5, 2)),
        ({"limit": [b"5", b"7"]}, (7, 0)),
        ({"limit": [b""], "other": [b"x"]}, (None, 0)),
        ({"limit": [b"9" * 30], "offset": [b"9" * 30]}, (2**62, 2**62)),
    ],
)
def test_paging(arguments: dict[str, list[bytes]], expected: tuple[int | None, int]) -> None:
    """Numbers of a query are parsed; the last one counts and an empty one is none."""
    paging = base_request_models.parse_query(base_request_models.Paging, arguments)
    assert (paging.limit, paging.offset) == expected
