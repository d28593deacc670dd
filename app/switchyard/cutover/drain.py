"""Drain: moves the open runs of one side to the other until none is left. Also rollback."""

from __future__ import annotations

import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from datetime import timedelta

from sqlalchemy import ColumnElement, Select, and_, false, func, or_, select
from sqlalchemy.orm import aliased

from app.switchyard.audit import By
from app.switchyard.cutover.stages import StageChange, current_stages, set_stage
from app.switchyard.errors import StageRefused
from app.switchyard.job import JobSpec
from app.switchyard.runs.handoff import CHUNK, elsewhere, hand_over
from app.switchyard.runs.models import IS_OPEN, AnyRow, Status
from app.switchyard.runs.models import RunRow as R
from app.switchyard.runtime import Runtime
from flags import LEGACY_BACKEND, TTL_SECONDS, Side, Stage

SEEN_SECONDS = TTL_SECONDS + 0.1
"""After this, every process has seen a change of stage."""
PAUSE_SECONDS = 0.5
"""The pause between two looks at what is left."""
TAKE_BACK_SECONDS, BATCH_TAKE_BACK_SECONDS = 10.0, 1.0
"""How long the old sides are asked to take messages back, once the runs have moved: Inngest must be
asked about each run."""
MOST_TAKEN_BACK, _AT_ONCE = 20_000, 40
_COUNTS = ("moved", "asked", "left")

Progress = Callable[[int, int], None]
"""Called with how many runs have been handled, and how many there are in all."""


def backend_on(side: Side, spec: JobSpec) -> str:
    """The backend that performs this job's runs on `side`."""
    return LEGACY_BACKEND if side == Side.RQ else spec.serverless


@dataclass(slots=True)
class Drained:
    """How many runs a drain moved and left, by job."""

    moved: Counter[str] = field(default_factory=Counter)
    asked: Counter[str] = field(default_factory=Counter)
    """Runs that are running, and move at their next step boundary."""
    left: Counter[str] = field(default_factory=Counter)
    """Runs that are open on the old side, or about to go there."""
    act: int | None = None
    """The act's id in the audit, which the next batch needs."""
    done: bool = False
    """Whether the act has finished. Otherwise call again after a second."""

    @property
    def touched(self) -> int:
        """How many runs moved or were asked to."""
        return self.moved.total() + self.asked.total()

    def totals(self) -> dict[str, int]:
        """`moved`, `asked` and `left` over all jobs."""
        return {what: getattr(self, what).total() for what in _COUNTS}

    def by_job(self) -> dict[str, dict[str, int]]:
        """`moved`, `asked` and `left` for each job."""
        jobs = sorted({*self.moved, *self.asked, *self.left})
        return {job: {what: getattr(self, what)[job] for what in _COUNTS} for job in jobs}


