"""What the API takes and gives, field by field."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from app.switchyard.cutover.stages import BY_LENGTH, WHY_LENGTH
from app.switchyard.errors import BadInput
from app.switchyard.job import SERVERLESS
from app.switchyard.runs.models import Status
from app.switchyard.text import plain
from flags import LEGACY_BACKEND, Side, Stage


def _line(text: str) -> str:
    try:
        return plain("it", text, WHY_LENGTH)
    except BadInput as refused:
        raise ValueError(str(refused)) from None


Line = Annotated[str, AfterValidator(_line), Field(min_length=1, max_length=100)]
"""A line of text that may be looked for."""
Number = Annotated[int, Field(ge=0, lt=2**31)]
Backend = Literal["rq", "inngest", "qstash"]
assert set(Backend.__args__) == {LEGACY_BACKEND, *SERVERLESS}  # type: ignore[attr-defined]
Times = str | None
"""ISO 8601, UTC."""


class _Taken(BaseModel):
    model_config = ConfigDict(extra="forbid")


class Nothing(_Taken):
    """No field."""


class Document(BaseModel):
    """OpenAPI 3.1."""

    model_config = ConfigDict(extra="allow")
    openapi: str


class Act(_Taken):
    """What every act may say."""

    why: Annotated[str, Field(max_length=WHY_LENGTH)] = ""
    by: Annotated[str, Field(min_length=1, max_length=BY_LENGTH)] | None = None
    """Who does it, where a token says nothing of that; else it is who is logged in."""


class Reasoned(Act):
    """An act that needs a reason."""

    why: Annotated[str, Field(min_length=1, max_length=WHY_LENGTH)]


class StageTo(Reasoned):
    """A change of stage."""

    stage: Stage
    percent: Annotated[float, Field(ge=0, le=100, allow_inf_nan=False)] | None = None
    version: Number | None = None
    """Where the job stood when it was looked at: refused where somebody moved it since."""
    force: bool = False
    """Complete it whatever speaks against it, on record."""


class Batch(Reasoned):
    """One batch of an act: to be called again with its `act` until it is done."""

    act: Number | None = None
    dry_run: bool = False
    """Move nothing, and say how many are to be moved."""


class DrainTo(Batch):
    """A drain."""

    to: Side
    running: bool = False
    """What is running too, at its next step boundary."""


class RunNow(Act):
    """A new run."""

    data: dict[str, Any] | None = None
    """By default what the job's schedule would do now."""


class RunsQuery(_Taken):
    """Which runs."""

    job: Line | None = None
    status: Status | None = None
    backend: Backend | None = None
    parent: Line | None = None
    before: Line | None = None
    limit: Annotated[int, Field(ge=1, le=500)] = 50


class HistoryQuery(_Taken):
    """Which acts."""

    job: Line | None = None
    act: Line | None = None
    run_id: Line | None = None
    before: Number | None = None
    limit: Annotated[int, Field(ge=1, le=500)] = 200


class Problem(BaseModel):
    """RFC 9457."""

    type: str
    title: str
    status: int
    detail: str
    errors: list[dict[str, str]] = []


class Parity(BaseModel):
    compared: int
    different: int
    unexplained: int
    plan: bool


class Job(BaseModel):
    """Where a job stands; what is not declared in this code has nulls."""

    name: str
    known: bool
    event: str | None
    schedule: str | None
    queue: str | None
    attempts: int | None
    concurrency: int | None
    serverless: str | None
    file: str | None
    backend: str | None
    stage: str
    percent: float | None
    open: dict[str, int]
    overdue: dict[str, int]
    failed_24h: dict[str, int]
    parity: Parity


class Jobs(BaseModel):
    use_inngest: bool
    jobs: list[Job]


class Pin(BaseModel):
    job: str
    key: str
    side: str
    at: str
    by: str
    why: str


class OneJob(Job):
    gaps: list[float]
    timeout: float
    next: Times
    payload: dict[str, Any]
    version: int
    against_complete: list[str]
    pins: list[Pin]
    would_move: dict[str, int]


class Staged(BaseModel):
    name: str
    stage: str
    percent: float | None
    version: int


class Moved(BaseModel):
    """How far a drain or a rollback is; `asked` moves at its next step boundary."""

    act: int | None
    moved: int
    asked: int
    left: int
    done: bool


class Started(BaseModel):
    id: str
    job: str
    key: str
    backend: str
    reason: str
    status: str
    created: bool


class Triggered(BaseModel):
    runId: str
    job: str
    backend: str
    reason: str
    status: str
    created: bool


class Run(BaseModel):
    id: str
    job: str
    key: str
    backend: str
    reason: str
    stage: str
    status: str
    epoch: int
    attempt: int
    parent: str | None
    created_at: str
    started_at: Times
    ended_at: Times
    error: str | None
    progress: Any


class Runs(BaseModel):
    runs: list[Run]
    older: str | None


class OneRun(Run):
    due_at: str
    payload: Any
    result: Any
    meta: Any
    children: dict[str, int]
    steps: list[dict[str, Any]]


class Changed(BaseModel):
    id: str
    status: str
    others: int


class Done(BaseModel):
    """An act; of a stage with from, to and percent."""

    model_config = ConfigDict(extra="allow")
    id: int
    at: str
    act: str
    job: str | None
    run_id: str | None
    by: str
    why: str
    count: int


class History(BaseModel):
    history: list[Done]
    older: int | None
