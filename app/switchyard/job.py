"""The declaration of a job, and the catalogue from which tasks, functions and clocks are made."""

from __future__ import annotations

import importlib
import inspect
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, fields
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from math import inf
from pathlib import Path
from types import FunctionType, ModuleType
from typing import Any, Generic, Literal, TypeVar

from croniter import croniter
from pydantic import BaseModel, ConfigDict, ValidationError
from pydantic.alias_generators import to_camel
from sqlalchemy.orm import Session

from app.switchyard.context import Context, Payload
from app.switchyard.cron import portable
from app.switchyard.errors import PayloadInvalid, SettingsError, UnknownJob, did_you_mean

DEFAULT_GAPS = (10.0, 30.0, 120.0, 600.0)
"""The seconds between the five attempts at a step, on every backend."""
SERVERLESS = ("inngest", "qstash")
CLOCK_LEAD = timedelta(seconds=2)
"""How far another clock may be ahead of ours."""
_TINY = timedelta(milliseconds=1)
DECLARED = "switchyard_job"
"""The attribute of a body that holds its declaration."""
# QStash accepts no others in the names of schedules and flow control keys, which are jobs' names.
_NAME = re.compile(r"[A-Za-z0-9._-]{1,100}")
RESERVED = "inngest-run-cancelled"
"""What no job may be called: at Inngest it is a function of no job."""
# Inngest keeps its own prefix to itself, and takes an asterisk for any event.
_EVENT = re.compile(r"(?!inngest/)[^\s*\0-\x1f\x7f-\x9f\ud800-\udfff]{1,200}", re.IGNORECASE)


class IfUnknown(StrEnum):
    """What to do about a `step.once` whose outcome nobody knows."""

    RECORD = "record"
    """Record it as unknown and never repeat it: at most once."""
    REPEAT = "repeat"
    """Retry it like one that failed: at least once, and perhaps twice."""


class JobPayload(BaseModel):
    """The base of all payload models: camelCase on the wire, with snake_case accepted too."""

    model_config = ConfigDict(
        alias_generator=to_camel, populate_by_name=True, extra="forbid", frozen=True
    )


class Empty(JobPayload):
    """No data."""


class Missed(StrEnum):
    """Which missed ticks are made up once a clock is running again."""

    ALL = "all"
    """Every tick, where each one means work of its own."""
    LAST = "last"
    """Only the last one, where a single run does the work of all missed ones."""


M = TypeVar("M", bound=JobPayload)


@dataclass(frozen=True, slots=True)
class Legacy:
    """What old call sites enqueue instead of the job: see docs/old-call-sites.md."""

    function: str
    """The function's dotted path, as they enqueue it."""
    payload: Callable[..., Payload] | None = None
    """Builds the payload from the arguments they pass. By default the function's parameters have
    the same names as the payload's fields."""


@dataclass(frozen=True, slots=True)
class Shadow:
    """How a job's plan is compared with what its live run did. Both sides are JSON objects.

    Such a plan must be stable: before, during and after a run it gives the same answer to what the
    run would leave behind. It may only read: its transaction refuses writes, which would lock out
    the live run.
    """

    outcome: Callable[[Session, Any, Any], dict[str, Any]] | None = None
    """What a live run with this payload and result left behind: by default, its result. Like the
    plan, it may only read."""
    planned: Callable[[dict[str, Any]], dict[str, Any]] | None = None
    """The part of the plan that is compared: by default, all of it."""
    ignore: tuple[str, ...] = ()
    """Fields that are not compared, with everything below them: `a.b`, numbers in lists, `*` for
    any."""
    tolerance: Mapping[str, float] = field(default_factory=dict)
    """By how much numbers may differ, for fields written as above."""


