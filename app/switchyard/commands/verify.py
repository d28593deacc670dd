"""`cutover verify`: the migration guide's checklist. The checks are made side by side, each with
its own time; one that hangs is reported, not waited for."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

import click

from app.switchyard.commands.checks import CHECKS
from app.switchyard.commands.cutover import group
from app.switchyard.commands.output import DID_NOT_HOLD, answered, parts, progress, table
from app.switchyard.errors import SwitchyardError
from app.switchyard.runtime import Check, Runtime
from app.switchyard.text import reason


@group.command("verify")
def verify() -> None:
    """Check every line of the migration's checklist; 1 where one does not hold."""
    runtime = parts()
    checks = [*CHECKS, *runtime.checks]
    with progress("checked", transient=True) as bar:
        task = bar.add_task("", total=len(checks))
        answers = checked(runtime, checks, lambda: bar.advance(task))
    if not answered(answers):
        rows = ((a["check"], "yes" if a["ok"] else "NO", a["detail"], a["fix"]) for a in answers)
        table(("check", "ok", "detail", "to do"), rows)
    if not all(answer["ok"] for answer in answers):
        raise click.exceptions.Exit(DID_NOT_HOLD)


def checked(
    runtime: Runtime, checks: Sequence[Check], done: Callable[[], None] = lambda: None
) -> list[dict[str, Any]]:
    """`cutover verify --json`, in the order of the checks; `done` is called as each ends."""
    started = time.monotonic()
    seen: dict[str, tuple[bool, str, str | None]] = {}

    def look(check: Check) -> None:
        try:
            seen[check.name] = True, check.look(runtime), None
        except SwitchyardError as failure:
            seen[check.name] = False, str(failure), getattr(failure, "fix", None) or check.fix
        except Exception as failure:  # noqa: BLE001 - a check that breaks is one that does not hold
            seen[check.name] = False, f"it failed: {reason(failure)}", check.fix
        done()

    # Daemons: one that hangs must not hold up the end of the process.
    threads = [threading.Thread(target=look, args=(check,), daemon=True) for check in checks]
    for thread in threads:
        thread.start()
    answers = []
    for check, thread in zip(checks, threads, strict=True):
        thread.join(max(0.0, started + check.seconds - time.monotonic()))
        silent = False, f"no answer within {check.seconds:g} s", check.fix
        ok, detail, fix = seen.get(check.name, silent)
        answers.append({"check": check.name, "ok": ok, "detail": detail, "fix": fix})
    return answers
