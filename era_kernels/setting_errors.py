"""Names settings as flags and environment variables, and says what is wrong with their values."""

from __future__ import annotations

import os
from collections.abc import Mapping

from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from era_kernels.setting_types import ENV_PREFIX


def flag_name(name: str) -> str:
    return "--" + name.replace("_", "-")


def env_variable(name: str) -> str:
    return ENV_PREFIX + name.upper()


def is_secret(field: FieldInfo) -> bool:
    """Returns whether the value of a setting must never be shown."""
    return not field.repr


_REQUIREMENTS = {
    "int_parsing": "a whole number",
    "int_from_float": "a whole number",
    "int_type": "a whole number",
    "float_parsing": "a number",
    "float_type": "a number",
    "finite_number": "a finite number",
    "bool_parsing": "true or false",
    "bool_type": "true or false",
    "string_type": "text",
    "string_too_short": "text that is not empty",
    "path_type": "a path",
    "literal_error": "{expected}",
    "greater_than": "above {gt}",
    "greater_than_equal": "at least {ge}",
    "less_than_equal": "at most {le}",
    "setting": "{requirement}",
}


def error_sentence(
    error: ErrorDetails, flags: Mapping[str, object], fields: Mapping[str, FieldInfo]
) -> str:
    """Returns a sentence with the setting, its source, the rule and (if no secret) its value."""
    context = error.get("ctx", {})
    name = str(error["loc"][0] if error["loc"] else context["name"])
    field = fields.get(name)
    if field is None:
        return f'There is no setting "{name}".'
    requirement = _REQUIREMENTS.get(error["type"], "a valid value").format(**context)
    value_text = "" if is_secret(field) or not error["loc"] else f", not {_shorten(error['input'])}"
    return f"{name} (from {_source_of(name, flags)}) must be {requirement}{value_text}."


def _shorten(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:79] + "…"


def _source_of(name: str, flags: Mapping[str, object]) -> str:
    if name in flags:
        return flag_name(name)
    for variable, value in os.environ.items():
        if value and variable.upper() == env_variable(name):
            return variable
    return "the configuration file"
