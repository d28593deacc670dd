"""What the API takes and returns, field by field."""

from __future__ import annotations

from types import GenericAlias
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, create_model

from app.switchyard.audit import WHO_LENGTH, WHY_LENGTH
from app.switchyard.operations.bulk import Deed
from app.switchyard.operations.search import RunFilter
from app.switchyard.runs.models import INTEGER_END
from app.switchyard.text import one_line
from flags import Side, Stage

Line = Annotated[str, AfterValidator(one_line), Field(min_length=1, max_length=100)]
"""A line of text to search for."""
Number = Annotated[int, Field(ge=0, lt=INTEGER_END)]


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


def _answer(
    name: str, *fields: tuple[Any, str], base: type[BaseModel] = BaseModel
) -> type[BaseModel]:
    """A model of an answer: types, each with the names of the fields that have it. It may grow."""
    own: dict[str, Any] = {one: (type_, ...) for type_, names in fields for one in names.split()}
    return create_model(name, __base__=base, **own)


def _list_of(model: type[BaseModel]) -> Any:
    return GenericAlias(list, (model,))


_Counts = dict[str, int]
_Object = dict[str, Any]

Job = _answer(
    "Job",
    (str, "name stage"),
    (bool, "known"),
    (int, "version"),
    (str | None, "event schedule queue serverless file backend"),
    (int | None, "attempts concurrency"),
    (float | None, "percent"),
    (_Counts, "open overdue failed_24h"),
    (_Object, "parity"),
)
Jobs = _answer("Jobs", (bool, "use_inngest"), (_list_of(Job), "jobs"))
OneJob = _answer(
    "OneJob",
    (float, "timeout"),
    (str | None, "next"),
    (_Object, "payload"),
    (list[_Object], "pins"),
    (_Counts, "would_move"),
    (Any, "gaps against_complete"),
    base=Job,
)
Staged = _answer("Staged", (str, "name stage"), (float | None, "percent"), (int, "version"))
Moved = _answer("Moved", (int | None, "act"), (int, "moved asked left"), (bool, "done"))
Started = _answer("Started", (str, "id job key backend reason status"), (bool, "created"))
Triggered = _answer("Triggered", (str, "runId job backend reason status"), (bool, "created"))
Run = _answer(
    "Run",
    (str, "id job key backend reason stage status created_at"),
    (int, "epoch attempt"),
    (str | None, "parent started_at ended_at error"),
    (Any, "progress"),
)
Runs = _answer("Runs", (str | None, "older searched_back_to"), (_list_of(Run), "runs"))
OneRun = _answer(
    "OneRun",
    (str, "due_at"),
    (Any, "payload result meta"),
    (_Counts, "children"),
    (list[_Object], "steps failures handoffs"),
    (str | None, "sent_ref trace"),
    base=Run,
)
Changed = _answer("Changed", (str, "id status"), (int, "others"))
Bulked = _answer(
    "Bulked",
    (int | None, "act matching"),
    (int, "done refused"),
    (str | None, "older"),
    (bool | None, "all"),
)
Done = _answer(
    "Done", (int, "id count"), (str, "at act by why"), (str | None, "job run_id"), (Any, "detail")
)
History = _answer("History", (int | None, "older"), (_list_of(Done), "history"))
