"""What the API takes and returns, field by field."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, create_model

from app.switchyard.audit import WHO_LENGTH, WHY_LENGTH
from app.switchyard.operations.bulk import Deed
from app.switchyard.operations.search import RunFilter
from app.switchyard.text import one_line
from flags import Side, Stage

Line = Annotated[str, AfterValidator(one_line), Field(min_length=1, max_length=100)]
"""A line of text to search for."""
Number = Annotated[int, Field(ge=0, lt=2**31)]


class Nothing(BaseModel):
    """No field."""

    model_config = ConfigDict(extra="forbid")


class Act(Nothing):
    """The fields of every act."""

    why: Annotated[str, Field(max_length=WHY_LENGTH)] = ""
    by: Annotated[str, Field(min_length=1, max_length=WHO_LENGTH)] | None = None
    """Who acts, where a token is used. Otherwise it is the person logged in."""


class Reasoned(Act):
    """An act that needs a reason."""

    why: Annotated[str, Field(min_length=1, max_length=WHY_LENGTH)]


class StageTo(Reasoned):
    """A change of stage."""

    stage: Stage
    percent: Annotated[float, Field(ge=0, le=100, allow_inf_nan=False)] | None = None
    version: Number | None = None
    """The version on which the change is based. It is refused if the job has moved since."""
    force: bool = False
    """Complete the job even if its gate is closed. The history records that it was forced."""


class Batch(Reasoned):
    """One batch of an act. Call again with the answer's `act` until it is `done`."""

    act: Number | None = None
    dry_run: bool = False
    """Move nothing, and return how many would be moved."""


class DrainTo(Batch):
    """A drain."""

    to: Side
    running: bool = False
    """Also move running runs, at their next step boundary."""


class RunNow(Act):
    """A new run."""

    data: dict[str, Any] | None = None
    """The payload. The default is what the job's schedule would use now."""


class RunsQuery(RunFilter):
    """Which runs, and how many."""

    limit: Annotated[int, Field(ge=1, le=500)] = 50


class Bulk(Batch):
    """One batch of runs to retry or to cancel, newest first."""

    do: Deed
    filter: RunFilter
    """Which runs. Its `before` is the `older` of the previous batch."""


class HistoryQuery(Nothing):
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


_KINDS: dict[str, Any] = {
    "text": str,
    "maybe": str | None,
    "flag": bool,
    "number": int,
    "maybe_number": int | None,
    "maybe_flag": bool | None,
    "real": float,
    "maybe_real": float | None,
    "counts": dict[str, int],
    "object": dict[str, Any],
    "objects": list[dict[str, Any]],
    "value": Any,
}


def _answer(name: str, base: type[BaseModel] = BaseModel, **fields: str) -> type[BaseModel]:
    """A model of an answer: for each kind, the names of its fields. It may grow."""
    kinds = {one: (_KINDS[kind], ...) for kind, names in fields.items() for one in names.split()}
    own: dict[str, Any] = kinds
    return create_model(name, __base__=base, **own)


def _page(name: str, of: type[BaseModel], **fields: Any) -> type[BaseModel]:
    own: dict[str, Any] = {name.lower(): (list[of], ...)}  # type: ignore[valid-type]
    return create_model(name, __base__=_answer(name, **fields), **own)


Job = _answer(
    "Job",
    text="name stage",
    flag="known",
    number="version",
    maybe="event schedule queue serverless file backend",
    maybe_number="attempts concurrency",
    maybe_real="percent",
    counts="open overdue failed_24h",
    object="parity",
)
Jobs = _page("Jobs", Job, flag="use_inngest")
OneJob = _answer(
    "OneJob",
    Job,
    real="timeout",
    maybe="next",
    object="payload",
    objects="pins",
    counts="would_move",
    value="gaps against_complete",
)
Staged = _answer("Staged", text="name stage", maybe_real="percent", number="version")
Moved = _answer("Moved", maybe_number="act", number="moved asked left", flag="done")
Started = _answer("Started", text="id job key backend reason status", flag="created")
Triggered = _answer("Triggered", text="runId job backend reason status", flag="created")
Run = _answer(
    "Run",
    text="id job key backend reason stage status created_at",
    number="epoch attempt",
    maybe="parent started_at ended_at error",
    value="progress",
)
Runs = _page("Runs", Run, maybe="older searched_back_to")
OneRun = _answer(
    "OneRun",
    Run,
    text="due_at",
    value="payload result meta",
    counts="children",
    objects="steps failures handoffs",
    maybe="sent_ref trace",
)
Changed = _answer("Changed", text="id status", number="others")
Bulked = _answer(
    "Bulked",
    maybe_number="act matching",
    number="done refused",
    maybe="older",
    maybe_flag="all",
)
Done = _answer("Done", number="id count", text="at act by why", maybe="job run_id", value="detail")
History = _page("History", Done, maybe_number="older")
