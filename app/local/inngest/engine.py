"""The server's state machine, without threads, HTTP or a clock. Times are Unix seconds."""

import heapq
import itertools
import math
import random
import threading
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from typing import Any

from croniter import croniter

from app.local import shapes
from app.local.inngest import events, ids, wire
from app.local.inngest.functions import ZONE, Function, parse_registration
from app.local.inngest.history import History
from app.local.inngest.runs import Call, Item, Run, Status

DEDUPE_SECONDS = 24 * 3600
# Measured at the real server: 31 and 47 s; what follows grows as its table does.
RETRY_GAPS = (31, 47, 75, 135, 315, 615, 1215, 2415, 3615, 7215)
UNREACHED_GAPS = (15.0, 45.0)
"""The first call that it could not make is retried after between so many seconds."""
# The real server's caps on one run, how far ahead it takes a Retry-After to mean, and how long it
# lets a run sleep.
MAX_STEPS = 1000
MAX_STATE_BYTES = 32 * 1024 * 1024
LONGEST_RETRY_SECONDS = 24 * 3600.0
LONGEST_SLEEP_SECONDS = 365 * 24 * 3600.0

Action = Callable[[float], None]


class Engine:
    """Functions, events and runs. The caller holds `lock` around every method."""

    def __init__(self, gap_scale: float = 1.0, history: History | None = None) -> None:
        self.lock = threading.RLock()
        self.history = History() if history is None else history
        self.functions: dict[str, Function] = {}
        self.runs: dict[str, Run] = {}
        self.runs_of_event: dict[str, list[Run]] = {}
        self._gap_scale = gap_scale
        self._second = min(1.0, gap_scale)
        self._apps: dict[str, list[Function]] = {}
        self._timers: list[tuple[float, int, Action]] = []
        self._order = itertools.count()
        self._ready: dict[str, deque[Item]] = {}
        self._in_flight: Counter[str] = Counter()
        self._seen: dict[tuple[str, str], float] = {}

    def resume(self, now: float) -> None:
        """Load what an earlier server left. Its open runs are listed but never continue."""
        for app, registration in self.history.apps():
            self.register(app, parse_registration(registration)[1], now)
        for run in self.history.runs(self.functions):
            self.runs[run.id] = run
            self.runs_of_event.setdefault(run.event.id, []).append(run)

    def register(self, app: str, functions: list[Function], now: float) -> bool:
        """Register an app's functions. Whether they changed."""
        before = self._apps.get(app, [])
        self._apps[app] = functions
        for gone in {one.id for one in before} - {one.id for one in functions}:
            del self.functions[gone]
        for one in functions:
            # One that is as before keeps its timers.
            if self.functions.get(one.id) != one:
                self.functions[one.id] = one
                for line in one.crons:
                    self._plan_tick(one, line, now)
        return before != functions

    def _plan_tick(self, function: Function, line: str, now: float) -> None:
        # As there: in the machine's own zone where the cron names none.
        zone = UTC if line.startswith(ZONE) else None
        start = datetime.fromtimestamp(now, UTC).astimezone(zone)
        at = croniter(line.removeprefix(ZONE), start).get_next(datetime).timestamp()
        self._at(at, partial(self._tick, function, line, at))

    def _tick(self, function: Function, line: str, at: float, now: float) -> None:
        if self.functions.get(function.id) is function:
            self._start(function, events.scheduled(line, at), now)
            self._plan_tick(function, line, now)

    def receive(self, event: events.Event, now: float, copies: int = 1) -> None:
        """Let an event start its functions, each `copies` times."""
        if copies == 0:
            return
        for function in self.functions.values():
            key = (function.id, event.body["id"])
            seen = now - self._seen.get(key, -DEDUPE_SECONDS) < DEDUPE_SECONDS
            if event.body["name"] in function.events and not seen:
                self._seen[key] = now
                for _ in range(copies):
                    self._start(function, event, now)

    def _start(self, function: Function, event: events.Event, now: float) -> None:
        run = Run(ids.ulid(now), function, event, now)
        self.runs[run.id] = run
        self.runs_of_event.setdefault(event.id, []).append(run)
        self.history.save(run)
        # An event from the future starts its functions then.
        self._at(max(now, event.at), partial(self._enqueue, Item(run)))

    def _at(self, at: float, action: Action) -> None:
        heapq.heappush(self._timers, (at, next(self._order), action))

    def _enqueue(self, item: Item, now: float) -> None:
        self._ready.setdefault(item.run.function.id, deque()).append(item)

    def take_due(self, now: float) -> list[Call]:
        """Let time pass up to `now`. Returns the calls to make, each to be answered once."""
        while self._timers and self._timers[0][0] <= now:
            heapq.heappop(self._timers)[2](now)
        calls: list[Call] = []
        for function_id, queue in self._ready.items():
            while queue:
                function = self.functions.get(function_id, queue[0].run.function)
                # The real limit counts steps being executed: a sleeping run takes no slot.
                if function.limit is not None and self._in_flight[function_id] >= function.limit:
                    break
                item = queue.popleft()
                if not item.run.ended:
                    self._in_flight[function_id] += 1
                    item.run.calls += 1
                    item.run.started_at = item.run.started_at or now
                    calls.append(wire.build_call(item, function, ids.ulid(now)))
        return calls

    def answer(self, call: Call, answer: wire.Answer, now: float) -> None:
        """Process the outcome of a call. One that arrives after the run's end is dropped."""
        item, run = call.item, call.item.run
        self._in_flight[run.function.id] -= 1
        if run.ended:
            return
        step, error = answer.step, answer.error
        if step is not None and step.id in run.steps:
            error = wire.problem("the SDK reported a finished step again")
        if error is not None:
            if not self._retry(item, answer, now):
                self.end(run, "Failed", error, now)
        elif step is None:
            self.end(run, "Completed", answer.output, now)
        else:
            run.version = run.version if answer.version is None else answer.version
            self._take_step(item, step, answer, now)

    def _retry(self, item: Item, answer: wire.Answer, now: float) -> bool:
        """Retry the item later. False when its attempts are used up."""
        if answer.no_retry or item.attempt + 1 >= item.run.function.attempts:
            return False
        gap = RETRY_GAPS[min(item.attempt, len(RETRY_GAPS) - 1)] * random.uniform(0.9, 1.1)
        if answer.unreached:
            gap = random.uniform(*UNREACHED_GAPS) * 1.5**item.attempt
        at = now + gap * self._gap_scale
        if answer.retry_at is not None:
            at = self._bounded(answer.retry_at, now)
        self._at(at, partial(self._enqueue, replace(item, attempt=item.attempt + 1)))
        return True

    def _bounded(self, retry_at: float, now: float) -> float:
        """A Retry-After as the real server takes it: in whole seconds, perhaps too early."""
        if retry_at - now < self._second:
            return (now // self._second + 1) * self._second
        return min(retry_at, now + LONGEST_RETRY_SECONDS)

    def _take_step(self, item: Item, step: wire.Step, answer: wire.Answer, now: float) -> None:
        run, kind = item.run, step.op
        if kind == "StepError" and self._retry(item, answer, now):
            return
        if kind == "Sleep":
            # The real server sleeps a whole number of seconds, the nearest one.
            seconds = math.floor((answer.wake_at - now) / self._second + 0.5)
            if seconds * self._second > LONGEST_SLEEP_SECONDS:
                self.end(run, "Failed", wire.problem("a sleep of more than a year"), now)
            else:
                wake = partial(self._finish_step, run, step.id, None)
                self._at(now + max(0, seconds) * self._second, wake)
            return
        # In the form that goes back to the SDK.
        memo = {"data": step.data} if kind == "StepRun" else {"error": step.error}
        self._finish_step(run, step.id, memo, now)

    def _finish_step(self, run: Run, step_id: str, memo: Any, now: float) -> None:
        if run.ended:
            return
        run.steps[step_id] = memo
        run.size += len(shapes.dumps(memo))
        self.history.save(run)
        if len(run.steps) >= MAX_STEPS:
            self.end(run, "Failed", wire.problem(f"the step limit of {MAX_STEPS} steps"), now)
        elif run.size > MAX_STATE_BYTES:
            self.end(run, "Failed", wire.problem(f"a state above {MAX_STATE_BYTES} bytes"), now)
        else:
            self._enqueue(Item(run), now)

    def end(self, run: Run, status: Status, output: Any, now: float) -> None:
        """End a run. A call in flight is not stopped, but its answer will be dropped."""
        run.status, run.output, run.ended_at = status, output, now
        self.history.save(run)
        if status == "Cancelled":
            self.receive(events.cancelled(run.id, run.function.id, run.event, now), now)
