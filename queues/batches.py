"""How a worker does runs: it pops, claims and performs several at a time, without RQ's bookkeeping
for each, which the ledger has already. RQ's own loop pops the first one: see worker.py."""

from __future__ import annotations

import os
import threading
import time
from collections import deque
from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Any

from redis.exceptions import RedisError, ResponseError
from rq.job import Job
from rq.suspension import WORKERS_SUSPENDED
from rq.timeouts import JobTimeoutException
from sqlalchemy.exc import SQLAlchemyError

from app.switchyard.logs import logger_of
from app.switchyard.runs.backend import Delivery
from app.switchyard.runs.steps import ClaimedRun, put_back
from app.switchyard.runtime import load_app, process_runtime
from app.switchyard.text import reason
from queues import task
from queues.backend import TASK

log = logger_of(__name__)

SOON_SECONDS = 0.25
"""Runs that have not begun by then are put back, since the current one takes long."""
QUICK_SECONDS = 0.1
"""A batch that takes less than this is followed by one twice as large."""
MOST = 32
LOST_SECONDS = 1.0
"""How long the worker pops nothing after it failed to reach the database."""
TURN_SECONDS = 1.0
"""After this it is RQ's turn again, for heartbeats, maintenance and other people's jobs."""
Sent = tuple[str, int]
"""A run's id, and the epoch that was sent."""

# Pops jobs from the first queue that has any, up to the first job that is not a run's. From then on
# only the ledger knows these runs; the relay resends one that is lost on the way.
_POP = """
if redis.call('EXISTS', KEYS[1]) == 1 then return {} end
for place = 2, #KEYS do
  local ids = redis.call('LRANGE', KEYS[place], 0, ARGV[1] - 1)
  if #ids > 0 then
    local runs, jobs = {place - 2}, {}
    for _, id in ipairs(ids) do
      local call = redis.pcall('HGET', ARGV[2] .. id, 'data')
      local run, epoch
      if type(call) == 'string' then run, epoch = string.match(call, ARGV[3]) end
      if not run or #epoch > 10 or id ~= run .. '-' .. epoch then break end
      jobs[#jobs + 1] = ARGV[2] .. id
      runs[#runs + 1], runs[#runs + 2] = run, epoch
    end
    if #jobs > 0 then
      redis.call('LTRIM', KEYS[place], #jobs, -1)
      redis.call('DEL', unpack(jobs))
    end
    return runs
  end
end
return {}
"""
_CALL = f'^%["{TASK.replace(".", "%.")}", null, %["(%w+)", (%d+)%], {{}}%]$'
"""A Lua pattern of the call in a run's job, as RQBackend writes it."""


class WorkerDelivery(Delivery):
    """A slice that a worker performs, under RQ's kind of time limit."""

    def __init__(self, worker: Any) -> None:
        super().__init__(f"rq-{os.getpid()}-{os.urandom(6).hex()}", task.stopping.is_set)
        self._worker = worker
        self.seconds = 0.0
        """How long the current run may take."""

    def limit(self, seconds: float) -> AbstractContextManager[object]:
        """Raise RQ's JobTimeoutException in a body that takes longer."""
        self.seconds = seconds
        limit: AbstractContextManager[object] = self._worker.death_penalty_class(
            int(seconds), JobTimeoutException
        )
        return limit


class Batches:
    """The runs that a worker has popped."""

    def __init__(self, worker: Any) -> None:
        self._worker = worker
        self._pop = worker.connection.register_script(_POP)
        self._size = 1
        self._lock = threading.Lock()
        self._waiting: deque[ClaimedRun | Sent] = deque()

    def work(self, first: Sent, *, alone: bool = False) -> int:
        """Perform this run and, unless it should be `alone`, those queued behind it for about a
        second. Returns how many were performed."""
        until = time.monotonic() + TURN_SECONDS
        batch: Sequence[Sent] = [first]
        done = 0
        while batch:
            try:
                done += self._do(batch)
            except SQLAlchemyError as failure:
                # Without a pause it would empty its queue, all of which the relay must then resend.
                log.warning("runs left to the relay", extra={"reason": reason(failure)})
                task.stopping.wait(LOST_SECONDS)
                break
            more = not alone and time.monotonic() < until and not task.stopping.is_set()
            batch = self._more() if more else []
        return done

    def _more(self) -> list[Sent]:
        queues = self._worker._ordered_queues
        keys = [WORKERS_SUSPENDED, *(queue.key for queue in queues)]
        try:
            found = self._pop(keys, [self._size, Job.redis_job_namespace_prefix, _CALL])
        except ResponseError as failure:  # not a list, or scripts are not allowed: RQ pops one
            log.warning("runs are popped one by one", extra={"reason": reason(failure)})
            return []
        if not found:
            return []
        self._worker.reorder_queues(reference_queue=queues[found[0]])
        ids, epochs = found[1::2], found[2::2]
        return [(run_id.decode(), int(epoch)) for run_id, epoch in zip(ids, epochs, strict=True)]

    def _do(self, batch: Sequence[Sent]) -> int:
        began = time.monotonic()
        engine = process_runtime().engine
        delivery = WorkerDelivery(self._worker)
        self._size = 1  # in case this fails
        claimed = engine.claim(batch, delivery)
        ids = {one.run_id for one in claimed}
        with self._lock:
            self._waiting.extend(claimed)
            self._waiting.extend(sent for sent in batch if sent[0] not in ids)
        soon = threading.Timer(SOON_SECONDS, self._takes_long, [delivery])
        soon.daemon = True
        soon.start()
        done = 0
        try:
            while (one := self._next()) is not None:
                self._one(one, delivery)
                done += 1
        finally:
            soon.cancel()
            self._put_back()
        if done == len(batch) and time.monotonic() - began < QUICK_SECONDS:
            self._size = min(2 * len(batch), MOST)
        return done

    def _next(self) -> ClaimedRun | Sent | None:
        with self._lock:
            return self._waiting.popleft() if self._waiting and not task.stopping.is_set() else None

    def _one(self, one: ClaimedRun | Sent, delivery: WorkerDelivery) -> None:
        try:
            with load_app().app_context():
                engine = process_runtime().engine
                if isinstance(one, ClaimedRun):
                    engine.do(one)
                else:
                    engine.perform(*one, delivery)
        except (Exception, KeyboardInterrupt):
            run_id = one.run_id if isinstance(one, ClaimedRun) else one[0]
            log.exception("run left to the relay", extra={"run": run_id})

    def _takes_long(self, delivery: WorkerDelivery) -> None:
        try:
            self._put_back()
            self._worker.heartbeat(int(delivery.seconds) + 60)
        except (SQLAlchemyError, RedisError) as failure:
            log.warning("left to the relay", extra={"reason": reason(failure)})

    def _put_back(self) -> None:
        """Leave the runs that have not begun to others."""
        with self._lock:
            waiting = list(self._waiting)
            self._waiting.clear()
        if not waiting:
            return
        store = process_runtime().store
        put_back(store, [one for one in waiting if isinstance(one, ClaimedRun)])
        store.send([one[0] for one in waiting if not isinstance(one, ClaimedRun)])
