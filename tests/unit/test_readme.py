"""The README's table of jobs is the catalogue's."""

from __future__ import annotations

import subprocess
import sys

from app.switchyard.config import ROOT

CODE = """
from app.switchyard.config import Settings
from app.switchyard import job as catalogue
for spec in catalogue.load(Settings().switchyard_jobs).values():
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
