"""What the demo shows: bars while it works on a terminal, a table at the end."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from app.local.demo.audit import Audit
from app.local.demo.unrest import Seen, Unrest


class Show:
    """The demo's words; the bars only where they can move."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self._bars: Progress | None = None

    def say(self, line: str) -> None:
        """One line, above the bars if there are any."""
        out = self.console if self._bars is None else self._bars.console
        out.print(escape(line), soft_wrap=True)

    @contextmanager
    def bars(self, total: int) -> Iterator[Bars]:
        """Progress for the length of a `with` block."""
        shown = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("{task.fields[note]}"),
            console=self.console,
            disable=not self.console.is_terminal,
        )
        with shown:
            self._bars = shown
            try:
                yield Bars(self, shown, total)
            finally:
                self._bars = None


class Bars:
    """How far transfers and bank payouts are."""

    def __init__(self, show: Show, shown: Progress, total: int) -> None:
        self._show = show
        self._shown = shown
        self._total = total
        self._sent = shown.add_task("transferred", total=total, note="")
        self._paid = shown.add_task("at the bank", total=total, note="")
        self._told = 0

    def move(self, seen: Seen, unrest: Unrest) -> None:
        """Show how far it is; in a pipe a line per quarter."""
        note = f"{unrest.flips} flips, {unrest.moves} moves, {unrest.workers_killed} workers killed"
        self._shown.update(self._sent, completed=seen.sent)
        self._shown.update(self._paid, completed=seen.paid, note=note)
        quarter = 4 * seen.paid // self._total
        if quarter > self._told and not self._show.console.is_terminal:
            self._told = quarter
            self._show.say(f"{seen.paid} of {self._total} at the bank; {note}")


def table(audit: Audit, unrest: Unrest, seconds: float, held: bool) -> Table:
    """The outcome."""
    shown = Table(
        title="One pay day, two backends",
        caption="[green]It holds.[/]" if held else "[red]It does not hold.[/]",
    )
    shown.add_column("what")
    for name in ("RQ", "Inngest", "together"):
        shown.add_column(name, justify="right")
    by = audit.by_backend
    shown.add_row("creators paid", str(by["rq"]), str(by["inngest"]), str(audit.payouts))
    shown.add_row("transfers at Stripe", "", "", str(audit.transfers))
    shown.add_row("paid twice", "", "", _zero(audit.paid_twice))
    shown.add_row("lost", "", "", _zero(audit.lost), end_section=True)
    shown.add_row("flips of the flag", "", "", str(unrest.flips))
    shown.add_row("runs handed over", "", "", str(audit.handed_over))
    killed = (unrest.workers_killed, unrest.standin_killed)
    shown.add_row("killed with -9", str(killed[0]), str(killed[1]), str(sum(killed)))
    shown.add_row("ledger agrees with Stripe", "", "", "yes" if audit.ledger_balanced else "NO")
    shown.add_row("seconds", "", "", f"{seconds:.1f}")
    return shown


def _zero(count: int) -> str:
    return str(count) if count == 0 else f"[red]{count}[/]"
