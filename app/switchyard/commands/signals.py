"""A command's end on SIGTERM or Ctrl-C, at a point where nothing is left half done."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


@contextmanager
def stop_on_signals() -> Iterator[threading.Event]:
    """An event that the first SIGTERM or SIGINT sets. The second one has its usual effect."""
    stop = threading.Event()
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}

    def ask(_number: int, _frame: FrameType | None) -> None:
        restore()
        # In a thread: the handler may interrupt a wait for this event, whose lock is then held by
        # the thread in which the handler runs.
        threading.Thread(target=stop.set, daemon=True).start()

    def restore() -> None:
        for number, handler in before.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)

    for number in before:
        signal.signal(number, ask)
    try:
        yield stop
    finally:
        restore()
