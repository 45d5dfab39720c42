"""A tab of a real browser, which tests drive as a person would: open, look, click, type."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx
import pytest

from tests.browser import open_browser
from tests.waiting import wait_until

websocket_client = pytest.importorskip("websockets.sync.client")

SECONDS = 90.0  # that a step may take where much else is tested
_EMPTY = "about:blank"


@contextmanager
def open_tab() -> Iterator[Tab]:
    """Opens a browser with one tab."""
    with open_browser(_EMPTY) as profile:
        port_file = profile / "DevToolsActivePort"
        assert wait_until(lambda: port_file.exists() and "\n" in port_file.read_text(), SECONDS)
        address = f"http://127.0.0.1:{port_file.read_text().split()[0]}"
        assert wait_until(lambda: bool(_pages(address)), SECONDS)
        url = _pages(address)[0]["webSocketDebuggerUrl"]
        with websocket_client.connect(url, max_size=None, open_timeout=SECONDS) as connection:
            yield Tab(address, connection)


def _pages(address: str) -> list[dict[str, Any]]:
    """Returns what a browser tells of its tabs."""
    targets = httpx.get(f"{address}/json/list", timeout=SECONDS).json()
    return [target for target in targets if target["type"] == "page"]


class Tab:
    """The first tab of a browser, driven by the DevTools protocol."""

    def __init__(self, address: str, connection: Any) -> None:
        """Takes the address of the browser, and a connection to the tab."""
        self._address, self._connection = address, connection
        self._serial = 0

    def addresses(self) -> list[str]:
        """Returns the addresses that all tabs show, popups among them."""
        return [page["url"] for page in _pages(self._address)]

    def call(self, method: str, **params: Any) -> dict[str, Any]:
        """Calls a method of the protocol. Raises RuntimeError with what the browser says."""
        self._serial += 1
        message = {"id": self._serial, "method": method, "params": params}
        self._connection.send(json.dumps(message))
        while True:
            answer = json.loads(self._connection.recv(timeout=SECONDS))
            if answer.get("id") == self._serial:
                break
        if "error" in answer:
            raise RuntimeError(answer["error"]["message"])
        result: dict[str, Any] = answer["result"]
        return result

    def open(self, url: str) -> None:
        """Shows a page, and waits until all of it is loaded."""
        error = self.call("Page.navigate", url=url).get("errorText")
        assert error is None, (url, error)
        self.wait_for(f"location.href != {_EMPTY!r} && document.readyState == 'complete'")

    def run(self, script: str) -> Any:
        """Runs a script in the page, as if a click had started it, and returns its value.

        Raises RuntimeError with the error that the script throws.
        """
        answer = self.call(
            "Runtime.evaluate",
            expression=script,
            awaitPromise=True,
            returnByValue=True,
            userGesture=True,
        )
        if "exceptionDetails" in answer:
            raise RuntimeError(answer["exceptionDetails"]["exception"].get("description"))
        return answer["result"].get("value")

    def wait_for_text(self, text: str) -> None:
        """Waits until the page shows a text."""
        self.wait_for(f"document.body.innerText.includes({json.dumps(text)})")

    def wait_for(self, condition: str, seconds: float = SECONDS) -> None:
        """Waits until an expression is true in the page, which may be one that still loads."""

        def is_true() -> bool:
            try:
                return bool(self.run(f"Boolean({condition})"))
            except RuntimeError:
                return False

        assert wait_until(is_true, seconds), (condition, self.run("document.body.innerText"))

    def click(self, element: str) -> None:
        """Clicks on the middle of an element, which an expression names, when it is there."""
        self.wait_for(f"({element}) instanceof Element")
        x, y = self.run(
            f"(() => {{ const one = {element}; one.scrollIntoView({{block: 'center'}});"
            " const box = one.getBoundingClientRect();"
            " return [box.x + box.width / 2, box.y + box.height / 2] })()"
        )
        for kind in ("mousePressed", "mouseReleased"):
            self.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)

    def type(self, text: str) -> None:
        """Types a line into what has the focus."""
        self.call("Input.insertText", text=text)
        self.call(
            "Input.dispatchKeyEvent",
            type="keyDown",
            key="Enter",
            text="\r",
            windowsVirtualKeyCode=13,
        )