@dataclass(frozen=True, kw_only=True)
class job(Generic[M]):
    """Declares a job: how it is named, triggered, run and retried. The decorated function is its
    body, and can still be called directly."""

    name: str = field(kw_only=False)
    event: str
    payload: type[M]
    queue: str = "default"
    schedule: str | None = None
    """Five-field cron, UTC."""
    attempts: int = 5
    gaps: tuple[float, ...] = DEFAULT_GAPS
    """The seconds before the second, third, … attempt. The last one repeats."""
    concurrency: int | None = None
    """How many runs may be running at once, over all backends together."""
    serverless: str = "inngest"
    timeout: float = 600.0
    """How long a slice may take on a worker, in seconds."""
    key: Callable[[M], str | None] | None = None
    """Derives the key from the payload: two payloads with the same key mean the same run."""
    tick: Callable[[datetime], Payload] | None = None
    """Builds the payload of a scheduled occurrence."""
    missed: Literal["all", "last"] | Missed = "all"
    """Which ticks are made up that were missed while no clock was running."""
    ramp_by: str | None = None
    """The payload field that places a run in a ramp, so that a creator stays on one side. The
    default is the key."""
    plan: Callable[[Session, M, datetime], dict[str, Any]] | None = None
    """What a run with this payload would do now, as JSON. Its transaction is rolled back."""
    shadow: Shadow = Shadow()
    delay: Callable[[M], timedelta | None] | None = None
    """How long after its dispatch a run is due, where that depends on the payload."""
    if_unknown: IfUnknown = IfUnknown.RECORD
    legacy: str | Legacy | None = None
    """The function that old call sites enqueue instead."""

    def __call__(self, body: Callable[[Context, M], Any]) -> Callable[[Context, M], Any]:
        said: dict[str, Any] = {one.name: getattr(self, one.name) for one in fields(self)}
        said["missed"] = Missed(self.missed)
        if isinstance(self.legacy, str):
            said["legacy"] = Legacy(self.legacy)
        file = relative_path(inspect.getsourcefile(body) or "?")
        setattr(body, DECLARED, JobSpec(**said, body=body, file=file))
        return body


@dataclass(frozen=True, kw_only=True)
class JobSpec(job[Any]):
    """A job of the catalogue: its declaration and its body."""

    payload: type[JobPayload]
    body: Callable[[Context, Any], Any]
    file: str
    missed: Missed
    legacy: Legacy | None

    @property
    def origin(self) -> str:
        """Where it was declared. A job may be declared again from the same place."""
        return self.file if self.legacy is None else f"{self.legacy.function} ({self.file})"

    def parse(self, payload: Payload | None, *, strict: bool = True) -> JobPayload:
        """The payload as the job's model. Raises PayloadInvalid, which lists every error.

        Without `strict`, unknown fields, which another version of the code wrote, are left out.
        """
        raw = payload.model_dump() if isinstance(payload, BaseModel) else dict(payload or {})
        try:
            return self.payload.model_validate(raw, extra="forbid" if strict else "ignore")
        except ValidationError as failure:
            misfits = failure.errors(include_url=False, include_input=False)
            raise PayloadInvalid.misfits(f"{self.name}: ", misfits, under="#/data") from None

    def backend_for(self, backend: str) -> str:
        """The backend for a child of a run on `backend`: the same one, except that Inngest has
        functions only for its own jobs."""
        return self.serverless if backend == "inngest" else backend

    def gap(self, attempt: int) -> timedelta:
        """The wait after failed attempt number `attempt`, from 1."""
        return timedelta(seconds=self.gaps[min(attempt, len(self.gaps)) - 1])

    def occurrences(self, after: datetime, until: datetime, most: float = inf) -> list[datetime]:
        """The scheduled times in (after, until], the first `most` of them, in UTC whatever the
        machine's zone."""
        if self.schedule is None:
            return []
        found: list[datetime] = []
        times = croniter(self.schedule, after.astimezone(UTC))
        while len(found) < most and (moment := times.get_next(datetime)) <= until:
            found.append(moment)
        return found

    def occurrence_after(self, moment: datetime) -> datetime:
        """The next scheduled time after `moment`, UTC. Raises SettingsError without a schedule."""
        found: datetime = self._times(moment).get_next(datetime)
        return found

    def occurrence_at(self, moment: datetime) -> datetime:
        """The latest scheduled time at or before `moment` (plus a clock's small lead), UTC. Raises
        SettingsError without a schedule."""
        found: datetime = self._times(moment + CLOCK_LEAD + _TINY).get_prev(datetime)
        return found

    def _times(self, moment: datetime) -> croniter:
        if self.schedule is None:
            raise SettingsError(f"job {self.name!r} has no schedule")
        return croniter(self.schedule, moment.astimezone(UTC))

    def misfits(self) -> Iterator[str]:
        """What is unsound about the declaration."""
        if not _NAME.fullmatch(self.name) or self.name == RESERVED:
            yield (
                f"a name has at most 100 letters, digits, '.', '_' and '-', and is not {RESERVED}"
            )
        if not _EVENT.fullmatch(self.event):
            yield (
                f"event {self.event[:80]!a}: an event has at most 200 characters, no space, control"
                " character or '*', and no 'inngest/' before it"
            )
        try:
            _ = self.schedule is None or portable(self.schedule)
        except ValueError as misfit:
            yield f"schedule {self.schedule!r} {misfit}"
        if self.attempts < 1 or len(self.gaps) < 1 or self.serverless not in SERVERLESS:
            yield "attempts, gaps or serverless side unsound"
        if not isinstance(self.timeout, int | float) or not 1 <= self.timeout < inf:
            yield f"timeout {self.timeout!r} is not a number of seconds, 1 or more"
        if self.concurrency is not None and self.concurrency < 1:
            yield f"concurrency {self.concurrency} lets none run"


