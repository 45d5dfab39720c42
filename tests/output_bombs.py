"""Programs that flood the server with output and messages, as a session's code can."""

from __future__ import annotations

# Code can reach its kernel's own sockets and the key that signs its messages.
_FIND_SOCKETS = """
import gc, json
from IPython.display import display
found = {type(one).__name__: one for one in gc.get_objects()
         if type(one).__name__ in ("KernelSockets", "WireSession")}
sockets, session = found["KernelSockets"], found["WireSession"]
"""

PROGRAMS = {
    "an image of 50 MB": (
        "class Image:\n"
        "    def _repr_mimebundle_(self, **_): return {'image/png': 'A' * 67_000_000}\n"
        "Image()"
    ),
    "displays of 60 MB": (
        "from IPython.display import display\n"
        "for n in range(2): display({'image/png': 'A' * 60_000_000}, raw=True)"
    ),
    "a line of 100 MB": "print('x' * 100_000_000)",
    "10 000 updates": (
        "from IPython.display import display\n"
        "shown = display('a', display_id='x')\n"
        "for n in range(10_000): shown.update(n)"
    ),
    "lists of 300 000 lists": (
        "from IPython.display import display\n"
        "for n in range(4): display({'application/json': [[]] * 300_000}, raw=True)"
    ),
    "lists of 3 million lists": (
        "from IPython.display import display\n"
        "for n in range(3): display({'application/json': [[]] * 3_000_000}, raw=True)"
    ),
    "200 000 lines one by one": (
        "import sys\nfor n in range(20_000): print(n); print(n, file=sys.stderr)"
    ),
    "forged messages": _FIND_SOCKETS + (
        "for n in range(20_000):\n"
        "    parent = session.msg_header('execute_request')\n"
        "    content = {'name': 'stdout', 'text': 'x' * 1000}\n"
        "    session.send(sockets.iopub, 'stream', content, parent={'header': parent})\n"
        "    sockets.iopub.send_multipart([b'<IDS|MSG>', b'no', b'{}', b'{}', b'{}', b'{}'])\n"
    ),
    "messages of many parts": _FIND_SOCKETS + (
        "for n in range(8): sockets.iopub.send_multipart([b'x' * 1_000_000] * 60)\n"
    ),
}  # fmt: skip

# This ends its kernel, with the cause as text. The kernel's own thread may send by the same socket
# in the midst of a message, which then arrives as two; so it is sent again.
TOO_MANY_PARTS = _FIND_SOCKETS + (
    "import time\nwhile True: sockets.iopub.send_multipart([b''] * 65); time.sleep(0.05)"
)
TOO_LONG = _FIND_SOCKETS + "sockets.iopub.send(bytes(129 << 20))\nimport time; time.sleep(60)"
STATUS_OF_LISTS = _FIND_SOCKETS + "session.send(sockets.iopub, 'status', {'a': [[]] * 990_000})"
