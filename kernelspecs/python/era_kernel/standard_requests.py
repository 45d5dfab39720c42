"""Answers the requests of Jupyter's protocol that run no cell, each by a plain function.

A request's content is the client's and may be anything: whatever is wrong with it, and whatever the
user's objects do when they are looked at, the client gets a reply that says so.
"""

from __future__ import annotations

from collections.abc import Callable
from os import getpgid, getpid, kill, killpg
from signal import SIGINT
from sys import version as python_version
from sys import version_info
from typing import Any

from IPython.core.completer import provisionalcompleter, rectify_completions
from IPython.utils.tokenutil import line_at_cursor, token_at_cursor

from era_kernel.history import History
from era_kernel.shell import EraShell
from era_kernel.tracebacks import describe_exception, type_name

PROTOCOL_VERSION = "5.4"
_TYPED_MATCHES = "_jupyter_types_experimental"  # the key under which front ends look for them

Content = dict[str, Any]
Handler = Callable[[Content], Content]
CallInterruptible = Callable[[Callable[[], object]], BaseException | None]


class StandardRequests:
    """Answers by type of request, and survives what the user's objects do meanwhile."""

    def __init__(
        self,
        shell: EraShell,
        comm_manager: Any,
        history: History,
        call_interruptible: CallInterruptible,
    ) -> None:
        self._shell = shell
        self._comm_manager = comm_manager
        self._call_interruptible = call_interruptible
        self._handlers: dict[str, Handler] = STATIC_REQUESTS | {
            "complete_request": self.complete,
            "inspect_request": self.inspect,
            "is_complete_request": self.check_complete,
            "history_request": history.answer,
            "comm_info_request": self.list_comms,
        }

    def answer(self, kind: str, content: Content) -> Content | None:
        """Returns the content of the reply; None for a type of request that is not known here."""
        handler = self._handlers.get(kind)
        if handler is None:
            return None
        reply: Content = {}
        error = self._call_interruptible(lambda: reply.update(handler(content)))
        return reply if error is None else self._error_reply(error)

    def complete(self, content: Content) -> Content:
        """Returns what may stand at the cursor, with types where the completer knows them."""
        code, cursor = str(content["code"]), _cursor_position(content)
        if not getattr(self._shell.kernel, "use_experimental_completions", True):
            line, offset = line_at_cursor(code, cursor)
            text, matches = self._shell.complete("", line, cursor - offset)
            return _complete_reply(list(matches), cursor - len(text), cursor, {})
        with provisionalcompleter():
            found = self._shell.Completer.completions(code, cursor)
            completions = list(rectify_completions(code, found))
        typed = [
            {
                "start": completion.start,
                "end": completion.end,
                "text": completion.text,
                "type": completion.type,
                "signature": completion.signature,
            }
            for completion in completions
        ]
        start, end = (completions[0].start, completions[0].end) if completions else (cursor, cursor)
        matches = [completion.text for completion in completions]
        return _complete_reply(matches, start, end, {_TYPED_MATCHES: typed})

    def inspect(self, content: Content) -> Content:
        """Returns what is known of the name at the cursor, `detail_level` 1 with its source."""
        reply: Content = {"status": "ok", "found": False, "data": {}, "metadata": {}}
        name = token_at_cursor(str(content["code"]), _cursor_position(content))
        try:
            reply["data"] = self._shell.object_inspect_mime(
                name,
                detail_level=1 if content.get("detail_level", 0) else 0,
                omit_sections=set(content.get("omit_sections") or ()),
            )
        except KeyError:  # there is nothing of that name
            return reply
        if not self._shell.enable_html_pager:
            reply["data"].pop("text/html", None)
        return {**reply, "found": True}

    def check_complete(self, content: Content) -> Content:
        """Returns whether code can be run as it is, and how its next line is indented if not."""
        code = str(content["code"])
        try:
            status, spaces = self._shell.input_transformer_manager.check_complete(code)
        except Exception:  # of a transformer that an extension or the user added
            return {"status": "unknown"}
        if status != "incomplete":
            return {"status": status}
        return {"status": status, "indent": " " * (spaces or 0)}

    def evaluate(self, expressions: object) -> Content:
        """Returns the values of `user_expressions`, or for each what went wrong."""
        if not isinstance(expressions, dict):
            return {}
        values: Content = {}
        for name, expression in expressions.items():
            error = self._call_interruptible(
                lambda name=name, expression=expression: values.update(
                    self._shell.user_expressions({name: expression})
                )
            )
            if error is not None:
                values[name] = self._error_reply(error)
        return values

    def list_comms(self, content: Content) -> Content:
        """Returns the open comms, or only those of a target."""
        target = content.get("target_name")
        comms = {
            comm_id: {"target_name": comm.target_name}
            for comm_id, comm in tuple(self._comm_manager.comms.items())
            if target is None or comm.target_name == target
        }
        return {"status": "ok", "comms": comms}

    def _error_reply(self, error: BaseException) -> Content:
        """Returns a reply that tells an error, whose text is made by the user's code."""
        texts = [""]
        self._call_interruptible(lambda: texts.append(describe_exception(error)[1]))
        name = type_name(type(error))
        return {"status": "error", "ename": name, "evalue": texts[-1], "traceback": []}


