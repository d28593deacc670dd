"""Searches the ledger of runs, newest first, and never for longer than a moment. What no index has
(the text of an error, a field of a payload, a stage) is looked for in a limited number of runs at a
time. The answer says how far back that was, and where to continue."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import AfterValidator, AwareDatetime, BaseModel, ConfigDict, Field, field_validator
from sqlalchemy import ColumnElement, Connection, func, literal, literal_column, or_, select, tuple_

from app.switchyard.clock import moment
from app.switchyard.db import Database, distinct
from app.switchyard.errors import BadInput
from app.switchyard.http import read
from app.switchyard.runs.models import IS_OPEN, OPEN, RUN_ID, AnyRow, Status, id_at
from app.switchyard.runs.models import RunRow as R
from app.switchyard.text import one_line
from flags import LEGACY_BACKEND, Side, Stage

LOOK = 2000
"""How many runs are read at once for what no index has."""
LOOK_INDEX = 30_000
"""How many entries of an index are read at once."""
FEW = 3000
"""Up to this many open runs are sorted by age. If there are more, all runs are searched."""
MOST = 100_000
AT_ONCE = 1000
"""How many runs are held in memory at a time: each may have a long error."""

COLUMNS = (
    *(R.id, R.job, R.key, R.backend, R.reason, R.stage, R.status, R.epoch, R.attempt),
    R.parent_id.label("parent"),
    *(R.created_at, R.started_at, R.ended_at, R.error, R.progress),
)
"""The columns of a run, as in `runs list --json`."""
# Worded as in the partial indexes, so that SQLite reads no row to check it.
_OF_JOB: ColumnElement[bool] = literal_column("(epoch > 0)")
_TROUBLED: ColumnElement[bool] = literal_column("(error IS NOT NULL OR status = 'cancelled')")
_JOBS = distinct(R.job)
"""Every job in the ledger."""
_Text = Annotated[str, Field(min_length=1, max_length=300), AfterValidator(one_line)]
Conditions = list[ColumnElement[bool]]
_HELD = ("status", "job", "backend")
"""The columns that the index of runs in trouble has besides the id."""
Order = tuple[ColumnElement[Any], ...]
_LAST = "g"
"""Sorts after every id, which is hexadecimal, and appended to a prefix after all that have it."""


class RunFilter(BaseModel):
    """Which runs to find. What is not given may be anything."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    id: Annotated[str, Field(pattern=f"^{RUN_ID.pattern}$")] | None = None
    """A run's id, or the beginning of one."""
    key: _Text | None = None
    job: _Text | None = None
    backend: Literal["rq", "inngest", "qstash"] | Side | None = None
    """A backend, or a side."""
    status: Status | None = None
    stage: Stage | None = None
    since: AwareDatetime | None = None
    """Created at this time or later."""
    until: AwareDatetime | None = None
    """Created before this time."""
    error: _Text | None = None
    """Text that its error contains, regardless of case."""
    payload: _Text | None = None
    """A field of its payload, at any depth, with its value: `creatorId:x`."""
    parent: _Text | None = None
    before: Annotated[_Text, Field(max_length=32)] | None = None
    """Where to continue: `older` of the previous page."""
    limit: Annotated[int, Field(ge=1, le=MOST)] = 50

    @field_validator("payload")
    @classmethod
    def _named(cls, payload: str | None) -> str | None:
        if payload is None:
            return None
        if not all(payload.partition(":")):
            raise ValueError("must be a field and its value, such as creatorId:x")
        return payload.removeprefix("payload.")


_SPAN = re.compile(r"([0-9]{1,4})([mhd])")
_UNITS = {"m": timedelta(minutes=1), "h": timedelta(hours=1), "d": timedelta(days=1)}


def filter_of(asked: Mapping[str, Any], now: datetime) -> RunFilter:
    """The filter that a person wrote: `since` and `until` may say how long ago that was (`90m`,
    `2h`, `7d`), or give a time without a zone, which is UTC. Raises BadInput."""
    given = {name: value for name, value in asked.items() if value is not None}
    for name in given.keys() & {"since", "until"}:
        given[name] = _time(name, given[name], now)
    return read(RunFilter, given)


