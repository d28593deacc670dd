"""The demo's output: progress bars on a terminal, and a table at the end."""

from __future__ import annotations

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeElapsedColumn
from rich.table import Table

from app.local.demo.audit import Audit
from app.local.demo.unrest import Seen, Unrest
from app.switchyard.words import plural


def bars(console: Console, total: int) -> Progress:
    """Progress bars for transfers and bank payouts, where bars can move."""
    columns = BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), "{task.fields[note]}"
    hidden = not console.is_terminal
    made = Progress("{task.description}", *columns, console=console, disable=hidden)
    for what in ("transferred", "at the bank"):
        made.add_task(what, total=total, note="")
    return made


def move(shown: Progress, seen: Seen, unrest: Unrest) -> None:
    """Move the bars."""
    note = f"{plural(unrest.flips, 'flip')}, {plural(unrest.moves, 'move')}"
    note = f"{note}, {plural(unrest.workers_killed, 'worker')} killed"
    sent, paid = shown.task_ids
    shown.update(sent, completed=seen.sent)
    shown.update(paid, completed=seen.paid, note=note)


def table(audit: Audit, unrest: Unrest, seconds: float, held: bool) -> Table:
    """The outcome."""
    caption = "[green]It holds.[/]" if held else "[red]It does not hold.[/]"
    shown = Table(title="One pay day, two backends", caption=caption)
    shown.add_column("what")
    for name in ("RQ", "Inngest", "together"):
        shown.add_column(name, justify="right")
    by, workers, standin = audit.by_backend, unrest.workers_killed, unrest.standin_killed
    for row in (
        ("creators paid", by["rq"], by["inngest"], audit.payouts),
        ("transfers at Stripe", "", "", audit.transfers),
        ("paid twice", "", "", audit.paid_twice),
        ("lost", "", "", audit.lost),
        ("flips of the flag", "", "", unrest.flips),
        ("runs handed over", "", "", audit.handed_over),
        ("killed with -9", workers, standin, workers + standin),
        ("ledger agrees with Stripe", "", "", "yes" if audit.ledger_balanced else "NO"),
        ("seconds", "", "", f"{seconds:.1f}"),
    ):
        shown.add_row(*map(str, row), end_section=row[0] == "lost")
    return shown
