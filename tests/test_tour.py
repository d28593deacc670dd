"""The README's five minutes, line by line, in a clone of its own."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import cache_from_source
from pathlib import Path
from typing import Any

import pytest
import requests

from app.local.environment import clean
from app.local.loopback import free_port
from app.platform.config import ROOT
from tests.support.pages import sections
from tests.support.waiting import PATIENCE_SECONDS

pytestmark = [pytest.mark.process, pytest.mark.minutes, pytest.mark.timeout(600)]

PATIENCE = 240.0
FIVE_MINUTES = 300.0
"""What README promises until one job has run on both sides, downloads aside."""
_END = "the block has ended with"


class Shell:
    """One terminal: what a block defines is there in the next."""

    def __init__(self, folder: Path, env: dict[str, str]) -> None:
        pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
        self._bash = subprocess.Popen(
            ["bash"], cwd=folder, env=env, stderr=subprocess.STDOUT, text=True, **pipes
        )

    def run(self, block: str) -> str:
        """What the block prints, on both streams. Each of its lines must end well."""
        assert self._bash.stdin is not None
        assert self._bash.stdout is not None
        self._bash.stdin.write(f"set -e\n{block}\nset +e\necho; echo {_END}\n")
        self._bash.stdin.flush()
        lines: list[str] = []
        for line in self._bash.stdout:
            if line.strip() == _END:
                return "".join(lines)
            lines.append(line)
        raise AssertionError(f"{block}\n{''.join(lines)}")

    def close(self) -> None:
        """Close the terminal."""
        self._bash.communicate()


@contextmanager
def running(command: str, folder: Path, env: dict[str, str]) -> Iterator[None]:
    """What the reader leaves running; ended by Ctrl-C."""
    # What is installed is this suite's own: nothing is fetched.
    _, *target = command.split()
    log = folder / "make.log"
    with log.open("wb") as out:
        made = subprocess.Popen(
            ["make", "-o", ".venv/.runs", *target], cwd=folder, env=env, stdout=out, stderr=out
        )
        try:
            wait_for(lambda: "Ctrl-C ends it" in log.read_text() or made.poll() is not None)
            assert made.poll() is None, log.read_text()
            yield
        finally:
            made.terminate()
            made.wait(PATIENCE_SECONDS)


def wait_for(holds: Callable[[], bool]) -> None:
    """Wait until it does."""
    end = time.monotonic() + PATIENCE
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.2)


def copy(source: Path, to: Path) -> None:
    """A file that may be missing, as what a module compiles to: a dozen processes would at once."""
    if source.exists():
        to.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(source, to)


def test_every_line_of_it(tmp_path: Path) -> None:
    folder, port = tmp_path / "switchyard", free_port()
    for name in subprocess.check_output(["git", "ls-files"], cwd=ROOT, text=True).splitlines():
        if not name.startswith(("tests/", "docs/")):
            copy(ROOT / name, folder / name)
            if name.endswith(".py"):
                copy(*(Path(cache_from_source(str(at / name))) for at in (ROOT, folder)))
    (folder / ".venv").symlink_to(Path(sys.prefix))
    env = clean(os.environ) | {"PORT": str(port)}
    shell = Shell(folder, env)

    def runs(prefix: str, job: str = "hello") -> list[dict[str, Any]]:
        """By the API: each command would be a second of a new process."""
        answer = requests.get(
            f"http://localhost:{port}/api/runs?job={job}", timeout=PATIENCE_SECONDS
        )
        return [run for run in answer.json()["runs"] if run["key"].startswith(prefix)]

    def done(prefix: str, count: int = 10, job: str = "hello") -> set[str]:
        wait_for(lambda: [r["status"] for r in runs(prefix, job)] == ["succeeded"] * count)
        return {run["backend"] for run in runs(prefix, job)}

    hello, start, *rest = sections("README.md")["Five minutes"]
    (folder / "hello.py").write_text(hello.text)
    first, second, third, back, payouts, _own_inngest = (
        block.text.replace("3005", str(port)) for block in rest
    )
    began = time.monotonic()
    with running(start.text, folder, env):
        shown = shell.run(first)
        assert shown.count('"backend":"rq"') == 10
        assert done("first-") == {"rq"}
        shown = shell.run(second)
        assert all(len(line) <= 80 for line in shown.splitlines() if not line.startswith("{"))
        assert done("second-") == {"rq", "inngest"}
        assert time.monotonic() - began < FIVE_MINUTES
        page = requests.get(f"http://localhost:{port}/console/jobs/hello", timeout=PATIENCE_SECONDS)
        assert page.status_code == 200
        shell.run(third)
        assert done("third-") == {"rq", "inngest"}
        shown = shell.run(back)
        assert "nothing to move" in shown
        assert "enough for today" in shown
        shown = shell.run(payouts)
        assert "bank_payouts" in shown or "transfers" in shown, shown
        done("", 1, "process-payouts")
    shell.close()
