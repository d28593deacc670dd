"""Named points where a crash test kills the process; without CRASH_AT they do nothing."""

from __future__ import annotations

import os
import signal

_AT = os.environ.get("SWITCHYARD_CRASH_AT", "")


def point(name: str) -> None:
    """Die here, as by kill -9, if SWITCHYARD_CRASH_AT names this point."""
    if name == _AT:
        os.kill(os.getpid(), signal.SIGKILL)