class Catalogue(dict[str, JobSpec]):
    """Jobs by name, in the order of their declaration. The ledger may have jobs that it lacks."""

    def __init__(self) -> None:
        super().__init__()
        self.legacy: dict[str, JobSpec] = {}
        """The jobs that replaced functions, by the functions' dotted paths."""
        self.caps: dict[str, int] = {}
        """The concurrency caps, by job, of those that have one."""

    def __missing__(self, name: str) -> JobSpec:
        hint = did_you_mean(name, self)
        raise UnknownJob(f"no job {name!r}{hint}; there are: {', '.join(self)}")

    def by_event(self, event: str) -> JobSpec:
        """The job that `event` starts. Raises UnknownJob."""
        for spec in self.values():
            if spec.event == event:
                return spec
        events = [spec.event for spec in self.values()]
        hint = did_you_mean(event, events)
        raise UnknownJob(f"no job for event {event!r}{hint}; there are: {', '.join(events)}")

    def add(self, spec: JobSpec) -> None:
        """Declare a job. Raises SettingsError where it is unsound or its name or event is taken."""
        known = self.get(spec.name)
        if known is not None and known.origin != spec.origin:
            raise SettingsError(
                f"job {spec.name!r} is declared as {known.origin} and {spec.origin}: "
                "give one of them another name"
            )
        for other in self.values():
            if other.event == spec.event and other.name != spec.name:
                raise SettingsError(
                    f"event {spec.event!r} starts both {other.name} and {spec.name}"
                )
        for misfit in spec.misfits():
            raise SettingsError(f"job {spec.name!r}: {misfit}")
        if spec.legacy is not None:
            other = self.legacy.get(spec.legacy.function, spec)
            if other.name != spec.name:
                raise SettingsError(
                    f"{spec.legacy.function} is in the place of both {other.name} and {spec.name}"
                )
            self.legacy[spec.legacy.function] = spec
        self[spec.name] = spec
        self.caps.pop(spec.name, None)
        if spec.concurrency is not None:
            self.caps[spec.name] = spec.concurrency


Jobs = str | ModuleType | JobSpec | Callable[..., Any]
"""What stands for jobs: a module or its dotted path, or a job's declaration or body."""


def load(jobs: str | Iterable[Jobs]) -> Catalogue:
    """A catalogue of `jobs`, in their order. A string lists modules, separated by commas.

    Raises SettingsError where a module does not exist or declares nothing.
    """
    catalogue = Catalogue()
    for named in jobs.split(",") if isinstance(jobs, str) else jobs:
        for spec in _declared(named):
            catalogue.add(spec)
    return catalogue


def _declared(named: Jobs) -> list[JobSpec]:
    if isinstance(named, JobSpec):
        return [named]
    if callable(named):
        spec = getattr(named, DECLARED, None)
        if spec is None:
            raise SettingsError(f"{named!r} is not declared as a job")
        return [spec]
    module = _imported(named.strip()) if isinstance(named, str) else named
    if module is None:
        return []
    own = (value for value in vars(module).values() if _is_of(module, value))
    return [value if isinstance(value, JobSpec) else getattr(value, DECLARED) for value in own]


def _is_of(module: ModuleType, value: object) -> bool:
    """Whether the module itself declares it, rather than importing it."""
    # Judged by its type: a proxy such as Flask's current_app raises at any other question.
    if type(value) is JobSpec:
        return True
    own = type(value) is FunctionType and value.__module__ == module.__name__
    return own and hasattr(value, DECLARED)


def _imported(path: str) -> ModuleType | None:
    try:
        return importlib.import_module(path) if path else None
    except ModuleNotFoundError as failure:
        raise SettingsError(f"SWITCHYARD_JOBS: no module {failure.name!r}") from None


def relative_path(source: str) -> str:
    path = Path(source).resolve()
    here = Path.cwd()
    return str(path.relative_to(here)) if path.is_relative_to(here) else str(path)