@dataclass(frozen=True, slots=True)
class Drain:
    """One drain: which runs move, where they go, and how."""

    runtime: Runtime
    job: str | None
    """The job whose runs move, with all runs below them. None moves the runs of every job."""
    to: Side
    """The target side. Serverless means each job's own backend."""
    running: bool
    """Whether running runs move as well, at their next step boundary."""
    wait_seconds: float = 0.0
    """How many seconds to keep looking while something is left."""
    stop: threading.Event = field(default_factory=threading.Event)
    """Ends the drain after the current chunk."""
    progress: Progress = lambda _done, _of: None
    chunk: int = CHUNK
    """How many runs move at a time."""
    limit: int | None = None
    """How many runs one call moves at most. A rollback with a limit waits for nothing."""
    _behind: list[AnyRow] = field(default_factory=list, init=False)
    """Runs whose messages the old sides may still have."""

    def __call__(self) -> Drained:
        """Move runs that are pending, delayed or asleep at once. Each keeps its due time.

        This may be interrupted and repeated, and workers may go on meanwhile. Runs of jobs that
        this code does not know stay where they are, since they could not be sent.
        """
        drained = Drained()
        end = time.monotonic() + self.wait_seconds
        while True:
            self._move(self.misplaced(), drained)
            self._take_back()
            drained.left = self.left()
            movable = any(job in self.runtime.catalogue for job in drained.left)
            if not movable or self.stop.is_set() or time.monotonic() >= end:
                return drained
            self.stop.wait(PAUSE_SECONDS)

    def _take_back(self) -> None:
        """Have the old sides take back messages of runs that have moved, as far as time allows. One
        that is delivered all the same finds a newer epoch and does nothing."""
        seconds = TAKE_BACK_SECONDS if self.limit is None else BATCH_TAKE_BACK_SECONDS
        end = time.monotonic() + seconds
        while self._behind and not self.stop.is_set() and time.monotonic() < end:
            self.runtime.store.take_back(self._behind[:_AT_ONCE])
            del self._behind[:_AT_ONCE]

    def _keep_behind(self, rows: Sequence[AnyRow]) -> None:
        self._behind.extend(rows[: max(0, MOST_TAKEN_BACK - len(self._behind))])

    def _move(self, misplaced: dict[str, list[str]], drained: Drained) -> None:
        total, done = sum(map(len, misplaced.values())), 0
        for job, ids in misplaced.items():
            target = backend_on(self.to, self.runtime.catalogue[job])
            for start in range(0, len(ids), self.chunk):
                if self.stop.is_set():
                    return
                chunk = ids[start : start + self.chunk]
                to = (self.runtime.store, chunk, target)
                handed = hand_over(*to, running=self.running, take_back=self._keep_behind)
                drained.moved[job] += handed.moved
                drained.asked[job] += handed.asked
                done += len(chunk)
                self.progress(done, total)

    def misplaced(self) -> dict[str, list[str]]:
        """The open runs that can be moved, or asked to move, by job."""
        runs: dict[str, list[str]] = defaultdict(list)
        for run_id, job in self.runtime.db.rows(self._chosen(movable=True).limit(self.limit)):
            runs[job].append(run_id)
        return runs

    def left(self) -> Counter[str]:
        """How many open runs are not on the target side, by job."""
        chosen = self._chosen().order_by(None).subquery()
        # An expression, since SQLite would read all runs by key to get a column's jobs in order.
        job = chosen.c[1].concat("")
        counted = self.runtime.db.rows(select(job, func.count()).group_by(job))
        return Counter({row[0]: row[1] for row in counted})

    def _chosen(self, *, movable: bool = False) -> Select[str, str]:
        targets: dict[str, list[str]] = defaultdict(list)
        for spec in self.runtime.catalogue.values():
            targets[backend_on(self.to, spec)].append(spec.name)
        at_rq = R.backend == LEGACY_BACKEND
        unknown = R.job.not_in(list(self.runtime.catalogue))
        kinds = [
            and_(R.job.in_(names), elsewhere(target), *(self._movable(target) if movable else ()))
            for target, names in targets.items()
        ]
        if not movable:
            kinds.append(and_(unknown, ~at_rq if self.to == Side.RQ else at_rq))
        misplaced = or_(*kinds)
        if self.job is None:
            return select(R.id, R.job).where(IS_OPEN, misplaced).order_by(R.id)
        # From each run up to its ancestors: a child follows its parent, whatever its own job.
        above = aliased(R)
        own = select(R.id.label("run"), R.job.label("own"), R.job, R.parent_id)
        line = own.where(IS_OPEN, misplaced).cte("line", recursive=True)
        up = select(line.c.run, line.c.own, above.job, above.parent_id)
        line = line.union_all(up.join(above, above.id == line.c.parent_id))
        ids = select(line.c.run, line.c.own).where(line.c.job == self.job).distinct()
        return ids.order_by(line.c.run)

    def _movable(self, target: str) -> list[ColumnElement[bool]]:
        """The run is not running or, where running ones move too, has not been asked yet."""
        asked = or_(R.move_to.is_(None), R.move_to != target) if self.running else false()
        return [or_(R.status != Status.RUNNING, asked)]


def rollback(flip: Collection[str], drain: Drain, by: By) -> Drained:
    """Flip these jobs to legacy, then do `drain`.

    Without a limit the drain waits until every process has seen the flip, and is repeated for runs
    that were decided before the flip but recorded late. Raises StageRefused.
    """
    for name in flip:
        _flip(drain.runtime, name, by)
    if drain.limit is not None:
        return drain()
    drain.stop.wait(SEEN_SECONDS)
    drained = drain()
    if not drain.stop.is_set() and not drained.left:
        drain.stop.wait(SEEN_SECONDS)
        late = drain()
        drained = Drained(drained.moved + late.moved, drained.asked + late.asked, late.left)
    return drained


def is_seen(runtime: Runtime, jobs: Collection[str]) -> bool:
    """Whether every process has seen the latest change of these jobs' stages."""
    last = select(func.max(StageChange.at)).where(StageChange.job.in_(jobs))
    at = runtime.db.value(last)
    return at is None or runtime.store.clock() - at >= timedelta(seconds=SEEN_SECONDS)


def _flip(runtime: Runtime, job: str, by: By) -> None:
    # Another provider decides for a job whose stage was never set. Recording legacy ends that.
    never = None if runtime.settings.flag_provider else Stage.LEGACY
    for last in (False, False, True):
        stages = {row.job: row.stage for row in current_stages(runtime.db)}
        if stages.get(job, never) == Stage.LEGACY:
            return
        try:
            set_stage(runtime.db, job, Stage.LEGACY, None, by, runtime.store.clock())
        except StageRefused:
            # Somebody else moved it at the same moment, but a rollback has the last word.
            if last:
                raise
