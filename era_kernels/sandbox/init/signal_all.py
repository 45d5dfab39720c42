"""Signals all processes of a session in one step, between which none can fork away.

For kill(2) with the pid -1 Linux goes through all processes while none can come into being, and a
child that is being made gets the signal, too.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time

from era_kernels.sandbox.init.sandbox_spec import SandboxSpec
from era_kernels.sandbox.linux import syscalls

_POLL_INTERVAL = 0.0005  # seconds
_ALL = -1


def signal_all(spec: SandboxSpec, number: int, seconds: float) -> bool | None:
    """Signals all processes of the session but this one, its init (blocking, briefly).

    Returns False where that cannot be done, None when it may not have been done within `seconds`.
    """
    if (spec.has_namespaces and os.getpid() == 1) or is_confined(spec):
        _kill_all(number)
        return True
    if spec.uid is None or not spec.signaller_uid:  # never as root, where few uids are mapped
        return False
    return _signal_as_user(spec.uid, spec.signaller_uid, number, seconds)


def is_confined(spec: SandboxSpec) -> bool:
    """Returns whether Landlock denies this process to signal others than the session's.

    Its parent shows whether that is in force.
    """
    parent = os.getppid()
    if not spec.signals_end_inside or parent == 0:
        return False
    try:
        os.kill(parent, 0)
    except PermissionError:
        return True
    return False


def _kill_all(number: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):  # there is none
        os.kill(_ALL, number)


def _signal_as_user(uid: int, own_uid: int, number: int, seconds: float) -> bool | None:
    """Signals all of a uid by a child without rights, which processes of that uid cannot signal.

    Who may signal whom is told by the effective and the real uid of the one, and by the real and
    the saved uid of the other.
    """
    try:
        pid = os.fork()
    except OSError:
        return None
    if pid == 0:
        try:
            os.setresuid(own_uid, uid, own_uid)
            syscalls.drop_capabilities()
            _kill_all(number)
        except BaseException:
            os._exit(1)
        os._exit(0)
    deadline = time.monotonic() + seconds
    while True:
        found, status = os.waitpid(pid, os.WNOHANG | os.WUNTRACED)
        if found and not os.WIFSTOPPED(status):
            return os.waitstatus_to_exitcode(status) == 0 or None
        if found:  # by such a child of another session
            os.kill(pid, signal.SIGCONT)
        elif time.monotonic() >= deadline:
            os.kill(pid, signal.SIGKILL)
        time.sleep(_POLL_INTERVAL)
