"""Faults on demand, so that tests can meet what a real service does on a bad day."""

import random
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

Probability = Annotated[float, Field(ge=0, le=1)]


class Faults(BaseModel):
    """Each is a probability: for the first three per request, for the others per event."""

    model_config = ConfigDict(extra="forbid")

    refuse: Probability = 0.0
    """Answer 503 and take nothing."""
    unknown_outcome: Probability = 0.0
    """Take the events, then answer 500."""
    drop: Probability = 0.0
    """Take the events, then close the connection without an answer, after `hang` seconds."""
    swallow: Probability = 0.0
    """Answer 200 and never run anything for the event."""
    double: Probability = 0.0
    """Start each function twice for the event, at the same time."""
    hang: Annotated[float, Field(ge=0, le=600)] = 0.0


class Dice:
    """Decides from one seed which faults strike; quiet until told otherwise."""

    def __init__(self, rng: random.Random) -> None:
        self.faults = Faults()
        self._rng = rng

    def hit(self, name: str) -> bool:
        """Whether the fault of that name strikes now."""
        return self._rng.random() < float(getattr(self.faults, name))
