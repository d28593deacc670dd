"""`runs list|show|retry|cancel`: the ledger."""

from __future__ import annotations

from datetime import UTC
from typing import Any

import click
from sqlalchemy import select

from app.switchyard.audit import By
from app.switchyard.commands.cutover import by_option, reason_option, signed
from app.switchyard.commands.jobs import say_pending, watched
from app.switchyard.commands.output import (
    Commands,
    answered,
    details,
    listing,
    options,
    parts,
    progress,
    record,
    say,
    table,
)
from app.switchyard.commands.processes import stop_on_signals
from app.switchyard.errors import BadInput
from app.switchyard.http import read
from app.switchyard.job import SERVERLESS
from app.switchyard.operations import bulk
from app.switchyard.operations.bulk import Deed
from app.switchyard.operations.search import COLUMNS, MOST, RunFilter, every, shown
from app.switchyard.operations.story import story
from app.switchyard.runs import operate
from app.switchyard.runs.models import RunRow as R
from app.switchyard.runs.models import Status
from app.switchyard.runtime import Runtime
from app.switchyard.words import ago, plural
from flags import LEGACY_BACKEND, Side, Stage

_TIMES = ("%Y-%m-%d", "%Y-%m-%dT%H:%M", "%Y-%m-%dT%H:%M:%S")
group = Commands("runs", help="Search the ledger of runs, and retry or cancel runs.")
filtered = options(
    click.option("--job", help="Only runs of this job."),
    click.option("--status", type=click.Choice([str(status) for status in Status])),
    click.option("--backend", type=click.Choice([LEGACY_BACKEND, *SERVERLESS, Side.SERVERLESS])),
    click.option("--stage", type=click.Choice([str(stage) for stage in Stage])),
    click.option("--key", help="Only the run with this key."),
    click.option("--since", type=click.DateTime(_TIMES), help="Created then or later, UTC."),
    click.option("--until", type=click.DateTime(_TIMES), help="Created before, UTC."),
    click.option("--error", help="A part of its error's text."),
    click.option("--payload", metavar="FIELD:VALUE", help="A field of its payload."),
)
one_or_many = options(
    click.argument("run_id", required=False),
    filtered,
    click.option("--dry-run", is_flag=True, help="Print how many runs the filter finds."),
    reason_option,
    by_option,
)


def _wanted(asked: dict[str, Any]) -> RunFilter:
    """Raises BadInput."""
    for name in ("since", "until"):
        asked[name] = asked[name] and asked[name].replace(tzinfo=UTC)
    return read(RunFilter, {name: value for name, value in asked.items() if value is not None})


@group.command("list")
@filtered
@click.option("--limit", type=click.IntRange(1, MOST), default=50, show_default=True)
def list_runs(**asked: Any) -> None:
    """List runs, newest first."""
    runtime = parts()
    rows = list(every(runtime.db, _wanted(asked)))
    if asked["job"] is not None and not rows:
        # The ledger may have jobs that the code no longer knows. Only unknown to both is refused.
        _ = runtime.catalogue[asked["job"]]
    if not answered(rows):
        columns = ("id", "job", "status", "backend", "age", "error")
        now = runtime.store.clock()
        for row in rows:
            row["age"] = ago(row["created_at"], now).removesuffix(" ago")
        table(columns, ([row[name] for name in columns] for row in rows), one_line=True)


@group.command("show")
@click.argument("run_id")
def show(run_id: str) -> None:
    """Show a run with its payload, its result and its steps."""
    run = story(parts().db, run_id)
    if answered(run):
        return
    lists = [run.pop(name) for name in ("steps", "failures", "handoffs")]
    details(run)
    for rows in filter(None, lists):
        listing(rows, [name for name in rows[0] if name != "traceback"])


@group.command("retry")
@one_or_many
def retry(**asked: Any) -> None:
    """Retry failed or cancelled runs after their finished steps, with fresh attempts: RUN_ID, or
    all that a filter finds, which needs --why."""
    _do(Deed.RETRY, "also continued: {} cancelled with it", **asked)


@group.command("cancel")
@one_or_many
def cancel(**asked: Any) -> None:
    """Cancel open runs and their open children; finished steps stay done: RUN_ID, or all that a
    filter finds, which needs --why."""
    _do(Deed.CANCEL, "also cancelled: {} below it", **asked)


def _do(
    deed: Deed,
    and_others: str,
    run_id: str | None,
    why: str,
    by: str | None,
    dry_run: bool,
    **asked: Any,
) -> None:
    runtime, failures = watched(parts())
    who = signed(by, why)
    if run_id is None:
        _many(runtime, deed, _wanted(asked), who, dry_run)
        return
    if dry_run or any(asked.values()):
        raise BadInput("give a run's id, or a filter")
    act = operate.retry if deed is Deed.RETRY else operate.cancel
    others = act(runtime.store, run_id, by=who)
    [row] = runtime.db.rows(select(*COLUMNS).where(R.id == run_id))
    record(shown(row))
    if others:
        say(and_others.format(plural(others, "run")))
    say_pending(run_id, failures)


def _many(runtime: Runtime, deed: Deed, wanted: RunFilter, by: By, dry_run: bool) -> None:
    """Do it in batches, with a bar on a terminal. A signal ends it after the current batch."""
    act = older = None
    matching, counted = bulk.matching(runtime, deed, wanted)
    done = {"matching": matching, "counted": counted, "done": 0, "refused": 0}
    with stop_on_signals() as stop, progress(deed) as bar:
        task = bar.add_task("", total=matching)
        while not (dry_run or stop.is_set()):
            batch = bulk.batch(runtime, deed, wanted, by, act)
            act, older = batch.act, batch.older
            done["done"] += batch.done
            done["refused"] += batch.refused
            bar.update(task, completed=done["done"])
            if older is None:
                break
            wanted = wanted.model_copy(update={"before": older})
    record(done | {"interrupted": stop.is_set() and older is not None})
