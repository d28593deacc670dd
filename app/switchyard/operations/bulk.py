"""Many runs at once: retries or cancels the runs that a filter finds, newest first, in batches.

Each call does one batch and nothing is kept between two calls, so a caller may stop at any time.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from app.switchyard.audit import By
from app.switchyard.errors import BadInput, RunNotMovable, UnknownRun
from app.switchyard.operations.acts import ongoing
from app.switchyard.operations.search import Counted, RunFilter, count, search
from app.switchyard.runs import operate
from app.switchyard.runs.models import OPEN, Status
from app.switchyard.runs.models import RunRow as R
from app.switchyard.runs.store import RunStore
from app.switchyard.runtime import Runtime

BATCH = 100


class Deed(StrEnum):
    """What is done to each run."""

    RETRY = "retry"
    CANCEL = "cancel"


FITTING = {Deed.RETRY: (Status.FAILED, Status.CANCELLED), Deed.CANCEL: OPEN}
"""The statuses that the filter may have."""


@dataclass(frozen=True, slots=True)
class Batch:
    """The result of one call."""

    act: int
    """The act's id in the audit, which the next call needs."""
    done: int
    """How many runs it retried or cancelled, including those below the runs that were found."""
    refused: int
    """How many runs had changed their status meanwhile, so that nothing was done to them."""
    older: str | None
    """The filter's `before` for the next call, or None where all is done."""


def matching(runtime: Runtime, deed: Deed, wanted: RunFilter) -> Counted:
    """How many runs the filter finds, as far as they can be counted at once. Raises BadInput."""
    return count(runtime.db, _fitting(deed, wanted))


def batch(runtime: Runtime, deed: Deed, wanted: RunFilter, by: By, act: int | None = None) -> Batch:
    """Retry or cancel the next batch. The call after it passes the same `act`. Raises BadInput
    where the filter's status does not allow the deed, and where no reason is given."""
    page = search(runtime.db, _fitting(deed, wanted).model_copy(update={"limit": BATCH}))
    asked = wanted.model_dump(mode="json", exclude_none=True, exclude={"before", "limit"})
    what = {"job": wanted.job, "detail": {"filter": asked}}
    refused = 0
    with ongoing(runtime, deed, by.with_reason(), act, **what) as done:
        for run in page.runs:
            try:
                done.count += 1 + _do(runtime.store, deed, run)
            except (RunNotMovable, UnknownRun):
                refused += 1
    return Batch(done.act, done.count, refused, page.older)


def _do(store: RunStore, deed: Deed, run: dict[str, Any]) -> int:
    if deed is Deed.RETRY:
        return operate.retry(store, run["id"])
    # A request to cancel pending runs does not mean one that has begun since it was found.
    return operate.cancel(store, run["id"], R.status == run["status"])


def _fitting(deed: Deed, wanted: RunFilter) -> RunFilter:
    if wanted.status not in FITTING[deed]:
        raise BadInput(f"status: to {deed} runs, use one of {', '.join(FITTING[deed])}")
    return wanted