def _time(name: str, text: str, now: datetime) -> datetime:
    if span := _SPAN.fullmatch(text):
        return now - int(span[1]) * _UNITS[span[2]]
    try:
        at = datetime.fromisoformat(text)
    except ValueError:
        raise BadInput(f"{name}: say 2h, 7d or 2026-11-28T10:00 (UTC)") from None
    return at.replace(tzinfo=UTC) if at.tzinfo is None else at


@dataclass(frozen=True, slots=True)
class Page:
    """One page of runs."""

    runs: list[dict[str, Any]]
    older: str | None
    """The `before` of the next page, or None where there is none."""
    searched_back_to: datetime | None
    """How far back the search went, where the page is not full and there is more to search."""


class Counted(NamedTuple):
    """How many runs match."""

    runs: int
    all: bool
    """Whether that is all of them. Otherwise there are, or may be, more."""


def search(db: Database, wanted: RunFilter) -> Page:
    """The newest runs that match."""
    with db.autocommit() as connection:
        scan = _scan(connection, wanted)
        found = select(*COLUMNS).where(*scan.conditions).order_by(*scan.order)
        rows = connection.execute(found.limit(wanted.limit + 1)).all()
    runs = [shown(row) for row in rows[: wanted.limit]]
    if len(rows) > wanted.limit:
        return Page(runs, runs[-1]["id"], None)
    seen = None if scan.floor is None else moment(int(scan.floor[:12], 16) / 1000)
    return Page(runs, scan.floor, seen)


def every(db: Database, wanted: RunFilter) -> Iterator[dict[str, Any]]:
    """The runs that match, up to the filter's limit, however far back they are."""
    left, before = wanted.limit, wanted.before
    while left > 0:
        some = {"before": before, "limit": min(left, AT_ONCE)}
        page = search(db, wanted.model_copy(update=some))
        yield from page.runs
        left, before = left - len(page.runs), page.older
        if before is None:
            return


def count(db: Database, wanted: RunFilter, at_most: int = 10_000, looks: int = 50) -> Counted:
    """How many runs match. Counting stops at `at_most`, and after `looks` looks."""
    counted = 0
    for _ in range(looks):
        with db.autocommit() as connection:
            scan = _scan(connection, wanted)
            some = select(literal(1)).where(*scan.conditions).limit(at_most - counted).subquery()
            counted += connection.scalar(select(func.count()).select_from(some)) or 0
        if scan.floor is None or counted >= at_most:
            return Counted(counted, counted < at_most)
        wanted = wanted.model_copy(update={"before": scan.floor})
    return Counted(counted, False)


def shown(row: AnyRow) -> dict[str, Any]:
    """A row of COLUMNS as commands and the API show it."""
    return row._asdict() | {"progress": row.progress and json.loads(row.progress)}


@dataclass(frozen=True, slots=True)
class _Scan:
    conditions: Conditions
    order: Order
    floor: str | None = None
    """The last id that is searched, where there are older ones."""


def _scan(connection: Connection, wanted: RunFilter) -> _Scan:
    """How to search for the runs: by which index, and how far back."""
    sqlite = connection.dialect.name == "sqlite"
    terms, ends = _terms(wanted, _hidden, sqlite), _Ends.of(wanted)
    if wanted.parent is not None:
        few = [R.parent_id == wanted.parent, *ends.conditions(), *terms.values()]
        return _Scan(few, ends.order)
    if wanted.key is not None:
        job = R.job.in_(_JOBS) if wanted.job is None else R.job == wanted.job
        return _Scan([job, R.key == wanted.key, *ends.conditions(), *terms.values()], ends.order)
    if wanted.status in OPEN:
        opened = select(R.id).where(IS_OPEN).limit(FEW + 1).subquery()
        if (connection.scalar(select(func.count()).select_from(opened)) or 0) <= FEW:
            # An expression, so that neither database reads all runs by id in order not to sort.
            age = R.id.concat("")
            return _Scan([IS_OPEN, *ends.conditions(age), *terms.values()], (age.desc(),))
    by: Conditions = []
    """The condition of the index."""
    held: Conditions = []
    """Conditions on the other columns that the index has."""
    floor = None
    if wanted.status in (Status.FAILED, Status.CANCELLED) or wanted.error is not None:
        by = [_TROUBLED]
        plain = dict(terms) if sqlite else _terms(wanted, lambda column: column, sqlite)
        if "status" in plain and not sqlite:
            # As one of two, or Postgres uses an index of this one alone, and sorts all of it.
            plain["status"] = R.status.in_([str(wanted.status), ""])
        held = [plain[name] for name in _HELD if terms.pop(name, None) is not None]
        floor = _floor(connection, ends, by, LOOK_INDEX) if held else None
    elif wanted.job is not None:
        del terms["job"]
        by = [_OF_JOB]
        if sqlite:
            by.append(R.job == wanted.job)
        else:
            ends = replace(ends, job=wanted.job)
    if terms:
        floor = _floor(connection, ends.down_to(floor), [*by, *held], LOOK) or floor
    span = ends.down_to(floor).conditions()
    return _Scan([*by, *span, *held, *terms.values()], ends.order, floor)


