"""What the stand-ins of Inngest and of QStash share: being served, and bad days on demand."""

from __future__ import annotations

import random
import threading
from abc import ABC, abstractmethod
from typing import Annotated, Self

from flask import Flask, abort, jsonify, request
from pydantic import BaseModel, ConfigDict, Field
from werkzeug.wrappers import Response

from app.local.serving import drop_connection

Probability = Annotated[float, Field(ge=0, le=1)]


class Faults(BaseModel):
    """What a real service does on a bad day: the first three per request, the others each time."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    refuse: Probability = 0.0  # answer 503 and take nothing
    unknown_outcome: Probability = 0.0  # take what is sent, then answer 500
    drop: Probability = 0.0  # take it, then close the connection without an answer
    swallow: Probability = 0.0  # answer well and never act on it
    double: Probability = 0.0  # act on it twice


class StandIn(ABC):
    """A server with a life of its own. Used in a `with` block it starts on a free port, which `url`
    then names."""

    faults: Faults = Faults()

    def __init__(self, seed: int | None) -> None:
        self.url = ""
        self._dice = random.Random(seed)
        self._dice_lock = threading.Lock()
        self._stopped = threading.Event()

    @abstractmethod
    def start(self, port: int = 0) -> str:
        """Serve on `port` (0 for a free one); gives the URL."""

    @abstractmethod
    def stop(self) -> None:
        """End, if it has begun."""

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def fault(self, **faults: float) -> None:
        """Set the faults, all others to nought: see `Faults` for their names."""
        self.faults = type(self.faults).model_validate(faults)

    def strikes(self, fault: str) -> bool:
        """Whether the fault of that name strikes now."""
        return self.between(0, 1) < float(getattr(self.faults, fault))

    def between(self, low: float, high: float) -> float:
        """A number that the dice give."""
        with self._dice_lock:
            return self._dice.uniform(low, high)

    def lose_answer(self) -> None:
        """To a request whose content was taken: nothing, or a 500, if it is a bad day."""
        if self.strikes("drop"):
            drop_connection(request.environ)
        if self.strikes("unknown_outcome"):
            abort(500, "failed on demand, after it was taken")

    def mount_faults(self, app: Flask) -> None:
        """POST /_standin/faults sets the faults."""

        @app.post("/_standin/faults")
        def set_faults() -> Response:
            try:
                self.fault(**request.get_json(force=True))
            except (TypeError, ValueError) as error:
                abort(400, str(error))
            return jsonify(self.faults.model_dump())
