"""README's tables: of jobs, as in the catalogue, and of figures, as `make bench` writes it; and
docs/index.md leads to every page."""

from __future__ import annotations

import re
import subprocess
import sys

from app.platform.config import ROOT
from tests.bench import __main__ as bench

CODE = """
from app.platform import JOBS
from app.switchyard import maintenance
from app.switchyard.job import load
for spec in load([*JOBS, maintenance]).values():
    schedule = f"`{spec.schedule}`" if spec.schedule else "–"
    print(f"| `{spec.name}` | `{spec.event}` | {schedule} | {spec.queue} | {spec.serverless} |")
"""


def test_the_table_of_jobs() -> None:
    listed = subprocess.run(
        [sys.executable, "-c", CODE], cwd=ROOT, check=True, capture_output=True, text=True
    ).stdout.splitlines()
    readme = (ROOT / "README.md").read_text()
    head, _, rest = readme.partition("| job (Inngest function id) |")
    assert head
    assert listed == rest.split("\n\n")[0].splitlines()[2:]


def test_the_index_names_every_page_of_the_docs() -> None:
    folder = ROOT / "docs"
    named = re.findall(r"\]\(([\w-]+\.(?:md|yml|json))[)#]", (folder / "index.md").read_text())
    pages = {page.name for page in folder.iterdir() if page.suffix in (".md", ".yml", ".json")}
    assert set(named) == pages - {"index.md"}


def test_the_table_of_figures() -> None:
    """It has the rows that `make bench` measures, and no others."""
    rows = bench.of_readme((ROOT / "README.md").read_text())
    assert {bench.place(cells[0]) for cells in rows} == set(range(len(bench.ROWS)))
    for _what, ours, theirs, _unit, _who, ratio in rows:
        assert all(float(figure.replace(",", "")) > 0 for figure in (ours, theirs, ratio))
