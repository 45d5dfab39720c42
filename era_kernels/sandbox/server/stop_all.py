"""Has the init of a session stop all other processes in one step."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from concurrent.futures import CancelledError

from era_kernels.sandbox.server.control_channel import ChannelError, ControlChannel

MAX_SECONDS = 0.5  # after which the init does not do it any more
_ANSWER_SECONDS = 1.0  # for which an answer is waited for


class StopAll:
    """Asks one init from any thread but that of the event loop."""

    def __init__(self, control: ControlChannel) -> None:
        """Takes the channel to the init; called on the event loop."""
        self.is_possible = True  # as far as is known
        self._control = control
        self._loop = asyncio.get_running_loop()

    def ask(self, on_late: Callable[[], None]) -> bool:
        """Returns whether all have been stopped (blocking).

        `on_late` is called, in another thread, where they may be stopped after this has returned.
        """
        request = self._request(time.monotonic() + MAX_SECONDS)
        try:
            answer = asyncio.run_coroutine_threadsafe(request, self._loop)
        except RuntimeError:  # the loop is closed, and so is the session
            request.close()
            return False
        try:
            return answer.result(_ANSWER_SECONDS) is True
        except (TimeoutError, CancelledError):
            thread = threading.Thread(target=on_late, name="era-late-stop", daemon=True)
            answer.add_done_callback(lambda _: thread.start())
            return False

    async def _request(self, until: float) -> bool | None:
        try:
            reply = await self._control.request({"op": "stop_all", "until": until})
        except ChannelError:  # an init that does not answer at all is ended by the channel's owner
            return None
        stopped: bool | None = reply["stopped"]
        self.is_possible = stopped is not False
        return stopped
