"""One named process of a stack: started, asked whether it is ready, ended with all its children."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from app.platform.config import ROOT

TIED = Path(__file__).with_name("tied.py")
TAIL_LINES = 15
QUICK_DEATH_SECONDS = 5.0
LONGEST_PAUSE_SECONDS = 10.0


@dataclass(frozen=True, slots=True)
class Part:
    """What is to run, and how one sees that it is up."""

    name: str
    command: Sequence[str]
    ready: Callable[[Process], bool]
    """Asked again and again after a start; True once it does its work."""
    once: bool = False
    """Ends by itself: it is ready when it has ended well."""


class Process:
    """A part of a stack. One owner, one thread."""

    def __init__(self, part: Part, env: Mapping[str, str], log: Path) -> None:
        self.part = part
        self.name = part.name
        self.log = log
        self._env = dict(env)
        self._process: subprocess.Popen[bytes] | None = None
        self._began = 0.0
        self._offset = 0
        self._quick_deaths = 0

    def start(self) -> None:
        """Start it, in a session of its own (Ctrl-C is its owner's), tied to this process."""
        self.log.parent.mkdir(parents=True, exist_ok=True)
        with self.log.open("ab") as out:
            self._offset = out.tell()
            self._process = subprocess.Popen(
                [sys.executable, "-I", "-S", str(TIED), str(os.getpid()), *self.part.command],
                cwd=ROOT,
                env=self._env,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                start_new_session=True,
            )
        self._began = time.monotonic()

    @property
    def pid(self) -> int:
        """Its process id, which is also its group's; 0 before the first start."""
        return 0 if self._process is None else self._process.pid

    @property
    def age(self) -> float:
        """Seconds since its latest start."""
        return time.monotonic() - self._began

    @property
    def exit_code(self) -> int | None:
        """None while it runs, or before the first start."""
        return None if self._process is None else self._process.poll()

    @property
    def alive(self) -> bool:
        """Whether it runs."""
        return self._process is not None and self._process.poll() is None

    def pause(self) -> float:
        """Seconds to wait before the next start: none, but longer and longer if it died young."""
        self._quick_deaths = self._quick_deaths + 1 if self.age < QUICK_DEATH_SECONDS else 0
        if self._quick_deaths == 0:
            return 0.0
        return min(LONGEST_PAUSE_SECONDS, 0.25 * 2.0**self._quick_deaths)

    def ask_to_end(self) -> None:
        """SIGTERM, as a process manager does."""
        if self._process is not None and self.alive:
            self._process.terminate()

    def kill(self) -> None:
        """SIGKILL to it and to whatever it started and left."""
        if self._process is None:
            return
        with suppress(ProcessLookupError, PermissionError):  # macOS says so of a group of zombies
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()

    def logged(self) -> str:
        """What it wrote since its latest start."""
        if not self.log.exists():
            return ""
        with self.log.open("rb") as log:
            log.seek(self._offset)
            return log.read().decode(errors="replace")

    def tail(self) -> str:
        """Its log's last lines."""
        lines = self.log.read_text(errors="replace").splitlines() if self.log.exists() else []
        return "\n".join(f"  {line}" for line in lines[-TAIL_LINES:]) or "  (it wrote nothing)"
