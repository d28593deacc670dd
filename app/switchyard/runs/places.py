"""A job's places: how many runs of it may run at once, over all backends together.

A running run of a capped job has one of the places 1 to its cap, in its own row; a unique index
lets no two have the same. The place is taken by the very claim and given back by whatever ends
the slice, so that what a dead holder had is free again once its run was taken over. Only one that
is alive and does not know it yet (taken over while its process stood still, or cancelled) goes on
outside the cap, until the fence refuses its next write.
"""

from __future__ import annotations

import random
import time
from datetime import datetime, timedelta
from zlib import crc32

from sqlalchemy import Connection
from sqlalchemy.exc import IntegrityError

from app.switchyard.runs import ledger
from app.switchyard.runs.ledger import Bid, Claim
from app.switchyard.runs.statements import PUT_OFF, TAKEN

WAIT_SECONDS = 0.5
"""How long a worker waits for a place. Were it to put off at once all that it finds in its queue,
the places would stay empty until the relay has sent those runs again."""
_LOOK_SECONDS = 0.05
_TRIES = 3
"""How often to choose again where another was quicker."""
_OFF_MS, _SPREAD_MS = 1000, 2000


def claim(
    connection: Connection, bid: Bid, job: str, cap: int, wait_seconds: float = 0.0
) -> Claim | None:
    """Take the run with one of its job's `cap` places; None where they are taken, or the run is.

    `connection` commits by itself: a place lost to another undoes nothing else.
    """
    end = time.monotonic() + wait_seconds
    lost = 0
    while lost < _TRIES:
        bound = {"of_job": job, "run_id": bid.run_id}
        taken = set(connection.execute(TAKEN, bound).scalars())
        # Places above the cap are left from when it was higher: they count until they are free.
        if len(taken) >= cap:
            if time.monotonic() >= end:
                return None
            time.sleep(_LOOK_SECONDS)
            continue
        free = [place for place in range(1, cap + 1) if place not in taken]
        try:
            # At random, so that those who choose at the same moment seldom choose the same.
            return ledger.claim_place(connection, bid, random.choice(free))
        except IntegrityError:
            lost += 1
    return None


def put_off(connection: Connection, bid: Bid, patience: timedelta) -> datetime | None:
    """Have a run that found no place sent again in 1 to 3 s: when; None if it is not to be had.

    `patience` is how long after that it may stay unclaimed before the relay sees to it.
    """
    wait = _OFF_MS + crc32(bid.run_id.encode()) % (_SPREAD_MS + 1)
    due = bid.now + timedelta(milliseconds=wait)
    bound = bid.bound() | {"new_due_at": due, "new_check_at": due + patience}
    return due if connection.execute(PUT_OFF, bound).rowcount == 1 else None
