"""Many runs at once: what a filter finds is retried or cancelled, newest first, a batch per call.

Nothing is kept between two calls: who stops calling has stopped it, and what was done stays done.
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
    """What is done to each."""

    RETRY = "retry"
    CANCEL = "cancel"


FITTING = {Deed.RETRY: (Status.FAILED, Status.CANCELLED), Deed.CANCEL: OPEN}
"""Of which statuses the filter may ask for runs."""


@dataclass(frozen=True, slots=True)
class Batch:
    """What one call did."""

    act: int
    """Its place in the audit, to go on with."""
    done: int
    """Runs that it moved, with those that came along from below them."""
    refused: int
    """Runs that had moved by themselves meanwhile."""
    older: str | None
    """The filter's `before` for the next call; None where all is done."""


def matching(runtime: Runtime, deed: Deed, wanted: RunFilter) -> Counted:
    """How many runs it is about, as far as that can be counted at once. Raises BadInput."""
    return count(runtime.db, _fitting(deed, wanted))


def batch(runtime: Runtime, deed: Deed, wanted: RunFilter, by: By, act: int | None = None) -> Batch:
    """Do it to the next of them; the call after it is given the same `act`. Raises BadInput where
    the filter's status is not one that this can be done to, and where no reason is given."""
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
    # Who asks for those that wait does not mean one that has begun since it was looked for.
    return operate.cancel(store, run["id"], R.status == run["status"])


def _fitting(deed: Deed, wanted: RunFilter) -> RunFilter:
    if wanted.status not in FITTING[deed]:
        raise BadInput(f"status: to {deed} runs, say one of {', '.join(FITTING[deed])}")
    return wanted
