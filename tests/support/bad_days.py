"""What goes wrong at Inngest or QStash now and then, on demand and from a seed."""

from __future__ import annotations

import json
import random
import threading
from collections.abc import Iterable
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import BaseModel, ConfigDict, Field
from werkzeug.wrappers import Response

from app.local.standin import StandIn
from tests.support.serving import drop_connection

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIEnvironment

Probability = Annotated[float, Field(ge=0, le=1)]


class Faults(BaseModel):
    """How likely each fault is: the first three per request, the others per message."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    refuse: Probability = 0.0
    """Answer 503 and accept nothing."""
    unknown_outcome: Probability = 0.0
    """Accept what was sent, then answer 500."""
    drop: Probability = 0.0
    """Accept it, then close the connection without an answer."""
    swallow: Probability = 0.0
    """Answer well and never act on it."""
    double: Probability = 0.0
    """Act on it twice."""
    late: float = Field(default=0.0, ge=0)
    """Act on it up to so many seconds late, so that messages overtake each other."""
    spread: float = Field(default=1.0, ge=0)
    """Most seconds between the two of a doubled message."""


class BadDays(StandIn):
    """A stand-in's days, with faults. For all threads."""

    def __init__(self, *args: Any, seed: int | None = None, **options: Any) -> None:
        super().__init__(*args, **options)
        self.faults = Faults()
        self._random = random.Random(seed)
        self._lock = threading.Lock()

    def fault(self, **faults: float) -> None:
        """Set the faults, all others to nought."""
        self.faults = Faults.model_validate(faults)

    def __call__(self, environ: WSGIEnvironment, start: StartResponse) -> Iterable[bytes]:
        if not environ["PATH_INFO"].startswith(("/v2/", "/e/")):
            return super().__call__(environ, start)
        if self._strikes("refuse"):
            return _error(503, "refused on demand")(environ, start)
        answer = Response.from_app(super().__call__, environ, buffered=True)
        if environ["REQUEST_METHOD"] == "POST" and answer.status_code < 300:
            if self._strikes("drop"):
                drop_connection(environ)
            if self._strikes("unknown_outcome"):
                answer = _error(500, "failed on demand, after it was accepted")
        return answer(environ, start)

    def times(self, at: float) -> list[float]:
        if self._strikes("swallow"):
            return []
        first = at + self._between(0, self.faults.late)
        again = first + self._between(0, self.faults.spread)
        return [first, again] if self._strikes("double") else [first]

    def _strikes(self, fault: str) -> bool:
        return self._between(0, 1) < float(getattr(self.faults, fault))

    def _between(self, low: float, high: float) -> float:
        with self._lock:
            return self._random.uniform(low, high)


def _error(status: int, why: str) -> Response:
    return Response(json.dumps({"error": why}), status, content_type="application/json")