class AbortPolicy:
    """Says which requests to run code are aborted: those that waited while one failed.

    A client that sends several at once wants the later ones only if the earlier went well, unless
    it says `stop_on_error: false`. What it sends after the reply is run.
    """

    def __init__(self) -> None:
        self._doomed = 0  # requests on shell, of which those to run code are aborted

    def on_failure(self, content: Content, waiting: int) -> None:
        """Is told of a run that failed, before its reply, and how many requests wait on shell."""
        self._doomed = waiting if content.get("stop_on_error", True) else 0

    def is_aborted(self, kind: str) -> bool:
        """Is asked once for each request on shell, in their order."""
        was_waiting = self._doomed > 0
        self._doomed -= was_waiting
        return was_waiting and kind == "execute_request"


NO_CODE_REPLY: Content = {
    "status": "error",
    "ename": "TypeError",
    "evalue": "the code of a run is a string",
    "traceback": [],
}
ABORTED_REPLY: Content = {"status": "aborted"}


def describe_kernel(_: Content) -> Content:
    """Returns the content of a `kernel_info_reply`."""
    version = ".".join(map(str, version_info[:3]))
    return {
        "status": "ok",
        "protocol_version": PROTOCOL_VERSION,
        "implementation": "era",
        "implementation_version": "1",
        "language_info": {
            "name": "python",
            "version": version,
            "mimetype": "text/x-python",
            "file_extension": ".py",
            "pygments_lexer": "ipython3",
            "codemirror_mode": {"name": "ipython", "version": 3},
            "nbconvert_exporter": "python",
        },
        "banner": f"Python {python_version}",
        "debugger": False,
        "help_links": [],
        "supported_features": [],
    }


def interrupt(_: Content) -> Content:
    """Interrupts the run as Ctrl-C in a terminal does, which reaches children, too."""
    process = getpid()
    if getpgid(process) == process:
        killpg(process, SIGINT)
    else:
        kill(process, SIGINT)
    return {"status": "ok"}


def refuse_debugging(content: Content) -> Content:
    """Returns an error that is one to Jupyter and to the debug adapter's protocol."""
    message = "This kernel has no debugger."
    return {
        "status": "error",
        "ename": "NotImplementedError",
        "evalue": message,
        "traceback": [],
        "type": "response",
        "request_seq": content.get("seq", 0),
        "success": False,
        "command": content.get("command", ""),
        "message": message,
    }


# Answered without the user's code: in any thread, and also while a program runs.
STATIC_REQUESTS: dict[str, Handler] = {
    "kernel_info_request": describe_kernel,
    "connect_request": lambda _: {"status": "ok"},
    "debug_request": refuse_debugging,
    "interrupt_request": interrupt,
}


def _cursor_position(content: Content) -> int:
    """Returns the cursor's position in characters of the code, at its end when none is given."""
    length, position = len(str(content["code"])), content.get("cursor_pos")
    return length if position is None else min(max(int(position), 0), length)


def _complete_reply(matches: list[str], start: int, end: int, metadata: Content) -> Content:
    return {
        "status": "ok",
        "matches": matches,
        "cursor_start": start,
        "cursor_end": end,
        "metadata": metadata,
    }
