"""`cutover verify`: the migration guide's checklist. The checks are made side by side, each with
its own time; one that hangs is reported, not waited for."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

import click
from flask.cli import with_appcontext
from rich.progress import Progress

from app.switchyard.commands.checks import CHECKS
from app.switchyard.commands.output import (
    DID_NOT_HOLD,
    console,
    document,
    json_option,
    parts,
    table,
)
from app.switchyard.errors import SwitchyardError
from app.switchyard.runtime import Check, Runtime


@click.command("verify")
@json_option
@with_appcontext
def verify(as_json: bool) -> None:
    """Check every line of the migration's checklist; 1 where one does not hold."""
    made = parts()
    checks = [*CHECKS, *made.checks]
    with Progress(console=console(stderr=True), transient=True) as progress:
        task = progress.add_task("checked", total=len(checks), visible=progress.console.is_terminal)
        answers = checked(made, checks, lambda: progress.advance(task))
    if as_json:
        document(answers)
    else:
        table(
            ("check", "ok", "detail", "to do"),
            ((a["check"], "yes" if a["ok"] else "NO", a["detail"], a["fix"]) for a in answers),
        )
    if not all(answer["ok"] for answer in answers):
        raise SystemExit(DID_NOT_HOLD)


def checked(
    made: Runtime, checks: Sequence[Check], done: Callable[[], None] = lambda: None
) -> list[dict[str, Any]]:
    """`cutover verify --json`, in the order of the checks; `done` is called as each ends."""
    started = time.monotonic()
    found: dict[str, tuple[bool, str]] = {}

    def look(check: Check) -> None:
        found[check.name] = _seen(made, check)
        done()

    # Daemons: one that hangs must not hold up the end of the process.
    threads = [threading.Thread(target=look, args=(check,), daemon=True) for check in checks]
    for thread in threads:
        thread.start()
    answers = []
    for check, thread in zip(checks, threads, strict=True):
        thread.join(max(0.0, started + check.seconds - time.monotonic()))
        ok, detail = found.get(check.name, (False, f"no answer within {check.seconds:g} s"))
        answers.append(
            {"check": check.name, "ok": ok, "detail": detail, "fix": None if ok else check.fix}
        )
    return answers


def _seen(made: Runtime, check: Check) -> tuple[bool, str]:
    try:
        return True, check.look(made)
    except SwitchyardError as failure:
        return False, str(failure)
    except Exception as failure:  # noqa: BLE001 - a check that breaks is one that does not hold
        # Its text may hold a URL with a password.
        return False, f"it failed: {type(failure).__name__}"
