"""A backend in memory: what it is sent, the calling process performs when it says so."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Mapping, Sequence
from contextlib import suppress

from app.switchyard.runs.backend import Delivery, Message, Outcome
from app.switchyard.runs.engine import Engine


class MemoryBackend:
    """A queue in a list, which several may share; it may bear the name of the backend it stands in
    for. What it holds is gone with its process: the relay then sends it again."""

    name = "memory"
    waits_until_due = False

    def __init__(self, name: str | None = None, queue: deque[Message] | None = None) -> None:
        self.name = name or self.name
        self.queue: deque[Message] = deque() if queue is None else queue

    def send(self, messages: Sequence[Message]) -> Mapping[str, str]:
        """Queue the messages."""
        self.queue.extend(messages)
        return {}

    def queued(self, messages: Sequence[Message]) -> set[str]:
        """The runs still in the list."""
        queued = {message.run_id for message in self.queue}
        return {message.run_id for message in messages if message.run_id in queued}

    def cancel(self, messages: Sequence[Message]) -> None:
        """Take the messages out of the list."""
        sent = {(message.run_id, message.epoch) for message in messages}
        for message in [m for m in self.queue if (m.run_id, m.epoch) in sent]:
            with suppress(ValueError):  # another thread performs it
                self.queue.remove(message)

    def ping(self) -> None:
        """Always there."""

    def work(self, engine: Engine, limit: int = 10_000) -> list[Outcome]:
        """Perform what is queued, and what that queues, one slice each; at most `limit` slices.

        Several threads may work at once.
        """
        outcomes: list[Outcome] = []
        while len(outcomes) < limit:
            try:
                message = self.queue.popleft()
            except IndexError:
                break
            delivery = Delivery(f"memory-{os.urandom(8).hex()}")
            outcomes.append(engine.perform(message.run_id, message.epoch, delivery))
        return outcomes
