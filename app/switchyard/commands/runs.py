"""`runs list|show|retry|cancel`: the ledger."""

from __future__ import annotations

from typing import Any

import click
from sqlalchemy import select

from app.switchyard.audit import By
from app.switchyard.commands.cutover import signed
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
from app.switchyard.commands.signals import stop_on_signals
from app.switchyard.errors import BadInput
from app.switchyard.job import SERVERLESS
from app.switchyard.operations import bulk
from app.switchyard.operations.bulk import Deed
from app.switchyard.operations.search import COLUMNS, MOST, RunFilter, every, filter_of, shown
from app.switchyard.operations.story import story
from app.switchyard.runs import operate
from app.switchyard.runs.models import RunRow as R
from app.switchyard.runs.models import Status
from app.switchyard.runtime import Runtime
from app.switchyard.words import ago, plural
from flags import LEGACY_BACKEND, Side, Stage

_STATUSES = click.Choice([str(status) for status in Status])
_BACKENDS = click.Choice([LEGACY_BACKEND, *SERVERLESS, str(Side.SERVERLESS)])
_STAGES = click.Choice([str(stage) for stage in Stage])


group = Commands("runs", help="Search the ledger of runs, and retry or cancel runs.")
filtered = options(
    click.option("--job", help="Only runs of this job."),
    click.option("--status", type=_STATUSES, help="Only runs that are in this status now."),
    click.option("--backend", type=_BACKENDS, help="Only runs on this backend or side."),
    click.option("--stage", type=_STAGES, help="Only runs that began while their job was there."),
    click.option("--key", help="Only runs with this key."),
    click.option("--since", metavar="TIME", help="Created then or later: in UTC, or 2h ago."),
    click.option("--until", metavar="TIME", help="Created before then."),
    click.option("--error", metavar="TEXT", help="Only runs whose error contains this text."),
    click.option("--payload", metavar="FIELD:VALUE", help="Only runs with this in their payload."),
)
one_or_many = options(
    click.argument("run_id", required=False),
    filtered,
    click.option("--dry-run", is_flag=True, help="Only print how many runs the filter finds."),
    signed(),
)


@group.command("list")
@filtered
@click.option(
    "--limit",
    type=click.IntRange(1, MOST),
    default=50,
    show_default=True,
    help="The most runs to list.",
)
def list_runs(**asked: Any) -> None:
    """List runs, newest first."""
    runtime = parts()
    rows = list(every(runtime.db, filter_of(asked, runtime.store.clock())))
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
    """Retry failed or cancelled runs.

    They continue after their finished steps, with fresh attempts. Give RUN_ID, or a filter with
    --status and --why.
    """
    _do(Deed.RETRY, "also continued: {} cancelled with it", **asked)


@group.command("cancel")
@one_or_many
def cancel(**asked: Any) -> None:
    """Cancel open runs and their open children.

    Their finished steps stay done. Give RUN_ID, or a filter with --status and --why.
    """
    _do(Deed.CANCEL, "also cancelled: {} below it", **asked)


def _do(
    deed: Deed,
    and_others: str,
    run_id: str | None,
    who: By,
    dry_run: bool,
    **asked: Any,
) -> None:
    runtime, failures = watched(parts())
    if run_id is None:
        if not any(asked.values()):
            raise BadInput("give a run's id, or a filter such as --status")
        _many(runtime, deed, filter_of(asked, runtime.store.clock()), who, dry_run)
        return
    if dry_run or any(asked.values()):
        raise BadInput("give a run's id or a filter, not both")
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