def _floor(connection: Connection, ends: _Ends, of: Conditions, look: int) -> str | None:
    """The id of the last of `look` runs, newest first, or None where there are fewer."""
    ids = select(R.id).where(*ends.conditions(), *of).order_by(*ends.order)
    return connection.scalar(ids.limit(1).offset(look - 1))


@dataclass(frozen=True, slots=True)
class _Ends:
    """The range of ids to search, with one bound at each end: SQLite would not use a second one."""

    least: str | None
    before: str | None
    job: str | None = None
    """The job whose ids they are, where ids are compared as pairs with jobs. Otherwise Postgres
    would read all jobs' runs for those of a common job, even if that has had none for long."""

    @staticmethod
    def of(wanted: RunFilter) -> _Ends:
        """The range that can have the runs that are asked for."""
        least = [wanted.id, None if wanted.since is None else id_at(wanted.since)]
        before = [wanted.before, None if wanted.until is None else id_at(wanted.until)]
        before += [] if wanted.id is None else [wanted.id + _LAST]
        return _Ends(
            max((one for one in least if one is not None), default=None),
            min((one for one in before if one is not None), default=None),
        )

    @property
    def order(self) -> Order:
        """Newest first."""
        return (R.id.desc(),) if self.job is None else (R.job.desc(), R.id.desc())

    def down_to(self, floor: str | None) -> _Ends:
        """This range, but no further back than `floor`."""
        return self if floor is None else replace(self, least=floor)

    def conditions(self, age: Any = R.id) -> Conditions:
        """The range as conditions on a run."""
        if self.job is not None:
            pair, before = tuple_(R.job, R.id), self.before or _LAST
            return [pair < (self.job, before), pair >= (self.job, self.least or "")]
        below = [] if self.before is None else [age < self.before]
        return below if self.least is None else [*below, age >= self.least]


def _hidden(column: Any) -> Any:
    """A column in a form for which no index is chosen. SQLite does not know how many rows an index
    leaves, and Postgres may be wrong about it."""
    return column.concat("")


def _terms(
    wanted: RunFilter, of: Callable[[Any], Any], sqlite: bool
) -> dict[str, ColumnElement[bool]]:
    """The condition for each field of the filter that is given, by its name."""
    terms: dict[str, ColumnElement[bool]] = {}
    for name in ("job", "status", "stage"):
        if (value := getattr(wanted, name)) is not None:
            terms[name] = of(getattr(R, name)) == str(value)
    if wanted.backend is Side.SERVERLESS:
        terms["backend"] = of(R.backend) != LEGACY_BACKEND
    elif wanted.backend is not None:
        terms["backend"] = of(R.backend) == str(wanted.backend)
    if wanted.error is not None:
        terms["error"] = R.error.icontains(wanted.error, autoescape=True)
    if wanted.payload is not None:
        terms["payload"] = _has_field(sqlite, *wanted.payload.split(":", 1))
    return terms


def _has_field(sqlite: bool, name: str, value: str) -> ColumnElement[bool]:
    """Whether the payload, which is canonical JSON, has a field of this name and value."""
    field = json.dumps(name)
    texts = [f"{field}:{json.dumps(value)}"]
    with suppress(ValueError):
        if not isinstance(json.loads(value), str):
            texts += [f"{field}:{value}{end}" for end in (",", "}")]
    at = func.instr if sqlite else func.strpos  # LIKE is not exact on SQLite
    return or_(*(at(R.payload, text) > 0 for text in texts))
