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
    """A part of a stack, which begins at once. One owner, one thread."""

    def __init__(self, part: Part, env: Mapping[str, str], log: Path) -> None:
        self.part = part
        self.log = log
        self._env = env
        log.parent.mkdir(parents=True, exist_ok=True)
        self.start()

    def start(self) -> None:
        """Start it, in a session of its own (Ctrl-C is its owner's), tied to this process."""
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
        self.pid = self._process.pid
        """Its process id, which is also its group's."""
        self._began = time.monotonic()

    @property
    def age(self) -> float:
        """Seconds since its latest start."""
        return time.monotonic() - self._began

    @property
    def exit_code(self) -> int | None:
        """None while it runs."""
        return self._process.poll()

    @property
    def alive(self) -> bool:
        """Whether it runs."""
        return self.exit_code is None

    def ask_to_end(self) -> None:
        """SIGTERM, as a process manager does; nothing to one that has ended."""
        self._process.terminate()

    def kill(self) -> None:
        """SIGKILL to it and to whatever it started and left."""
        with suppress(ProcessLookupError, PermissionError):  # macOS says so of a group of zombies
            os.killpg(self.pid, signal.SIGKILL)
        self._process.wait()

    def logged(self) -> str:
        """What it wrote since its latest start."""
        with self.log.open("rb") as log:
            log.seek(self._offset)
            return log.read().decode(errors="replace")

    def tail(self) -> str:
        """The last lines of that."""
        lines = self.logged().splitlines()[-TAIL_LINES:] or ["(it wrote nothing)"]
        return "\n".join(f"  {line}" for line in lines)
