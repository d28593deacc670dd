"""The server's state machine: no threads, no HTTP, no clock; times come in as Unix seconds."""

import heapq
import itertools
import json
import random
from collections import Counter, deque
from collections.abc import Callable
from datetime import UTC, datetime
from functools import partial
from typing import Any

from croniter import croniter

from app.local.inngest import expressions, internal, steps, wire
from app.local.inngest.events import Event
from app.local.inngest.functions import EventRule, Function
from app.local.inngest.ids import Ids
from app.local.inngest.runs import Call, Item, Run, RunStatus

DEDUPE_SECONDS = 24 * 3600
# Measured at the real server: 31 and 47 s; what follows grows as its table does.
RETRY_GAPS = (31, 47, 75, 135, 315, 615, 1215, 2415, 3615, 7215)
KEPT_RUNS = 20_000

Action = Callable[[float], None]
Wait = tuple[Run, str, expressions.Expression | None]


class Engine:
    """Functions, events and runs. The caller holds a lock around every method."""

    def __init__(self, rng: random.Random, gap_scale: float = 1.0) -> None:
        self.ids = Ids(rng)
        self.functions: dict[str, Function] = {}
        self.runs: dict[str, Run] = {}
        self.runs_of_event: dict[str, list[str]] = {}
        self.active: dict[str, Run] = {}
        self._rng = rng
        self._gap_scale = gap_scale
        self._syncs: dict[str, tuple[list[Function], str]] = {}
        self._timers: list[tuple[float, int, Action]] = []
        self._order = itertools.count()
        self._ready: dict[str, deque[Item]] = {}
        self._in_flight: Counter[str] = Counter()
        self.waits: dict[str, list[Wait]] = {}
        self._seen: dict[tuple[str, str], float] = {}
        self._crons: dict[tuple[str, str], float] = {}
        self._kept: deque[Run] = deque()

    # --- registering -------------------------------------------------------------------------

    def register(self, app: str, functions: list[Function], now: float) -> tuple[bool, str]:
        """Take over an app's functions; gives whether they changed, and the sync's id."""
        before, sync_id = self._syncs.get(app, ([], ""))
        modified = before != functions
        if modified:
            sync_id = self.ids.uuid()
            self._syncs[app] = functions, sync_id
            for old in before:
                self.functions.pop(old.id, None)
            self.functions.update({one.id: one for one in functions})
            wanted = {(f.id, cron) for f in self.functions.values() for cron in f.crons}
            self._crons = {key: at for key, at in self._crons.items() if key in wanted}
            for key in sorted(wanted - self._crons.keys()):
                self._plan_tick(key, now)
        return modified, sync_id

    def _plan_tick(self, key: tuple[str, str], now: float) -> None:
        moment = datetime.fromtimestamp(now, UTC)
        at = croniter(key[1], moment).get_next(datetime).timestamp()
        self._crons[key] = at
        self.at(at, partial(self._tick, key, at))

    def _tick(self, key: tuple[str, str], at: float, now: float) -> None:
        if self._crons.get(key) != at:
            return
        event = internal.scheduled(key[1], at, self.ids)
        self.start(self.functions[key[0]], event, now)
        self._plan_tick(key, now)

    # --- events ------------------------------------------------------------------------------

    def receive(self, event: Event, now: float, copies: int = 1) -> None:
        """Let an event wake waits, cancel runs and start functions (each `copies` times)."""
        body = {**event.body, "user": {}}
        waiting = self.waits.pop(event.name, [])
        for wait in waiting:
            run, step_id, condition = wait
            if condition is None or condition.matches(run.event.body, event.body):
                self.resume(run, step_id, body, now)
            else:
                self.waits.setdefault(event.name, []).append(wait)
        functions = list(self.functions.values())
        for rule in (r for f in functions for r in f.cancels if r.event == event.name):
            self._cancel_matching(rule, event, now)
        for function in functions:
            if any(_triggers(rule, event) for rule in function.triggers) and self._fresh(
                function, event, now
            ):
                for _ in range(copies):
                    self.start(function, event, now)

    def _cancel_matching(self, rule: EventRule, event: Event, now: float) -> None:
        for run in list(self.active.values()):
            matches = rule.condition is None or rule.condition.matches(run.event.body, event.body)
            if rule in run.function.cancels and matches:
                self.end(run, RunStatus.CANCELLED, None, now)

    def _fresh(self, function: Function, event: Event, now: float) -> bool:
        keys = [(function.id, f"id {event.body['id']}")]
        if function.idempotency is not None:
            value = expressions.lookup(function.idempotency, event.body)
            keys.append((function.id, f"key {json.dumps(value, sort_keys=True)}"))
        if any(now - self._seen.get(key, -DEDUPE_SECONDS) < DEDUPE_SECONDS for key in keys):
            return False
        self._seen.update(dict.fromkeys(keys, now))
        return True

    def start(
        self, function: Function, event: Event, now: float, parent: tuple[Run, str] | None = None
    ) -> None:
        """Begin a run, now or when its event is due; `parent` is the step that invoked it."""
        run = Run(self.ids.ulid(now), function, event, now, parent)
        self.runs[run.id] = self.active[run.id] = run
        self.runs_of_event.setdefault(event.id, []).append(run.id)
        # An event from the future starts its functions then.
        at = max(now, event.at)
        if function.start_timeout is not None:
            self.at(at + function.start_timeout, partial(self._expire, run, False))
        self.at(at, partial(self.enqueue, Item(run, self.ids.job())))

    # --- time and calls ----------------------------------------------------------------------

    def at(self, at: float, action: Action) -> None:
        """Do something once that time has come."""
        heapq.heappush(self._timers, (at, next(self._order), action))

    def enqueue(self, item: Item, now: float) -> None:
        """Let the item be called as soon as its function's limit allows."""
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
                    calls.append(self._call(item, function, now))
        return calls

    def _call(self, item: Item, function: Function, now: float) -> Call:
        run = item.run
        self._in_flight[run.function.id] += 1
        run.calls += 1
        if run.started_at is None:
            run.started_at = now
            if function.finish_timeout is not None:
                self.at(now + function.finish_timeout, partial(self._expire, run, True))
        return wire.build_call(item, function, self.ids.ulid(now))

    def _expire(self, run: Run, started: bool, now: float) -> None:
        if started or run.started_at is None:
            self.end(run, RunStatus.CANCELLED, None, now)

    # --- answers -----------------------------------------------------------------------------

    def answer(self, call: Call, answer: wire.Answer, now: float) -> None:
        """Take the outcome of a call; one that comes after the run's end is dropped."""
        item, run = call.item, call.item.run
        self._in_flight[run.function.id] -= 1
        if run.ended:
            return
        if isinstance(answer, wire.Steps):
            reported = {op["id"] for op in answer.ops}
            if item.targeted and item.step_id not in reported:
                answer = wire.failure("the SDK did not report the step it was asked for")
            elif reported & run.steps.keys():
                answer = wire.failure("the SDK reported a finished step again")
        match answer:
            case wire.Finished(output):
                self.end(run, RunStatus.COMPLETED, output, now)
            case wire.Failure(error, no_retry, retry_at):
                if not self.retry(item, no_retry, retry_at, now):
                    self.end(run, RunStatus.FAILED, error, now)
            case wire.Steps(ops, version, no_retry):
                run.version = run.version if version is None else version
                steps.apply(self, item, ops, no_retry, now)

    def retry(self, item: Item, no_retry: bool, retry_at: float | None, now: float) -> bool:
        """Try the item again later; False when its attempts are used up."""
        if no_retry or item.attempt + 1 >= item.run.function.attempts:
            return False
        gap = RETRY_GAPS[min(item.attempt, len(RETRY_GAPS) - 1)] * self._rng.uniform(0.9, 1.1)
        at = now + gap * self._gap_scale if retry_at is None else retry_at
        again = Item(item.run, item.job_id, item.step_id, item.attempt + 1)
        self.at(at, partial(self.enqueue, again))
        return True

    def wait(self, event_name: str, wait: Wait, until: float) -> None:
        """Let an event of that name finish a step, or else the time `until`."""
        self.waits.setdefault(event_name, []).append(wait)
        self.at(until, partial(self._end_wait, event_name, wait))

    def _end_wait(self, event_name: str, wait: Wait, now: float) -> None:
        if wait in self.waits.get(event_name, []):
            self.waits[event_name].remove(wait)
            self.resume(wait[0], wait[1], None, now)

    def resume(self, run: Run, step_id: str, value: Any, now: float) -> None:
        """Finish a pending step and go on; nothing if it is no longer pending."""
        if not run.ended and step_id in run.pending:
            self.memoise(run, step_id, value)
            self.advance(run, now)

    def memoise(self, run: Run, step_id: str, value: Any) -> None:
        """Keep a step's result, in the form that goes back to the SDK."""
        run.steps[step_id] = value
        run.pending.discard(step_id)

    def advance(self, run: Run, now: float) -> None:
        """Call the function again, from the top."""
        # As recorded: one discovery call once every planned step is done, not one for each.
        if not run.ended and not run.pending:
            self.enqueue(Item(run, self.ids.job()), now)

    # --- the end -----------------------------------------------------------------------------

    def end(self, run: Run, status: RunStatus, output: Any, now: float) -> None:
        """End a run; a call in flight is not stopped, but its answer will be dropped."""
        if run.ended:
            return
        run.status, run.output, run.ended_at = status, output, now
        run.pending.clear()
        del self.active[run.id]
        self._forget_old(run)
        if run.parent is not None:
            error = output or {"name": "Error", "message": f"the invoked function was {status}"}
            value = {"data": output} if status is RunStatus.COMPLETED else {"error": error}
            self.resume(*run.parent, value, now)
        if status is RunStatus.FAILED:
            self.receive(internal.failed(run, output, now, self.ids), now)

    def _forget_old(self, run: Run) -> None:
        self._kept.append(run)
        if len(self._kept) > KEPT_RUNS:
            old = self._kept.popleft()
            del self.runs[old.id]
            self.runs_of_event.pop(old.event.id, None)


def _triggers(rule: EventRule, event: Event) -> bool:
    return rule.event == event.name and (
        rule.condition is None or rule.condition.matches(event.body)
    )
