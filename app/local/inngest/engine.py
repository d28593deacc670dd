"""The server's state machine: no threads, no HTTP, no clock; times come in as Unix seconds."""

import heapq
import itertools
import logging
import math
import random
from collections import Counter, deque
from collections.abc import Callable
from datetime import UTC, datetime
from functools import partial
from typing import Any

from croniter import croniter

from app.local.inngest import events, wire
from app.local.inngest.functions import ZONE, Function
from app.local.inngest.ids import Ids
from app.local.inngest.runs import ROOT_STEP, Call, Item, Run, Status

DEDUPE_SECONDS = 24 * 3600
# Measured at the real server: 31 and 47 s; what follows grows as its table does.
RETRY_GAPS = (31, 47, 75, 135, 315, 615, 1215, 2415, 3615, 7215)
# The real server's cap on one run.
MAX_STEPS = 1000
# How far ahead the real server takes a Retry-After to mean.
LONGEST_RETRY_SECONDS = 24 * 3600.0

Action = Callable[[float], None]

log = logging.getLogger(__name__)


class Engine:
    """Functions, events and runs. The caller holds a lock around every method."""

    def __init__(self, rng: random.Random, gap_scale: float = 1.0) -> None:
        self.ids = Ids(rng)
        self.functions: dict[str, Function] = {}
        self.runs: dict[str, Run] = {}
        self.runs_of_event: dict[str, list[str]] = {}
        self._rng = rng
        self._gap_scale = gap_scale
        self._second = min(1.0, gap_scale)
        self._apps: dict[str, list[Function]] = {}
        self._timers: list[tuple[float, int, Action]] = []
        self._order = itertools.count()
        self._ready: dict[str, deque[Item]] = {}
        self._in_flight: Counter[str] = Counter()
        self._seen: dict[tuple[str, str], float] = {}

    def register(self, app: str, functions: list[Function], now: float) -> bool:
        """Take over an app's functions; gives whether they changed."""
        before = self._apps.get(app, [])
        self._apps[app] = functions
        for gone in {one.id for one in before} - {one.id for one in functions}:
            del self.functions[gone]
        for one in functions:
            # One that is as before keeps its timers.
            if self.functions.get(one.id) != one:
                self.functions[one.id] = one
                for cron in one.crons:
                    self._plan_tick(one, cron, now)
        return before != functions

    def _plan_tick(self, function: Function, cron: str, now: float) -> None:
        # As there: in the machine's own zone where the cron names none.
        zone = UTC if cron.startswith(ZONE) else None
        start = datetime.fromtimestamp(now, UTC).astimezone(zone)
        at = croniter(cron.removeprefix(ZONE), start).get_next(datetime).timestamp()
        self._at(at, partial(self._tick, function, cron, at))

    def _tick(self, function: Function, cron: str, at: float, now: float) -> None:
        if self.functions.get(function.id) is function:
            self._start(function, events.scheduled(cron, at, self.ids), now)
            self._plan_tick(function, cron, now)

    def receive(self, event: events.Event, now: float, copies: int = 1) -> None:
        """Let an event start functions (each `copies` times)."""
        for function in self.functions.values():
            key = (function.id, event.body["id"])
            seen = now - self._seen.get(key, -DEDUPE_SECONDS) < DEDUPE_SECONDS
            if event.body["name"] in function.events and not seen:
                self._seen[key] = now
                for _ in range(copies):
                    self._start(function, event, now)

    def _start(self, function: Function, event: events.Event, now: float) -> None:
        run = Run(self.ids.ulid(now), function, event, now)
        self.runs[run.id] = run
        self.runs_of_event.setdefault(event.id, []).append(run.id)
        # An event from the future starts its functions then.
        self._at(max(now, event.at), partial(self._enqueue, Item(run, self.ids.job())))

    def _at(self, at: float, action: Action) -> None:
        heapq.heappush(self._timers, (at, next(self._order), action))

    def _enqueue(self, item: Item, now: float) -> None:
        self._ready.setdefault(item.run.function.id, deque()).append(item)

    def take_due(self, now: float) -> list[Call]:
        """Let time pass up to `now`; gives the calls to make, each to be answered once."""
        while self._timers and self._timers[0][0] <= now:
            heapq.heappop(self._timers)[2](now)
        calls: list[Call] = []
        for function_id, queue in self._ready.items():
            while queue:
                function = self.functions.get(function_id, queue[0].run.function)
                # The real limit counts steps being executed: a run asleep holds no place.
                if function.limit is not None and self._in_flight[function_id] >= function.limit:
                    break
                item = queue.popleft()
                if not item.run.ended:
                    self._in_flight[function_id] += 1
                    item.run.calls += 1
                    item.run.started_at = item.run.started_at or now
                    calls.append(wire.build_call(item, function, self.ids.ulid(now)))
        return calls

    def answer(self, call: Call, answer: wire.Answer, now: float) -> None:
        """Take the outcome of a call; one that comes after the run's end is dropped."""
        item, run = call.item, call.item.run
        self._in_flight[run.function.id] -= 1
        if run.ended:
            return
        ops, error = answer.ops or [], answer.error
        reported = {op["id"] for op in ops}
        if ops and item.step_id not in (ROOT_STEP, *reported):
            error = wire.problem("the SDK did not report the step it was asked for")
        elif reported & run.steps.keys():
            error = wire.problem("the SDK reported a finished step again")
        if error is not None:
            if not self._retry(item, answer.no_retry, answer.retry_at, now):
                self.end(run, "Failed", error, now)
        elif answer.ops is None:
            self.end(run, "Completed", answer.output, now)
        else:
            run.version = run.version if answer.version is None else answer.version
            self._take_steps(item, ops, answer.no_retry, now)

    def _retry(self, item: Item, no_retry: bool, retry_at: float | None, now: float) -> bool:
        """Try the item again later; False when its attempts are used up."""
        if no_retry or item.attempt + 1 >= item.run.function.attempts:
            return False
        gap = RETRY_GAPS[min(item.attempt, len(RETRY_GAPS) - 1)] * self._rng.uniform(0.9, 1.1)
        at = now + gap * self._gap_scale if retry_at is None else self._bounded(retry_at, now)
        again = Item(item.run, item.job_id, item.step_id, item.attempt + 1)
        self._at(at, partial(self._enqueue, again))
        return True

    def _bounded(self, retry_at: float, now: float) -> float:
        """A Retry-After as the real server takes it: less than a second ahead is the next full
        second, which may well be before it."""
        if retry_at - now < self._second:
            return (now // self._second + 1) * self._second
        return min(retry_at, now + LONGEST_RETRY_SECONDS)

    def _take_steps(
        self, item: Item, ops: list[dict[str, Any]], no_retry: bool, now: float
    ) -> None:
        run, retried = item.run, False
        try:
            for op in ops:
                if op["op"] == "StepError" and self._retry(item, no_retry, None, now):
                    retried = True
                else:
                    self._take_step(run, op, now)
            if len(run.steps) > MAX_STEPS:
                raise ValueError(f"more than {MAX_STEPS} steps")
        except ValueError as error:
            log.warning("run %s of %s refused: %s", run.id, run.function.id, error)
            self.end(run, "Failed", wire.problem(str(error)), now)
        if not retried:
            self._advance(run, now)

    def _take_step(self, run: Run, op: dict[str, Any], now: float) -> None:
        kind, step_id = op["op"], op["id"]
        if kind in ("StepRun", "StepError", "StepFailed"):
            # In the form that goes back to the SDK.
            memo = {"data": op.get("data")} if kind == "StepRun" else {"error": op["error"]}
            self._memoise(run, step_id, memo)
            return
        if (op.get("opts") or {}).get("parallelMode") == "race":
            raise ValueError("the stand-in does not do parallel mode 'race'")
        if step_id in run.pending:
            raise ValueError("two steps have the same id")
        run.pending.add(step_id)
        if kind == "StepPlanned":
            self._enqueue(Item(run, self.ids.job(), step_id), now)
        elif kind == "Sleep":
            # The real server sleeps a whole number of seconds, the nearest one.
            seconds = (wire.instant(str(op.get("name"))) - now) / self._second
            wait = max(0, math.floor(seconds + 0.5)) * self._second
            self._at(now + wait, partial(self._wake, run, step_id))
        else:
            raise ValueError(f"the stand-in does not do {kind}")

    def _wake(self, run: Run, step_id: str, now: float) -> None:
        if not run.ended:
            self._memoise(run, step_id, None)
            self._advance(run, now)

    def _memoise(self, run: Run, step_id: str, value: Any) -> None:
        run.steps[step_id] = value
        run.pending.discard(step_id)

    def _advance(self, run: Run, now: float) -> None:
        # As recorded: one discovery call once every planned step is done, not one for each.
        if not run.ended and not run.pending:
            self._enqueue(Item(run, self.ids.job()), now)

    def end(self, run: Run, status: Status, output: Any, now: float) -> None:
        """End a run; a call in flight is not stopped, but its answer will be dropped."""
        run.status, run.output, run.ended_at = status, output, now
