"""Calls that may hang, each in a thread of its own: no client's timeout bounds a whole call, which
may wait for a name to be resolved."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import TypeVar

T = TypeVar("T")


def in_thread(call: Callable[[], T]) -> Future[T]:
    """The future result of `call`. Its result(seconds) raises TimeoutError while there is none,
    and what the call raised, or RuntimeError where the process can have no more threads."""
    future: Future[T] = Future()

    def run() -> None:
        try:
            future.set_result(call())
        except BaseException as failure:  # noqa: BLE001 - whoever waits for the result raises it
            future.set_exception(failure)

    try:
        threading.Thread(target=run, daemon=True).start()
    except RuntimeError as no_thread:
        future.set_exception(no_thread)
    return future
