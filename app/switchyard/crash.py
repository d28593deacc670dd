"""Named points at which a crash test kills the process. Without its variables they do nothing.

SWITCHYARD_CRASH_AT names one point. SWITCHYARD_CRASH_EACH names a file that records the points at
which the process was killed: a run is killed once at every point of every step, and still ends.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable

from app.switchyard import logs

_AT = os.environ.get("SWITCHYARD_CRASH_AT", "")
_EACH = os.environ.get("SWITCHYARD_CRASH_EACH", "")
hook: Callable[[str], None] | None = None
"""What a test in this process has happen at each point."""


def point(name: str) -> None:
    """Die here, as if by kill -9, if the variables say so."""
    if hook is not None:
        hook(name)
    if name == _AT or (_EACH and _first_time(f"{name}@{logs.values().get('step', '')}")):
        os.kill(os.getpid(), signal.SIGKILL)


def _first_time(mark: str) -> bool:
    file = os.open(_EACH, os.O_CREAT | os.O_RDWR | os.O_APPEND, 0o600)
    try:
        if mark in os.read(file, 1 << 20).decode().split():
            return False
        os.write(file, f"{mark}\n".encode())
        os.fsync(file)
    finally:
        os.close(file)
    return True
