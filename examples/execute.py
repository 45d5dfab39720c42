#!/usr/bin/env python3
"""Execute: run a program once, in a session that is gone afterwards. Standard library only."""

from __future__ import annotations

import json
import os
import urllib.error
import urllib.request
from typing import Any

URL = os.environ.get("ERA_URL", "http://127.0.0.1:8787").rstrip("/")


def execute(code: str, **options: Any) -> dict[str, Any]:
    """Returns the result of `POST /api/execute`, also that of a timeout (status 408)."""
    body = json.dumps({"language": "python", "code": code, **options}).encode()
    request = urllib.request.Request(
        f"{URL}/api/execute", body, {"Content-Type": "application/json"}
    )
    try:
        with urllib.request.urlopen(request, timeout=60) as response:
            answer = json.load(response)
    except urllib.error.HTTPError as error:
        if error.code != 408:
            raise SystemExit(f"{error}: {error.read().decode()}") from None
        answer = json.load(error)
    return dict(answer)


def main() -> None:
    answer = execute("print('Hello World')")
    print(f"stdout {answer['stdout']!r}, exit code {answer['exit_code']}, {answer['duration']}")
    assert answer["stdout"] == "Hello World\n"

    answer = execute("import os; print('Hello', os.environ['NAME'])", env={"NAME": "Ada"})
    print(f"with a variable: {answer['stdout']!r}")
    assert answer["stdout"] == "Hello Ada\n"

    answer = execute("import sys\nprint('oops', file=sys.stderr)\nsys.exit(3)")
    print(f"a failing program: stderr {answer['stderr']!r}, exit code {answer['exit_code']}")
    assert (answer["stderr"], answer["exit_code"]) == ("oops\n", 3)

    answer = execute("import time; print('begun', flush=True); time.sleep(60)", timeout_ms=500)
    print(f"too slow: {answer['code']}, stdout so far {answer['stdout']!r}")
    assert (answer["exit_code"], answer["stdout"]) == (124, "begun\n")


if __name__ == "__main__":
    main()
