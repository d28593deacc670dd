"""How long a local server lives: it prints its URL, and serves until SIGTERM or SIGINT."""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def stop_signal() -> Iterator[threading.Event]:
    """Within the block SIGTERM and SIGINT only set the event; main thread only."""
    stopped = threading.Event()
    signals = (signal.SIGTERM, signal.SIGINT)
    before = {one: signal.signal(one, lambda *_: stopped.set()) for one in signals}
    try:
        yield stopped
    finally:
        for signum, handler in before.items():
            signal.signal(signum, handler)


def announce(url: str) -> None:
    """Print where a server answers: the only line on its standard output."""
    sys.stdout.write(f"{url}\n")
    sys.stdout.flush()
