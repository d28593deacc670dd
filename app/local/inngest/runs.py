"""A run, and the queue items and calls that bring it forward."""

from dataclasses import dataclass, field
from functools import partial
from secrets import token_hex
from typing import Any, Literal

from app.local.inngest.events import Event
from app.local.inngest.functions import Function
from app.local.inngest.ids import ENVIRONMENT_ID, iso

# As the REST API spells them.
Status = Literal["Running", "Completed", "Failed", "Cancelled"]


@dataclass(eq=False)
class Run:
    """One run of one function; all times are Unix seconds.

    `steps` are the memoised results in the order they came, of `size` bytes as JSON.
    """

    id: str
    function: Function
    event: Event
    created_at: float
    started_at: float | None = None
    ended_at: float | None = None
    status: Status = "Running"
    output: Any = None
    steps: dict[str, Any] = field(default_factory=dict)
    version: int = -1
    calls: int = 0
    size: int = 0

    @property
    def ended(self) -> bool:
        """Whether nothing can change it any more."""
        return self.ended_at is not None

    def as_rest(self) -> dict[str, Any]:
        """The run as the REST API answers it."""
        return {
            "run_id": self.id,
            "run_started_at": iso(self.started_at or self.created_at),
            "function_id": self.function.uuid,
            "function_version": 1,
            "environment_id": ENVIRONMENT_ID,
            "event_id": self.event.id,
            "status": self.status,
            "ended_at": iso(self.ended_at) if self.ended_at is not None else None,
            "output": self.output,
        }


@dataclass(frozen=True, eq=False)
class Item:
    """A queue item: the next call of a run, tried until it is answered; attempts count from 0."""

    run: Run
    attempt: int = 0
    job_id: str = field(default_factory=partial(token_hex, 8))


@dataclass(frozen=True, eq=False)
class Call:
    """One HTTP call to make for an item: `body` is the state at the time it fell due."""

    item: Item
    url: str
    headers: dict[str, str]
    body: dict[str, Any]
